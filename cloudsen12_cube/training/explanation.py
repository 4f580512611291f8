"""What a stream will read, how much memory it takes, how fast it is here, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Literal

import numpy as np

from cloudsen12_cube.format import Fetched
from cloudsen12_cube.training.order import FILLER, shuffle_quality
from cloudsen12_cube.training.prefetch import BufferPool, Limits, Work, buffer_cost, run

Stage = Literal["fetch", "decode", "copy", "consumer"]
_SAMPLED = 8  # patches whose stages are timed one after another


@dataclass(frozen=True)
class Explanation:
    """What a stream does; figures of time are of this machine at this moment."""

    patches: int
    shards: int
    """Objects that an epoch reads from."""
    batches: int
    """Of this rank, in an epoch."""
    shape: tuple[int, ...]
    """Of the pixels of a batch."""
    dtype: str
    requests: float
    """A batch, indices not counted: each is read once."""
    bytes_fetched: float
    """A batch."""
    bytes_out: int
    """A batch."""
    memory: int
    """Bytes of all batches that exist at a time, with what waits to be decoded."""
    shuffle_quality: float
    """1 is a uniform shuffle, 0 none; see `samples.shuffle_quality`."""
    rate: float
    """Patches a second, of a consumer that does nothing."""
    seconds: dict[Stage, float]
    """Stage -> seconds of one thread for one patch."""
    limit: Stage
    """The stage that is slowest, with the threads it has."""

    def __str__(self) -> str:
        """Say it in a few lines."""
        mib = 2**20
        stages = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in self.seconds.items())
        return (
            f"{self.patches} patches of {self.shards} shards in {self.batches} batches of {self.shape} {self.dtype}\n"
            f"a batch: {self.requests:.0f} requests, {self.bytes_fetched / mib:.1f} MiB fetched, "
            f"{self.bytes_out / mib:.1f} MiB made; memory at most {self.memory / mib:.0f} MiB\n"
            f"shuffle quality {self.shuffle_quality:.2f}; {self.rate:.0f} patches/s here "
            f"({stages} a patch and thread); {self.limit} is what limits"
        )


def explain(
    work: Work, limits: Limits, slabs: BufferPool, seconds: float = 2.0, waits: tuple[float, float] = (0.0, 0.0)
) -> Explanation:
    """Look at the work of a stream, and probe it for a moment.

    Parameters
    ----------
    work : Work
    limits : Limits
    slabs : Slabs
        Memory for the probe.
    seconds : float
        Length of the probe.
    waits : (float, float)
        Seconds that a consumer has waited for batches, and that it has worked on them, in the epoch before.
    """
    recipe, epoch = work.recipe, work.epoch
    rate = _rate(work, limits, slabs, seconds)
    spent, fetched = _stages(work)
    workers: dict[Stage, int] = {"fetch": limits.connections or limits.threads}
    busy = {name: value / workers.get(name, limits.threads) for name, value in spent.items()}
    limit: Stage = "consumer" if waits[1] > 2 * waits[0] else max(busy, key=lambda name: busy[name])
    size = epoch.order.batch_size
    per_batch = min(size, len(epoch.patches)) / len(fetched)
    return Explanation(
        patches=len(epoch.patches),
        shards=_objects(work),
        batches=epoch.steps,
        shape=(size, recipe.channels, *recipe.cutout.shape),
        dtype=str(recipe.dtype),
        requests=per_batch * sum(part.requests for row in fetched for part in row),
        bytes_fetched=per_batch * sum(part.bytes for row in fetched for part in row),
        bytes_out=size * (recipe.pixel_bytes + recipe.target_bytes),
        memory=limits.slabs * buffer_cost(recipe, size),
        shuffle_quality=shuffle_quality(work.disk[epoch.patches]),
        rate=rate,
        seconds=spent,
        limit=limit,
    )


def _objects(work: Work) -> int:
    """Count the shards that an epoch reads from."""
    readers = [part.chunks for part in work.recipe.parts] + ([work.recipe.target.chunks] if work.recipe.target else [])
    disk = np.unique(work.disk[work.epoch.patches])
    return sum(len(np.unique(disk // chunks.layout.form.rois_per_shard)) for chunks in readers)


def _rate(work: Work, limits: Limits, slabs: BufferPool, seconds: float) -> float:
    """Read batches until the time is over; the first, which pays for indices and memory, is not counted."""
    counted, start = 0, 0.0
    while work.epoch.steps:
        for batch in run(work, range(work.epoch.steps), limits, slabs):
            now = perf_counter()
            if not start:
                start = now
                continue
            counted += int((batch.patches != FILLER).sum())
            if now - start > seconds:
                return counted / (now - start)
    return 0.0


def _stages(work: Work) -> tuple[dict[Stage, float], list[list[Fetched]]]:
    """Time the stages of a few patches, one after another."""
    recipe, epoch = work.recipe, work.epoch
    rows, columns = recipe.cutout.shape
    pixels = np.zeros((recipe.channels, rows, columns), dtype=recipe.dtype)
    target = np.zeros((rows, columns), dtype=np.uint8) if recipe.target else None
    spent: dict[Stage, float] = {"fetch": 0.0, "decode": 0.0, "copy": 0.0}
    taken = []
    for patch, lot in islice(zip(epoch.patches, epoch.lots, strict=True), _SAMPLED):
        disk, time = int(work.disk[patch]), int(work.time[patch])
        recipe.fetch(disk, time)  # the index, and a cold disk
        start = perf_counter()
        fetched = recipe.fetch(disk, time)
        middle = perf_counter()
        recipe.fill(fetched, lot, pixels, target)
        whole, decoding = perf_counter() - middle, recipe.decode_only(fetched)
        spent["fetch"] += middle - start
        spent["decode"] += decoding
        spent["copy"] += max(whole - decoding, 0.0)
        taken.append(fetched)
    return {name: value / len(taken) for name, value in spent.items()}, taken

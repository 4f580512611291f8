"""What a stream will read, how much memory it takes, how fast it is here, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Literal

import numpy as np

from cloudsen12_cube.chunks import Fetched
from cloudsen12_cube.samples import FILLER, shuffle_quality
from cloudsen12_cube.stream import Stream, slab_cost

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


def explain(stream: Stream, seconds: float = 2.0) -> Explanation:
    """Look at a stream, and probe it for a moment; its position stays what it is.

    Parameters
    ----------
    stream : Stream
    seconds : float
        Length of the probe.
    """
    recipe, order, table = stream.recipe, stream.order, stream.patches
    epoch = stream.plan(stream.epoch)
    rate = _rate(stream, seconds)
    spent, fetched = _stages(stream)
    remote = recipe.parts[0].chunks.objects.remote
    workers: dict[Stage, int] = {"fetch": stream.limits.connections if remote else stream.limits.threads}
    busy = {name: value / workers.get(name, stream.limits.threads) for name, value in spent.items()}
    limit: Stage = max(busy, key=lambda name: busy[name])
    if stream.consumed > 2 * stream.waited:
        limit = "consumer"  # in the epoch under way, or the last one
    per_batch = min(order.batch_size, len(table)) / len(fetched)
    return Explanation(
        patches=len(epoch.patches),
        shards=table["disk"].nunique() * (len(recipe.parts) + (recipe.target is not None)),
        batches=len(stream),
        shape=(order.batch_size, recipe.channels, *recipe.cutout.shape),
        dtype=str(recipe.dtype),
        requests=per_batch * sum(part.requests for row in fetched for part in row),
        bytes_fetched=per_batch * sum(part.bytes for row in fetched for part in row),
        bytes_out=order.batch_size * (recipe.pixel_bytes + recipe.target_bytes),
        memory=stream.limits.slabs * slab_cost(recipe, order),
        shuffle_quality=shuffle_quality(table["disk"].to_numpy(np.int64)[epoch.patches]),
        rate=rate,
        seconds=spent,
        limit=limit,
    )


def _rate(stream: Stream, seconds: float) -> float:
    """Read batches until the time is over; the first, which pays for the indices, is not counted."""
    number, counted, start = 0, 0, perf_counter()
    while True:
        for batch in stream.run(number, range(len(stream))):
            now = perf_counter()
            if number == counted == 0:
                start, number = now, 1
                continue
            counted += int((batch.patches != FILLER).sum())
            if now - start > seconds:
                return counted / (now - start)
        number += 1
        if not len(stream):
            return 0.0


def _stages(stream: Stream) -> tuple[dict[Stage, float], list[list[Fetched]]]:
    """Time the stages of a few patches, one after another."""
    recipe = stream.recipe
    disk, time = (stream.patches[name].to_numpy(np.int64) for name in ("disk", "time"))
    epoch = stream.plan(0)
    rows, columns = recipe.cutout.shape
    pixels = np.zeros((recipe.channels, rows, columns), dtype=recipe.dtype)
    target = np.zeros((rows, columns), dtype=np.uint8) if recipe.target else None
    spent: dict[Stage, float] = {"fetch": 0.0, "decode": 0.0, "copy": 0.0}
    taken = []
    for patch, lot in islice(zip(epoch.patches, epoch.lots, strict=True), _SAMPLED):
        recipe.fetch(int(disk[patch]), int(time[patch]))  # the index, and a cold disk
        start = perf_counter()
        fetched = recipe.fetch(int(disk[patch]), int(time[patch]))
        middle = perf_counter()
        recipe.fill(fetched, lot, pixels, target)
        whole, decoding = perf_counter() - middle, recipe.decode_only(fetched)
        spent["fetch"] += middle - start
        spent["decode"] += decoding
        spent["copy"] += max(whole - decoding, 0.0)
        taken.append(fetched)
    return {name: value / max(len(taken), 1) for name, value in spent.items()}, taken

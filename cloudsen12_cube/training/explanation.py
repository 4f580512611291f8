"""What a stream reads, how much memory it takes, how fast it is on this machine, and what limits it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Literal

import numpy as np

from cloudsen12_cube.format import Fetched
from cloudsen12_cube.training.order import FILLER, shuffle_quality
from cloudsen12_cube.training.prefetch import BufferPool, Limits, Work, batch_bytes, peak_bytes, run

Stage = Literal["fetch", "decode", "copy", "consumer"]
_SAMPLED = 8  # patches whose stages are timed one after another


@dataclass(frozen=True)
class Explanation:
    """What a stream does; times are of this machine at this moment.

    Attributes
    ----------
    patches : int
        Patches of an epoch, on all ranks.
    shards : int
        Objects that an epoch reads from.
    batches : int
        Batches of an epoch on this rank.
    shape : tuple of int
        Shape of the pixels of a batch.
    dtype : str
        Data type of the pixels.
    requests : float
        Requests per batch; the indices of shards, which are read once, are not counted.
    bytes_fetched, bytes_out : float, int
        Bytes read, and bytes of the arrays, per batch.
    memory : int
        Bytes of all batches that exist at a time, with the chunks that wait to be decoded.
    shuffle_quality : float
        1 is a uniform shuffle, 0 none; see `order.shuffle_quality`.
    rate : float
        Patches per second, for a consumer that does nothing.
    seconds : dict
        Stage -> seconds of one thread for one patch.
    limit : {"fetch", "decode", "copy", "consumer"}
        The slowest stage, with the threads that it has.
    """

    patches: int
    shards: int
    batches: int
    shape: tuple[int, ...]
    dtype: str
    requests: float
    bytes_fetched: float
    bytes_out: int
    memory: int
    shuffle_quality: float
    rate: float
    seconds: dict[Stage, float]
    limit: Stage

    def __str__(self) -> str:
        """Summarise in a few lines."""
        mib = 2**20
        stages = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in self.seconds.items())
        return (
            f"{self.patches} patches of {self.shards} shards in {self.batches} batches of {self.shape} {self.dtype}\n"
            f"per batch: {self.requests:.0f} requests, {self.bytes_fetched / mib:.1f} MiB fetched, "
            f"{self.bytes_out / mib:.1f} MiB of arrays; memory at most {self.memory / mib:.0f} MiB\n"
            f"shuffle quality {self.shuffle_quality:.2f}; {self.rate:.0f} patches/s on this machine "
            f"({stages} per patch and thread); limited by {self.limit}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def explain(
    work: Work, limits: Limits, pool: BufferPool, seconds: float = 2.0, waited: float = 0.0, consumed: float = 0.0
) -> Explanation:
    """Describe the work of a stream, and measure its speed.

    Parameters
    ----------
    work : Work
        An epoch of the stream.
    limits : Limits
        Resources to use.
    pool : BufferPool
        Memory for the measurement.
    seconds : float
        Length of the measurement.
    waited, consumed : float
        Seconds that a consumer waited for batches, and that it worked on them, in the epoch before.

    Returns
    -------
    Explanation
    """
    recipe, epoch = work.recipe, work.epoch
    size, disk = epoch.order.batch_size, work.disk[epoch.patches]
    rate = _measure_rate(work, limits, pool, seconds)
    times, samples = _time_stages(work)
    workers: dict[Stage, int] = {"fetch": limits.connections or limits.threads}
    busy = {stage: value / workers.get(stage, limits.threads) for stage, value in times.items()}
    chunks = [data for sample in samples for data in sample]
    per_batch = min(size, len(epoch.patches)) / len(samples)
    rois_per_shard = (reader.layout.form.rois_per_shard for reader, _ in recipe.reads)
    return Explanation(
        patches=len(epoch.patches),
        shards=sum(len(np.unique(disk // rois)) for rois in rois_per_shard),
        batches=epoch.steps,
        shape=(size, recipe.channels, *recipe.transform.shape),
        dtype=str(recipe.dtype),
        requests=per_batch * sum(data.requests for data in chunks),
        bytes_fetched=per_batch * sum(data.bytes for data in chunks),
        bytes_out=batch_bytes(recipe, size),
        memory=limits.buffers * peak_bytes(recipe, size),
        shuffle_quality=shuffle_quality(disk),
        rate=rate,
        seconds=times,
        limit="consumer" if consumed > 2 * waited else max(busy, key=lambda stage: busy[stage]),
    )


def _measure_rate(work: Work, limits: Limits, pool: BufferPool, seconds: float) -> float:
    """Read batches until the time is over; the first, which includes reading the indices, is not counted."""
    count, start = 0, 0.0
    while work.epoch.steps:
        for batch in run(work, range(work.epoch.steps), limits, pool):
            now = perf_counter()
            if not start:
                start = now
                continue
            count += int((batch.patches != FILLER).sum())
            if now - start > seconds:
                return count / (now - start)
    return 0.0


def _time_stages(work: Work) -> tuple[dict[Stage, float], list[list[Fetched]]]:
    """Time the stages of a few patches one after another: seconds per patch, and the chunks of each."""
    recipe, epoch = work.recipe, work.epoch
    rows, columns = recipe.transform.shape
    pixels = np.zeros((recipe.channels, rows, columns), dtype=recipe.dtype)
    target = np.zeros((rows, columns), dtype=np.uint8) if recipe.target else None
    times: dict[Stage, float] = {"fetch": 0.0, "decode": 0.0, "copy": 0.0}
    samples = []
    for patch, draw in islice(zip(epoch.patches, epoch.draws, strict=True), _SAMPLED):
        disk, time = int(work.disk[patch]), int(work.time[patch])
        recipe.fetch(disk, time)  # reads the index, and warms the disk's cache
        start = perf_counter()
        fetched = recipe.fetch(disk, time)
        middle = perf_counter()
        recipe.decode(fetched, draw, pixels, target)
        whole, decoding = perf_counter() - middle, recipe.time_decoding(fetched)
        times["fetch"] += middle - start
        times["decode"] += decoding
        times["copy"] += max(whole - decoding, 0.0)
        samples.append(fetched)
    return {stage: value / len(samples) for stage, value in times.items()}, samples

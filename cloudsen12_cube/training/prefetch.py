"""Batches prepared ahead of their consumer by threads, in reused memory of bounded size.

A batch is one buffer. The buffer returns to the free ones when the consumer has dropped the last array that views it,
never before, so a batch that is kept does not change. Buffers held by the consumer count against the bound; if it holds
all of them, the pool grows by one, since a consumer that collects batches would otherwise wait forever.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.format import Fetched
from cloudsen12_cube.training.batch import Recipe
from cloudsen12_cube.training.order import FILLER, Epoch, Indices


@dataclass(frozen=True)
class Limits:
    """Resources that a pipeline may use.

    Parameters
    ----------
    buffers : int
        Batches that exist at a time: in preparation, waiting, and held by the consumer.
    threads : int
        Threads that decode.
    connections : int
        Concurrent requests of a remote cube; 0 reads in the threads that decode.
    """

    buffers: int
    threads: int
    connections: int


@dataclass(frozen=True)
class Work:
    """An epoch of patches, and where they are stored.

    Parameters
    ----------
    recipe : Recipe
    epoch : Epoch
    disk : Indices
        Index of the shards of each patch in the table.
    time : Indices
    """

    recipe: Recipe
    epoch: Epoch
    disk: Indices
    time: Indices


@dataclass(frozen=True)
class Batch:
    """Arrays of a batch, and the patches in its rows.

    Parameters
    ----------
    patches : Indices
        Positions in the table; `FILLER` where there is no patch.
    pixels : npt.NDArray[Any]
        (batch, band, y, x)
    target : npt.NDArray[np.uint8] | None
        (batch, y, x)
    """

    patches: Indices
    pixels: npt.NDArray[Any]
    target: npt.NDArray[np.uint8] | None


class BufferPool:
    """Memory of batches, reused from batch to batch and from epoch to epoch."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self.free: SimpleQueue[mmap.mmap | None] = SimpleQueue()  # None ends the feeder that waits for a buffer
        self.held: list[weakref.ref[Any]] = []
        for _ in range(count):
            self.free.put(self._allocate())

    def _allocate(self) -> mmap.mmap:
        buffer = mmap.mmap(-1, self.size)  # the system commits it page by page, on first use
        if hasattr(mmap, "MADV_HUGEPAGE"):
            buffer.madvise(mmap.MADV_HUGEPAGE)
        return buffer

    def release(self, root: npt.NDArray[np.uint8], buffer: mmap.mmap) -> None:
        """Pass views of a root array to the consumer; the buffer is reused when all of them are deleted."""
        self.held = [ref for ref in self.held if ref() is not None]
        self.held.append(weakref.ref(root))
        weakref.finalize(root, self.free.put, buffer).atexit = False

    def grow(self) -> None:
        """Add a buffer if the consumer holds all there are."""
        if sum(ref() is not None for ref in self.held) >= self.count:
            self.count += 1
            self.free.put(self._allocate())

    def reclaim(self, unused: Iterable[mmap.mmap]) -> None:
        """Recover the buffers that were not consumed, and drop the None that ended the feeder."""
        for buffer in [*unused, *_drain(self.free)]:
            if buffer is not None:
                self.free.put(buffer)


def _drain[T](queue: SimpleQueue[T]) -> Iterator[T]:
    while not queue.empty():
        yield queue.get()


@dataclass(frozen=True)
class _PendingBatch:
    """A batch in preparation."""

    buffer: mmap.mmap
    root: npt.NDArray[np.uint8]
    batch: Batch
    rows: list[Future[None]]


def run(work: Work, steps: range, limits: Limits, pool: BufferPool) -> Iterator[Batch]:
    """Yield some batches of an epoch, in order.

    Parameters
    ----------
    work : Work
        The epoch.
    steps : range
        Numbers of the batches.
    limits : Limits
        Resources to use.
    pool : BufferPool
        Memory of the batches; in exclusive use while this runs.

    Yields
    ------
    Batch

    Raises
    ------
    StoreError
        If a chunk is damaged; raised when its batch is due.
    """
    ready: SimpleQueue[_PendingBatch | BaseException] = SimpleQueue()
    feeder = _Feeder(work, limits, pool, ready)
    thread = threading.Thread(target=feeder.run, args=(steps,), name="feeder", daemon=True)
    thread.start()
    try:
        for _ in steps:
            yield _next(pool, ready)
    finally:
        feeder.stop()
        thread.join()
        pool.reclaim(pending.buffer for pending in _drain(ready) if isinstance(pending, _PendingBatch))


def _next(pool: BufferPool, ready: SimpleQueue[_PendingBatch | BaseException]) -> Batch:
    pool.grow()
    pending = ready.get()
    if isinstance(pending, BaseException):
        raise pending
    for row in pending.rows:
        row.result()
    pool.release(pending.root, pending.buffer)
    return pending.batch


class _Feeder:
    """Submits the rows of batch after batch to the threads, as buffers become free."""

    def __init__(
        self, work: Work, limits: Limits, pool: BufferPool, ready: SimpleQueue[_PendingBatch | BaseException]
    ) -> None:
        self.work, self.pool, self.ready = work, pool, ready
        self.decoders = ThreadPoolExecutor(limits.threads, "decode")
        self.fetchers = ThreadPoolExecutor(limits.connections, "fetch") if limits.connections else None

    def run(self, steps: range) -> None:
        """Start batch after batch until the epoch ends or `stop` is called."""
        for step in steps:
            buffer = self.pool.free.get()
            if buffer is None:
                return
            try:
                self.ready.put(self._start(step, buffer))
            except BaseException as error:  # also that of an executor that was shut down meanwhile
                self.pool.free.put(buffer)
                self.ready.put(error)
                return

    def stop(self) -> None:
        """End the feeder; no further batch is started."""
        self.pool.free.put(None)
        for executor in (self.fetchers, self.decoders):
            if executor:
                executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, step: int, buffer: mmap.mmap) -> _PendingBatch:
        patches, draws = self.work.epoch.batch(step)
        root = np.frombuffer(buffer, dtype=np.uint8)
        batch = _view_batch(self.work.recipe, patches, root)
        rows = [self._row(int(patch), draws[row], batch, row) for row, patch in enumerate(patches)]
        return _PendingBatch(buffer, root, batch, rows)

    def _row(self, patch: int, draw: npt.NDArray[np.float64], batch: Batch, row: int) -> Future[None]:
        out = (batch.pixels[row], None if batch.target is None else batch.target[row])
        recipe = self.work.recipe
        if patch == FILLER:
            return self.decoders.submit(recipe.fill, *out)
        disk, time = int(self.work.disk[patch]), int(self.work.time[patch])
        if self.fetchers is None:
            return self.decoders.submit(recipe.read, disk, time, draw, *out)
        done: Future[None] = Future()

        def decode(fetched: list[Fetched]) -> None:
            try:
                recipe.decode(fetched, draw, *out)
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        def fetch() -> None:
            try:
                self.decoders.submit(decode, recipe.fetch(disk, time))
            except BaseException as error:
                done.set_exception(error)

        self.fetchers.submit(fetch)
        return done


def batch_bytes(recipe: Recipe, batch_size: int) -> int:
    """Bytes of the arrays of a batch."""
    return batch_size * (recipe.pixel_bytes + recipe.target_bytes)


def peak_bytes(recipe: Recipe, batch_size: int) -> int:
    """Bytes of a batch at most: its arrays and, of a remote cube, encoded chunks that wait to be decoded."""
    return batch_bytes(recipe, batch_size) + (batch_size * recipe.raw_bytes if recipe.remote else 0)


def _view_batch(recipe: Recipe, patches: Indices, root: npt.NDArray[np.uint8]) -> Batch:
    """View a buffer as the arrays of a batch."""
    count, (rows, columns) = len(patches), recipe.transform.shape
    end = count * recipe.pixel_bytes
    pixels = root[:end].view(recipe.dtype).reshape(count, recipe.channels, rows, columns)
    if recipe.target is None:
        return Batch(patches, pixels, None)
    return Batch(patches, pixels, root[end : end + count * recipe.target_bytes].reshape(count, rows, columns))

"""Batches made ahead of their consumer, by threads, in memory that is used again and bounded.

A batch is a slab of memory. It goes back to the free ones when the consumer has dropped the last array that looks into
it, never before, so a batch that is kept stays what it was. Slabs that the consumer holds count against the bound;
where it holds all of them, one more is made, for a consumer that collects batches must not wait for ever.
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
    """How much a pipeline may use."""

    slabs: int
    """Batches that exist at a time: those being made, those waiting, and those that the consumer holds."""
    threads: int
    """That decode."""
    connections: int
    """Requests under way at a time, where a request takes time; 0 reads in the threads that decode."""


@dataclass(frozen=True)
class Work:
    """An epoch of patches, and where they lie."""

    recipe: Recipe
    epoch: Epoch
    disk: Indices
    """Number of the shards of each patch in the table."""
    time: Indices


@dataclass(frozen=True)
class Batch:
    """Arrays of a batch, and the patches in its rows."""

    patches: Indices
    """Positions in the table; `FILLER` where there is no patch."""
    pixels: npt.NDArray[Any]
    """(batch, band, y, x)"""
    target: npt.NDArray[np.uint8] | None
    """(batch, y, x)"""


class BufferPool:
    """Memory of batches, used again from batch to batch and from epoch to epoch."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.made = size, count
        self.free: SimpleQueue[mmap.mmap | None] = SimpleQueue()
        self.lent: list[weakref.ref[Any]] = []
        for _ in range(count):
            self.free.put(self._new())

    def _new(self) -> mmap.mmap:
        slab = mmap.mmap(-1, self.size)  # the system hands it out page by page, on first use
        if hasattr(mmap, "MADV_HUGEPAGE"):
            slab.madvise(mmap.MADV_HUGEPAGE)
        return slab

    def lend(self, root: npt.NDArray[np.uint8], slab: mmap.mmap) -> None:
        """Note that the consumer gets views of a root array; the slab comes back when all of them are gone."""
        self.lent = [ref for ref in self.lent if ref() is not None]
        self.lent.append(weakref.ref(root))
        weakref.finalize(root, self.free.put, slab).atexit = False

    def spare(self) -> None:
        """Make one more slab if the consumer holds all there are."""
        if sum(ref() is not None for ref in self.lent) >= self.made:
            self.made += 1
            self.free.put(self._new())

    def restore(self, unused: Iterable[mmap.mmap]) -> None:
        """Take back what was never handed out, and the word that ended the feeder."""
        slabs = [slab for slab in [*unused, *_drained(self.free)] if slab is not None]
        for slab in slabs:
            self.free.put(slab)


def _drained[T](queue: SimpleQueue[T]) -> Iterator[T]:
    while not queue.empty():
        yield queue.get()


@dataclass(frozen=True)
class _Filling:
    """A batch that is being made."""

    slab: mmap.mmap
    root: npt.NDArray[np.uint8]
    batch: Batch
    rows: list[Future[None]]


def run(work: Work, steps: range, limits: Limits, slabs: BufferPool) -> Iterator[Batch]:
    """Yield some batches of an epoch, in order.

    Parameters
    ----------
    work : Work
    steps : range
        Numbers of the batches.
    limits : Limits
    slabs : Slabs
        Nobody else's while this runs.

    Raises
    ------
    StoreError
        If a chunk is damaged, when its batch is asked for.
    """
    ready: SimpleQueue[_Filling | BaseException] = SimpleQueue()
    feeder = _Feeder(work, limits, slabs, ready)
    thread = threading.Thread(target=feeder.run, args=(steps,), name="feeder", daemon=True)
    thread.start()
    try:
        for _ in steps:
            yield _next(slabs, ready)
    finally:
        feeder.stop()
        thread.join()
        slabs.restore(left.slab for left in _drained(ready) if isinstance(left, _Filling))


def _next(slabs: BufferPool, ready: SimpleQueue[_Filling | BaseException]) -> Batch:
    slabs.spare()
    filling = ready.get()
    if isinstance(filling, BaseException):
        raise filling
    for row in filling.rows:
        row.result()
    slabs.lend(filling.root, filling.slab)
    return filling.batch


class _Feeder:
    """Hands the rows of batch after batch to the threads, as memory comes free."""

    def __init__(
        self, work: Work, limits: Limits, slabs: BufferPool, ready: SimpleQueue[_Filling | BaseException]
    ) -> None:
        self.work, self.slabs, self.ready = work, slabs, ready
        self.decoders = ThreadPoolExecutor(limits.threads, "decode")
        self.fetchers = ThreadPoolExecutor(limits.connections, "fetch") if limits.connections else None

    def run(self, steps: range) -> None:
        """Begin batch after batch until the epoch ends or `stop` is called."""
        for step in steps:
            slab = self.slabs.free.get()
            if slab is None:
                return
            try:
                self.ready.put(self._begin(step, slab))
            except BaseException as error:  # also of a pool that was stopped meanwhile
                self.slabs.free.put(slab)
                self.ready.put(error)
                return

    def stop(self) -> None:
        """End soon; nothing more is handed out."""
        self.slabs.free.put(None)
        for pool in (self.fetchers, self.decoders):
            if pool:
                pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int, slab: mmap.mmap) -> _Filling:
        patches, lots = self.work.epoch.batch(step)
        root = np.frombuffer(slab, dtype=np.uint8)
        batch = _batch(self.work.recipe, patches, root)
        rows = [self._row(int(patch), lots[row], batch, row) for row, patch in enumerate(patches)]
        return _Filling(slab, root, batch, rows)

    def _row(self, patch: int, lot: npt.NDArray[np.float64], batch: Batch, row: int) -> Future[None]:
        place = (batch.pixels[row], None if batch.target is None else batch.target[row])
        recipe = self.work.recipe
        if patch == FILLER:
            return self.decoders.submit(recipe.blank, *place)
        disk, time = int(self.work.disk[patch]), int(self.work.time[patch])
        if self.fetchers is None:
            return self.decoders.submit(recipe.make, disk, time, lot, *place)
        done: Future[None] = Future()

        def decode(fetched: list[Fetched]) -> None:
            _settle(done, lambda: recipe.fill(fetched, lot, *place))

        def fetch() -> None:
            try:
                self.decoders.submit(decode, recipe.fetch(disk, time))
            except BaseException as error:
                done.set_exception(error)

        self.fetchers.submit(fetch)
        return done


def _settle(done: Future[None], work: Any) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def buffer_cost(recipe: Recipe, batch_size: int) -> int:
    """Bytes that a batch takes at most: its arrays, and encoded chunks that wait to be decoded."""
    waiting = recipe.raw_bytes if recipe.parts[0].chunks.objects.concurrency > 1 else 0
    return batch_size * (recipe.pixel_bytes + recipe.target_bytes + waiting)


def _batch(recipe: Recipe, patches: Indices, root: npt.NDArray[np.uint8]) -> Batch:
    """Lay the arrays of a batch into its memory."""
    count, (rows, columns) = len(patches), recipe.cutout.shape
    end = count * recipe.pixel_bytes
    pixels = root[:end].view(recipe.dtype).reshape(count, recipe.channels, rows, columns)
    if recipe.target is None:
        return Batch(patches, pixels, None)
    target = root[end : end + count * recipe.target_bytes].reshape(count, rows, columns)
    return Batch(patches, pixels, target)

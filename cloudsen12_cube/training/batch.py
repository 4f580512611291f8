"""How one patch gets into a row of a batch: which chunks are read, and what is made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.format import ChunkReader, Fetched
from cloudsen12_cube.schema import UNLABELLED
from cloudsen12_cube.storage import Arena
from cloudsen12_cube.training.transform import TRANSPOSE, Lot, PatchTransform, Scaling

Plane = npt.NDArray[Any]


@dataclass(frozen=True)
class ChannelGroup:
    """Bands of one product, which become neighbouring channels."""

    chunks: ChunkReader
    bands: tuple[int, ...]
    """Positions in the product."""
    scalings: tuple[Scaling, ...] | None
    """One a band; None leaves the stored values."""

    @property
    def chunks_read(self) -> int:
        """Chunks that hold the bands of a patch."""
        return min(len(self.bands), self.chunks.layout.chunks_a_date)

    @property
    def is_one_chunk(self) -> bool:
        """Whether the bands are those of a chunk, all and in order."""
        layout = self.chunks.layout
        return layout.form.chunk == "bands" and self.bands == tuple(range(len(layout.bands)))


@dataclass(frozen=True)
class TargetLayer:
    """A label layer that becomes the target."""

    chunks: ChunkReader
    band: int
    codes: Callable[[Plane], npt.NDArray[np.uint8]]
    """From a plane of stored values to class codes."""


@dataclass(frozen=True)
class Recipe:
    """What a batch is made of."""

    parts: tuple[ChannelGroup, ...]
    target: TargetLayer | None
    cutout: PatchTransform
    dtype: np.dtype[Any]
    """Of the pixels in the batch."""
    _scratch: threading.local = field(default_factory=threading.local, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross process borders without the scratch memory of threads."""
        return Recipe, (self.parts, self.target, self.cutout, self.dtype)

    @property
    def channels(self) -> int:
        """Channels of the pixels."""
        return sum(len(part.bands) for part in self.parts)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one patch's pixels in the batch."""
        rows, columns = self.cutout.shape
        return self.channels * rows * columns * self.dtype.itemsize

    @property
    def target_bytes(self) -> int:
        """Bytes of one patch's target in the batch."""
        rows, columns = self.cutout.shape
        return rows * columns if self.target else 0

    @property
    def raw_bytes(self) -> int:
        """Bytes of one patch's stored values, uncompressed: no fewer than what is fetched."""
        target = self.target.chunks.layout.chunk_bytes if self.target else 0
        return target + sum(part.chunks_read * part.chunks.layout.chunk_bytes for part in self.parts)

    def fetch(self, disk: int, time: int, arena: Arena | None = None) -> list[Fetched]:
        """Read the chunks of a patch: one item a part, and the target's last."""
        fetched = [part.chunks.fetch(disk, time, part.bands, arena) for part in self.parts]
        if self.target:
            fetched.append(self.target.chunks.fetch(disk, time, (self.target.band,), arena))
        return fetched

    def make(self, disk: int, time: int, lot: Lot, pixels: Plane, target: Plane | None) -> None:
        """Read and decode a patch in one go, in the memory of this thread; see `fetch` and `fill`."""
        arena: Arena = self._scratch.__dict__.setdefault("arena", Arena())
        arena.reset()
        self.fill(self.fetch(disk, time, arena), lot, pixels, target)

    def fill(self, fetched: list[Fetched], lot: Lot, pixels: Plane, target: Plane | None) -> None:
        """Decode a patch into its row of the batch.

        Parameters
        ----------
        fetched : list of Fetched
            As `fetch` gave them.
        lot : numpy.ndarray, shape (3,)
        pixels : numpy.ndarray, shape (channel, y, x)
        target : numpy.ndarray of uint8, shape (y, x), or None
        """
        channel = 0
        for part, chunks in zip(self.parts, fetched, strict=False):
            own = pixels[channel : channel + len(part.bands)]
            channel += len(part.bands)
            if part.is_one_chunk and self._as_stored(part):
                part.chunks.decode_all(chunks, own)
                continue
            for position, plane in enumerate(own):
                self._channel(part, (chunks, position), plane, lot)
        if self.target and target is not None:
            self._label(self.target, fetched[-1], target, lot)

    def decode_only(self, fetched: list[Fetched]) -> float:
        """Seconds of decoding a patch and nothing more, for `explain`."""
        start = perf_counter()
        readers = [*(part.chunks for part in self.parts), *([self.target.chunks] if self.target else [])]
        for chunks, found in zip(readers, fetched, strict=True):
            chunks.forget()
            for position in range(len(found.bands)):
                chunks.decode(found, position, self._plane(chunks))
        return perf_counter() - start

    def blank(self, pixels: Plane, target: Plane | None) -> None:
        """Fill a row for which there is no patch: zeros, unlabelled."""
        pixels.fill(0)
        if target is not None:
            target.fill(UNLABELLED)

    def _as_stored(self, part: ChannelGroup) -> bool:
        """Whether a plane goes into the batch as it is in the store."""
        return self.cutout.plain and part.scalings is None and self.dtype == part.chunks.layout.dtype

    def _channel(self, part: ChannelGroup, chunk: tuple[Fetched, int], out: Plane, lot: Lot) -> None:
        fetched, position = chunk
        if self._as_stored(part):
            part.chunks.decode(fetched, position, out)
            return
        plane = self._plane(part.chunks)
        there = part.chunks.decode(fetched, position, plane)
        inner, source = self.cutout.inner(out, lot), self.cutout.source(plane, lot)
        if part.scalings is None:
            inner[...] = source
        elif there:
            # A transposed plane is laid out first: else numpy would write the batch column by column.
            part.scalings[position].write(source.copy() if self.cutout.turn(lot) >= TRANSPOSE else source, inner)
        else:
            inner.fill(part.scalings[position].missing)
        self.cutout.frame(out, lot, 0 if self.cutout.pad_mode == "constant" else None)

    def _label(self, target: TargetLayer, fetched: Fetched, out: Plane, lot: Lot) -> None:
        plane = self._plane(target.chunks)
        target.chunks.decode(fetched, 0, plane)
        # A probability is judged by its neighbours: the whole patch becomes classes before it is cropped.
        self.cutout.inner(out, lot)[...] = self.cutout.source(target.codes(plane), lot)
        self.cutout.frame(out, lot, UNLABELLED)

    def _plane(self, chunks: ChunkReader) -> Plane:
        """Give a plane of memory that belongs to this thread and stays in its cache."""
        planes: dict[str, Plane] = self._scratch.__dict__
        layout = chunks.layout
        if layout.dtype not in planes:
            planes[layout.dtype] = np.empty((layout.height, layout.width), dtype=layout.dtype)
        return planes[layout.dtype]

"""How one patch gets into a row of a batch: which chunks are read, and how they are decoded and transformed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.format import ChunkReader, Fetched
from cloudsen12_cube.schema import UNLABELLED
from cloudsen12_cube.storage import Arena
from cloudsen12_cube.training.transform import TRANSPOSE, Draw, PatchTransform, Plane, Scaling


@dataclass(frozen=True)
class ChannelGroup:
    """Bands of one product, which become adjacent channels.

    Parameters
    ----------
    chunks : ChunkReader
    bands : tuple[int, ...]
        Positions in the product.
    scalings : tuple[Scaling, ...] | None
        One per band; None keeps the stored values.
    """

    chunks: ChunkReader
    bands: tuple[int, ...]
    scalings: tuple[Scaling, ...] | None

    @property
    def is_one_chunk(self) -> bool:
        """Whether the bands are those of a chunk, all and in order."""
        layout = self.chunks.layout
        return layout.form.chunk == "bands" and self.bands == tuple(range(len(layout.bands)))


@dataclass(frozen=True)
class TargetLayer:
    """A label layer that becomes the target.

    Parameters
    ----------
    chunks : ChunkReader
    band : int
    codes : Callable[[Plane], npt.NDArray[np.uint8]]
        From a plane of stored values to class codes.
    """

    chunks: ChunkReader
    band: int
    codes: Callable[[Plane], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Recipe:
    """Contents of a batch.

    Parameters
    ----------
    groups : tuple[ChannelGroup, ...]
    target : TargetLayer | None
    transform : PatchTransform
    dtype : np.dtype[Any]
        Data type of the pixels in the batch.
    """

    groups: tuple[ChannelGroup, ...]
    target: TargetLayer | None
    transform: PatchTransform
    dtype: np.dtype[Any]
    _scratch: threading.local = field(default_factory=threading.local, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the scratch memory of threads."""
        return Recipe, (self.groups, self.target, self.transform, self.dtype)

    @cached_property
    def reads(self) -> tuple[tuple[ChunkReader, tuple[int, ...]], ...]:
        """Reader and bands of each channel group, the target's last."""
        target = [(self.target.chunks, (self.target.band,))] if self.target else []
        return (*((group.chunks, group.bands) for group in self.groups), *target)

    @property
    def remote(self) -> bool:
        """Whether requests take time, so that several should be under way."""
        return self.reads[0][0].objects.concurrency > 1

    @cached_property
    def channels(self) -> int:
        """Number of channels of the pixels."""
        return sum(len(group.bands) for group in self.groups)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of one patch in the batch."""
        rows, columns = self.transform.shape
        return self.channels * rows * columns * self.dtype.itemsize

    @property
    def target_bytes(self) -> int:
        """Bytes of the target of one patch in the batch."""
        rows, columns = self.transform.shape
        return rows * columns if self.target else 0

    @property
    def raw_bytes(self) -> int:
        """Uncompressed bytes of the chunks of one patch, an upper bound of what is fetched."""
        layouts = [(chunks.layout, bands) for chunks, bands in self.reads]
        return sum(min(len(bands), layout.chunks_a_date) * layout.chunk_bytes for layout, bands in layouts)

    def fetch(self, disk: int, time: int, arena: Arena | None = None) -> list[Fetched]:
        """Read the chunks of a patch: one item per channel group, and the target's last."""
        return [chunks.fetch(disk, time, bands, arena) for chunks, bands in self.reads]

    def read(self, disk: int, time: int, draw: Draw, pixels: Plane, target: Plane | None) -> None:
        """Fetch and decode a patch in one call, in the memory of this thread; see `fetch` and `decode`."""
        arena: Arena = self._scratch.__dict__.setdefault("arena", Arena())
        arena.reset()
        self.decode(self.fetch(disk, time, arena), draw, pixels, target)

    def decode(self, fetched: list[Fetched], draw: Draw, pixels: Plane, target: Plane | None) -> None:
        """Decode a patch into its row of the batch.

        Parameters
        ----------
        fetched : list of Fetched
            Chunks of the patch, from `fetch`.
        draw : numpy.ndarray, shape (3,)
            Random numbers of the patch.
        pixels : numpy.ndarray, shape (channel, y, x)
            Row of the batch for the pixels.
        target : numpy.ndarray of uint8, shape (y, x), or None
            Row of the batch for the target.
        """
        channel = 0
        for group, chunks in zip(self.groups, fetched, strict=False):
            rows = pixels[channel : channel + len(group.bands)]
            channel += len(group.bands)
            unchanged = (
                self.transform.is_identity and group.scalings is None and self.dtype == group.chunks.layout.dtype
            )
            if unchanged and group.is_one_chunk:
                group.chunks.decode_all(chunks, rows)
                continue
            for position, plane in enumerate(rows):
                if unchanged:  # without a copy in between
                    group.chunks.decode(chunks, position, plane)
                else:
                    self._decode_channel(group, chunks, position, plane, draw)
        if self.target and target is not None:
            plane = self._plane(self.target.chunks)
            self.target.chunks.decode(fetched[-1], 0, plane)
            # Smoothing a probability needs the neighbours of a pixel: convert to classes before cropping.
            self.transform.target_view(target, draw)[...] = self.transform.source_view(self.target.codes(plane), draw)
            self.transform.fill_padding(target, draw, UNLABELLED)

    def _decode_channel(self, group: ChannelGroup, fetched: Fetched, position: int, out: Plane, draw: Draw) -> None:
        plane, transform = self._plane(group.chunks), self.transform
        stored = group.chunks.decode(fetched, position, plane)
        inner, source = transform.target_view(out, draw), transform.source_view(plane, draw)
        if group.scalings is None:
            inner[...] = source
        elif stored:
            # A transposed plane is copied first: else numpy would write the batch column by column.
            contiguous = source.copy() if transform.orientation(draw) >= TRANSPOSE else source
            group.scalings[position].write(contiguous, inner)
        else:
            inner.fill(group.scalings[position].missing)
        transform.fill_padding(out, draw, 0 if transform.pad_mode == "constant" else None)

    def time_decoding(self, fetched: list[Fetched]) -> float:
        """Measure the seconds that decoding the chunks of a patch takes, without transforming them."""
        start = perf_counter()
        for (chunks, bands), data in zip(self.reads, fetched, strict=True):
            chunks.forget()
            for position in range(len(bands)):
                chunks.decode(data, position, self._plane(chunks))
        return perf_counter() - start

    def fill(self, pixels: Plane, target: Plane | None) -> None:
        """Fill a row without a patch: zeros, unlabelled."""
        pixels.fill(0)
        if target is not None:
            target.fill(UNLABELLED)

    def _plane(self, chunks: ChunkReader) -> Plane:
        """Return a plane of memory that belongs to this thread, so that it stays in the processor's cache."""
        planes: dict[str, Plane] = self._scratch.__dict__
        layout = chunks.layout
        if layout.dtype not in planes:
            planes[layout.dtype] = np.empty((layout.height, layout.width), dtype=layout.dtype)
        return planes[layout.dtype]

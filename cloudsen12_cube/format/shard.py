"""The bytes of a shard: inner chunks encoded one by one, then an index of where each lies.

The format is Zarr v3's ``sharding_indexed`` codec with the index at the end and the chunks in C order, which is what
zarr-python writes too, byte for byte (the tests compare). Written here because a whole shard through zarr-python costs
about twice the CPU of compressing it, and because a patch is encoded, and its memory freed, before the next is read.

Chunks of shards without zarr-python: index once, one request for what lies together, decoded where it is wanted.

The format is Zarr v3's ``sharding_indexed`` as ``shard`` writes it; zarr-python is the oracle of the tests. A crc32c
that does not fit is an error which names the shard: a flipped bit never becomes a pixel.

Why not TensorStore: measured side by side (``benchmarks/README.md``), it takes a tenth less CPU a patch on a local
disk, 3.3 against 3.7 ms, and gives half the patches a second, 98 against 188, from an S3 server with 30 ms a request.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.codec import CRC, decode, encode, intact, longest
from cloudsen12_cube.format.layout import Layout, ProductLayout
from cloudsen12_cube.storage import Arena, ObjectStore, object_version

NO_CHUNK = 2**64 - 1
"""Offset and length of a chunk that is not stored."""

_PLAIN = Layout("none")

Chunk = bytes | memoryview
"""Encoded bytes."""


def encode_chunk(pixels: npt.NDArray[Any], layout: ProductLayout) -> bytes:
    """Encode a chunk as its layout says: little-endian bytes, compressed, with a crc32c behind.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (y, x) or (band, y, x)
        In the layout's data type: one band of one date, or all of them.

    Returns
    -------
    bytes
        Empty where every pixel is the fill: such a chunk is not stored.
    """
    if is_fill(pixels, layout.fill):
        return b""
    little = np.asarray(pixels, dtype=np.dtype(layout.dtype).newbyteorder("<"))
    return encode(little, layout.form.codec, layout.form.level or 0)


def by_plane(layout: ProductLayout) -> ProductLayout:
    """Return the layout in which a patch is to be encoded, plane by plane: its own, or one that costs nothing."""
    return layout if layout.form.chunk == "band" else replace(layout, form=_PLAIN)


def joined(planes: Sequence[bytes], layout: ProductLayout) -> tuple[bytes, ...]:
    """Make the chunks of one patch from its planes, which were encoded `by_plane`, one a band."""
    if layout.form.chunk == "band":
        return tuple(planes)
    pixels = np.empty((len(planes), layout.plane_bytes), dtype=np.uint8)
    values = pixels.view(np.dtype(layout.dtype).newbyteorder("<"))
    for band, plane in enumerate(planes):
        if plane:
            pixels[band] = np.frombuffer(plane, dtype=np.uint8, count=len(plane) - CRC)
        else:
            values[band] = layout.fill
    return (encode_chunk(values, layout),)


def is_fill(plane: npt.NDArray[Any], fill: float) -> bool:
    """Return whether pixels are nothing but the fill value (for floats: NaN)."""
    if np.isnan(fill):
        return bool(np.isnan(plane.flat[0]) and np.isnan(plane).all())
    return bool(plane.flat[0] == fill and (plane == fill).all())


def assemble(chunks: Sequence[Chunk]) -> bytes:
    """Join encoded chunks, in C order of (roi, time, band), into one shard.

    Returns
    -------
    bytes
        The chunks, then the index: offset and length of each as uint64, and a crc32c of the index.
    """
    index: list[int] = []
    offset = 0
    for chunk in chunks:
        index += [offset, len(chunk)] if chunk else [NO_CHUNK, NO_CHUNK]
        offset += len(chunk)
    table = struct.pack(f"<{len(index)}Q", *index)
    return b"".join([*chunks, table, struct.pack("<I", google_crc32c.value(table))])


_GAP = {False: 64 * 1024, True: 1024 * 1024}  # unwanted bytes that are cheaper to read than to ask twice; by `remote`

_ATTEMPTS = 5  # of reading a patch whose shard is replaced at that moment

Index = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Fetched:
    """Encoded chunks of one patch of a product; None where all is the fill."""

    disk: int
    time: int
    bands: tuple[int, ...]
    chunks: tuple[memoryview | None, ...]
    """One a band; the same one where all bands are in one chunk."""
    requests: int
    bytes: int
    """That were read."""


@dataclass(frozen=True)
class _HeldIndex:
    """The index of a shard, and the version of the object that it belongs to."""

    places: Index
    version: object


class ChunkReader:
    """Reader of one product of a cube. Its index grows by about a kilobyte a shard.

    A shard may be replaced while it is read, by a repair or a retry. At the places of its old index lie other chunks
    then, and a checksum does not tell which chunk it belongs to; so an index is used for the object that it came from.
    """

    def __init__(self, objects: ObjectStore, layout: ProductLayout) -> None:
        self.objects, self.layout = objects, layout
        self._indices: dict[str, Future[_HeldIndex]] = {}
        self._own = threading.local()

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[Any, ...]]:
        """Leave indices and memory behind: another process has its own."""
        return type(self), (self.objects, self.layout)

    def index(self, disk: int) -> Index:
        """Where the chunks of an ROI lie, shape (time, chunk of the date, 2) of offset and length; fetched once.

        Raises
        ------
        StoreError
            If the index is damaged.
        """
        key, inside = self.layout.place(disk)
        part: Index = self._index(key).places[inside]
        return part

    def _index(self, key: str) -> _HeldIndex:
        mine: Future[_HeldIndex] = Future()
        found = self._indices.setdefault(key, mine)
        if found is mine:
            try:
                mine.set_result(self._read_index(key))
            except BaseException as error:
                del self._indices[key]
                mine.set_exception(error)
        return found.result()

    def _read_index(self, key: str) -> _HeldIndex:
        version = object_version(self.objects, key)  # before the index: one of a newer object is not used then
        data = self.objects.get(key, -_index_bytes(self.layout))
        if data is None:  # nothing but fill: no object is stored
            return _HeldIndex(np.full(self.layout.index_shape, NO_CHUNK, dtype=np.uint64), version)
        index = decode_index(data, self.layout)
        if index is None:
            raise StoreError(f"{key} is damaged: its index. Convert it again")
        return _HeldIndex(index, version)

    def fetch(self, disk: int, time: int, bands: Sequence[int], arena: Arena | None = None) -> Fetched:
        """Read the chunks of some bands of a patch; what lies together is one request.

        Parameters
        ----------
        disk : int
            Position of the ROI in the store.
        time : int
        bands : sequence of int
            Positions in the product.
        arena : Arena, optional
            Memory for what is read, if all of it is decoded before the arena is reset.

        Raises
        ------
        StoreError
            If the shard is replaced again and again.
        """
        key, inside = self.layout.place(disk)
        for _ in range(_ATTEMPTS):
            held = self._index(key)
            fetched = self._fetch(disk, time, bands, held.places[inside][time], arena)
            if object_version(self.objects, key) == held.version:
                return fetched
            self._indices.pop(key, None)
        raise StoreError(f"{self.objects.root}/{key} is being written again and again: read it later")

    def _fetch(self, disk: int, time: int, bands: Sequence[int], rows: Index, arena: Arena | None) -> Fetched:
        key = self.layout.place(disk)[0]
        numbers = list(bands) if self.layout.form.chunk == "band" else [0] * len(bands)
        places = {n: (int(rows[n][0]), int(rows[n][1])) for n in numbers if rows[n][0] != NO_CHUNK}
        found: dict[int, memoryview] = {}
        total = requests = 0
        for run in _runs(places, _GAP[self.objects.concurrency > 1]):
            start, end = places[run[0]][0], max(sum(places[n]) for n in run)
            length = end - start
            read = self.objects.get(key, start, length, arena.take(length) if arena else None)
            if read is None:
                raise FileNotFoundError(f"{self.objects.root}/{key}")
            data = memoryview(read)
            found |= {n: data[places[n][0] - start : sum(places[n]) - start] for n in run}
            total, requests = total + len(data), requests + 1
        return Fetched(disk, time, tuple(bands), tuple(map(found.get, numbers)), requests, total)

    def decode(self, fetched: Fetched, position: int, out: npt.NDArray[Any]) -> bool:
        """Decode one band into a contiguous plane of the product's data type.

        A chunk of all bands is decoded once, into memory of this thread, for all bands that are asked for in turn.

        Returns
        -------
        bool
            False where the plane is all fill.

        Raises
        ------
        StoreError
            If the bytes are damaged; the message names shard, date and band.
        """
        chunk, band = fetched.chunks[position], fetched.bands[position]
        if chunk is None:
            out.fill(self.layout.fill)
            return False
        if self.layout.form.chunk == "band":
            self._decode(fetched, chunk, self.layout.bands[band], out)
            return True
        plane = self._all_bands(fetched, chunk)[band]
        np.copyto(out, plane)
        return not is_fill(plane, self.layout.fill)

    def is_there(self, disk: int, time: int, band: int) -> bool:
        """Return whether a band of a patch holds anything but fill: the index knows, or the chunk of all bands."""
        if self.layout.form.chunk == "band":
            return bool(self.index(disk)[time, band, 0] != NO_CHUNK)
        fetched = self.fetch(disk, time, (band,))
        chunk = fetched.chunks[0]
        return chunk is not None and not is_fill(self._all_bands(fetched, chunk)[band], self.layout.fill)

    def decode_all(self, fetched: Fetched, out: npt.NDArray[Any]) -> None:
        """Decode a chunk of all bands where it is wanted: (band, y, x), contiguous, in the product's data type."""
        chunk = fetched.chunks[0]
        if chunk is None:
            out.fill(self.layout.fill)
        else:
            self._decode(fetched, chunk, "all bands", out)

    def forget(self) -> None:
        """Decode the next chunk even if it is the last one again."""
        self._own.fetched = None

    def _all_bands(self, fetched: Fetched, chunk: memoryview) -> npt.NDArray[Any]:
        own = self._own.__dict__
        if own.get("fetched") is not fetched:
            own["fetched"] = None
            planes = own.setdefault("planes", np.empty(self.layout.chunk[2:], dtype=self.layout.dtype))
            self._decode(fetched, chunk, "all bands", planes)
            own["fetched"] = fetched
        found: npt.NDArray[Any] = own["planes"]
        return found

    def _decode(self, fetched: Fetched, chunk: memoryview, what: str, out: npt.NDArray[Any]) -> None:
        if not decode(chunk, self.layout.form.codec, out):
            raise StoreError(
                f"{self.layout.place(fetched.disk)[0]} is damaged: the checksum of {what} at time {fetched.time} does "
                "not fit. `verify` lists all such shards; convert them again"
            )


def _runs(places: dict[int, tuple[int, int]], gap: int) -> Iterator[list[int]]:
    """Gather chunks that lie within a gap of each other, in the order of the object."""
    run: list[int] = []
    end = 0
    for number in sorted(places, key=lambda number: places[number]):
        if run and places[number][0] - end > gap:
            yield run
            run = []
        run.append(number)
        end = sum(places[number])
    if run:
        yield run


def _index_bytes(layout: ProductLayout) -> int:
    """Length of a shard's index and its checksum, which end the object."""
    return 8 * math.prod(layout.index_shape) + CRC


def decode_index(data: bytes, layout: ProductLayout) -> Index | None:
    """Decode the end of a shard; None if its checksum is wrong, chunks overlap, or a length is impossible."""
    if len(data) != _index_bytes(layout) or not intact(data):
        return None
    index = np.frombuffer(data[:-CRC], dtype="<u8").reshape(layout.index_shape).astype(np.uint64)
    stored = index.reshape(-1, 2)[index.reshape(-1, 2).min(axis=1) != NO_CHUNK]
    offsets, lengths = stored[np.argsort(stored[:, 0], kind="stable")].T
    if (lengths > longest(layout.chunk_bytes)).any() or (offsets >= 2**62).any():
        return None  # before memory is taken for them
    return None if (offsets[:-1] + lengths[:-1] > offsets[1:]).any() else index


def split(data: bytes, layout: ProductLayout, inside: int = 0) -> list[tuple[Chunk, ...]]:
    """Take an ROI out of a shard, as the inverse of `assemble`; nothing is decompressed.

    Parameters
    ----------
    data : bytes
        The object of the shard.
    layout : ProductLayout
        Of the shard.
    inside : int
        Position of the ROI in the shard.

    Returns
    -------
    list of tuple of memoryview
        Encoded chunks of each date; an empty one where every pixel is the fill.

    Raises
    ------
    StoreError
        If the index is damaged, or leads out of the object.
    """
    return _chunks(data, read_index(data, layout)[inside])


def read_index(data: bytes, layout: ProductLayout) -> Index:
    """Read the index at the end of a whole shard, shape (roi, time, chunk of the date, 2) of offset and length.

    Raises
    ------
    StoreError
        If it is damaged, or leads out of the object.
    """
    index = decode_index(data[-_index_bytes(layout) :], layout)
    if index is None:
        raise StoreError("its index is damaged")
    stored = index[index[..., 0] != NO_CHUNK]
    if (stored.sum(axis=-1) > len(data) - _index_bytes(layout)).any():
        raise StoreError("its index leads out of the object")
    return index


def _chunks(data: bytes, index: Index) -> list[tuple[Chunk, ...]]:
    view = memoryview(data)
    return [
        tuple(b"" if offset == NO_CHUNK else view[offset : offset + length] for offset, length in date)
        for date in index.tolist()
    ]


def stored_chunks(data: bytes, layout: ProductLayout) -> Iterator[Chunk]:
    """Yield every encoded chunk of a shard; the errors are those of `split`."""
    for roi in read_index(data, layout):
        for date in _chunks(data, roi):
            yield from filter(None, date)

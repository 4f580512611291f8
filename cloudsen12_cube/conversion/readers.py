"""Where the pixels of a shard come from: the files of an archive, or the shards of another cube.

A task names a shard and, for each of its ROIs, a reader. Tasks are small and picklable: a worker anywhere can carry
them out. A shard of a source cube is compared with the sha256 in its record before anything of it is used, so damage in
the source is named and never passed on. Chunks are copied without decoding wherever source and target encode alike.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np

from cloudsen12_cube.archive import ArchiveRoi, encode_patch, with_files
from cloudsen12_cube.errors import PatchError, ReadError, StoreError
from cloudsen12_cube.format import (
    DONE,
    Chunk,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    by_plane,
    decode,
    encode_chunk,
    joined,
    record_key,
    split,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.inspection import sources_changed
from cloudsen12_cube.storage import ObjectStore

OnLoss = Literal["note", "keep", "remove"]
"""If a source does not have an ROI: its record notes the fault (archive); what the shard had of it before is kept
(re-sharding); or what the cube has of it is removed (subset)."""

CACHED_SHARDS = 2
"""Shards of several ROIs that a process keeps: the tasks that need one follow each other."""


@dataclass(frozen=True)
class RoiContent:
    """One ROI of one product, encoded for the cube that is written.

    Parameters
    ----------
    patches : tuple of PatchRecord
    chunks : Sequence[Chunk]
        Of all dates of the shard in order; empty where every pixel is the fill.
    copy : ShardRecord, optional
        Record of the source's shard, if that can be copied as it is.
    data : bytes
        The object of that shard.
    """

    patches: tuple[PatchRecord, ...]
    chunks: Sequence[Chunk] = ()
    copy: ShardRecord | None = None
    data: bytes = b""


class RoiReader(Protocol):
    """Source of one ROI of one product."""

    def read(self, roi: ShardRoi, layout: ProductLayout) -> RoiContent:
        """Read and encode an ROI.

        Raises
        ------
        PatchError
            If the source does not have it, or has it damaged. What an archive lacks is noted in the records instead.
        """

    def is_outdated(self, roi: ShardRoi, record: ShardRecord, open_faults: bool, repair: bool) -> bool:
        """Return whether an existing shard must be rewritten.

        Parameters
        ----------
        roi : ShardRoi
        record : ShardRecord
            Of the shard that is there.
        open_faults : bool
            Whether it has faults that are not accepted.
        repair : bool
            Whether all of the source is to be compared.
        """


@dataclass(frozen=True)
class ShardRoi:
    """One ROI of a shard, and the reader that gives it.

    Parameters
    ----------
    roi_id : str
    index : int
        Position on disk.
    patches : tuple of tuple[int, str]
        ``time`` and ``s2_id_gee`` of each patch.
    reader : RoiReader
    """

    roi_id: str
    index: int
    patches: tuple[tuple[int, str], ...]
    reader: RoiReader


@dataclass(frozen=True)
class ShardTask:
    """All that is needed to make one shard: small, and sent as it is to a worker anywhere."""

    layout: ProductLayout
    rois: tuple[ShardRoi, ...]
    on_loss: OnLoss = "note"

    @property
    def key(self) -> str:
        """Key of the object."""
        return self.layout.place(self.rois[0].index)[0]


@dataclass(frozen=True)
class ArchiveReader:
    """Reads the files of an archive, and encodes them."""

    files: ArchiveRoi

    def read(self, roi: ShardRoi, layout: ProductLayout) -> RoiContent:
        """Read, check and encode the patches one by one; damaged files are in their records."""
        del roi
        chunks: list[bytes] = []
        patches: list[PatchRecord] = []
        planewise = replace(self.files, layout=by_plane(layout))
        for patch, fetch in with_files(planewise):
            encoded = encode_patch(planewise, patch, fetch)
            chunks += joined(encoded.chunks, layout)
            patches.append(encoded.record)
        return RoiContent(tuple(patches), chunks)

    def is_outdated(self, roi: ShardRoi, record: ShardRecord, open_faults: bool, repair: bool) -> bool:
        """Try again what failed; a repair also tries accepted failures, and files that have changed."""
        del roi
        if open_faults or (repair and record.faults):
            return True
        files = {patch.time: patch.files for patch in self.files.patches}
        return repair and sources_changed(self.files.layout.product, record, files, self.files.decoder)


@dataclass(frozen=True)
class CubeReader:
    """Reads the shards of a cube.

    Parameters
    ----------
    store : ObjectStore
    layout : ProductLayout
        Of the product in that cube.
    index : int
        Position of the ROI on the disk of that cube.
    compare : bool
        Compare a shard that is there with the source in every run, not only if it has faults or in a repair.
    """

    store: ObjectStore
    layout: ProductLayout
    index: int
    compare: bool = False

    def read(self, roi: ShardRoi, layout: ProductLayout) -> RoiContent:
        """Read the shard, and take the dates of the patches out of it."""
        record, data = self._verified(roi)
        patches = _renumbered(record, roi)
        key, inside = self.layout.place(self.index)
        if self._is_whole(record, patches, layout):
            return RoiContent(patches, copy=record, data=data)
        dates: list[Sequence[Chunk]] = [(b"",) * layout.chunks_a_date] * layout.times
        try:
            chunks = split(data, self.layout, inside) if data else []
            times = {patch.s2_id_gee: patch.time for patch in record.patches}
            for patch in patches if data else ():
                if patch.status == DONE:
                    dates[patch.time] = transcode(chunks[times[patch.s2_id_gee]], self.layout, layout)
        except (StoreError, ValueError) as error:
            raise PatchError(f"{self.store.root}/{key}", str(error), "chunks of its layout") from None
        return RoiContent(patches, [chunk for date in dates for chunk in date])

    def is_outdated(self, roi: ShardRoi, record: ShardRecord, open_faults: bool, repair: bool) -> bool:
        """Try a failure again if the source has other patches now; without a whole record it has nothing better."""
        if not (self.compare or open_faults or repair):
            return False
        there = records.load(self.store, self.layout, roi.roi_id)
        if there is None:
            return False
        try:
            return record.patches != _renumbered(there, roi)
        except PatchError:
            return self.compare

    def _is_whole(self, record: ShardRecord, patches: tuple[PatchRecord, ...], layout: ProductLayout) -> bool:
        """Return whether the object can be copied as it is: the same layout, and all patches at the dates they have."""
        alone = layout.form.rois_per_shard == 1
        return (
            alone
            and layout.form == self.layout.form
            and layout.times == self.layout.times
            and patches == record.patches
        )

    def _verified(self, roi: ShardRoi) -> tuple[ShardRecord, bytes]:
        """Read the record and the shard, and compare its sha256; again if another process has just written them."""
        product, key = self.layout.product, self.layout.place(self.index)[0]
        path = f"{self.store.root}/{record_key(product, roi.roi_id)}"
        record = records.load(self.store, self.layout, roi.roi_id)
        while record is not None and record.index == self.index:
            try:
                return record, _read_shard(self.store, key, record, self.layout.form.rois_per_shard > 1)
            except PatchError:
                before, record = record, records.load(self.store, self.layout, roi.roi_id)
                if record == before:
                    raise
        found = "no whole record" if record is None else f"a record of shard {record.index}"
        raise PatchError(path, found, f"one of shard {self.index}: it was never converted, or its record is damaged")


def _renumbered(record: ShardRecord, roi: ShardRoi) -> tuple[PatchRecord, ...]:
    """Set the times in the records of an ROI's patches to those of the cube that is written."""
    known = {patch.s2_id_gee: patch for patch in record.patches}
    missing = [image for _, image in roi.patches if image not in known]
    if missing:
        path = record_key(record.product, record.roi_id)
        raise PatchError(path, f"a record without {missing[0]}", f"{len(roi.patches)} patches of the catalogue")
    return tuple(replace(known[image], time=time) for time, image in roi.patches)


def _read_shard(store: ObjectStore, key: str, record: ShardRecord, shared: bool) -> bytes:
    if not record.size:
        return b""
    return _cache(os.getpid()).get(store, key, record) if shared else _read_verified(store, key, record)


def _read_verified(store: ObjectStore, key: str, record: ShardRecord) -> bytes:
    path, expected = f"{store.root}/{key}", f"{record.size} bytes with the sha256 {record.sha256[:12]}... of its record"
    try:
        data = store.get(key)
    except ReadError as error:  # a disk that cannot read this object may still read the others
        raise PatchError(path, str(error), "an object that can be read") from None
    if data is None:
        raise PatchError(path, "no such object", expected)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.sha256:
        raise PatchError(path, f"{len(data)} bytes with the sha256 {digest[:12]}...", expected)
    return data


@dataclass(frozen=True)
class _ShardCache:
    """Shards that several tasks need: each is read once, by the first that asks."""

    held: OrderedDict[tuple[str, str, str], Future[bytes]] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, store: ObjectStore, key: str, record: ShardRecord) -> bytes:
        """Return a shard with the recorded sha256, or raise what reading it raised."""
        name, mine = (store.root, key, record.sha256), Future[bytes]()
        with self.lock:
            found = self.held.setdefault(name, mine)
            while len(self.held) > CACHED_SHARDS:
                self.held.popitem(last=False)
        if found is mine:
            try:
                mine.set_result(_read_verified(store, key, record))
            except BaseException as error:
                with self.lock:
                    self.held.pop(name, None)
                mine.set_exception(error)
        return found.result()


@lru_cache(maxsize=1)
def _cache(process: int) -> _ShardCache:
    """Return the cache of a process: a forked one must not wait for what its parent was reading."""
    del process
    return _ShardCache()


def clear_cache() -> None:
    """Release the shards that this process keeps."""
    _cache.cache_clear()


def transcode(chunks: Sequence[Chunk], layout: ProductLayout, target: ProductLayout) -> Sequence[Chunk]:
    """Encode the chunks of one date as another layout does; what is encoded so already stays as it is.

    Raises
    ------
    ValueError
        If a chunk cannot be decoded.
    """
    if not any(map(len, chunks)):
        return (b"",) * target.chunks_a_date
    if replace(layout.form, rois_per_shard=1) == replace(target.form, rois_per_shard=1):
        return chunks
    pixels = np.empty(layout.shard[2:], dtype=layout.dtype)
    parts = pixels if layout.form.chunk == "band" else pixels[None]
    for part, chunk in zip(parts, chunks, strict=True):
        if not len(chunk):
            part.fill(layout.fill)
        elif not decode(chunk, layout.form.codec, part):
            raise ValueError("a chunk that cannot be decoded")
    planes = pixels if target.form.chunk == "band" else pixels[None]
    return tuple(encode_chunk(part, target) for part in planes)

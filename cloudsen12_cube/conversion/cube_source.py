"""A finished cube as the source of another: its catalogue, and what each ROI holds, checked against its record.

A shard is read whole and compared with the sha256 in its record before anything of it is used: what is damaged here is
named, and never passed on.

One shard of a cube that is made from a cube: its ROIs read and checked, decoded, encoded, committed.

One shard from cube to cube: read, compared with its record, cut if need be, committed. Nothing is decompressed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cloudsen12_cube.conversion.planning import KEPT, GroupedShardTask, Member, ShardCopy
from cloudsen12_cube.errors import PatchError, ReadError, StoreError, without_secrets
from cloudsen12_cube.format import (
    CRC,
    DONE,
    NO_CHUNK,
    Fault,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    assemble,
    commit,
    cut,
    decode,
    encode_chunk,
    record_key,
    shard_key,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.storage import ObjectStore

Chunk = bytes | memoryview


@dataclass(frozen=True)
class RoiChunks:
    """What an ROI of a product holds."""

    record: ShardRecord
    chunks: tuple[tuple[Chunk, ...], ...]
    """Of each date, as encoded; empty where all is fill."""


def read_piece(place: ObjectStore, layout: ProductLayout, roi_id: str, index: int) -> RoiChunks:
    """Read an ROI of a product, after the sha256 of its shard was compared.

    Raises
    ------
    PatchError
        If its record or its shard is damaged or not there.
    """
    record = records.load(place, layout.product, roi_id)
    if record is None or record.index != index:
        path = f"{place.root}/{record_key(layout.product, roi_id)}"
        raise PatchError(
            path, "no whole record" if record is None else f"index {record.index}", f"one of shard {index}"
        )
    key, inside = layout.place(index)
    data = _shard(place, key, record, layout.form.rois_per_shard > 1)
    if not data:
        return RoiChunks(record, (((b"",) * layout.chunks_a_date),) * layout.times)
    size = 16 * int(np.prod(layout.index_shape[:3]))
    places = np.frombuffer(data[-size - CRC : -CRC], dtype="<u8").reshape(layout.index_shape)[inside]
    view = memoryview(data)

    def cut(offset: int, length: int) -> Chunk:
        return b"" if offset == NO_CHUNK else view[offset : offset + length]

    return RoiChunks(record, tuple(tuple(cut(*pair) for pair in date) for date in places.tolist()))


def _shard(place: ObjectStore, key: str, record: ShardRecord, shared: bool) -> bytes:
    if not record.size:
        return b""
    if not shared:
        return _right(place, key, record)
    return _shelf(os.getpid()).get(place, key, record)


def _right(place: ObjectStore, key: str, record: ShardRecord) -> bytes:
    data = place.get(key)
    wanted = f"{record.size} bytes with the sha256 {record.sha256[:12]}... of its record"
    if data is None:
        raise PatchError(f"{place.root}/{key}", "no such object", wanted)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.sha256:
        raise PatchError(f"{place.root}/{key}", f"{len(data)} bytes with the sha256 {digest[:12]}...", wanted)
    return data


class _Shelf:
    """Shards that several tasks want: each is read once, by the first that comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, str, str], Future[bytes]] = OrderedDict()

    def get(self, place: ObjectStore, key: str, record: ShardRecord) -> bytes:
        """Give a shard with the recorded sha256, or raise what reading it raised."""
        name = (place.root, key, record.sha256)
        with self._lock:
            found = self._held.get(name)
            mine: Future[bytes] = Future()
            if found is None:
                self._held[name] = mine
                while len(self._held) > KEPT:
                    self._held.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(_right(place, key, record))
        except BaseException as error:
            with self._lock:
                self._held.pop(name, None)
            mine.set_exception(error)
        return mine.result()


@lru_cache(maxsize=1)
def _shelf(process: int) -> _Shelf:
    del process
    return _Shelf()


def forget() -> None:
    """Let go of the shards that this process keeps."""
    _shelf.cache_clear()


def transcode(chunks: Sequence[Chunk], layout: ProductLayout, target: ProductLayout) -> tuple[bytes, ...]:
    """Give the chunks of one date the form of another layout; what has it already is copied.

    Raises
    ------
    ValueError
        If a chunk cannot be decoded.
    """
    if not any(map(len, chunks)):
        return (b"",) * target.chunks_a_date
    if _packing(layout) == _packing(target):
        return tuple(map(bytes, chunks))
    pixels = np.empty(layout.shard[2:], dtype=layout.dtype)
    parts = pixels if layout.form.chunk == "band" else pixels[None]
    for part, chunk in zip(parts, chunks, strict=True):
        if not len(chunk):
            part.fill(layout.fill)
        elif not decode(chunk, layout.form.codec, part):
            raise ValueError("a chunk that cannot be decoded")
    made = pixels if target.form.chunk == "band" else pixels[None]
    return tuple(encode_chunk(part, target) for part in made)


def _packing(layout: ProductLayout) -> tuple[str, int | None, str]:
    return layout.form.codec, layout.form.level, layout.form.chunk


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard."""

    task: GroupedShardTask
    records: tuple[ShardRecord, ...]
    """One for each ROI that is in it, as they were stored."""
    faults: tuple[Fault, ...] = ()
    """Shards of the source that are damaged."""

    @property
    def whole(self) -> ShardRecord | None:
        """All of it as one record."""
        if not self.records:
            return None
        return replace(self.records[0], patches=tuple(patch for row in self.records for patch in row.patches))


def write_grouped_shard(task: GroupedShardTask, sink: ObjectStore) -> ShardResult:
    """Make one shard: read its ROIs from the source, encode them date by date, commit it and then their records.

    Old records go first: whenever this stops, what is on disk has the records that belong to it, or too few of them.
    Nothing is touched before all of the source has been read.

    Returns
    -------
    Made
        Damaged shards of the source are in it; they raise nothing. An ROI that cannot be had there is taken from the
        old shard, if that is whole, and else left out.
    """
    chunks: list[bytes] = []
    kept: list[tuple[Member, tuple[PatchRecord, ...]]] = []
    faults: list[Fault] = []
    for member in task.members:
        own: list[bytes] = []
        try:
            own, patches = _from_source(task, member)
            kept.append((member, patches))
        except PatchError as error:
            faults.append(_fault(task, member, error))
            before = _from_old(task, member, sink)
            if before:
                own = [bytes(chunk) for date in before.chunks for chunk in date]
                kept.append((member, before.record.patches))
        chunks += own or [b""] * (task.layout.times * task.layout.chunks_a_date)
    if not kept:
        return ShardResult(task, (), tuple(faults))
    lacking = task.layout.form.rois_per_shard - len(task.members)
    chunks += [b""] * (lacking * task.layout.times * task.layout.chunks_a_date)
    return ShardResult(task, _commit(task, assemble(chunks) if any(chunks) else b"", kept, sink), tuple(faults))


def _commit(
    task: GroupedShardTask, data: bytes, kept: list[tuple[Member, tuple[PatchRecord, ...]]], sink: ObjectStore
) -> tuple[ShardRecord, ...]:
    digest, product = hashlib.sha256(data).hexdigest(), task.layout.product
    made = tuple(ShardRecord(product, m.roi_id, m.index, len(data), digest, patches) for m, patches in kept)
    for member in task.members:
        sink.delete(record_key(product, member.roi_id))
    if data:
        sink.put(task.key, data)
    else:
        sink.delete(task.key)
    for record in made:
        sink.put(record_key(product, record.roi_id), record.as_bytes())
    return made


def _from_source(task: GroupedShardTask, member: Member) -> tuple[list[bytes], tuple[PatchRecord, ...]]:
    """Read an ROI from the source, in the form that it will have."""
    piece = read_piece(task.source, task.origin, member.roi_id, member.source)
    patches = patches_of(piece.record, member)
    dates = [(b"",) * task.layout.chunks_a_date] * task.layout.times
    for patch, (time, _, source) in zip(patches, member.patches, strict=True):
        if patch.status == DONE:
            try:
                dates[time] = transcode(piece.chunks[source], task.origin, task.layout)
            except ValueError as error:
                key = task.origin.place(member.source)[0]
                raise PatchError(f"{task.source.root}/{key}", str(error), "chunks of its layout") from None
    return [chunk for date in dates for chunk in date], patches


def _from_old(task: GroupedShardTask, member: Member, sink: ObjectStore) -> RoiChunks | None:
    """Read what the shard has of an ROI before it is written again; None if that is not whole."""
    try:
        piece = read_piece(sink, task.layout, member.roi_id, member.index)
    except PatchError:
        return None
    stated = [(patch.time, patch.s2_id_gee) for patch in piece.record.patches]
    return piece if stated == [(time, image) for time, image, _ in member.patches] else None


def _fault(task: GroupedShardTask, member: Member, error: PatchError) -> Fault:
    told = (without_secrets(text) for text in (error.path, error.found, error.expected))
    return Fault(member.roi_id, "", task.layout.product, "", *told)


def patches_of(record: ShardRecord, member: Member) -> tuple[PatchRecord, ...]:
    """Give the source's records of an ROI's patches the times that they have here."""
    known = {patch.time: patch for patch in record.patches}
    made = []
    for time, image, source in member.patches:
        patch = known.get(source)
        if patch is None or patch.s2_id_gee != image:
            has = patch.s2_id_gee if patch else "nothing"
            raise PatchError(record_key(record.product, record.roi_id), f"{has} at time {source}", image)
        made.append(replace(patch, time=time))
    return tuple(made)


@dataclass(frozen=True)
class CopiedShard:
    """What became of one shard."""

    piece: ShardCopy
    record: ShardRecord | None
    """As it stands in the new cube, without its sources; None if there was nothing to copy."""
    whole: bool = False
    """Whether its bytes are those of the cube."""
    fault: Fault | None = None
    """Why it was not copied."""


class _UnfitError(Exception):
    """A shard that must not be copied."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


def copy_shard(piece: ShardCopy, source: ObjectStore, sink: ObjectStore) -> CopiedShard:
    """Copy one shard, or some of its dates.

    What is damaged in the cube, or not there, is not copied, and what the place held of it before is taken away.
    """
    try:
        record, data = _intact(piece, source)
        whole, renewed = piece.is_whole(record), piece.renewed(record)
        if renewed is None:
            raise _UnfitError(f"a record without {len(piece.images)} of the patches", "the patches of the catalogue")
        if not whole:
            data = cut(data, piece.layout, piece.dates, piece.times)
            renewed = replace(renewed, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    except (_UnfitError, StoreError) as error:
        delete_shard(piece, sink)
        return CopiedShard(piece, None, fault=_copy_fault(piece, source, error))
    commit(sink, renewed, data)
    return CopiedShard(piece, renewed.without_sources(), whole)


def _intact(piece: ShardCopy, source: ObjectStore) -> tuple[ShardRecord, bytes]:
    """Read a record and its shard, whose sha256 fits; again, if somebody has written them meanwhile."""
    product, key = piece.layout.product, shard_key(piece.layout.product, piece.before)
    record = records.load(source, product, piece.roi_id)
    while record is not None and record.index == piece.before:
        data = _read(source, key) if record.size else b""
        digest = hashlib.sha256(data or b"").hexdigest()
        if data is not None and digest == record.sha256:
            return record, data
        before, record = record, records.load(source, product, piece.roi_id)
        if record == before:
            found = "no object" if data is None else f"sha256 {digest[:12]}... of {len(data)} bytes"
            raise _UnfitError(found, f"{before.sha256[:12]}... of {before.size} bytes, as its record says")
    raise _UnfitError("no record of this shard", "one: it was never converted, or its record is damaged")


def _read(source: ObjectStore, key: str) -> bytes | None:
    try:
        return source.get(key)
    except ReadError as error:  # a disk that cannot read this one may still read the others
        raise _UnfitError(str(error), "an object that can be read") from None


def _copy_fault(piece: ShardCopy, source: ObjectStore, error: Exception) -> Fault:
    """Name the shard; without a patch or a file, since it is a whole object that does not fit."""
    product = piece.layout.product
    path = f"{source.root}/{shard_key(product, piece.before)}"
    found = error.found if isinstance(error, _UnfitError) else str(error)
    expected = error.expected if isinstance(error, _UnfitError) else "an index of the chunks"
    return Fault(piece.roi_id, "", product, "", path, found, expected)


def is_there(piece: ShardCopy, mine: ShardRecord | None, theirs: ShardRecord | None, sink: ObjectStore) -> bool:
    """Tell whether a shard of the new cube is what it should be, by the records and the length of its object.

    Parameters
    ----------
    piece : ShardPiece
    mine : ShardRecord, optional
        Record in the new cube.
    theirs : ShardRecord, optional
        Record in the cube. If it has gone, what was copied before is kept.
    sink : Place
        Of the new cube.
    """
    if mine is None or mine.index != piece.index:
        return False
    if (sink.size(shard_key(mine.product, mine.index)) or 0) != mine.size:
        return False
    if theirs is None:
        return tuple(patch.s2_id_gee for patch in mine.patches) == piece.images
    wanted = piece.renewed(theirs)
    if wanted is None or wanted.patches != mine.patches:
        return False
    return not piece.is_whole(theirs) or (mine.size, mine.sha256) == (theirs.size, theirs.sha256)


def delete_shard(piece: ShardCopy, sink: ObjectStore) -> None:
    """Remove what a place holds of a shard: its record first."""
    sink.delete(record_key(piece.layout.product, piece.roi_id))
    sink.delete(shard_key(piece.layout.product, piece.index))

"""One shard from cube to cube: read, compared with its record, cut if need be, committed. Nothing is decompressed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cloudsen12_cube import record as records
from cloudsen12_cube.cut import cut
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.excerpt import Piece
from cloudsen12_cube.layout import record_key, shard_key
from cloudsen12_cube.place import Place
from cloudsen12_cube.record import Fault, ShardRecord, commit


@dataclass(frozen=True)
class Copied:
    """What became of one shard."""

    piece: Piece
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


def copy_shard(piece: Piece, source: Place, sink: Place) -> Copied:
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
        take_away(piece, sink)
        return Copied(piece, None, fault=_fault(piece, source, error))
    commit(sink, renewed, data)
    return Copied(piece, renewed.without_sources(), whole)


def _intact(piece: Piece, source: Place) -> tuple[ShardRecord, bytes]:
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


def _read(source: Place, key: str) -> bytes | None:
    try:
        return source.get(key)
    except DestinationError as error:  # a disk that cannot read this one may still read the others
        raise _UnfitError(str(error), "an object that can be read") from None


def _fault(piece: Piece, source: Place, error: Exception) -> Fault:
    """Name the shard; without a patch or a file, since it is a whole object that does not fit."""
    product = piece.layout.product
    path = f"{source.root}/{shard_key(product, piece.before)}"
    found = error.found if isinstance(error, _UnfitError) else str(error)
    expected = error.expected if isinstance(error, _UnfitError) else "an index of the chunks"
    return Fault(piece.roi_id, "", product, "", path, found, expected)


def is_there(piece: Piece, mine: ShardRecord | None, theirs: ShardRecord | None, sink: Place) -> bool:
    """Tell whether a shard of the new cube is what it should be, by the records and the length of its object.

    Parameters
    ----------
    piece : Piece
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


def take_away(piece: Piece, sink: Place) -> None:
    """Remove what a place holds of a shard: its record first."""
    sink.delete(record_key(piece.layout.product, piece.roi_id))
    sink.delete(shard_key(piece.layout.product, piece.index))

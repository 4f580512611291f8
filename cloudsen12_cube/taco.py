"""The bytes of a TACO v1 file: a header, samples one after another, and a table of them in Parquet at the end.

Little-endian header: two bytes of magic (``#y`` tortilla, ``WX`` taco), then the table's first byte and length. A
sample is a file of its own, or a tortilla: the same header again, with offsets that count from its own first byte.
Source: version 1 as the CloudSEN12+ files have it (Aybar et al. 2024, doi:10.1016/j.dib.2024.110852).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.listing import Listing

_MAGIC = (b"WX", b"#y")
_HEAD = struct.Struct("<2sQQ")
_LEAF = ["tortilla:id", "tortilla:offset", "tortilla:length", "tortilla:file_format"]


@dataclass(frozen=True)
class Leaf:
    """One raster in a file."""

    name: str
    start: int
    """First byte in the file."""
    size: int
    format: str
    """``GTiff``; what else there is cannot be read."""


def samples(listing: Listing, path: str, size: int) -> list[dict[str, Any]]:
    """Read the table of a file: a row a sample, with ``tortilla:offset`` from the file's first byte.

    Raises
    ------
    ArchiveError
        If it is no TACO file of version 1, or not a whole one.
    """
    try:
        rows = _table(listing, path, 0, size, None)
        return [row for row in rows if _inside(row, size)]
    except (ValueError, KeyError, pyarrow.ArrowException) as error:
        raise ArchiveError(f"{listing.root}/{path} is no whole TACO file of version 1: {error}") from None


def leaves(listing: Listing, path: str, sample: dict[str, Any]) -> list[Leaf] | None:
    """Read which rasters a sample has; None if its own header or table is damaged."""
    start, size = sample["tortilla:offset"], sample["tortilla:length"]
    if sample["tortilla:file_format"] != "TORTILLA":
        return [Leaf(sample["tortilla:id"], start, size, sample["tortilla:file_format"])]
    try:
        rows = [row for row in _table(listing, path, start, size, _LEAF) if _inside(row, size)]
    except (ValueError, KeyError, pyarrow.ArrowException):
        return None
    return [Leaf(r[_LEAF[0]], start + r[_LEAF[1]], r[_LEAF[2]], r[_LEAF[3]]) for r in rows]


def _table(listing: Listing, path: str, start: int, size: int, columns: list[str] | None) -> list[dict[str, Any]]:
    head = listing.read(path, start, _HEAD.size)
    if len(head) < _HEAD.size:
        raise ValueError(f"{len(head)} bytes are left for a header of {_HEAD.size}")
    magic, offset, length = _HEAD.unpack(head)
    if magic not in _MAGIC:
        raise ValueError(f"it begins with {magic!r}, not with WX or #y")
    if size >= 0 and offset + length > size:
        raise ValueError(f"its table ends at byte {offset + length:,}, and it has {size:,}")
    data = pyarrow.BufferReader(listing.read(path, start + offset, length))
    rows: list[dict[str, Any]] = parquet.read_table(data, columns=columns).to_pylist()
    return rows


def _inside(row: dict[str, Any], size: int) -> bool:
    """Tell whether the bytes of a row lie in its file.

    Raises
    ------
    ValueError
        If they do not.
    """
    start, length = int(row["tortilla:offset"]), int(row["tortilla:length"])
    if start < 0 or length < 0 or (size >= 0 and start + length > size):
        raise ValueError(f"{row['tortilla:id']} is to end at byte {start + length:,}, and there are {size:,}")
    return True

"""A small Parquet table from an unknown source: what it would take is counted before any memory is taken.

The footer alone is no bound: its counts may be wrong, and a page of some bytes may state gigabytes. Therefore the
footer and the headers of the pages are read here, which are structs of Thrift's compact protocol. Sources: the
specification of the format (https://parquet.apache.org/docs/file-format/), and that of the protocol
(https://thrift.apache.org, ``doc/specs/thrift-compact-protocol.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
from pyarrow import compute, parquet

_FOOTER_BYTES = 2**18  # that of CloudSEN12+ has 12 KB
_VALUES = 8  # of a row in a list: a geotransform has six
_DEEPEST = 8  # levels of structs; a footer has four
_TEXT = 6  # BYTE_ARRAY
_TYPES = (0, 1, 2, 4, 5, _TEXT)  # BOOLEAN, INT32, INT64, FLOAT, DOUBLE
_DELTA_BYTE_ARRAY = 7  # the one encoding whose values are longer than their page


@dataclass(frozen=True)
class TableLimits:
    """What a table may take."""

    rows: int
    nbytes: int
    """Bytes of the decompressed pages, and of the texts."""


def read_rows(data: bytes, columns: Sequence[str], limits: TableLimits) -> list[dict[str, Any]]:
    """Read some columns of a Parquet file: numbers, texts, and lists of a few numbers.

    Parameters
    ----------
    data : bytes
        The whole file.
    columns : sequence of str
        Names; those that the file does not have are left out.
    limits : TableLimits
        More is refused.

    Returns
    -------
    list of dict
        A dict a row.

    Raises
    ------
    ValueError, pyarrow.ArrowException
        Or anything else that damaged bytes cause.
    """
    rows, chunks = _read_footer(data, columns)
    if rows > limits.rows:
        raise ValueError(f"its table has {rows:,} rows; at most {limits.rows:,} fit its bytes")
    nbytes = sum(_page_bytes(data, chunk, limits) for chunk in chunks)
    if nbytes > limits.nbytes:
        raise ValueError(f"its table has {nbytes:,} bytes; at most {limits.nbytes:,} are read")
    # As dictionaries, since a text that repeats in each row takes no more bytes in a page than one.
    texts = sorted({chunk.path for chunk in chunks if chunk.is_text})
    file = parquet.ParquetFile(pyarrow.BufferReader(data), read_dictionary=texts)
    table = file.read(columns=list(columns), use_threads=False)
    length = sum(_text_bytes(chunk) for name in texts for chunk in table[name].chunks)
    if length > limits.nbytes:
        raise ValueError(f"the texts of its table have {length:,} bytes; at most {limits.nbytes:,} are read")
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@dataclass(frozen=True)
class _Chunk:
    """Pages of one column in a row group."""

    path: str
    """Name of the column; that of a list goes on with a point."""
    is_text: bool
    rows: int
    """Rows of the row group."""
    start: int
    """First byte of the pages."""
    end: int


def _read_footer(data: bytes, columns: Sequence[str]) -> tuple[int, list[_Chunk]]:
    """Read the number of rows, and where the pages of some columns lie.

    Not by pyarrow, which ends the process where statistics are damaged (26.0: ``RowGroupMetaData.column``).
    """
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or not 0 < length <= min(_FOOTER_BYTES, len(data) - 12):
        raise ValueError(f"its table is no Parquet file, or has a footer of {length:,} bytes")
    footer, _ = _struct(data, len(data) - 8 - length)
    leaves = list(_leaves(footer[2]))
    chunks = []
    for group in footer.get(4, ()):
        if group[3] < 0:
            raise ValueError(f"a group of {group[3]:,} rows in its table")
        for (path, kind), column in zip(leaves, group[1], strict=True):
            if path.partition(".")[0] in columns:
                chunks.append(_chunk(path, kind, group[3], column))
    return sum(group[3] for group in footer.get(4, ())), chunks


def _leaves(schema: list[dict[int, Any]]) -> Iterator[tuple[str, int]]:
    """Yield path and type of each column; the schema is a tree, written from its root on."""
    above: list[tuple[str, int]] = []  # paths of elements that have further children, and how many
    for element in schema[1:]:
        parent, count = above.pop() if above else ("", 0)
        above += [(parent, count - 1)] if count > 1 else []
        path = f"{parent}.{element[4].decode()}".removeprefix(".")
        if element.get(5):
            above.append((path, element[5]))
        else:
            yield path, element[1]


def _chunk(path: str, kind: int, rows: int, column: dict[int, Any]) -> _Chunk:
    about, is_list = column[3], "." in path
    if about[1] != kind or kind not in _TYPES or (kind == _TEXT and is_list) or 1 in column:
        raise ValueError(f"column {path} is of the type {kind}, or in another file")
    start, dictionary = about[9], about.get(11, 0)
    start = dictionary if 0 < dictionary < start else start
    return _Chunk(path, kind == _TEXT, rows, start, start + about[7])


def _text_bytes(chunk: Any) -> int:
    lengths = compute.binary_length(chunk.dictionary)
    return int(compute.sum(compute.take(lengths, chunk.indices)).as_py() or 0)


def _page_bytes(data: bytes, chunk: _Chunk, limits: TableLimits) -> int:
    """Sum the decompressed bytes of the pages of a column in a row group, whose values must fit its rows."""
    most = chunk.rows * (_VALUES if "." in chunk.path else 1)
    total = values = 0
    for header in _pages(data, chunk.start, chunk.end):
        dictionary, content = header.get(7, {}), header.get(5) or header.get(8) or {}  # data of version 1 or 2
        counts = (content.get(1, 0), dictionary.get(1, 0), header[2])
        values += content.get(1, 0)
        total += header[2]
        if min(counts) < 0 or max(values, counts[1]) > most or total > limits.nbytes:
            stated = f"{max(values, counts[1]):,} values in {total:,} bytes"
            raise ValueError(f"column {chunk.path} has {stated} for {chunk.rows:,} rows")
        if _DELTA_BYTE_ARRAY in (content.get(2 if 5 in header else 4), dictionary.get(2)):
            raise ValueError(f"column {chunk.path} has the encoding DELTA_BYTE_ARRAY")
    return total


def _pages(data: bytes, position: int, end: int) -> Iterator[dict[int, Any]]:
    """Yield the header of each page: field number -> value."""
    if not 0 < position <= end <= len(data):
        raise ValueError(f"pages from byte {position:,} to {end:,} in a table of {len(data):,} bytes")
    while position < end:
        header, position = _struct(data, position)
        if header[3] < 0:
            raise ValueError(f"a page of {header[3]} bytes")
        yield header
        position += header[3]


def _struct(data: bytes, position: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Read a struct: its fields by their numbers, and where it ends."""
    if depth > _DEEPEST:
        raise ValueError("structs that are nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while data[position]:
        delta, kind = divmod(data[position], 16)
        position += 1
        if delta:
            number += delta
        else:
            number, position = _integer(data, position)
        fields[number], position = _value(data, position, kind, depth)
    return fields, position + 1


def _value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    """Read a field of a struct or an element of a list."""
    if kind in (1, 2):  # true and false, as a field
        return kind == 1, position
    if kind == 3:
        return data[position], position + 1
    if kind in (4, 5, 6):  # 16, 32 and 64 bits
        return _integer(data, position)
    if kind == 7:  # a double, which is not needed
        return None, position + 8
    if kind == 8:  # bytes
        length, position = _varint(data, position)
        return data[position : position + length], position + length
    if kind == 9:
        return _list(data, position, depth)
    if kind == 12:
        return _struct(data, position, depth + 1)
    raise ValueError(f"a field of the kind {kind} in its table")


def _list(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    count, kind = divmod(data[position], 16)
    position += 1
    if count == 15:
        count, position = _varint(data, position)
    if count > len(data):
        raise ValueError(f"a list of {count:,} elements in its table of {len(data):,} bytes")
    found = []
    for _ in range(count):
        value, position = _value(data, position, 3 if kind in (1, 2) else kind, depth)
        found.append(value)
    return found, position


def _integer(data: bytes, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + shift // 7 + 1
    raise ValueError("a number of more than 64 bits in its table")

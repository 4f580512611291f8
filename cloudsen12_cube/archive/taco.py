"""CloudSEN12+ as TACO v1 files: an image and its label a sample, padded to 512 or 2048 pixels, in several part files.

The bytes of a file are a header, samples one after another, and a table of them in Parquet at the end. The header is
little-endian: two bytes of magic (``#y`` tortilla, ``WX`` taco), then the table's first byte and length. A sample is a
file of its own, or a tortilla: the same header again, with offsets that count from its own first byte. Source: version
1 as the CloudSEN12+ files have it (Aybar et al. 2024, doi:10.1016/j.dib.2024.110852). No reader of TACO is used: a
raster in the middle of a file is a tif like any other.

On which side of its padding a patch lies follows from the pixels, which are zero around it: the card of the data set
names the left and the bottom, and its readers differ.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from cloudsen12_cube.archive.base import (
    Archive,
    ByteRange,
    PatchFiles,
    PatchKey,
    Pixels,
    ReferencePixels,
    crop,
    header_in_front,
    padding_pixels,
    read_range,
)
from cloudsen12_cube.archive.parquet import TableLimits, read_rows
from cloudsen12_cube.archive.tiff import Header, read
from cloudsen12_cube.errors import ArchiveError, CubeError, PatchError
from cloudsen12_cube.schema import ASSETS, LABEL_FOLDERS, TestMeaning, transform_text
from cloudsen12_cube.storage import LocalStore, ObjectInfo, ObjectStore

_SAMPLED = 8


@dataclass(frozen=True)
class OffsetBounds:
    """Where a patch may begin in its image: rows and columns from the first to the last number, both in."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def corner(self) -> tuple[int, int] | None:
        """The one row and column that are left, if it is one."""
        one = self.rows[0] == self.rows[1] and self.columns[0] == self.columns[1]
        return (self.rows[0], self.columns[0]) if one else None

    @property
    def empty(self) -> bool:
        """Whether no place is left."""
        return self.rows[0] > self.rows[1] or self.columns[0] > self.columns[1]

    def holds(self, corner: tuple[int, int]) -> bool:
        """Return whether the patch may begin there."""
        return self.rows[0] <= corner[0] <= self.rows[1] and self.columns[0] <= corner[1] <= self.columns[1]

    def __and__(self, other: OffsetBounds) -> OffsetBounds:
        """Return the places that both allow."""
        return OffsetBounds(_both(self.rows, other.rows), _both(self.columns, other.columns))


def _both(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), min(a[1], b[1])


def offset_bounds(pixels: npt.NDArray[Any], size: int) -> OffsetBounds:
    """Find where a patch may begin so that all pixels around it are zero.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (band, y, x)
    size : int
        Rows and columns of the patch.
    """
    seen = (pixels != 0).any(axis=0)
    return OffsetBounds(_span(seen.any(axis=1), size), _span(seen.any(axis=0), size))


def _span(seen: npt.NDArray[np.bool_], size: int) -> tuple[int, int]:
    there = np.flatnonzero(seen)
    last = len(seen) - size
    if not len(there):
        return 0, last
    return max(0, int(there[-1]) - size + 1), min(last, int(there[0]))


def corners(bounds: Sequence[Callable[[], OffsetBounds | None]], pad: int) -> list[tuple[int, int] | None]:
    """Find the corner of each of some patches that belong together: as a rule it is the same.

    Parameters
    ----------
    bounds : sequence of callables
        Each reads one image; None where it is damaged.
    pad : int
        Rows (and columns) that an image has more than its patch.

    Returns
    -------
    list of (row, column) or None
        None where the pixels do not tell, and the documented side, left and bottom, does not fit either. Only some
        images are read if they agree: what contradicts them later is seen when its padding is cut off.
    """
    spread = sorted(set(np.linspace(0, len(bounds) - 1, min(_SAMPLED, len(bounds))).astype(int).tolist()))
    rest = [i for i in range(len(bounds)) if i not in set(spread)]
    known: dict[int, OffsetBounds] = {}
    common = OffsetBounds((0, pad), (0, pad))
    for index in (*spread, *rest):
        if index not in spread and common.corner and not common.empty:
            break  # the sample agrees, and leaves one place
        bound = bounds[index]()
        if bound is not None and not bound.empty:
            known[index] = bound
            common &= bound
    if not common.empty:
        return [_chosen(common, pad)] * len(bounds)
    return _each(known, len(bounds), pad)


def _chosen(bound: OffsetBounds, pad: int) -> tuple[int, int] | None:
    card = (0, pad)
    return bound.corner or (card if bound.holds(card) else None)


def _each(known: dict[int, OffsetBounds], count: int, pad: int) -> list[tuple[int, int] | None]:
    """Choose the corner of each; where the pixels of one leave several, the most frequent of the others that fits."""
    certain = [bound.corner for bound in known.values() if bound.corner]
    frequent: Iterable[tuple[int, int]] = sorted(set(certain), key=lambda c: (-certain.count(c), c))
    return [
        bound.corner or next((c for c in frequent if bound.holds(c)), _chosen(bound, pad))
        if (bound := known.get(index))
        else None
        for index in range(count)
    ]


@dataclass(frozen=True)
class _Number:
    """Which numbers a column may hold."""

    low: float
    high: float
    whole: bool = True
    count: int = 0
    """Numbers in a list; 0 for a column without lists."""

    def __str__(self) -> str:
        noun = f"{'whole ' if self.whole else ''}number"
        return f"{f'{self.count} {noun}s' if self.count else f'a {noun}'} from {self.low:g} to {self.high:g}"

    def fits(self, value: Any) -> bool:
        """Return whether a value of the table is right."""
        values = value if self.count and isinstance(value, list) else [value]
        return len(values) == (self.count or 1) and all(map(self._fits_one, values))

    def _fits_one(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high and not (self.whole and value % 1)


_MAGIC = (b"WX", b"#y")
_HEAD = struct.Struct("<2sQQ")
_SMALLEST = _HEAD.size + 8
"""Bytes that a sample has at least: more rows than fit are a table that lies."""
_SAMPLES, _LEAVES = TableLimits(rows=2**16, nbytes=2**26), TableLimits(rows=2**8, nbytes=2**20)
"""CloudSEN12+ has 50,000 samples in several files, and a sample has two rasters."""
_LEAF = ("tortilla:id", "tortilla:offset", "tortilla:length", "tortilla:file_format")
_LARGEST = 2048
"""Rows of the largest image of CloudSEN12+."""
_NEEDED = (
    *("roi_id", "label_type", "real_proj_shape", "tortilla:data_split"),
    *("stac:crs", "stac:geotransform", "stac:raster_shape", "stac:centroid", "stac:time_start"),
)
_SHARES = ("clear_percentage", "thick_percentage", "thin_percentage", "cloud_shadow_percentage")
_OPTIONAL = ("old_roi_id", "equi_id", "equi_zone", "s2_id", *_SHARES)
_COLUMNS = (*_LEAF, *_NEEDED, *_OPTIONAL)
_NUMBERS = {
    "tortilla:offset": _Number(0, 2**52),
    "tortilla:length": _Number(1, 2**52),
    "real_proj_shape": _Number(1, _LARGEST),
    "stac:raster_shape": _Number(1, _LARGEST, count=2),
    "stac:geotransform": _Number(-1e8, 1e8, whole=False, count=6),
    "stac:time_start": _Number(0, 2**32, whole=False),  # seconds; until 2106
    **{name: _Number(-1e6, 1e6, whole=False) for name in _SHARES},
}


@dataclass(frozen=True)
class Leaf:
    """One raster in a file."""

    name: str
    start: int
    """First byte in the file."""
    size: int
    format: str
    """``GTiff``; what else there is cannot be read."""


def samples(store: ObjectStore, path: str, size: int) -> list[dict[str, Any]]:
    """Read the table of a file: a row a sample, with ``tortilla:offset`` from the file's first byte.

    Raises
    ------
    ArchiveError
        If it is no TACO file of version 1, or not a whole one, or has values that no sample of CloudSEN12+ has.
    """
    try:
        rows = _table(store, path, 0, size, _COLUMNS, _SAMPLES)
    except CubeError:
        raise
    except Exception as error:  # damaged bytes make the parser, and the arithmetic on what it finds, fail in any way
        damage = "" if isinstance(error, ValueError) else f"its table is damaged: {type(error).__name__}: "
        text = " ".join(f"{damage}{error}".split())
        raise ArchiveError(f"{store.root}/{path} is no whole TACO file of version 1: {text}") from None
    rows = [_checked(row, path, size) for row in rows]
    end = 0
    for row in sorted(rows, key=lambda row: int(row["tortilla:offset"])):
        if row["tortilla:offset"] < end:
            raise ArchiveError(
                f"{path}: {row['tortilla:id']} begins at byte {row['tortilla:offset']:,}, inside another"
            )
        end = row["tortilla:offset"] + row["tortilla:length"]
    return rows


def leaves(store: ObjectStore, path: str, sample: dict[str, Any]) -> list[Leaf] | None:
    """Read which rasters a sample has; None if its own header or table is damaged."""
    start, size = sample["tortilla:offset"], sample["tortilla:length"]
    if sample["tortilla:file_format"] != "TORTILLA":
        return [Leaf(sample["tortilla:id"], start, size, sample["tortilla:file_format"])]
    try:
        rows = [_checked(row, path, size, _LEAF) for row in _table(store, path, start, size, _LEAF, _LEAVES)]
    except ArchiveError:
        return None
    except (CubeError, MemoryError):
        raise
    except Exception:  # as above
        return None
    return [Leaf(r[_LEAF[0]], start + r[_LEAF[1]], r[_LEAF[2]], r[_LEAF[3]]) for r in rows]


def _table(
    store: ObjectStore, path: str, start: int, size: int, columns: Sequence[str], limits: TableLimits
) -> list[dict[str, Any]]:
    head = read_range(store, path, start, _HEAD.size)
    if len(head) < _HEAD.size:
        raise ValueError(f"{len(head)} bytes are left for a header of {_HEAD.size}")
    magic, offset, length = _HEAD.unpack(head)
    if magic not in _MAGIC:
        raise ValueError(f"it begins with {magic!r}, not with WX or #y")
    if size >= 0 and offset + length > size:
        raise ValueError(f"its table ends at byte {offset + length:,}, and it has {size:,}")
    if length > limits.nbytes:
        raise ValueError(f"its table has {length:,} bytes; at most {limits.nbytes:,} are read")
    fitting = limits.rows if size < 0 else min(limits.rows, size // _SMALLEST)
    return read_rows(read_range(store, path, start + offset, length), columns, replace(limits, rows=fitting))


def _short(value: Any) -> str:
    return repr(value)[:80]


def _checked(row: dict[str, Any], path: str, size: int, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Check the values of a row, each for itself, and that its bytes lie in the file or sample.

    Raises
    ------
    ArchiveError
        With the sample, the column and the value.
    """
    for name in needed or _COLUMNS:
        value = row.get(name)
        if value is None or (name in _SHARES and value != value):
            if name in _OPTIONAL and not needed:
                continue
            raise ArchiveError(
                f"{path}: {_short(row.get('tortilla:id'))} has no {name}; this is no file of CloudSEN12+"
            )
        number = _NUMBERS.get(name)
        if not (number.fits(value) if number else isinstance(value, str)):
            found = f"{_short(row.get('tortilla:id'))} has {_short(value)} as {name}"
            raise ArchiveError(f"{path}: {found}, expected {number or 'a text'}")
    end = row["tortilla:offset"] + row["tortilla:length"]
    if size >= 0 and end > size:
        raise ArchiveError(f"{path}: {_short(row['tortilla:id'])} ends at byte {end:,.0f}, and there are {size:,}")
    return row | {name: int(row[name]) for name in ("tortilla:offset", "tortilla:length")}


Row = dict[str, Any]

_MOST = 2**28
"""Bytes of the pixels of an image: 13 bands of 2048 x 2048 pixels have half of it."""
_SMALL = 2**20
"""Bytes below which a file may be a text by its size; a file of CloudSEN12+ has gigabytes."""
_TARGETS = {"high": "labels/manual_hq", "scribble": "labels/manual_sc", "nolabel": "labels/manual_hq"}
_FILES = {a.file.rpartition("/")[2].casefold(): a.file for a in ASSETS}
_AS_THEY_ARE = ("roi_id", *_OPTIONAL)


@dataclass(frozen=True)
class TacoDecoder:
    """A raster in the middle of a file is an asset."""

    def path(self, files: PatchFiles, name: str) -> str:
        """Name the bytes: ``cloudsen12-l1c.0000.part.taco[400+1248599]``."""
        return f"{files.names[name]}[{files.starts[name]}+{files.sizes[name]}]"

    def byte_ranges(self, files: PatchFiles, name: str) -> tuple[ByteRange, ...]:
        """Return the bytes of the raster."""
        return (ByteRange(files.names[name], files.starts[name], files.sizes[name]),)

    def header(self, store: ObjectStore, files: PatchFiles, name: str) -> Header | None:
        """Read the header, and give that of the patch in the image."""
        (part,), size = self.byte_ranges(files, name), files.sizes[name]
        found = header_in_front(
            lambda length: read_range(store, part.path, part.start, min(length, size)), self.path(files, name), size
        )
        return found and _patch_of(found, files)

    def decode(self, data: bytes, files: PatchFiles, name: str, limit: int) -> tuple[Header, Pixels]:
        """Decode the tif and cut its padding off, which must be zero around an image, and one value around a label."""
        path = self.path(files, name)
        header, pixels = read(data, path, limit)
        if files.corner == UNKNOWN:
            raise PatchError(path, "pixels that fit several places in the padding", "zeros on two sides, or on all")
        if min(header.height, header.width) < files.rows:
            raise PatchError(
                path, f"{header.height} x {header.width} pixels", f"{files.rows} (real_proj_shape) or more"
            )
        around = padding_pixels(pixels, files)
        if around.size and (around != (around.flat[0] if name.startswith("labels/") else 0)).any():
            row, column = files.corner
            found = f"pixels outside rows {row}:{row + files.rows} and columns {column}:{column + files.rows}"
            raise PatchError(path, found, "padding alone, as around the other patches")
        return _patch_of(header, files), crop(pixels, files)

    def decode_independently(self, store: ObjectStore, files: PatchFiles, name: str) -> ReferencePixels:
        """Read the raster by GDAL, out of the middle of the file."""
        (part,) = self.byte_ranges(files, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(store, LocalStore):
                place = os.path.abspath(store.path(part.path))
                with rasterio.open(f"/vsisubfile/{part.start}_{part.length},{place}", driver="GTiff") as file:
                    return _read_window(file, files)
            with MemoryFile(read_range(store, *part)) as memory, memory.open(driver="GTiff") as file:
                return _read_window(file, files)


UNKNOWN = (-1, -1)
"""Corner of a patch whose pixels leave open where it begins."""


def _read_window(file: Any, files: PatchFiles) -> ReferencePixels:
    (row, column), rows = files.corner, files.rows
    window = rasterio.windows.Window(column, row, rows, rows)
    return ReferencePixels(file.read(window=window), [text or "" for text in file.descriptions], file.nodata)


def _patch_of(header: Header, files: PatchFiles) -> Header:
    """Move the header of an image to the patch in it."""
    known = header.transform is not None and files.corner != UNKNOWN
    moved = _shift(header.transform, files.corner) if known else None
    return replace(header, height=files.rows, width=files.rows, transform=moved)


def _shift(transform: Any, corner: tuple[int, int]) -> Any:
    a, b, c, d, e, f = transform
    row, column = corner
    return a, b, c + column * a + row * b, d, e, f + column * d + row * e


@dataclass(frozen=True)
class TacoArchive(Archive):
    """A listed archive of TACO files."""

    store: ObjectStore
    parts: tuple[ObjectInfo, ...]
    """In the order of their names."""
    decoder: TacoDecoder = TacoDecoder()
    foreign: tuple[str, ...] = ()
    test_meaning: TestMeaning | None = "v1.1"

    @cached_property
    def _samples(self) -> dict[PatchKey, tuple[str, Row]]:
        """Patch -> the first file that has it, and its row there."""
        found: dict[PatchKey, tuple[str, Row]] = {}
        for part, table in self._tables.items():
            for row in table:
                found.setdefault(_patch_key(row), (part, row))
        return found

    @cached_property
    def _tables(self) -> dict[str, list[Row]]:
        return {part.key: samples(self.store, part.key, part.size) for part in self.parts}

    @cached_property
    def _leaves(self) -> list[tuple[str, Row, list[Leaf] | None]]:
        """Read the header of every sample, several at a time where each read is a request."""
        asked = [(part, row) for part, table in self._tables.items() for row in table]
        with ThreadPoolExecutor(self.store.concurrency) as pool:
            seen = pool.map(lambda pair: leaves(self.store, *pair), asked)
            return [(part, row, found) for (part, row), found in zip(asked, seen, strict=True)]

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """Rasters that no asset of a cube is made of."""
        names = {leaf.name for _, row, found in self._leaves for leaf in found or () if not _asset(leaf.name, row)}
        return tuple(sorted(names))

    @cached_property
    def patches(self) -> dict[PatchKey, PatchFiles]:
        """Where the rasters of each patch lie, and where the patch lies in them.

        Raises
        ------
        ArchiveError
            If an image is there twice.
        """
        usual = sorted({leaf.name for _, _, found in self._leaves for leaf in found or ()})
        made: dict[PatchKey, PatchFiles] = {}
        for part, row, found in self._leaves:
            files = made.setdefault(_patch_key(row), PatchFiles("", _label_type(row), rows=_rows_of(row)))
            # A sample that cannot be looked into has what the others have; decoding its bytes will fail.
            for leaf in found or [
                Leaf(name, row["tortilla:offset"], row["tortilla:length"], "GTiff") for name in usual
            ]:
                _add(files, leaf, part, row)
        return {key: replace(made[key], corner=corner) for key, corner in self._corners(made).items()}

    def _corners(self, made: dict[PatchKey, PatchFiles]) -> dict[PatchKey, tuple[int, int]]:
        """Find where each patch begins in its padding, for the patches of one file and size together."""
        groups: dict[tuple[str, int, int], list[PatchKey]] = defaultdict(list)
        for key, (part, row) in self._samples.items():
            groups[part, _rows_of(row), _side(row)].append(key)
        found: dict[PatchKey, tuple[int, int]] = {}
        for (_, rows, side), keys in groups.items():
            bounds: list[Callable[[], OffsetBounds | None]] = [partial(self._bounds, made[key]) for key in keys]
            offsets = corners(bounds, side - rows) if side > rows else [(0, 0)] * len(keys)
            found |= {key: corner or UNKNOWN for key, corner in zip(keys, offsets, strict=True)}
        return {key: found[key] for key in made}

    def _bounds(self, files: PatchFiles) -> OffsetBounds | None:
        """Read the image of a patch, not its labels: there zero is a class."""
        name = next((n for n in sorted(files.names, reverse=True) if not n.startswith("labels/")), None)
        if name is None:
            return None
        try:
            (part,) = self.decoder.byte_ranges(files, name)
            pixels = read(read_range(self.store, *part), self.decoder.path(files, name), _MOST)[1]
        except (PatchError, OSError):
            return None
        return offset_bounds(pixels, files.rows) if min(pixels.shape[1:]) >= files.rows else None

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata of all files."""
        texts = [self._texts(key, row) for key, (_, row) in self._samples.items()]
        return "taco", pd.DataFrame(texts, dtype=object).fillna("")

    def _texts(self, key: PatchKey, row: Row) -> dict[str, str]:
        texts = {name: _text(row.get(name)) for name in _AS_THEY_ARE}
        c, a, b, f, d, e = row["stac:geotransform"]  # in GDAL's order
        corner = self.patches[key].corner
        moved = _shift((a, b, c, d, e, f), corner) if corner != UNKNOWN else ()
        return texts | {
            "s2_id_gee": key[1],
            "label_type": _label_type(row),
            "split": _text(row["tortilla:data_split"]),
            "datetime": datetime.fromtimestamp(row["stac:time_start"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "proj_epsg": _text(row["stac:crs"]).removeprefix("EPSG:"),
            "proj_shape": str(_rows_of(row)),
            "proj_centroid": _text(row["stac:centroid"]),
            "proj_transform": transform_text(moved),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows of the Parquet tables: columns that the cube has, too, some of them by another name."""
        for key, (_, row) in self._samples.items():
            same = {name: row[name] for name in _AS_THEY_ARE if row.get(name) is not None}
            yield same | {
                "s2_id_gee": key[1],
                "label_type": row["label_type"],
                "split": row["tortilla:data_split"],
                "proj_epsg": row["stac:crs"].removeprefix("EPSG:"),
                "proj_shape": row["real_proj_shape"],
                "proj_centroid": row["stac:centroid"],
                "datetime": pd.Timestamp(row["stac:time_start"], unit="s").isoformat(),
            }


def _patch_key(row: Row) -> PatchKey:
    """``ROI_00827__20190123T095319_...`` holds both ids."""
    name: str = row["tortilla:id"]
    return row["roi_id"], name.partition("__")[2] or name


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value).strip()


def _label_type(row: Row) -> str:
    return LABEL_FOLDERS.get(row["label_type"], str(row["label_type"]))


def _rows_of(row: Row) -> int:
    return int(row["real_proj_shape"])


def _side(row: Row) -> int:
    return int(row["stac:raster_shape"][0])


def _asset(name: str, row: Row) -> str | None:
    """Asset that a raster of a sample is: ``target`` is the manual annotation."""
    return _TARGETS.get(_label_type(row)) if name == "target" else _FILES.get(name.casefold())


def _add(files: PatchFiles, leaf: Leaf, part: str, row: Row) -> None:
    asset = _asset(leaf.name, row)
    if asset is None:
        return
    if asset in files.names and leaf.name != "target":  # each collection repeats the label
        raise ArchiveError(f"{row['tortilla:id']} has its {leaf.name} twice, in {files.names[asset]} and {part}")
    if asset not in files.names:
        files.names[asset], files.starts[asset], files.sizes[asset] = part, leaf.start, leaf.size


class TacoDetector:
    """Collects part files."""

    suffixes = (".taco",)

    def __init__(self) -> None:
        self.parts: list[ObjectInfo] = []
        self.passed_over: Sequence[str] = ()

    def add(self, entry: ObjectInfo) -> None:
        """Keep a TACO file."""
        if not entry.outside:
            self.parts.append(entry)

    def detect(self, store: ObjectStore) -> TacoArchive | None:
        """Return the files as one archive."""
        parts = [entry for entry in sorted(self.parts, key=lambda e: e.key) if not _is_empty_or_text(store, entry)]
        self.passed_over = [
            f"{key} (no TACO file)" for key in sorted({e.key for e in self.parts} - {e.key for e in parts})
        ]
        return TacoArchive(store, tuple(parts)) if parts else None


def _is_empty_or_text(store: ObjectStore, entry: ObjectInfo) -> bool:
    """Return whether a file is empty, or a text in UTF-16, whose byte order mark no TACO file begins with."""
    if not 0 <= entry.size < _SMALL:
        return False
    return entry.size == 0 or read_range(store, entry.key, 0, 2) in (b"\xff\xfe", b"\xfe\xff")

"""A cube equals the cube that it was made from: every pixel, status and property of the patches that both are to have.

Both are read by zarr-python, whatever their layouts; which date is which follows from the image ids.

The metadata half of a verification: every value of the cube against the texts of the archive.

The texts are read by the csv, json or pyarrow modules and compared value by value; the catalogue's code is not used.

A cube equals its archive, pixel by pixel and value by value; and a cube equals what was written.

With the archive at hand, the pixels are read by rasterio (GDAL) or numpy from one side and by zarr-python from the
other, and the metadata by the csv, json and pyarrow modules: nothing of the path that wrote the cube is used. Alone,
the cube is checked against the sha256 of every shard.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from rasterio.errors import RasterioError

from cloudsen12_cube.archive import Archive, PatchFiles, open_archive
from cloudsen12_cube.errors import CubeError, PatchError, RemoteError
from cloudsen12_cube.format import (
    DONE,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    StoredCube,
    damaged_tables,
    is_cube,
    open_stored_cube,
    read_shard,
)
from cloudsen12_cube.inspection.accepted import in_settings, key_of
from cloudsen12_cube.schema import BY_NAME, UNKNOWN, ProductName, band_name, canonical, files_of

_KEY = ["roi_id", "s2_id_gee"]
_COUNTED_ANEW = {"time", *_KEY}


def compare_tables(cube: StoredCube, other: StoredCube) -> tuple[int, list[str]]:
    """Compare the catalogue of a cube with that of another.

    Returns
    -------
    compared : int
        Values.
    differences : list of str
    """
    compared, differences = 0, []
    rows, place = other.table.set_index(_KEY, drop=False), other.store.root
    for record in cube.table.to_dict("records"):
        key = record["roi_id"], record["s2_id_gee"]
        if key not in rows.index:
            differences.append(f"metadata of {key[0]}/{key[1]}: in the cube, but not in {place}")
            continue
        theirs = rows.loc[key]
        for name in (str(name) for name in record if name not in _COUNTED_ANEW):
            compared += 1
            if not _same_shard(record[name], theirs.get(name)):
                found, expected = f"{name} is {record[name]!r}", f"{theirs.get(name)!r}"
                differences.append(f"metadata of {key[0]}/{key[1]}: {found}, {place} says {expected}")
    return compared, differences


def _same_shard(a: Any, b: Any) -> bool:
    return bool(a == b) or bool(pd.isna(a) and pd.isna(b))


def compare_pixels(cube: StoredCube, other: StoredCube, chosen: Sequence[int]) -> Iterator[Verification]:
    """Compare the patches of some ROIs with those of another cube.

    Parameters
    ----------
    cube, other : StoredCube
    chosen : sequence of int
        Positions of the ROIs on disk.
    """
    disk = {roi: index for index, roi in enumerate(other.order)}
    times = other.table.set_index(_KEY)["time"]
    groups = dict(list(cube.table.groupby("roi_id", sort=False)))
    for product in cube.layouts:
        for index in chosen:
            roi = cube.order[index]
            name = f"{product} of {roi}"
            if product not in other.layouts or roi not in disk:
                yield Verification(0, 0, differences=(f"{name}: not in {other.store.root}",))
                continue
            try:
                mine, theirs = _pixels_of(cube, product, index), _pixels_of(other, product, disk[roi])
            except RemoteError:
                raise
            except Exception as error:  # whatever a damaged shard makes a codec raise is a finding
                yield Verification(0, 0, differences=(f"{name}: cannot be read ({error})",))
                continue
            found = []
            for image, time in zip(groups[roi]["s2_id_gee"], groups[roi]["time"], strict=True):
                if (roi, image) not in times.index:
                    continue  # the catalogues' difference says so
                when = int(times.loc[roi, image])
                status, stated = cube.status[product][index, time], other.status[product][disk[roi], when]
                if status != stated:
                    found.append(f"{name}/{image}: status {status}, in {other.store.root} {stated}")
                elif not _equal(mine[time], theirs[when]):
                    found.append(f"{name}/{image}: differs from {other.store.root}")
            yield Verification(0, 0, mine[: len(groups[roi])].size, differences=tuple(found))


def _pixels_of(cube: StoredCube, product: str, index: int) -> npt.NDArray[Any]:
    return read_shard(cube.store, product, index)


Row = dict[str, Any]
_FOLDERS = {"no-label": "nolabel", "no_label": "nolabel"}
_SPLITS = {"v1.0": {0: "train", 1: "test"}, "v1.1": {0: "train", 1: "validation", 2: "test"}}


def compare_metadata(archive: Archive, table: pd.DataFrame, settings: dict[str, Any]) -> tuple[int, list[str]]:
    """Compare a cube's catalogue with the metadata of the archive.

    Parameters
    ----------
    archive : Archive
    table : pandas.DataFrame
        As it was read back out of the cube.
    settings : dict
        The cube's own: where its metadata came from, and how it reads ``test``.

    Returns
    -------
    compared : int
        Values that were compared.
    differences : list of str
    """
    source = _rows(archive)
    compared, differences = 0, []
    for record in table.to_dict("records"):
        key = record["roi_id"], record["s2_id_gee"]
        row = source.get(key)
        if row is None:
            differences.append(f"metadata of {key[0]}/{key[1]}: in the cube, but not in the archive")
            continue
        for name, stored, expected in _pairs(row, {str(k): v for k, v in record.items()}, settings["test_meaning"]):
            compared += 1
            if not _same(name, stored, expected):
                differences.append(
                    f"metadata of {key[0]}/{key[1]}: {name} is {stored!r}, the archive says {expected!r}"
                )
    return compared, differences


_DERIVED = ("proj_transform", "proj_geometry", "proj_centroid", "label_type", "split")
"""Texts that the cube may know from files or folders where the metadata do not state them."""


def _rows(archive: Archive) -> dict[tuple[str, str], Row]:
    rows: dict[tuple[str, str], Row] = {}
    for row in archive.rows():
        rows.setdefault((str(row["roi_id"]), str(row["s2_id_gee"])), row)
    return rows


def _pairs(row: Row, stored: Row, meaning: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, stored value and the source's, for all that the source states."""
    for spelling, text in row.items():
        name = canonical(spelling)
        if name is None or text is None or text == "":
            continue
        if isinstance(text, str) and text in UNKNOWN and (BY_NAME[name].kind != "text" or name in _DERIVED):
            continue
        yield name, stored[name], text
        if name == "test" and not row.get("split"):
            yield "split", stored["split"], _SPLITS[meaning][int(float(text))]
        if name == "proj_centroid":
            longitude, latitude = _point(text)
            yield "longitude", stored["longitude"], longitude
            yield "latitude", stored["latitude"], latitude


def _point(value: Any) -> tuple[float, float]:
    if isinstance(value, dict):
        return float(value["lon"]), float(value["lat"])
    x, y = value.replace("POINT", "").strip(" ()").split()
    return float(x), float(y)


def _numbers(value: Any) -> list[float]:
    """All numbers of a transform, polygon or point, in whatever form it is written."""
    if isinstance(value, dict):
        value = (value["lon"], value["lat"]) if "lon" in value else value["coordinates"]
    for mark in "[](),":
        value = str(value).replace(mark, " ")
    return [float(word) for word in str(value).split() if word not in ("POLYGON", "POINT")]


def _same(name: str, stored: Any, expected: Any) -> bool:
    kind = BY_NAME[name].kind if name in BY_NAME else "text"
    if name in ("proj_transform", "proj_geometry", "proj_centroid"):
        return _numbers(stored) == _numbers(expected)
    if name == "label_type":
        return bool(stored == _FOLDERS.get(expected, expected))
    if kind == "time":
        return _moment(stored) == _moment(expected)
    if kind == "text":
        return bool(stored == ("" if expected in UNKNOWN else str(expected)))
    if name == "proj_shape" and isinstance(expected, list):
        expected = expected[0]
    return math.isclose(float(stored), float(expected), rel_tol=0, abs_tol=0) or float(expected) != float(expected)


def _moment(value: Any) -> datetime:
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime().replace(tzinfo=UTC)
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Level = Literal["index", "sample", "full"]
_SAMPLE = 20  # of the shards, one in twenty


@dataclass(frozen=True)
class Verification:
    """What was compared, and every difference found."""

    shards: int
    """Shards looked at."""
    shard_bytes: int
    """Bytes of shards that were hashed."""
    pixels: int = 0
    """Pixels (band values) compared with the archive."""
    values: int = 0
    """Metadata values compared with the archive."""
    unfinished: int = 0
    """Patches, counted once a product, that the cube says it does not have; accepted failures are not counted."""
    differences: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0 if nothing differs and nothing is missing, else 1."""
        return 1 if self.differences or self.unfinished else 0


def verify(
    cube: str | os.PathLike[str], source: str | os.PathLike[str] | None = None, level: Level = "full"
) -> Verification:
    """Verify a cube.

    Parameters
    ----------
    cube : path
    source : path, optional
        The archive that it was made from, or the cube; compares every pixel and every metadata value.
    level : {"index", "sample", "full"}
        What is read of the cube: the records alone, one shard in twenty, or all.

    Raises
    ------
    StoreError
        If there is no cube at the place.
    """
    if level not in get_args(Level):
        raise CubeError(f"level is {level!r}: give one of {', '.join(get_args(Level))}")
    stored = open_stored_cube(cube)
    table = stored.table  # one that is damaged is an error of its own, not a difference
    chosen = range(0, len(stored.order), _SAMPLE if level == "sample" else 1)
    other = open_stored_cube(source) if source is not None and is_cube(source) else None
    archive = open_archive(source) if source is not None and other is None else None
    check = _Check(stored, level == "index", archive)
    results = [check.shard(product, index) for product in stored.layouts for index in chosen]
    values, differences = compare_metadata(archive, table, stored.settings) if archive else (0, [])
    if other:
        values, differences = compare_tables(stored, other)
        results += compare_pixels(stored, other, chosen if level != "index" else [])
    return Verification(
        shards=sum(r.shards for r in results),
        shard_bytes=sum(r.shard_bytes for r in results),
        pixels=sum(r.pixels for r in results),
        values=values,
        unfinished=sum(r.unfinished for r in results),
        differences=(*damaged_tables(stored.store), *(d for r in results for d in r.differences), *differences),
    )


@dataclass(frozen=True)
class _Check:
    cube: StoredCube
    index_only: bool
    archive: Archive | None
    hashed: dict[str, str] = field(default_factory=dict)
    """Object -> sha256 of those that were read: several ROIs may share one."""

    def shard(self, product: ProductName, index: int) -> Verification:
        """Check one shard against its record, and against the archive if there is one."""
        roi = self.cube.order[index]
        name, record = f"{product} of {roi}", self.cube.record(product, roi)
        if record is None:
            return Verification(1, 0, unfinished=1, differences=(f"{name}: never converted, or its record is damaged",))
        unfinished = sum(patch.status != DONE and not self._accepted(patch) for patch in record.patches)
        size, found = self._object(self.cube.layouts[product].place(record.index)[0], record, name)
        if found or self.archive is None or self.index_only:
            return Verification(1, size, unfinished=unfinished, differences=tuple(found))
        pixels, differences = self._pixels(self.archive, record, self.cube.layouts[product], index)
        return Verification(1, size, pixels, 0, unfinished, tuple(differences))

    def _accepted(self, patch: PatchRecord) -> bool:
        known = {gap.key for gap in in_settings(self.cube.settings)} if patch.faults else set()
        return bool(patch.faults) and all(key_of(fault) in known for fault in patch.faults)

    def _object(self, key: str, record: ShardRecord, name: str) -> tuple[int, list[str]]:
        size = self.cube.listed.size(key) or 0
        if size != record.size:
            return 0, [f"{name}: {key} has {size} bytes, its record says {record.size}"]
        if self.index_only:
            return 0, []
        read = 0 if key in self.hashed else size
        if key not in self.hashed:
            self.hashed[key] = hashlib.sha256(self.cube.store.get(key) or b"").hexdigest()
        return read, [] if self.hashed[key] == record.sha256 else [
            f"{name}: {key} is damaged, its sha256 is not the recorded one"
        ]

    def _pixels(
        self, archive: Archive, record: ShardRecord, layout: ProductLayout, index: int
    ) -> tuple[int, list[str]]:
        try:
            shard = _pixels_of(self.cube, record.product, index)
        except RemoteError:
            raise
        except Exception as error:  # whatever a damaged shard makes a codec raise is a finding
            return 0, [f"{record.product} of {record.roi_id}: cannot be read ({error})"]
        differences = []
        for patch in record.patches:
            differences += list(_patch(archive, record, patch, shard[patch.time], layout.fill))
        return shard[: len(record.patches)].size, differences


def _patch(
    archive: Archive, record: ShardRecord, patch: PatchRecord, stored: npt.NDArray[Any], fill: float
) -> Iterator[str]:
    """Compare one patch of one product; a patch that is not done must be nothing but fill."""
    name = f"{record.product} of {record.roi_id}/{patch.s2_id_gee}"
    files = archive.patches.get((record.roi_id, patch.s2_id_gee))
    if patch.status != DONE or files is None:
        if patch.status == DONE:
            yield f"{name}: done in the cube, but the archive has no such patch"
        elif not _equal(stored, np.full_like(stored, fill)):
            yield f"{name}: not done, yet it has pixels"
        return
    bands = [band for file in files_of(record.product).values() for band in file]
    for file, wanted in files_of(record.product).items():
        planes = [stored[bands.index(band)] for band in wanted]
        if file not in files.names:
            expected: list[npt.NDArray[Any]] = [np.full_like(plane, fill) for plane in planes]
            path = f"{files.folder}/{file}.tif"
        else:
            path = archive.decoder.path(files, file)
            try:
                expected = _read(archive, files, file, wanted, fill)
            except (RasterioError, PatchError, ValueError, OSError) as error:
                yield f"{name}: {path} cannot be read ({error})"
                continue
        for band, plane, source in zip(wanted, planes, expected, strict=True):
            if not _equal(plane, source):
                yield f"{name}: {band} differs from {path} in {_count(plane, source)} pixels"


def _read(
    archive: Archive, files: PatchFiles, file: str, wanted: tuple[str, ...], fill: float
) -> list[npt.NDArray[Any]]:
    seen = archive.decoder.decode_independently(archive.store, files, file)
    pixels, names, nodata = seen.pixels, [band_name(text) for text in seen.descriptions], seen.nodata
    if len(wanted) > 1 and set(names) & set(wanted):
        pixels = np.stack([pixels[names.index(band)] for band in wanted])
    if file.startswith("labels/") and pixels.dtype.kind == "f" and nodata is not None:
        pixels = np.where(np.isnan(pixels) if np.isnan(nodata) else pixels == pixels.dtype.type(nodata), fill, pixels)
    return list(pixels)


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))


def _count(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    if a.shape != b.shape:
        return max(a.size, b.size)
    same = a == b
    if a.dtype.kind == "f":
        same |= np.isnan(a) & np.isnan(b)
    return int((~same).sum())

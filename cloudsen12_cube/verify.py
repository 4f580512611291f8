"""A cube equals its archive, pixel by pixel and value by value; and a cube equals what was written.

With the archive at hand, the pixels are read by rasterio (GDAL) or numpy from one side and by zarr-python from the
other, and the metadata by the csv, json and pyarrow modules: nothing of the path that wrote the cube is used. Alone,
the cube is checked against the sha256 of every shard.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from rasterio.errors import RasterioError

from cloudsen12_cube import record as records
from cloudsen12_cube.accept import in_settings, key_of
from cloudsen12_cube.archive import Archive, open_archive
from cloudsen12_cube.assets import band_name, files_of
from cloudsen12_cube.errors import CubeError, PatchError, RemoteError
from cloudsen12_cube.form import PatchFiles
from cloudsen12_cube.layout import object_key
from cloudsen12_cube.origin import is_cube
from cloudsen12_cube.place import Place, place_of
from cloudsen12_cube.record import DONE, PatchRecord, ShardRecord
from cloudsen12_cube.store import ROOT_KEY, damaged_tables, read_shard, read_status, read_table, settings_of
from cloudsen12_cube.verify_cube import Other, compare_pixels, compare_tables
from cloudsen12_cube.verify_metadata import compare_metadata

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
    """Patches, counted once a product, that the cube says it does not have; a gap that is accepted is none."""
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
    sink = place_of(cube)
    settings = settings_of(sink.get(ROOT_KEY), sink.root)
    order, table = read_table(sink.root, sink.access)
    chosen = list(enumerate(order))[:: _SAMPLE if level == "sample" else 1]
    other = _other(source) if source is not None and is_cube(source) else None
    archive = open_archive(source) if source is not None and other is None else None
    check = _Check(sink.listed(), level == "index", archive, settings)
    results = [check.shard(p, i, roi) for p in settings["products"] for i, roi in chosen]
    values, differences = compare_metadata(archive, table, settings) if archive else (0, [])
    if other:
        values, differences = compare_tables(table, other)
        results += _compared(sink, settings, table, other, chosen if level != "index" else [])
    return Verification(
        shards=sum(r.shards for r in results),
        shard_bytes=sum(r.shard_bytes for r in results),
        pixels=sum(r.pixels for r in results),
        values=values,
        unfinished=sum(r.unfinished for r in results),
        differences=(
            *damaged_tables(sink.root, sink.access),
            *(d for r in results for d in r.differences),
            *differences,
        ),
    )


def _other(source: str | os.PathLike[str]) -> Other:
    place = place_of(source)
    return Other(place, settings_of(place.get(ROOT_KEY), place.root))


def _compared(
    sink: Place, settings: dict[str, Any], table: pd.DataFrame, other: Other, chosen: list[tuple[int, str]]
) -> Iterator[Verification]:
    """Compare the pixels with those of another cube."""
    groups = dict(list(table.groupby("roi_id", sort=False)))
    for product, status in read_status(sink.root, settings["products"], sink.access).items():
        for index, roi in chosen:
            pixels, found = compare_pixels(sink, product, index, groups[roi], status[index], other)
            yield Verification(0, 0, pixels, differences=tuple(found))


@dataclass(frozen=True)
class _Check:
    sink: Place
    index_only: bool
    archive: Archive | None
    settings: dict[str, Any]
    hashed: dict[str, str] = field(default_factory=dict)
    """Object -> sha256 of those that were read: several ROIs may share one."""

    def shard(self, product: str, index: int, roi: str) -> Verification:
        """Check one shard against its record, and against the archive if there is one."""
        name = f"{product} of {roi}"
        record = records.load(self.sink, product, roi)
        if record is None:
            return Verification(1, 0, unfinished=1, differences=(f"{name}: never converted, or its record is damaged",))
        unfinished = sum(patch.status != DONE and not self._accepted(patch) for patch in record.patches)
        size, found = self._object(record, name)
        if found or self.archive is None or self.index_only:
            return Verification(1, size, unfinished=unfinished, differences=tuple(found))
        pixels, differences = self._pixels(self.archive, record, index)
        return Verification(1, size, pixels, 0, unfinished, tuple(differences))

    def _accepted(self, patch: PatchRecord) -> bool:
        known = {gap.key for gap in in_settings(self.settings)} if patch.faults else set()
        return bool(patch.faults) and all(key_of(fault) in known for fault in patch.faults)

    def _object(self, record: ShardRecord, name: str) -> tuple[int, list[str]]:
        key = object_key(self.settings, record.product, record.index)
        size = self.sink.size(key) or 0
        if size != record.size:
            return 0, [f"{name}: {key} has {size} bytes, its record says {record.size}"]
        if self.index_only:
            return 0, []
        read = 0 if key in self.hashed else size
        if key not in self.hashed:
            self.hashed[key] = hashlib.sha256(self.sink.get(key) or b"").hexdigest()
        return read, [] if self.hashed[key] == record.sha256 else [
            f"{name}: {key} is damaged, its sha256 is not the recorded one"
        ]

    def _pixels(self, archive: Archive, record: ShardRecord, index: int) -> tuple[int, list[str]]:
        try:
            shard = read_shard(self.sink.root, record.product, index, self.sink.access)
        except RemoteError:
            raise
        except Exception as error:  # whatever a damaged shard makes a codec raise is a finding
            return 0, [f"{record.product} of {record.roi_id}: cannot be read ({error})"]
        fill = _fill(self.settings["products"][record.product])
        differences = []
        for patch in record.patches:
            differences += list(_patch(archive, record, patch, shard[patch.time], fill))
        return shard[: len(record.patches)].size, differences


def _fill(layout: dict[str, Any]) -> float:
    return float(layout["fill_value"])


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
    seen = archive.decoder.again(archive.listing, files, file)
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

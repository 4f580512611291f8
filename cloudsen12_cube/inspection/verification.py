"""Verification: a cube against the checksums of its records, against its archive, or against the cube it was made from.

Nothing of the code that wrote the cube is used. Pixels of the archive are decoded by rasterio (GDAL) or numpy, those of
a cube by zarr-python, whatever its layout; metadata are read by the csv, json or pyarrow modules and compared value by
value, without the code that builds a catalogue.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from rasterio.errors import RasterioError

from cloudsen12_cube.archive import Archive, PatchFiles, open_archive
from cloudsen12_cube.errors import CubeError, PatchError, ReadError, RemoteError
from cloudsen12_cube.format import (
    DONE,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    StoredCube,
    damage_of,
    damaged_tables,
    is_cube,
    open_stored_cube,
    read_shard,
)
from cloudsen12_cube.inspection.completeness import is_accepted, require_records
from cloudsen12_cube.schema import (
    ASSETS,
    BY_NAME,
    UNKNOWN,
    ProductName,
    assets_of,
    band_name,
    canonical,
    files_of,
    layer,
)

Row = dict[str, Any]
Pixels = npt.NDArray[Any]

Level = Literal["index", "sample", "full"]
_SAMPLE = 20
"""Level ``sample`` reads one shard in this many."""


@dataclass(frozen=True, repr=False)
class Verification:
    """What was compared, and every difference found."""

    shards: int
    """Shards that were checked."""
    shard_bytes: int
    """Bytes of shards that were hashed."""
    pixels: int = 0
    """Band values that were compared with the source."""
    values: int = 0
    """Metadata values that were compared with the source."""
    nodata: int = 0
    """Stored reflectances that are 0, Sentinel-2's NODATA, among the values that were compared with the archive."""
    unfinished: int = 0
    """Patches of each product that the cube does not have, without accepted failures."""
    differences: tuple[str, ...] = ()
    """One line for each difference."""

    def __repr__(self) -> str:
        compared = f"{self.shards} shards, {self.pixels:,} pixels and {self.values:,} metadata values compared"
        return f"<Verification: {compared}, {self.unfinished} patches unfinished, {len(self.differences)} differences>"

    @property
    def exit_code(self) -> int:
        """0 if there is no difference and every patch is done, else 1."""
        return 1 if self.differences or self.unfinished else 0


def verify(cube: Any, source: Any = None, level: Level = "full") -> Verification:
    """Verify a cube against its records and, with a source, every pixel and metadata value.

    Parameters
    ----------
    cube : path, URL, `Url` or store
        The cube.
    source : path, URL or `Url`, optional
        The archive that it was made from, or the cube.
    level : {"index", "sample", "full"}
        What is read of the cube: the records alone, one shard in twenty, or all shards.

    Returns
    -------
    Verification
        What was compared, and the differences.

    Raises
    ------
    StoreError
        If there is no cube at the location, a finished one without records, or one with a damaged catalogue.
    CubeError
        If the level is unknown.
    """
    if level not in get_args(Level):
        raise CubeError(f"level is {level!r}: give one of {', '.join(get_args(Level))}")
    stored = open_stored_cube(cube)
    table = stored.table  # a damaged one is an error of its own, not a difference
    require_records(stored)
    chosen = range(0, len(stored.order), _SAMPLE if level == "sample" else 1)
    other = open_stored_cube(source) if source is not None and is_cube(source) else None
    archive = open_archive(source) if source is not None and other is None else None
    check = _ShardCheck(stored, level == "index", archive)
    results = [check.shard(product, index) for product in stored.layouts for index in chosen]
    if archive:
        results.append(compare_metadata(archive, table, stored.stated.test_meaning))
    if other:
        results.append(compare_tables(stored, other))
        results += compare_pixels(stored, other, chosen if level != "index" else [])
    return Verification(
        shards=sum(row.shards for row in results),
        shard_bytes=sum(row.shard_bytes for row in results),
        pixels=sum(row.pixels for row in results),
        values=sum(row.values for row in results),
        nodata=sum(row.nodata for row in results),
        unfinished=sum(row.unfinished for row in results),
        differences=(*damaged_tables(stored), *(line for row in results for line in row.differences)),
    )


@dataclass(frozen=True)
class _ShardCheck:
    """Compares shards with their records and, if there is an archive, with its pixels."""

    cube: StoredCube
    index_only: bool
    archive: Archive | None
    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Key -> sha256 and damage of the objects that were read: several ROIs may share one."""

    def shard(self, product: ProductName, index: int) -> Verification:
        """Check the shard of one ROI."""
        roi = self.cube.order[index]
        name = f"{product} of {roi}"
        try:
            record = self.cube.record(product, roi)
        except ReadError as error:
            return Verification(1, 0, unfinished=1, differences=(f"{name}: {error}",))
        if record is None:
            return Verification(1, 0, unfinished=1, differences=(f"{name}: never converted, or its record is damaged",))
        accepted = frozenset(failure.key for failure in self.cube.stated.accepted)
        unfinished = sum(patch.status != DONE and not is_accepted(patch, accepted) for patch in record.patches)
        read, found = self._object(self.cube.layouts[product], record, name)
        if found or self.archive is None or self.index_only:
            return Verification(1, read, unfinished=unfinished, differences=tuple(found))
        try:
            shard = read_shard(self.cube, product, index)
        except RemoteError:
            raise
        except Exception as error:  # a damaged shard makes codecs raise whatever they like
            return Verification(1, read, unfinished=unfinished, differences=(f"{name}: cannot be read ({error})",))
        fill = self.cube.layouts[product].fill
        differences = [d for p in record.patches for d in compare_patch(self.archive, record, p, shard[p.time], fill)]
        compared = shard[: len(record.patches)]
        reflectance = [position for position, asset in enumerate(assets_of(product)) if asset.is_reflectance]
        nodata = int(np.count_nonzero(compared[:, reflectance] == 0))
        return Verification(1, read, compared.size, 0, nodata, unfinished, tuple(differences))

    def _object(self, layout: ProductLayout, record: ShardRecord, name: str) -> tuple[int, list[str]]:
        """Compare an object with its record, and its chunks with the layout: bytes that were read, and differences."""
        key = layout.place(record.index)[0]
        size = self.cube.listed.size(key) or 0
        if size != record.size:
            return 0, [f"{name}: {key} has {size} bytes, its record says {record.size}"]
        if self.index_only:
            return 0, []
        read = 0 if key in self.found else size
        if key not in self.found:
            try:
                data = self.cube.store.get(key) or b""
                self.found[key] = hashlib.sha256(data).hexdigest(), damage_of(data, layout) if data else ""
            except ReadError as error:
                return 0, [f"{name}: {error}"]
        digest, damage = self.found[key]
        if digest != record.sha256:
            damage = "its sha256 is not the recorded one"
        return read, [f"{name}: {key} is damaged, {damage}"] if damage else []


def compare_patch(
    archive: Archive, record: ShardRecord, patch: PatchRecord, stored: Pixels, fill: float
) -> Iterator[str]:
    """Compare one patch of one product with its files; a patch that is not done must be fill."""
    name = f"{record.product} of {record.roi_id}/{patch.s2_id_gee}"
    files = archive.patches.get((record.roi_id, patch.s2_id_gee))
    if patch.status != DONE:
        if _differing(stored, np.full_like(stored, fill)):
            yield f"{name}: not done, yet it has pixels"
        return
    if files is None:
        yield f"{name}: done in the cube, but the archive has no such patch"
        return
    first = 0
    for file, bands in files_of(record.product).items():
        planes = stored[first : first + len(bands)]
        first += len(bands)
        path = archive.decoder.path(files, file) if file in files.names else f"{files.folder}/{file}.tif"
        try:
            expected = _read(archive, files, file, bands, fill) if file in files.names else np.full_like(planes, fill)
        except (RasterioError, PatchError, ValueError, OSError) as error:
            yield f"{name}: {path} cannot be read ({error})"
            continue
        for band, plane, source in zip(bands, planes, expected, strict=True):
            count = _differing(plane, source)
            if count:
                yield f"{name}: {band} differs from {path} in {count} pixels"


def _read(archive: Archive, files: PatchFiles, file: str, wanted: tuple[str, ...], fill: float) -> Pixels:
    """Read the bands of a file as the cube should have them."""
    path = archive.decoder.path(files, file)
    if file in files.outside:
        raise PatchError(path, "a link that leads out of the archive", "a file inside it")
    if not archive.is_remote:
        for part in archive.decoder.byte_ranges(files, file):
            archive.store.get(part.path, 0, 1)  # raises for a pipe, which would keep GDAL waiting
    reference = archive.decoder.decode_independently(archive.store, files, file)
    pixels, nodata = reference.pixels, reference.nodata
    names = [band_name(text) for text in reference.descriptions]
    if len(wanted) > 1 and any(names):
        pixels = np.stack([pixels[names.index(band)] for band in wanted])
    if nodata is None or nodata == 0:
        return pixels
    missing = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    return np.where(missing, _replacements(file, wanted, nodata, fill), pixels) if missing.any() else pixels


def _replacements(file: str, bands: tuple[str, ...], nodata: float, fill: float) -> Pixels:
    """Return what a cube stores for a declared nodata value, (band, 1, 1): itself where a layer has such a code."""
    if file.startswith("labels/"):
        row = layer(bands[0])
        most = {"s2cloudless": 100, "qa60": 65_534}.get(row.band, 10_000)
        legal = nodata in row.legal if row.legal else 0 <= nodata <= most and nodata == int(nodata)
        return np.reshape([nodata if legal else fill], (1, 1, 1))
    assets = {asset.band: asset for asset in ASSETS if asset.file == file}
    values = [0 if assets[b].is_reflectance else nodata if assets[b].nodata == nodata else fill for b in bands]
    return np.reshape(values, (-1, 1, 1))


def _differing(a: Pixels, b: Pixels) -> int:
    """Count the values that differ; NaN equals NaN."""
    if a.shape != b.shape:
        return max(a.size, b.size)
    different = a != b
    if a.dtype.kind == b.dtype.kind == "f":
        different &= ~(np.isnan(a) & np.isnan(b))
    return int(np.count_nonzero(different))


_KEY = ["roi_id", "s2_id_gee"]


def compare_tables(cube: StoredCube, other: StoredCube) -> Verification:
    """Compare the catalogue of a cube with that of another."""
    compared, differences = 0, []
    rows = {(row["roi_id"], row["s2_id_gee"]): row for row in other.table.to_dict("records")}
    for row in cube.table.to_dict("records"):
        roi, image = row["roi_id"], row["s2_id_gee"]
        theirs = rows.get((roi, image))
        if theirs is None:
            differences.append(f"metadata of {roi}/{image}: in the cube, but not in {other.store.root}")
            continue
        for name in row:
            if name in ("time", *_KEY):  # a subset counts its own images of an ROI
                continue
            compared += 1
            mine, stated = row[name], theirs.get(name)
            if mine != stated and not (pd.isna(mine) and pd.isna(stated)):
                found = f"{name} is {mine!r}, {other.store.root} says {stated!r}"
                differences.append(f"metadata of {roi}/{image}: {found}")
    return Verification(0, 0, values=compared, differences=tuple(differences))


def compare_pixels(cube: StoredCube, other: StoredCube, chosen: Sequence[int]) -> Iterator[Verification]:
    """Compare status and pixels of some ROIs, by their positions on disk, with those of another cube."""
    disk = {roi: index for index, roi in enumerate(other.order)}
    times = other.table.set_index(_KEY)["time"]
    groups = dict(list(cube.table.groupby("roi_id", sort=False)))
    for product in cube.layouts:
        for index in chosen:
            roi = cube.order[index]
            name, place = f"{product} of {roi}", other.store.root
            if product not in other.layouts or roi not in disk:
                yield Verification(0, 0, differences=(f"{name}: not in {place}",))
                continue
            try:
                mine = read_shard(cube, product, index)
                theirs = read_shard(other, product, disk[roi])
            except RemoteError:
                raise
            except Exception as error:  # a damaged shard makes codecs raise whatever they like
                yield Verification(0, 0, differences=(f"{name}: cannot be read ({error})",))
                continue
            found = []
            for image, time in zip(groups[roi]["s2_id_gee"], groups[roi]["time"], strict=True):
                if (roi, image) not in times.index:
                    continue  # a difference of the catalogues
                there = int(times.loc[roi, image])
                status, stated = cube.status[product][index, time], other.status[product][disk[roi], there]
                if status != stated:
                    found.append(f"{name}/{image}: status {status}, in {place} {stated}")
                elif _differing(mine[time], theirs[there]):
                    found.append(f"{name}/{image}: differs from {place}")
            yield Verification(0, 0, mine[: len(groups[roi])].size, differences=tuple(found))


_FOLDERS = {"no-label": "nolabel", "no_label": "nolabel"}
_SPLITS = {"v1.0": {0: "train", 1: "test"}, "v1.1": {0: "train", 1: "validation", 2: "test"}}


_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, OverflowError)
_DERIVED = ("proj_transform", "proj_geometry", "proj_centroid", "label_type", "split")
"""Texts that the cube may know from files or folders where the metadata do not state them."""


def compare_metadata(archive: Archive, table: pd.DataFrame, test_meaning: str) -> Verification:
    """Compare a catalogue, as it was read back out of a cube, with the metadata of the archive."""
    source: dict[tuple[str, str], Row] = {}
    for row in archive.rows():
        source.setdefault((str(row["roi_id"]).strip(), str(row["s2_id_gee"]).strip()), row)
    compared, differences = 0, []
    for record in table.to_dict("records"):
        roi, image = record["roi_id"], record["s2_id_gee"]
        if (roi, image) not in source:
            differences.append(f"metadata of {roi}/{image}: in the cube, but not in the archive")
            continue
        for name, expected in _expected(source[roi, image], test_meaning):
            compared += 1
            if not _agrees(name, record[name], expected):
                found = f"{name} is {record[name]!r}, the archive says {expected!r}"
                differences.append(f"metadata of {roi}/{image}: {found}")
    return Verification(0, 0, values=compared, differences=tuple(differences))


def _expected(row: Row, meaning: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of all that a row of the archive states."""
    for spelling, value in row.items():
        name = canonical(spelling)
        if name is None or value is None or value == "" or (isinstance(value, dict) and None in value.values()):
            continue
        if str(value).strip() in UNKNOWN and (BY_NAME[name].kind != "text" or name in _DERIVED):
            continue
        yield name, value
        if name == "test" and not row.get("split"):
            with suppress(*_UNREADABLE):  # `test` itself differs then
                yield "split", _SPLITS[meaning][int(float(value))]
        if name == "proj_centroid" and (isinstance(value, dict) or str(value).startswith("POINT")):
            with suppress(*_UNREADABLE):
                yield from zip(("longitude", "latitude"), _numbers(value), strict=True)


def _numbers(value: Any) -> list[float]:
    """Return all numbers of a transform, polygon or point, in whatever format it is written."""
    if isinstance(value, dict):
        value = (value["lon"], value["lat"]) if "lon" in value else value["coordinates"]
    for mark in "[](),":
        value = str(value).replace(mark, " ")
    words = [word for word in str(value).split() if word not in ("POLYGON", "POINT")]
    return [math.nan if word in UNKNOWN else float(word) for word in words]


def _agrees(name: str, stored: Any, expected: Any) -> bool:
    """Compare a value with the text of the archive, which may be of any kind."""
    try:
        return _same(name, stored, expected)
    except _UNREADABLE:
        return False


def _same(name: str, stored: Any, expected: Any) -> bool:
    kind = BY_NAME[name].kind if name in BY_NAME else "text"
    if name in ("proj_transform", "proj_geometry", "proj_centroid"):
        try:
            return np.array_equal(_numbers(stored), _numbers(expected), equal_nan=True)
        except ValueError:  # a text in another notation, which a cube repeats
            return str(stored) == str(expected)
    if name == "label_type":
        return bool(stored == _FOLDERS.get(expected, expected))
    if kind == "time":
        return _utc(stored) == _utc(expected)
    if kind == "text":
        text = str(expected).strip()
        return bool(stored == ("" if text in UNKNOWN and name != "s2_id_gee" else text))
    if name == "proj_shape" and isinstance(expected, list):
        expected = expected[0]
    return math.isclose(float(stored), float(expected), rel_tol=0, abs_tol=0) or float(expected) != float(expected)


def _utc(value: Any) -> datetime:
    moment = value.to_pydatetime() if isinstance(value, pd.Timestamp) else datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

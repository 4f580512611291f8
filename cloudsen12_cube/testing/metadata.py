"""The metadata of a synthetic archive, with the columns and special cases of the published one, as CSV and as STAC."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pyproj import Transformer
from pyproj.enums import TransformDirection

from cloudsen12_cube.schema import LABEL_FOLDERS, TestMeaning
from cloudsen12_cube.testing import scene as scenes

_START = datetime(2019, 1, 1, 10, tzinfo=UTC)
_COVERAGES = tuple(scenes.COVER)
_Dtype = Literal["int16", "uint16"]
_Metadata = Literal["csv", "stac", "both", "none"]


@dataclass(frozen=True)
class ArchiveOptions:
    """Size, data types, metadata and variants of a synthetic archive."""

    size: int = 509
    """Rows and columns of a patch."""
    times: int = 5
    """Number of patches of an ROI."""
    dtype: _Dtype = "int16"
    """Data type of the Sentinel-2 files."""
    metadata: _Metadata = "csv"
    """Format of the metadata: ``csv``, ``stac``, ``both`` or ``none``."""
    test_meaning: TestMeaning = "v1.1"
    """Definition of the codes of ``test``."""
    nolabel_folder: str = "nolabel"
    """Name of the folder: ``nolabel``, ``no-label`` or ``no_label``."""
    striped_labels: bool = False
    """Write KappaMask as in the published files: striped float32 with nodata -3.4e38."""
    top: str = ""
    """Name of an additional folder above the label types."""
    occurrence: bool = False
    """Use the correct spelling of ``ocurrence``."""
    label_types: tuple[str, ...] = ("high", "scribble", "nolabel")
    """Label types of the ROIs, in a cycle."""
    descriptions: bool = True
    """Write band descriptions."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.size < 16:
            raise ValueError(f"size is {self.size}: a patch needs at least 16 rows")
        if self.times < 1:
            raise ValueError(f"times is {self.times}: an ROI needs at least 1 patch")
        for name, kind in (("dtype", _Dtype), ("metadata", _Metadata), ("test_meaning", TestMeaning)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"{name} is {value!r}: give one of {', '.join(get_args(kind))}")
        if {"/", "\\"} & set(self.top) or self.top.startswith("."):
            raise ValueError(f"top is {self.top!r}: give the name of one folder, or an empty text")
        if LABEL_FOLDERS.get(self.nolabel_folder) != "nolabel":
            raise ValueError(f"nolabel_folder is {self.nolabel_folder!r}: give nolabel, no-label or no_label")
        unknown = set(self.label_types) - {"high", "scribble", "nolabel"}
        if unknown or not self.label_types:
            raise ValueError(f"label_types is {self.label_types}: give some of high, scribble, nolabel")


@dataclass(frozen=True)
class Patch:
    """One patch: its row of the metadata, and the parameters of its files."""

    row: dict[str, str]
    coverage: str
    """Class of cloud coverage."""
    random: np.random.Generator = field(compare=False)

    @property
    def roi(self) -> str:
        """ROI id."""
        return self.row["roi_id"]

    @property
    def transform(self) -> tuple[float, ...]:
        """Affine transform, six numbers a to f."""
        return tuple(float(v) for v in self.row["proj_transform"].split(","))


def _roi_id(index: int) -> str:
    """Return an id of four or five digits in the published range: ROI_0012, ROI_10133, ROI_8641, ROI_7149, ..."""
    return f"ROI_{(index * 10_121 + 11) % 11_613 + 1:04d}"


def make_patches(index: int, seed: int, options: ArchiveOptions) -> list[Patch]:
    """Return the patches of one ROI; half of the ROIs are in reverse order of time."""
    label_type = options.label_types[index % len(options.label_types)]
    # ROI 1 is near ROI 0, in the same zone, and their first images share one id.
    where = np.random.default_rng([seed, 0 if index == 1 else index, 3])
    east, north = float(where.uniform(-170, 170)), float(where.uniform(-60, 70))
    if index == 1:
        east += 2 if east % 6 < 3 else -2
    place = round(east, 5), round(north, 5)
    coverages = [_COVERAGES[(t + index) % 5] for t in range(options.times)]
    if label_type == "nolabel" and "cloud-free" not in coverages:
        coverages[0] = "cloud-free"
    start = _START + timedelta(days=3 * index)
    rows = [_row(index, time, place, coverages[time], (label_type, start, options)) for time in range(options.times)]
    if index == 1:
        rows[0] = _row(1, 0, place, coverages[0], (label_type, _START, options))
    patches = [
        Patch(row, coverage, np.random.default_rng([seed, index, 2, time]))
        for time, (row, coverage) in enumerate(zip(rows, coverages, strict=True))
    ]
    return patches[::-1] if index % 2 else patches


def _row(
    index: int, time: int, place: tuple[float, float], coverage: str, about: tuple[str, datetime, ArchiveOptions]
) -> dict[str, str]:
    label_type, start, options = about
    # Date 2 of ROI 0 has the timestamp of date 1, on another tile; date 3 is in the next UTM zone.
    moment = start + timedelta(days=60 * (1 if index == 0 and time == 2 else time))
    zone = int((place[0] + 180) // 6) + 1 + (1 if index % 3 == 0 and time == 3 else 0)
    tile = f"T{(zone - 1) % 60 + 1:02d}X{'ABCDE'[time % 5]}Q"
    epsg = (32600 if place[1] >= 0 else 32700) + (zone - 1) % 60 + 1
    west, north = _corner(epsg, place, options.size)
    east, south = west + 10 * options.size, north - 10 * options.size
    stamp = f"{moment:%Y%m%dT%H%M%S}"
    split = (index + index // 3) % 3  # of seven ROIs, each split has one of each label type
    return {
        "annotator_name": f"annotator_{index % 7 + 1}",
        "roi_id": _roi_id(index),
        "s2_id_gee": f"{stamp}_{stamp}_{tile}",
        "s2_id": f"S2A_MSIL1C_{stamp}_N0208_R{index % 143 + 1:03d}_{tile}_{stamp}",
        "s2_date": f"{moment + timedelta(minutes=9, seconds=47):%Y-%m-%dT%H:%M:%SZ}",
        "s2_sen2cor_version": "N02.11",
        "s2_fmask_version": "4.3.0",
        "s2_cloudless_version": "1.5.0",
        "s2_reflectance_conversion_correction": f"{1.03 - 0.002 * time:.8f}",
        "s2_aot_retrieval_accuracy": "0",
        "s2_water_vapour_retrieval_accuracy": "0",
        "s2_view_off_nadir": "0",
        "s2_view_sun_azimuth": f"{140 + time + index % 20}.04466969",
        "s2_view_sun_elevation": f"{40 + time}.26344786",
        "s1_id": f"S1A_IW_GRDH_1SDV_{stamp}_{stamp}_034082_003F3A_A806",
        "s1_date": f"{moment - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
        "s1_grd_post_processing_software_name": "Sentinel-1 IPF",
        "s1_grd_post_processing_software_version": "2.91",
        "s1_slc_processing_facility_name": "Copernicus S1 Core Ground Segment - DPA",
        "s1_slc_processing_software_version": "2.91",
        "s1_radar_coverage": "1.0",
        "land_cover": str((10, 20, 30, 40, 50, 60)[index % 6]),
        "label_type": label_type,
        "cloud_coverage": coverage,
        "test": str(split if options.test_meaning == "v1.1" else min(split, 1)),
        "difficulty": "" if label_type == "nolabel" else f"{(time + index) % 5 + 1:.1f}",
        "proj_epsg": str(epsg),
        "proj_geometry": f"POLYGON (({west} {south}, {east} {south}, {east} {north}, {west} {north}, {west} {south}))",
        "proj_shape": str(options.size),
        "proj_centroid": f"POINT ({place[0]} {place[1]})",
        "proj_transform": f"10, 0, {west}, 0, -10, {north}",
        "test_sr": "0",
    }


@lru_cache(maxsize=256)
def _from_degrees(epsg: int) -> Transformer:
    return Transformer.from_crs(4326, epsg, always_xy=True)


def _corner(epsg: int, place: tuple[float, float], size: int) -> tuple[int, int]:
    """Return the upper left corner of a patch around a location, on the 10 m grid."""
    x, y = _from_degrees(epsg).transform(*place)
    return round(x / 10) * 10 - size // 2 * 10, round(y / 10) * 10 + size // 2 * 10


def write_metadata(root: Path, rows: list[dict[str, str]], options: ArchiveOptions) -> None:
    """Write the metadata in the formats of the options."""
    if options.metadata in ("csv", "both"):
        write_csv(root, rows)
    if options.metadata in ("stac", "both"):
        (root / "stac").mkdir(exist_ok=True)
        for row in rows:
            item = _stac_item(row)
            (root / "stac" / f"{item['id']}.json").write_text(json.dumps(item, indent=1), encoding="utf-8")


def write_csv(root: Path, rows: list[dict[str, str]]) -> None:
    """Write ``cloudsen12_metadata.csv``."""
    with open(root / "cloudsen12_metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _stac_item(row: dict[str, str]) -> dict[str, Any]:
    """Return a STAC item as published, which is not valid: ``proj:shape`` is one number."""
    left_out = ("annotator_name", "s2_water_vapour_retrieval_accuracy", "s1_grd_post_processing_software_version")
    texts = {k: v for k, v in row.items() if k not in (*left_out, "test_sr", "s2_date") and not k.startswith("proj_")}
    numbers = ("s2_view", "s2_aot", "s2_refl", "s1_radar", "s1_slc_processing_software")
    numeric = [key for key in texts if key.startswith(numbers)]
    properties: dict[str, Any] = texts | {k: float(texts[k]) for k in numeric}
    properties |= {"land_cover": int(row["land_cover"]), "test": int(row["test"])}
    properties["difficulty"] = float(row["difficulty"]) if row["difficulty"] else None
    longitude, latitude = (float(v) for v in row["proj_centroid"][7:-1].split())
    ring = [[float(v) for v in point.split()] for point in row["proj_geometry"][10:-2].split(", ")]
    properties |= {
        "proj:centroid": {"lat": latitude, "lon": longitude},
        "proj:epsg": int(row["proj_epsg"]),
        "proj:shape": int(row["proj_shape"]),
        "proj:transform": [float(v) for v in row["proj_transform"].split(",")],
        "proj:geometry": {"type": "Polygon", "coordinates": [ring]},
        "proj:bbox": [*ring[0], *ring[2]],
        "datetime": row["s2_date"],
    }
    to_degrees = _from_degrees(int(row["proj_epsg"])).transform
    footprint = [list(to_degrees(x, y, direction=TransformDirection.INVERSE)) for x, y in ring]
    longitudes, latitudes = zip(*footprint, strict=True)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"{row['roi_id']}__{row['s2_id']}",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [footprint]},
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "links": [],
        "assets": {},
    }

"""The properties of an image patch: one row each, with all spellings of the sources.

Table 4 of the paper, the CSV file of the archive and the STAC items use different names for the same properties. This
table gives each property one name, one type and one meaning; the catalogue, the store and the queries are derived from
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cloudsen12_cube.schema.land_cover import WORLD_COVER

Kind = Literal["text", "float", "int", "time"]


@dataclass(frozen=True)
class Property:
    """One column of the catalogue, and one (roi, time) array at the root of a cube."""

    name: str
    kind: Kind
    description: str
    spellings: tuple[str, ...] = ()
    """Other names in CSV files, STAC items and the paper."""
    units: str | None = None
    missing: int = -1
    """Stored value of an unknown ``int``. Unknown texts are empty, floats NaN, times NaT."""
    values: tuple[str, ...] = ()
    """Values that the paper defines, in its order; empty if other values are allowed."""
    legend: Mapping[int, str] | None = field(default=None, repr=False, hash=False)
    """Names of the codes of an ``int``; conditions take either."""


SPLITS = ("train", "validation", "test")
"""Published splits; each ROI belongs to one of them."""

PROPERTIES: tuple[Property, ...] = (
    Property("s2_id_gee", "text", "Sentinel-2 image id in Google Earth Engine; unique only inside its ROI"),
    Property("s2_id", "text", "Sentinel-2 product id"),
    Property("datetime", "time", "Sentinel-2 acquisition time", ("s2_date",)),
    Property(
        *("label_type", "text", "high: every pixel by experts, scribble: some pixels, nolabel: none"),
        values=("high", "scribble", "nolabel"),
    ),
    Property(
        *("cloud_coverage", "text", "cloud-free, almost-clear, low-cloudy, mid-cloudy or cloudy"),
        values=("cloud-free", "almost-clear", "low-cloudy", "mid-cloudy", "cloudy"),
    ),
    Property("difficulty", "float", "labelling difficulty, 1 (easy) to 5; NaN where nobody labelled"),
    Property("annotator_name", "text", "who drew the label"),
    Property("land_cover", "int", "land cover of the ROI, code of ESA WorldCover", legend=WORLD_COVER),
    Property("split", "text", "train, validation or test; from `test`, whose codes mean two things", values=SPLITS),
    Property("test", "int", "split code as published"),
    Property("test_sr", "int", "split code of the super-resolution set as published"),
    Property("s2_sen2cor_version", "text", "Sen2Cor processing baseline"),
    Property("s2_fmask_version", "text", "Fmask version"),
    Property("s2_cloudless_version", "text", "s2cloudless version", ("s2_s2cloudless_version",)),
    Property("s2_reflectance_conversion_correction", "float", "Earth-Sun distance correction"),
    Property("s2_aot_retrieval_accuracy", "float", "accuracy of the aerosol retrieval"),
    Property("s2_water_vapour_retrieval_accuracy", "float", "declared accuracy of the water vapour model"),
    Property(
        "s2_view_off_nadir",
        "float",
        "viewing angle off nadir, 0 everywhere: never measured",
        ("view:off_nadir",),
        "degree",
    ),
    Property("s2_view_sun_azimuth", "float", "sun azimuth", ("view:sun_azimuth",), "degree"),
    Property("s2_view_sun_elevation", "float", "sun elevation", ("view:sun_elevation",), "degree"),
    Property("s1_id", "text", "Sentinel-1 product id"),
    Property("s1_datetime", "time", "Sentinel-1 acquisition time", ("s1_date",)),
    Property("s1_grd_post_processing_software_name", "text", "Sentinel-1 GRD processor"),
    Property("s1_grd_post_processing_software_version", "text", "version of the Sentinel-1 GRD processor"),
    Property("s1_slc_processing_facility_name", "text", "where the Sentinel-1 SLC was processed"),
    Property("s1_slc_processing_software_version", "text", "version of the Sentinel-1 SLC processor"),
    Property("s1_radar_coverage", "float", "share of the patch that Sentinel-1 covers"),
    Property("proj_epsg", "int", "EPSG code of the patch's own UTM zone", ("proj:epsg", "epsg"), missing=0),
    Property("proj_geometry", "text", "footprint in proj_epsg as WKT", ("proj:geometry",)),
    Property("proj_shape", "int", "rows (and columns) of the patch", ("proj:shape",), missing=0),
    Property("proj_centroid", "text", "centre as WKT, POINT (longitude latitude)", ("proj:centroid",)),
    Property("proj_transform", "text", "a, b, c, d, e, f of x = a col + b row + c, y = ...", ("proj:transform",), "m"),
    Property("longitude", "float", "longitude of the centre, WGS 84", (), "degrees_east"),
    Property("latitude", "float", "latitude of the centre, WGS 84", (), "degrees_north"),
)

PLUS: tuple[Property, ...] = (
    Property("old_roi_id", "text", "ROI id in the first release of CloudSEN12"),
    Property("equi_id", "text", "id on the equal-area grid of CloudSEN12+"),
    Property("equi_zone", "text", "zone of the equal-area grid of CloudSEN12+"),
    Property("clear_percentage", "float", "share of the label that is clear", units="percent"),
    Property("thick_percentage", "float", "share of the label that is thick cloud", units="percent"),
    Property("thin_percentage", "float", "share of the label that is thin cloud", units="percent"),
    Property("cloud_shadow_percentage", "float", "share of the label that is cloud shadow", units="percent"),
)
"""Properties of CloudSEN12+ (doi:10.1016/j.dib.2024.110852); a cube has them only if its archive has them."""

BY_NAME: dict[str, Property] = {p.name: p for p in (*PROPERTIES, *PLUS)}

UNKNOWN = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "nan", "NaN", "-nan", "-NaN", "NaT", "None", "null", "NULL"),
)
"""Texts that stand for an unknown value, as pandas reads them; R writes NA. A cube has the empty text for an unknown
text, others a fill. Ids of ROIs and images are names: they are never unknown."""

ROI_WIDE = ("label_type", "split")
"""Properties with one value for each ROI; otherwise patches of one ROI could be in several splits."""

_CANONICAL = {s.lower(): p.name for p in BY_NAME.values() for s in (p.name, *p.spellings)}


def canonical(name: str) -> str | None:
    """Return the name of a property for any of its spellings, or None if it is unknown."""
    text = name.strip().lower()
    return _CANONICAL.get(text) or _CANONICAL.get(text.replace("proj:", "proj_"))


def number_text(value: float) -> str:
    """Write a number with as many digits as an exact round trip needs, whole numbers without a decimal point."""
    text = f"{value:.15g}"
    return text if float(text) == value else repr(value)

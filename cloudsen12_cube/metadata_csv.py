"""The catalogue as ``cloudsen12_metadata.csv``: the published 32 columns, in order, and more where a cube has more.

What ``metadata`` reads back from it are the same values: a number has as many digits as it needs, a time as many as it
has, and what is unknown is empty.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd

from cloudsen12_cube.properties import BY_NAME, PLUS, canonical, number_text

TABLE_NAME = "cloudsen12_metadata.csv"

COLUMNS = (
    "annotator_name",
    "roi_id",
    "s2_id_gee",
    "s2_id",
    "s2_date",
    "s2_sen2cor_version",
    "s2_fmask_version",
    "s2_cloudless_version",
    "s2_reflectance_conversion_correction",
    "s2_aot_retrieval_accuracy",
    "s2_water_vapour_retrieval_accuracy",
    "s2_view_off_nadir",
    "s2_view_sun_azimuth",
    "s2_view_sun_elevation",
    "s1_id",
    "s1_date",
    "s1_grd_post_processing_software_name",
    "s1_grd_post_processing_software_version",
    "s1_slc_processing_facility_name",
    "s1_slc_processing_software_version",
    "s1_radar_coverage",
    "land_cover",
    "label_type",
    "cloud_coverage",
    "test",
    "difficulty",
    "proj_epsg",
    "proj_geometry",
    "proj_shape",
    "proj_centroid",
    "proj_transform",
    "test_sr",
)
"""As published."""

_POINTED = ("difficulty", "s1_radar_coverage")
"""Whole numbers that are published with a point, 1.0; the others are without."""


def to_csv(table: pd.DataFrame) -> bytes:
    """Write a catalogue's table.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a patch: ``roi_id`` and every column of ``PROPERTIES``, typed as in a catalogue.

    Returns
    -------
    bytes
        UTF-8, a header and a line a row, in the table's order.
    """
    header = [*COLUMNS, *_more(table)]
    names = [canonical(column) or column for column in header]
    columns = [[_text(name, value) for value in table[name].tolist()] for name in names]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue().encode()


def _more(table: pd.DataFrame) -> list[str]:
    """Name columns that the published table has not: what CloudSEN12+ adds, and a split that `test` does not tell."""
    untold = (table["split"] != "") & (table["test"] == BY_NAME["test"].missing)
    return [*(row.name for row in PLUS if row.name in table), *(["split"] if untold.any() else [])]


def _text(name: str, value: Any) -> str:
    kind = BY_NAME[name].kind if name in BY_NAME else "text"
    if kind == "text":
        return str(value)
    if kind == "int":
        return "" if value == BY_NAME[name].missing else str(int(value))
    if pd.isna(value):
        return ""
    if kind == "time":
        return _moment(value)
    return repr(float(value)) if name in _POINTED else number_text(float(value))


def _moment(value: pd.Timestamp) -> str:
    """Write a time as published, with a fraction of a second only where it has one."""
    return value.isoformat(timespec="auto") + "Z"

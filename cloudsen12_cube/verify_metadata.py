"""The metadata half of a verification: every value of the cube against the texts of the archive.

The texts are read by the csv, json or pyarrow modules and compared value by value; the catalogue's code is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.properties import BY_NAME, UNKNOWN, canonical

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


def _rows(archive: Archive) -> dict[tuple[str, str], Row]:
    rows: dict[tuple[str, str], Row] = {}
    for row in archive.rows():
        rows.setdefault((str(row["roi_id"]), str(row["s2_id_gee"])), row)
    return rows


def _pairs(row: Row, stored: Row, meaning: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, stored value and the source's, for all that the source states."""
    for spelling, text in row.items():
        name = canonical(spelling)
        if name is None or text is None or text == "" or (BY_NAME[name].kind != "text" and text in UNKNOWN):
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
        return bool(stored == str(expected))
    if name == "proj_shape" and isinstance(expected, list):
        expected = expected[0]
    return math.isclose(float(stored), float(expected), rel_tol=0, abs_tol=0) or float(expected) != float(expected)


def _moment(value: Any) -> datetime:
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime().replace(tzinfo=UTC)
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

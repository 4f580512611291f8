"""Reading the metadata of an archive: a CSV table, STAC items, or nothing but the folders' names.

Each reader gives the same thing: a table of texts with one row a patch, columns named as in ``properties``, plus
``roi_id``. What the texts mean is decided in ``catalogue``.

The catalogue as ``cloudsen12_metadata.csv``: the published 32 columns, in order, and more where a cube has more.

What ``metadata`` reads back from it are the same values: a number has as many digits as it needs, a time as many as it
has, and what is unknown is empty.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.schema import BY_NAME, PLUS, canonical, number_text, transform_text


def from_csv(text: str, path: str) -> pd.DataFrame:
    """Read ``cloudsen12_metadata.csv``.

    Parameters
    ----------
    text : str
        The file's content.
    path : str
        Its name, for messages.

    Raises
    ------
    ArchiveError
        If a key column is missing, a row has another number of fields than the header, or a field is too long.
    """
    rows = _csv_rows(text, path)
    header = next(rows, (0, []))[1]
    names = [_name(column) for column in header]
    for key in ("roi_id", "s2_id_gee"):
        if key not in names:
            raise ArchiveError(f"{path} has no column {key!r}; it has {', '.join(header) or 'nothing'}")
    keep = [i for i, name in enumerate(names) if name]
    records: list[dict[str, str]] = []
    for number, row in rows:
        if len(row) != len(header):
            raise ArchiveError(f"{path}, row {number}: {len(row)} fields, but the header has {len(header)}")
        records.append({names[i]: row[i].strip() for i in keep})
    return _table(records)


def _csv_rows(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file with their numbers; lines end with LF, CR or both, and blank ones are left out."""
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    try:
        yield from ((number, row) for number, row in enumerate(rows, start=1) if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise ArchiveError(f"{path}, line {rows.line_num}: {error}, expected a CSV table") from None


def decode_text(data: bytes, path: str) -> str:
    """Decode a text: UTF-8, or what its byte order mark states.

    Raises
    ------
    ArchiveError
        If it is no such text.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path} is no UTF-8 text: {error}") from None


def _name(column: str) -> str:
    column = column.strip()
    return column if column == "roi_id" else canonical(column) or ""


def from_stac(items: Iterable[tuple[str, Any]]) -> pd.DataFrame:
    """Read STAC items, published ones included, which are not quite valid (a scalar ``proj:shape``).

    Parameters
    ----------
    items : iterable of (str, object)
        Name and parsed JSON of each file; what is no item of CloudSEN12 is passed over.
    """
    return _table([_from_properties(item["properties"]) for _, item in items if is_item(item)])


def is_item(document: Any) -> bool:
    """Return whether a parsed JSON document is a STAC item of one image patch."""
    if not isinstance(document, dict) or document.get("type") != "Feature":
        return False
    properties = document.get("properties")
    return isinstance(properties, dict) and {"roi_id", "s2_id_gee"} <= properties.keys()


def _from_properties(properties: dict[str, Any]) -> dict[str, str]:
    record = {"roi_id": str(properties["roi_id"]).strip()}
    for key, value in properties.items():
        name = canonical(key)
        if name is not None and value is not None:
            record[name] = _decoded(name, value)
    return record


def _decoded(name: str, value: Any) -> str:
    """One spelling for what the CSV writes as text and STAC as a structure."""
    if name == "proj_centroid" and isinstance(value, dict):
        if value["lon"] is None or value["lat"] is None:
            return ""
        return f"POINT ({value['lon']} {value['lat']})"
    if name == "proj_geometry" and isinstance(value, dict):
        ring = ", ".join(f"{number_text(float(x))} {number_text(float(y))}" for x, y in value["coordinates"][0])
        return f"POLYGON (({ring}))"
    if name == "proj_shape" and isinstance(value, list):
        return str(value[0])
    if isinstance(value, list):
        return transform_text(value)
    return str(value).strip()


def from_folders(patches: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    """Make the rows from the folders alone.

    Parameters
    ----------
    patches : iterable of (str, str, str)
        label_type, roi_id and s2_id_gee of each patch's folder.
    """
    return _table([{"label_type": t, "roi_id": r, "s2_id_gee": i} for t, r, i in patches])


def _table(records: list[dict[str, str]]) -> pd.DataFrame:
    columns = dict.fromkeys(name for record in records for name in record)
    return pd.DataFrame(records, columns=list(columns), dtype=object).fillna("")


def parse_json(data: bytes, path: str) -> Any:
    """Parse a JSON file that may be a STAC item; None for a file of another kind: JSON lines, or no JSON.

    Raises
    ------
    ArchiveError
        If it is a damaged item; the message names the file and the place.
    """
    try:
        return json.loads(decode_text(data, path))
    except (ValueError, ArchiveError, RecursionError) as error:
        if b'"s2_id_gee"' in data and not _is_json_lines(data):
            raise ArchiveError(f"{path} is no JSON: {error}") from None
        return None


def _is_json_lines(data: bytes) -> bool:
    """Return whether every line is a document of its own."""
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


TABLE_NAME = "cloudsen12_metadata.csv"

COLUMNS = (
    *("annotator_name", "roi_id", "s2_id_gee", "s2_id", "s2_date", "s2_sen2cor_version", "s2_fmask_version"),
    *("s2_cloudless_version", "s2_reflectance_conversion_correction", "s2_aot_retrieval_accuracy"),
    *("s2_water_vapour_retrieval_accuracy", "s2_view_off_nadir", "s2_view_sun_azimuth", "s2_view_sun_elevation"),
    *("s1_id", "s1_date", "s1_grd_post_processing_software_name", "s1_grd_post_processing_software_version"),
    *("s1_slc_processing_facility_name", "s1_slc_processing_software_version", "s1_radar_coverage", "land_cover"),
    *("label_type", "cloud_coverage", "test", "difficulty", "proj_epsg", "proj_geometry", "proj_shape"),
    *("proj_centroid", "proj_transform", "test_sr"),
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
    """Return the columns that the published table lacks: those of CloudSEN12+, and a split other than `test` states."""
    unstated = (table["split"] != "") & (table["test"] == BY_NAME["test"].missing)
    return [*(row.name for row in PLUS if row.name in table), *(["split"] if unstated.any() else [])]


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

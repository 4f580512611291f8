"""The grid of a patch: its reference system, transform and size, as the metadata states them or the files do."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from cloudsen12_cube.archive.base import Archive, PatchFiles
from cloudsen12_cube.archive.tiff import Header
from cloudsen12_cube.schema import BY_NAME, Grid, number_text, to_degrees, transform_text

_TOLERANCE = 1e-8  # of a number of a transform: a few centimetres of a northing


def difference(header: Header, grid: Grid) -> tuple[str, str] | None:
    """Compare what a file says of its grid with what it should be; silence of either is no difference.

    Returns
    -------
    (str, str) or None
        What was found and what was expected.
    """
    if header.epsg and grid.epsg and header.epsg != grid.epsg:
        return f"EPSG:{header.epsg}", f"EPSG:{grid.epsg}"
    if header.transform is None or grid.transform is None:
        return None
    if any(abs(a - b) > _TOLERANCE * max(1.0, abs(b)) for a, b in zip(header.transform, grid.transform, strict=True)):
        return f"transform {transform_text(header.transform)}", f"transform {transform_text(grid.transform)}"
    return None


def complete(table: pd.DataFrame, archive: Archive) -> pd.DataFrame:
    """Fill in from the files what the metadata does not state: reference system, transform, size and centre.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a patch, typed as in a catalogue.
    archive : Archive
        Where the files are; one header is read for each patch whose row is incomplete.

    Returns
    -------
    pandas.DataFrame
        A copy; the same table where nothing is missing.
    """
    lacking = (table["proj_epsg"] == 0) | (table["proj_transform"] == "")
    if not lacking.any():
        return table
    table = table.copy()
    for index in table.index[lacking]:
        files = archive.patches.get((str(table.at[index, "roi_id"]), str(table.at[index, "s2_id_gee"])))
        header = _first_header(archive, files) if files else None
        if header and header.epsg and header.transform:
            _fill(table, index, header)
    return table


def _first_header(archive: Archive, files: PatchFiles) -> Header | None:
    return next((h for name in sorted(files.names) if (h := header_of(archive, files, name))), None)


def header_of(archive: Archive, files: PatchFiles, name: str) -> Header | None:
    """Read the header of one file of a patch.

    Parameters
    ----------
    archive : Archive
    files : PatchFiles
        Files of the patch.
    name : str
        Asset file, ``labels/fmask``.

    Returns
    -------
    Header or None
        None if it is missing, a link out of the archive, or damaged.
    """
    if name not in files.names or name in files.outside:
        return None
    return archive.decoder.header(archive.store, files, name)


def _fill(table: pd.DataFrame, index: Any, header: Header) -> None:
    a, _, west, _, e, north = header.transform or (math.nan,) * 6
    east, south = west + a * header.width, north + e * header.height
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    longitude, latitude = to_degrees(header.epsg or 0).transform((west + east) / 2, (south + north) / 2)
    row = {
        "proj_epsg": header.epsg,
        "proj_transform": transform_text(header.transform or (math.nan,) * 6),
        "proj_shape": header.height,
        "proj_geometry": "POLYGON ((" + ", ".join(f"{number_text(x)} {number_text(y)}" for x, y in ring) + "))",
        "proj_centroid": f"POINT ({longitude:.5f} {latitude:.5f})",
        "longitude": round(longitude, 5),
        "latitude": round(latitude, 5),
    }
    for name, value in row.items():
        stated: Any = table.at[index, name]
        if stated == BY_NAME[name].missing if BY_NAME[name].kind == "int" else stated == "" or pd.isna(stated):
            table.at[index, name] = value

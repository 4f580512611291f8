"""The patches of a cube as STAC items: one table, a row a patch, in the form of stac-geoparquet.

A table instead of a file an item: it is read with one request, and filtered before it is read. Beside it lies the
Collection, and inside it a copy, so that the file explains itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import xarray as xr

from cloudsen12_cube.assets import PRODUCTS
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.footprints import footprints
from cloudsen12_cube.properties import PLUS, PROPERTIES
from cloudsen12_cube.record import DONE
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.stac import ID, SCHEMA, VERSION, ZARR, collection

_PARQUET = "application/vnd.apache.parquet"
_EXTENSIONS = [SCHEMA.format(name) for name in ("projection/v2.0.0", "view/v1.0.0")]
_RENAMED = {
    "s2_view_off_nadir": "view:off_nadir",
    "s2_view_sun_azimuth": "view:sun_azimuth",
    "s2_view_sun_elevation": "view:sun_elevation",
}
_REPLACED = ("proj_epsg", "proj_shape", "proj_transform", "proj_centroid", "proj_geometry", "longitude", "latitude")


def items_table(cube: xr.DataTree, href: str) -> geopandas.GeoDataFrame:
    """List the patches as STAC items, a row each.

    Parameters
    ----------
    cube : xarray.DataTree
    href : str
        Where the cube is, as in `collection`.

    Returns
    -------
    geopandas.GeoDataFrame
        In the columns of stac-geoparquet but for ``bbox``, which `write` adds: ``id`` (the ROI and the image's id in
        Earth Engine, ``ROI_0001__...``), ``geometry``, ``collection``, ``assets``, ``links`` and every property under
        STAC's name where it has one. The asset of a product is None where the cube has no pixels of it. What is unknown
        is null.
    """
    places = footprints(cube)
    columns: dict[str, Any] = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [_EXTENSIONS] * len(places),
        "id": places["roi_id"] + "__" + places["s2_id_gee"],
        "collection": ID,
        "links": [[{"rel": "collection", "href": "./collection.json", "type": "application/json"}]] * len(places),
        "assets": _item_assets(cube, places, href),
        "roi_id": places["roi_id"],
        "time": places["time"],
    }
    for row in (*PROPERTIES, *(row for row in PLUS if row.name in places)):
        if row.name not in _REPLACED:
            columns[_RENAMED.get(row.name, row.name)] = _known(places[row.name], row.kind, row.missing)
    frame = pd.DataFrame(columns | _projection(places), index=places.index)
    return geopandas.GeoDataFrame(frame, geometry=places.geometry, crs=places.crs)


def _item_assets(cube: xr.DataTree, places: geopandas.GeoDataFrame, href: str) -> list[dict[str, Any]]:
    """Give each patch the cube, and of the products that have pixels somewhere those that have pixels of it."""
    at = (
        xr.DataArray(places["roi_id"].to_numpy(dtype=object).astype("T"), dims="patch"),
        xr.DataArray(places["time"].to_numpy(), dims="patch"),
    )
    held: dict[str, Any] = {}
    for name in (name for name in PRODUCTS if name in cube.children):
        there = cube[name].to_dataset()["status"].sel(roi=at[0], time=at[1]).values == DONE
        if there.any():
            held[name] = there
    made = {name: {"href": f"{href.rstrip('/')}/{name}", "type": ZARR, "roles": ["data"]} for name in held}
    whole = {"cube": {"href": href, "type": ZARR, "roles": ["metadata"]}}
    return [whole | {name: made[name] if held[name][i] else None for name in held} for i in range(len(places))]


def _known(column: pd.Series[Any], kind: str, missing: int) -> pd.Series[Any]:
    if kind == "time":
        known: pd.Series[Any] = column.dt.tz_localize("UTC")
    elif kind == "int":
        known = column.astype("Int64").mask(column == missing)
    else:
        known = column.mask(column == "") if kind == "text" else column
    return known


def _projection(places: geopandas.GeoDataFrame) -> dict[str, Any]:
    six = [[float(part) for part in text.split(",")] if text else None for text in places["proj_transform"]]
    middle = zip(places["latitude"], places["longitude"], strict=True)
    return {
        "proj:code": [f"EPSG:{code}" if code else None for code in places["proj_epsg"]],
        "proj:shape": [[int(edge)] * 2 if edge else None for edge in places["proj_shape"]],
        "proj:transform": six,
        "proj:centroid": [{"lat": lat, "lon": lon} if np.isfinite(lat + lon) else None for lat, lon in middle],
    }


def write(cube: xr.DataTree, place: str, folder: Path) -> int:
    """Write ``collection.json`` and ``items.parquet`` into a folder.

    Parameters
    ----------
    cube : xarray.DataTree
    place : str
        The cube's path or URL; what is secret in it is left out.
    folder : pathlib.Path
        Made if it is not there.

    Returns
    -------
    int
        Number of items.

    Raises
    ------
    CubeError
        If pyarrow is not installed.
    """
    try:
        # Here, since it is large and this is all that needs it; it comes without types.
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ImportError:
        raise CubeError("items.parquet needs pyarrow: pip install 'cloudsen12-cube[stac]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    href = without_secrets(place) if "://" in place else Path(os.path.relpath(place, folder)).as_posix()
    document = collection(cube, href)
    items = items_table(cube, href)
    path = folder / "items.parquet"
    items.to_parquet(path, index=False, write_covering_bbox=True, schema_version="1.1.0", compression="zstd")
    table = parquet.read_table(path)
    told = {"version": "1.1.0", "collections": {ID: document}}
    metadata = table.schema.metadata | {b"stac-geoparquet": json.dumps(told).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
    document["assets"]["items"] = {
        "href": "./items.parquet",
        "type": _PARQUET,
        "title": "one row a patch",
        "roles": ["collection-mirror"],
    }
    (folder / "collection.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return len(items)

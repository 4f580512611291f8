"""A cube as STAC: one Collection that describes the store, and a table of its patches as items.

The Collection describes groups, dims, bands and codes of one store, instead of 49,400 items with 20 files each. The
patches are one stac-geoparquet table, one row per patch, which is read with few requests and filtered on reading. The
Collection is stored beside the table and, as the format requires, inside it. No pixel is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import geopandas
import numpy as np
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import footprints
from cloudsen12_cube.errors import CubeError, without_secrets
from cloudsen12_cube.format import DONE, attribute_mapping
from cloudsen12_cube.schema import (
    CLASSES,
    LAYERS,
    PLUS,
    PRODUCTS,
    PROPERTIES,
    UNLABELLED_COLOR,
    Asset,
    assets_of,
    enclosing_box,
)
from cloudsen12_cube.storage import clean, is_url

ID = "CloudSEN12"
VERSION = "1.1.0"
SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
_OF_COLLECTION = ("datacube/v2.3.0", "zarr/v1.1.0", "projection/v2.0.0", "classification/v2.0.0", "label/v1.0.1")
_MORE = ("eo/v2.0.0", "raster/v2.0.0", "scientific/v1.0.0")
ZARR = "application/vnd.zarr; version=3"
_DOI = "10.1038/s41597-022-01878-2"
_SUMMARISED = ("label_type", "split", "cloud_coverage", "land_cover", "proj_epsg")
# Reference system of y and x: each image has its own UTM zone, so the axes of the cube count pixels.
_PIXELS = (
    'ENGCRS["pixels of one patch",EDATUM["upper left corner of the patch"],CS[Cartesian,2],'
    'AXIS["column (x)",east,ORDER[1]],AXIS["row (y)",south,ORDER[2]],LENGTHUNIT["pixel of 10 m",10]]'
)


def collection(cube: xr.DataTree, href: str) -> dict[str, Any]:
    """Describe a cube as a STAC Collection.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    href : str
        Link to the cube: a URL, or a path relative to the document's folder.

    Returns
    -------
    dict
        STAC 1.1.0, ready for JSON.
    """
    places = footprints(cube)
    products = [name for name in PRODUCTS if name in cube.children]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [SCHEMA.format(name) for name in (*_OF_COLLECTION, *_MORE)],
        "id": ID,
        "title": cube.attrs.get("title", ID),
        "description": (
            f"{places['roi_id'].nunique():,} regions of interest and {len(places):,} image patches of CloudSEN12 as "
            "one sharded Zarr v3 cube: a group for each product, in it one array (roi, time, band, y, x)."
        ),
        "license": attribute_mapping(cube.attrs.get("license", {})).get("spdx", "CC-BY-4.0"),
        "keywords": ["cloud detection", "deep learning", "semantic segmentation", "Sentinel-2", "Sentinel-1"],
        "providers": [_PRODUCER],
        "extent": {"spatial": {"bbox": [_bounds(places)]}, "temporal": {"interval": [_interval(places)]}},
        "summaries": _summaries(places),
        "sci:doi": _DOI,
        "sci:citation": cube.attrs.get("citation", ""),
        "cube:dimensions": _dimensions(cube, places, products),
        "cube:variables": {name: _variable(cube, name) for name in products},
        "links": [
            {"rel": "store", "href": href, "type": ZARR, "title": "the cube"},
            {"rel": "cite-as", "href": f"https://doi.org/{_DOI}"},
        ],
        "assets": {"cube": _node(href, "the cube", consolidated=True)}
        | {name: _asset(cube, name, href) for name in products},
    }


# As the published collection says.
_PRODUCER = {
    "name": "EcoHidro",
    "roles": ["producer", "licensor"],
    "url": "https://vrip.unmsm.edu.pe/category/ecohidro/",
}


def _bounds(places: geopandas.GeoDataFrame) -> list[float]:
    """Compute the bounding box of all footprints; that of the whole Earth if no patch has a location."""
    box = enclosing_box(places.geometry.explode().bounds.to_numpy())
    return [round(edge, 6) for edge in box] if box else [-180.0, -90.0, 180.0, 90.0]


def _interval(places: geopandas.GeoDataFrame) -> list[str | None]:
    known = places["datetime"].dropna()
    return [f"{end:%Y-%m-%dT%H:%M:%SZ}" if len(known) else None for end in (known.min(), known.max())]


def _summaries(places: geopandas.GeoDataFrame) -> dict[str, Any]:
    missing = {row.name: "" if row.kind == "text" else row.missing for row in PROPERTIES}
    values = {name: sorted(set(places[name].tolist()) - {missing[name]}) for name in _SUMMARISED}
    codes = [f"EPSG:{code}" for code in values.pop("proj_epsg")]
    summaries: dict[str, Any] = {"gsd": [10], **values, "proj:code": codes}
    difficulty = places["difficulty"].dropna()
    if len(difficulty):
        summaries["difficulty"] = {"minimum": float(difficulty.min()), "maximum": float(difficulty.max())}
    return {name: summary for name, summary in summaries.items() if summary}


def _dimensions(cube: xr.DataTree, places: geopandas.GeoDataFrame, products: Sequence[str]) -> dict[str, Any]:
    sizes = cube[products[0]].sizes if products else {}
    bands = [asset.band for name in products for asset in assets_of(name)]
    return {
        "roi": {
            "type": "roi",
            "values": [str(roi) for roi in cube.to_dataset()["roi"].values],
            "description": "region of interest",
        },
        "time": {
            "type": "temporal",
            "extent": _interval(places),
            "description": "rank of the image in its ROI by acquisition; the true times stand in datetime(roi, time)",
        },
        "band": {"type": "bands", "values": list(dict.fromkeys(bands)), "description": "of each product its own"},
        **{
            axis: {"type": "spatial", "axis": axis, "extent": [0, sizes[axis]], "reference_system": _PIXELS}
            for axis in ("y", "x")
            if axis in sizes
        },
    }


def _variable(cube: xr.DataTree, product: str) -> dict[str, Any]:
    array = cube[product].to_dataset()[product]
    return {
        "dimensions": ["roi", "time", "band", "y", "x"],
        "variable_type": "data",
        "description": str(array.attrs.get("long_name", product)),
        "data_type": str(array.dtype),
        "nodata": _nodata(array),
    }


def _nodata(array: xr.DataArray) -> int | str:
    """Return the value of a missing pixel as STAC writes it."""
    fill = array.encoding["fill_value"]
    return "nan" if np.isnan(fill) else int(fill)


def _asset(cube: xr.DataTree, product: str, href: str) -> dict[str, Any]:
    array = cube[product].to_dataset()[product]
    bands = [_band(asset, array) for asset in assets_of(product) if asset.band in array.indexes["band"]]
    node = _node(f"{href.rstrip('/')}/{product}", str(array.attrs.get("long_name", product)), consolidated=False)
    asset = node | {
        "roles": ["data", "labels"] if product == "labels" else ["data"],
        "gsd": 10,
        "data_type": str(array.dtype),
        "nodata": _nodata(array),
        "proj:shape": [array.sizes["y"], array.sizes["x"]],
        "bands": bands,
    }
    return asset | (_label() if product == "labels" else {})


def _node(href: str, title: str, consolidated: bool) -> dict[str, Any]:
    zarr = {"zarr:consolidated": consolidated, "zarr:node_type": "group", "zarr:zarr_format": 3}
    return {"href": href, "type": ZARR, "title": title, "roles": ["data"], **zarr}


def _label() -> dict[str, Any]:
    return {
        "label:type": "raster",
        "label:properties": None,
        "label:classes": [{"name": None, "classes": [row.name for row in CLASSES]}],
        "label:description": "clouds and cloud shadows, by experts (manual_hq, manual_sc) and by eight algorithms",
        "label:tasks": ["segmentation", "classification"],
        "label:methods": ["manual", "automatic"],
    }


def _band(asset: Asset, array: xr.DataArray) -> dict[str, Any]:
    band: dict[str, Any] = {"name": f"{asset.product}[band={asset.band}]", "description": asset.long_name}
    if asset.scale != 1:
        band["raster:scale"] = asset.scale
    if asset.units != "1":
        band["unit"] = asset.units
    if asset.wavelength:
        band |= {"eo:common_name": asset.common_name, "eo:center_wavelength": round(asset.wavelength[0] / 1000, 4)}
    row = next((layer for layer in LAYERS if layer.band == asset.band and layer.meanings), None)
    if row and asset.product == "labels":
        band["classification:classes"] = [
            _class(name, value, row.codes.get(value)) for value, name in row.meanings.items()
        ]
        band["classification:classes"].append(_class("not_there", _nodata(array), None))
    return band


def _class(name: str, value: int | str, code: int | None) -> dict[str, Any]:
    color = UNLABELLED_COLOR if code is None else CLASSES[code].color
    title = name.replace("_", " ")
    return {"value": value, "name": name, "title": title, "color_hint": color[1:], "nodata": code is None}


_PARQUET = "application/vnd.apache.parquet"
_EXTENSIONS = [SCHEMA.format(name) for name in ("projection/v2.0.0", "view/v1.0.0")]
_RENAMED = {
    "s2_view_off_nadir": "view:off_nadir",
    "s2_view_sun_azimuth": "view:sun_azimuth",
    "s2_view_sun_elevation": "view:sun_elevation",
}
_REPLACED = ("proj_epsg", "proj_shape", "proj_transform", "proj_centroid", "proj_geometry", "longitude", "latitude")


def items_table(cube: xr.DataTree, href: str) -> geopandas.GeoDataFrame:
    """List the patches as STAC items, one row each.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    href : str
        Link to the cube, as in `collection`.

    Returns
    -------
    geopandas.GeoDataFrame
        In the columns of stac-geoparquet but for ``bbox``, which `write` adds: ``id`` (the ROI and the image's id in
        Earth Engine, ``ROI_0001__...``), ``geometry``, ``collection``, ``assets``, ``links`` and every property under
        STAC's name where it has one. A product without pixels has no asset (None). Unknown values
        are null.
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
    """Make the assets of each patch: the cube, and the products that have pixels of it; None for the other products."""
    roi = xr.DataArray(places["roi_id"].to_numpy(dtype=object).astype("T"), dims="patch")
    time = xr.DataArray(places["time"].to_numpy(), dims="patch")
    products = [name for name in PRODUCTS if name in cube.children]
    stored = {name: cube[name].to_dataset()["status"].sel(roi=roi, time=time).values == DONE for name in products}
    stored = {name: patches for name, patches in stored.items() if patches.any()}
    links = {name: {"href": f"{href.rstrip('/')}/{name}", "type": ZARR, "roles": ["data"]} for name in stored}
    whole = {"cube": {"href": href, "type": ZARR, "roles": ["metadata"]}}
    return [whole | {name: links[name] if stored[name][i] else None for name in stored} for i in range(len(places))]


def _known(column: pd.Series[Any], kind: str, missing: int) -> pd.Series[Any]:
    if kind == "time":
        known: pd.Series[Any] = column.dt.tz_localize("UTC")
    elif kind == "int":
        known = column.astype("Int64").mask(column == missing)
    else:
        known = column.mask(column == "") if kind == "text" else column
    return known


def _projection(places: geopandas.GeoDataFrame) -> dict[str, Any]:
    transforms = [[float(part) for part in text.split(",")] if text else None for text in places["proj_transform"]]
    centres = zip(places["latitude"], places["longitude"], strict=True)
    return {
        "proj:code": [f"EPSG:{code}" if code else None for code in places["proj_epsg"]],
        "proj:shape": [[int(edge)] * 2 if edge else None for edge in places["proj_shape"]],
        "proj:transform": transforms,
        "proj:centroid": [{"lat": lat, "lon": lon} if np.isfinite(lat + lon) else None for lat, lon in centres],
    }


def write(cube: xr.DataTree, place: str, folder: Path) -> int:
    """Write ``collection.json`` and ``items.parquet`` into a folder.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    place : str
        Path or URL of the cube; user names, passwords and signatures in a URL are left out. A path becomes a relative
        link, in which ``#``, ``?``, ``%``, spaces and non-ASCII characters are percent-encoded.
    folder : pathlib.Path
        Folder to write into; created if necessary.

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
        from pyarrow import parquet  # imported late: it is large, and nothing else here needs it
    except ImportError:
        raise CubeError("items.parquet needs pyarrow: pip install 'cloudsen12-cube[stac]'") from None
    folder = folder.absolute()  # pyarrow takes ``file:a`` for a URL
    folder.mkdir(parents=True, exist_ok=True)
    href = without_secrets(place) if is_url(place) else quote(Path(os.path.relpath(clean(place), folder)).as_posix())
    document = collection(cube, href)
    items = items_table(cube, href)
    path = folder / "items.parquet"
    items.to_parquet(path, index=False, write_covering_bbox=True, schema_version="1.1.0", compression="zstd")
    table = _with_boxes(parquet.read_table(path), items.geometry)
    about = {"version": "1.1.0", "collections": {ID: document}}
    metadata = table.schema.metadata | {b"stac-geoparquet": json.dumps(about).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
    document["assets"]["items"] = {
        "href": "./items.parquet",
        "type": _PARQUET,
        "title": "one row a patch",
        "roles": ["collection-mirror"],
    }
    (folder / "collection.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return len(items)


def _with_boxes(table: Any, footprints: geopandas.GeoSeries) -> Any:
    """Return a GeoParquet table whose boxes have west > east across the antimeridian; geopandas writes -180 to 180."""
    import pyarrow

    parts = footprints.explode().bounds
    column, index = table.column("bbox"), table.schema.get_field_index("bbox")
    boxes = column.to_pylist()
    for row in np.flatnonzero(footprints.geom_type == "MultiPolygon"):
        box = enclosing_box(parts.loc[[footprints.index[row]]].to_numpy()) or []
        boxes[row] = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    table = table.set_column(index, table.schema.field(index), pyarrow.array(boxes, column.type))
    about = json.loads(table.schema.metadata[b"geo"])
    whole = enclosing_box(parts.to_numpy())
    about["columns"]["geometry"] |= {"bbox": whole} if whole else {}
    return table.replace_schema_metadata(table.schema.metadata | {b"geo": json.dumps(about).encode()})

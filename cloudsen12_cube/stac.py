"""A cube in the words of STAC: one Collection for the store, which says what its groups, dims, bands and codes mean.

A Collection of one store, instead of the 49,400 items with 20 files each that the archive would be: whoever looks for
single patches reads the table of ``stac_items``. It is made from the catalogue alone, no pixel is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import geopandas
import numpy as np
import xarray as xr

from cloudsen12_cube.assets import PRODUCTS, Asset, assets_of
from cloudsen12_cube.classes import CLASSES, LAYERS, UNLABELLED_COLOR, Layer
from cloudsen12_cube.footprints import footprints
from cloudsen12_cube.properties import PROPERTIES

ID = "CloudSEN12"
VERSION = "1.1.0"
SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
_OF_COLLECTION = ("datacube/v2.3.0", "zarr/v1.1.0", "projection/v2.0.0", "classification/v2.0.0", "label/v1.0.1")
_MORE = ("eo/v2.0.0", "raster/v2.0.0", "scientific/v1.0.0")
ZARR = "application/vnd.zarr; version=3"
_DOI = "10.1038/s41597-022-01878-2"
_DIMS = ("roi", "time", "band", "y", "x")
_SUMMARISED = ("label_type", "split", "cloud_coverage", "land_cover", "proj_epsg")
_PIXELS = (
    'ENGCRS["pixels of one patch",EDATUM["upper left corner of the patch"],CS[Cartesian,2],'
    'AXIS["column (x)",east,ORDER[1]],AXIS["row (y)",south,ORDER[2]],LENGTHUNIT["pixel of 10 m",10]]'
)
"""Reference system of y and x: each image has its own UTM zone, so the cube's axes count pixels."""


def collection(cube: xr.DataTree, href: str) -> dict[str, Any]:
    """Describe a cube as a STAC Collection.

    Parameters
    ----------
    cube : xarray.DataTree
    href : str
        Where the cube is, as the document should say it: a URL, or a path from the document's folder.

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
        "license": cube.attrs.get("license", {}).get("spdx", "CC-BY-4.0"),
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


_PRODUCER = {
    "name": "EcoHidro",
    "roles": ["producer", "licensor"],
    "url": "https://vrip.unmsm.edu.pe/category/ecohidro/",
}
"""As the published collection says."""


def _bounds(places: geopandas.GeoDataFrame) -> list[float]:
    """Box of all footprints; of the whole Earth where no patch says where it lies."""
    box = [float(edge) for edge in places.total_bounds]
    return [round(edge, 6) for edge in box] if np.isfinite(box).all() else [-180.0, -90.0, 180.0, 90.0]


def _interval(places: geopandas.GeoDataFrame) -> list[str | None]:
    known = places["datetime"].dropna()
    return [f"{end:%Y-%m-%dT%H:%M:%SZ}" if len(known) else None for end in (known.min(), known.max())]


def _summaries(places: geopandas.GeoDataFrame) -> dict[str, Any]:
    missing = {row.name: "" if row.kind == "text" else row.missing for row in PROPERTIES}
    found = {name: sorted(set(places[name].tolist()) - {missing[name]}) for name in _SUMMARISED}
    codes = [f"EPSG:{code}" for code in found.pop("proj_epsg")]
    told: dict[str, Any] = {"gsd": [10], **found, "proj:code": codes}
    hard = places["difficulty"].dropna()
    if len(hard):
        told["difficulty"] = {"minimum": float(hard.min()), "maximum": float(hard.max())}
    return {name: values for name, values in told.items() if values}


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
        "dimensions": list(_DIMS),
        "variable_type": "data",
        "description": str(array.attrs.get("long_name", product)),
        "data_type": str(array.dtype),
        "nodata": _nodata(array),
    }


def _nodata(array: xr.DataArray) -> int | str:
    """Value of a pixel that is not there, as JSON has it."""
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
        band["classification:classes"] = [_class(row, value) for value in row.meanings]
        band["classification:classes"].append(_UNTOLD | {"value": _nodata(array)})
    return band


_UNTOLD = {"name": "not_there", "title": "not there", "color_hint": UNLABELLED_COLOR[1:], "nodata": True}


def _class(row: Layer, value: int) -> dict[str, Any]:
    code = row.codes.get(value)
    color = UNLABELLED_COLOR if code is None else CLASSES[code].color
    name = row.meanings[value]
    return {
        "value": value,
        "name": name,
        "title": name.replace("_", " "),
        "color_hint": color[1:],
        "nodata": code is None,
    }

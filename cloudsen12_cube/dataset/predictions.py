"""Predicted labels: the classes of a model written as a layer, and opened beside the cube that they belong to.

A layer is a small Zarr store of its own: one array (roi, time, y, x) of class codes, which plain xarray opens. It is no
part of the cube's store, which is verified against the archive and often lies in a bucket that its users cannot write
to. Opened together, the layer is in the group ``predictions``, where the accessor finds it. Its attribute ``state`` is
``writing`` until the last batch is in it, so that one whose writer was stopped is not taken for a whole one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset.open import first_line
from cloudsen12_cube.dataset.parts import GROUP
from cloudsen12_cube.dataset.patches import stored_cube
from cloudsen12_cube.dataset.pixel_grid import AXES, pixel_axes, pixel_coords
from cloudsen12_cube.dataset.tree_state import check_whole
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.format import prediction_encoding
from cloudsen12_cube.schema import CLASSES, LAYERS, UNLABELLED
from cloudsen12_cube.storage import clean, zarr_place

Codes = npt.NDArray[np.uint8]
Predicted = tuple[Iterable[str], Iterable[int], Codes]
"""ROI and time of each patch of a batch, and its class codes, shape (batch, y, x)."""

_LEGAL = np.array([*(row.code for row in CLASSES), UNLABELLED], dtype=np.uint8)


def write_layer(cube: xr.DataTree, path: str | os.PathLike[str], name: str, batches: Iterable[Predicted]) -> int:
    """Write predicted classes as a label layer.

    Parameters
    ----------
    cube : xarray.DataTree
        Predicted from; the layer has its ROIs and dates.
    path : path
        Store to make.
    name : str
        Of the layer, such as ``unet``.
    batches : iterable
        ROIs, times and class codes (0 clear, 1 thick_cloud, 2 thin_cloud, 3 cloud_shadow, 255 unlabelled). In the
        cube's order, as a stream with ``shuffle=False`` gives them, no more than an ROI waits in memory.

    Returns
    -------
    int
        Patches written; all others are unlabelled.

    Raises
    ------
    DestinationError
        If there is something at the path.
    ValueError
        If the name is that of a stored layer, or a code is not a class.
    """
    _check_name(name)
    place = clean(path)
    if os.path.exists(place):
        raise DestinationError(f"{place} is there already: give the layer another place, or delete it")
    product = "labels" if "labels" in cube.children else next(iter(cube.children))
    check_whole(cube[product].to_dataset(), product)
    layout = stored_cube(cube).layout(product)  # type: ignore[arg-type]  # a cube's children are products
    template = _template(cube, name, (layout.height, layout.width))
    encoding = prediction_encoding(template.sizes["time"], layout.height, layout.width)
    _publish(template, place, compute=False, encoding={name: encoding})
    written = 0
    waiting: dict[str, dict[int, Codes]] = {}
    for rois, times, codes in batches:
        for roi, time, plane in zip(rois, times, codes, strict=True):
            if str(roi) not in waiting and len(waiting) > 1:
                first = next(iter(waiting))
                _write_roi(template, place, name, (first, waiting.pop(first)))
            waiting.setdefault(str(roi), {})[int(time)] = _checked(plane, (layout.height, layout.width))
            written += 1
    for item in waiting.items():
        _write_roi(template, place, name, item)
    _publish(xr.Dataset(attrs=template.attrs | {"state": "final"}), place, mode="a")
    return written


def _publish(layer: xr.Dataset, place: str, **options: Any) -> None:
    with warnings.catch_warnings():  # consolidated metadata is in the specification's text; zarr still warns
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        layer.to_zarr(zarr_place(place), zarr_format=3, consolidated=True, **options)


def _check_name(name: str) -> None:
    if not name.isidentifier() or name in {row.band for row in LAYERS}:
        raise ValueError(f"a layer cannot be called {name!r}: give a word that is no stored label layer")


def _template(cube: xr.DataTree, name: str, size: tuple[int, int]) -> xr.Dataset:
    root = cube.to_dataset()
    ids = root["s2_id_gee"].astype(object)
    shape = (*ids.shape, *size)
    blank = dask.array.full(shape, UNLABELLED, dtype=np.uint8, chunks=(1, *shape[1:]))  # type: ignore[no-untyped-call]
    attributes = {
        "long_name": f"classes predicted by {name}",
        "standard_name": "status_flag",
        "flag_values": _LEGAL,
        "flag_meanings": " ".join([*(row.name for row in CLASSES), "unlabelled"]),
        "layer": name,
        "missing_label": UNLABELLED,
    }
    about = {
        "predicted_from": os.path.basename(stored_cube(cube).objects.root.rstrip("/")),
        "tool": f"cloudsen12-cube {version('cloudsen12-cube')}",
        "state": "writing",
    }
    coords = {
        "roi": root["roi"].values.astype(object),
        "time": root["time"].values,
        "s2_id_gee": (ids.dims, ids.values),
    }
    return xr.Dataset({name: (("roi", "time", "y", "x"), blank, attributes)}, coords=coords, attrs=about)


def _checked(plane: Codes, size: tuple[int, int]) -> Codes:
    """Refuse what is no plane of class codes, before it is called clear."""
    if plane.shape != size:
        raise ValueError(f"a prediction has {plane.shape} pixels, the cube's patches {size}: cut off the padding")
    wrong = plane[~np.isin(plane, _LEGAL)]
    if wrong.size:
        raise ValueError(f"a prediction holds {wrong.flat[0]}: give class codes {_LEGAL.tolist()}")
    return plane.astype(np.uint8)


def _write_roi(template: xr.Dataset, place: str, name: str, item: tuple[str, dict[int, Codes]]) -> None:
    roi, planes = item
    array = template[name]
    times = [int(time) for time in template["time"].values]
    index = [str(other) for other in template["roi"].values].index(roi)
    stored = xr.open_zarr(zarr_place(place), chunks=None)[name][index].values  # an ROI may come in two parts
    for time, plane in planes.items():
        stored[times.index(time)] = plane
    part = xr.Dataset({name: (array.dims, stored[None])})
    part.to_zarr(zarr_place(place), region={"roi": slice(index, index + 1)}, zarr_format=3, consolidated=False)


def with_layer(cube: xr.DataTree, path: str | os.PathLike[str]) -> xr.DataTree:
    """Open a predicted layer beside a cube.

    Parameters
    ----------
    cube : xarray.DataTree
        That it was predicted from, or a query on it.
    path : path or URL
        Of the layer.

    Returns
    -------
    xarray.DataTree
        The cube with the layer in its group ``predictions``; the accessor's ``classes``, ``mask``, ``superclass`` and
        whatever builds on them take its name like that of a stored layer. Nothing is read yet.

    Raises
    ------
    StoreError
        If there is no finished layer, or it does not have the cube's patches.
    """
    place = clean(path)
    try:
        # Filters of format 2 may run code.
        layer = xr.open_zarr(zarr_place(place), chunks=None, consolidated=True, zarr_format=3)
    except FileNotFoundError:
        raise StoreError(f"{place} is no predicted layer: there is nothing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place} is no finished layer ({first_line(error)}): delete it and write it again") from None
    if layer.attrs.get("state", "final") != "final":  # layers of before this attribute are final
        raise StoreError(f"{place} is being written, or its writer was stopped: wait, or delete it and write it again")
    root = cube.to_dataset()
    lacking = set(map(str, root["roi"].values)) - set(map(str, layer["roi"].values))
    if lacking:
        raise StoreError(f"{place} lacks {len(lacking)} ROIs of the cube, such as {min(lacking)}: predict them, too")
    fitting = layer.sel(roi=root["roi"].values.astype(object), time=root["time"].values)
    ids, others = (table["s2_id_gee"].values.astype(object) for table in (root, fitting))
    if ((ids != "") & (ids != others)).any():
        raise StoreError(f"{place} was predicted from another cube: its images are not this one's")
    nodes: dict[str, Any] = {name: node.to_dataset(inherit=False) for name, node in cube.children.items()}
    there = nodes.get(GROUP, xr.Dataset())
    nodes[GROUP] = there.assign(_same_pixels(fitting, cube).drop_vars(["roi", "time", "s2_id_gee"], errors="ignore"))
    result = xr.DataTree.from_dict({"/": root, **nodes}, name=cube.name)
    result.encoding = dict(cube.encoding)
    return result


def _same_pixels(layer: xr.Dataset, cube: xr.DataTree) -> xr.Dataset:
    """Select the rows and columns that a selection has left of the cube; a layer is one of whole patches."""
    whole = layer.assign_coords(pixel_coords(layer.sizes["y"], layer.sizes["x"]))
    grid = next(node.to_dataset() for node in cube.children.values() if "y" in node.dims)
    axes = pixel_axes(grid)
    if all(axis.is_whole for axis in axes):
        return whole
    try:
        return whole.sel({dim: grid[dim].values for dim in AXES})
    except KeyError:
        raise StoreError(
            f"a predicted layer has whole pixels, the cube those between them (y: {axes[0]}, x: {axes[1]}): open the "
            "layer first, then coarsen both"
        ) from None

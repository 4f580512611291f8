"""The parts of a cube that a method needs, found in the object that it is called on: a tree, a Dataset, a patch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset.radiometry import OPTICAL
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format import KEY, attribute_mapping
from cloudsen12_cube.schema import PRODUCTS, Mask

GROUP = "predictions"
"""Group of a tree that holds predicted layers."""


def check_cube[Part: (xr.DataTree, xr.Dataset)](part: Part, *dims: str) -> Part:
    """Check that an object is an open cube or a part of one, and that selections have left it some dimensions.

    Parameters
    ----------
    part : xarray.DataTree or xarray.Dataset
        Object to check.
    *dims : {"roi", "time"}
        Dimensions that it must have.

    Returns
    -------
    xarray.DataTree or xarray.Dataset
        The same object.

    Raises
    ------
    ValueError
        If it is something else; the message names what it holds.
    SelectionError
        If a dimension is gone, or its labels are: each must be there, once.
    """
    is_tree = isinstance(part, xr.DataTree)
    root = part.dataset if is_tree else part
    held = part.children if is_tree else part.data_vars
    if "s2_id_gee" not in root.variables or (is_tree and not set(held) & set(PRODUCTS)):
        raise ValueError(
            f"this {type(part).__name__} is no CloudSEN12 cube ({'groups' if is_tree else 'variables'}: "
            f"{', '.join(map(str, held)) or 'none'}): open one with cloudsen12_cube.open_cube, and use its root"
        )
    lost = [dim for dim in dims if dim not in root.dims]
    if lost:
        raise SelectionError(
            f"the cube has lost its dimension {' and '.join(lost)}: select with lists, as in isel(roi=[0], time=[2])"
        )
    for dim in dims:
        _check_labels(root, dim)
    return part


def _check_labels(root: Any, dim: str) -> None:
    """Check the labels of a dim, by which patches are found, and that each names patches of the catalogue."""
    if dim not in root.indexes:
        raise SelectionError(f"{dim} has lost its labels, by which patches are found: keep the coordinate {dim}")
    labels = root.indexes[dim]
    if not labels.is_unique:
        twice = labels[labels.duplicated()][0]
        raise SelectionError(
            f"{dim} has {twice!r} more than once: select each label once (a stream repeats patches by weights=)"
        )
    ids = root["s2_id_gee"]
    if ids.dtype.kind == "O" and not all(isinstance(name, str) for name in ids.values.flat):
        raise SelectionError(
            "s2_id_gee has values that are no texts, as after a reindex with labels that the cube does not have: "
            "select with query, isel or sel"
        )


def read_settings(cube: xr.DataTree) -> dict[str, Any]:
    """Read the settings of a cube: the root attribute ``cloudsen12``, which is a JSON text in an opened cube.

    Raises
    ------
    StoreError
        If the root has no such attribute.
    """
    if KEY not in cube.attrs:
        raise StoreError(f"this tree has no settings: its root lacks the attribute {KEY!r}; open it with open_cube")
    return attribute_mapping(cube.attrs[KEY])


def find_labels(cube: xr.DataTree, name: str | None) -> xr.DataArray:
    """Find the array that holds a layer: the predicted one of that name, else the stored labels.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube.
    name : str or None
        Name of a layer; None for the stored labels.

    Returns
    -------
    xarray.DataArray
        (roi, time, y, x) of a predicted layer, or (roi, time, band, y, x) of all stored ones.

    Raises
    ------
    KeyError
        If it is not predicted, and the cube has no labels.
    """
    predicted = None if name is None else find_layer(cube, name)
    if predicted is not None:
        return predicted
    if "labels" not in cube.children:
        raise KeyError(f"the cube has no labels, so nothing here is clear: it has {', '.join(cube.children)}")
    return product_array(cube, "labels")


def find_layer(cube: xr.DataTree, name: str) -> xr.DataArray | None:
    """Find a predicted layer of a cube.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube.
    name : str
        Name that the layer was written with.

    Returns
    -------
    xarray.DataArray or None
        Class codes (roi, time, y, x) uint8; None if there is no such layer.
    """
    if GROUP not in cube.children:
        return None
    layers = cube.children[GROUP].to_dataset()
    return layers[name] if name in layers.data_vars else None


def find_pixels(cube: xr.DataTree, product: str | None) -> xr.DataArray:
    """Find the array of a product.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube.
    product : str or None
        Name of the product; None for the first that holds reflectance.

    Returns
    -------
    xarray.DataArray
        (roi, time, band, y, x)

    Raises
    ------
    KeyError
        If the cube has no such product.
    """
    chosen = product or next((p for p in OPTICAL if p in cube.children), OPTICAL[0])
    if chosen not in cube.children:
        raise KeyError(f"the cube has no {chosen}: it has {', '.join(cube.children)}")
    return product_array(cube, chosen)


def product_array(cube: xr.DataTree, product: str) -> xr.DataArray:
    """Return the array of a product of a cube; a KeyError lists the variables of its group if it is not there."""
    group = cube[product].to_dataset()
    if product not in group.data_vars:
        held = ", ".join(map(str, group.data_vars)) or "none"
        raise KeyError(f"the group {product} has no variable {product!r}, it has {held}: keep its name")
    return group[product]


def find_product(dataset: xr.Dataset, *names: str) -> xr.DataArray:
    """Find the first of some products in a Dataset.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dataset of a product, the flat view or a patch.
    *names : str
        Names of products.

    Returns
    -------
    xarray.DataArray
        The product, with its bands on ``band`` also where the flat view calls them ``band_<product>``.

    Raises
    ------
    KeyError
        If the Dataset has none of them.
    """
    for name in names:
        if name in dataset.data_vars:
            flat = {f"{n}_{name}": n for n in ("band", "scale", "offset") if f"{n}_{name}" in dataset.variables}
            return dataset[name].rename(flat)
    raise KeyError(
        f"no {' or '.join(names)} in this Dataset: it has {', '.join(map(str, dataset.data_vars)) or 'nothing'}"
    )


def catalogue_values(root: xr.Dataset, name: str) -> npt.NDArray[Any]:
    """Values of a column on (roi, time, ...), those of a whole ROI or date repeated."""
    column = root[name]
    values: npt.NDArray[Any] = column.values  # of the column itself, which caches what it reads, and not of a copy
    dims = [dim for dim in ("roi", "time") if dim in column.dims]
    values = np.moveaxis(values, [column.dims.index(dim) for dim in dims], range(len(dims)))
    if len(dims) < 2:
        values = np.expand_dims(values, 1 if dims == ["roi"] else 0)
    return np.broadcast_to(values, (root.sizes["roi"], root.sizes["time"], *values.shape[2:]))


def catalogue_rows(root: xr.Dataset, there: Mask, names: Iterable[str]) -> pd.DataFrame:
    """Lay columns of the catalogue out as a table, a row for each patch of a mask; other columns are not read."""
    rows: dict[str, npt.NDArray[Any]] = {}
    for name in dict.fromkeys(names):
        values = catalogue_values(root, "roi" if name == "roi_id" else name)[there]
        rows[name] = values.astype(object) if values.dtype.kind == "T" else values  # a text type that pandas has not
    return pd.DataFrame(rows, index=range(np.count_nonzero(there)))

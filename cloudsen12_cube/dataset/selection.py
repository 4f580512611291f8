"""Selecting patches of an open cube by its catalogue.

Conditions are data: columns, operators and values, those of ``convert --where``. What is not selected is dropped as
``xarray.where(..., drop=True)`` does it: an ROI or a date with nothing left goes, and what remains of the frame becomes
absent, with ``status`` 0, blank properties and pixels that hold the fill. Labels on ``roi`` and ``time`` keep their
meaning, so a patch has one address in a cube and in all its selections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset.lazy import Kernel, lazy_apply
from cloudsen12_cube.dataset.parts import catalogue_rows, catalogue_values
from cloudsen12_cube.dataset.query_columns import QueryColumns
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import fill_value
from cloudsen12_cube.schema import (
    BY_NAME,
    PRODUCTS,
    Condition,
    Mask,
    Property,
    TimeSpan,
    find_column,
    in_box,
    matching,
    parse,
    typed_value,
)

_PATCH = ("roi", "time")
_LOWEST: dict[str, Any] = {"int": -np.inf, "float": -np.inf, "time": np.datetime64(pd.Timestamp.min, "us")}


def query(
    cube: xr.DataTree,
    where: str | Sequence[str] | None = None,
    *,
    bbox: tuple[float, float, float, float] | None = None,
    geometry: Any = None,
    **columns: Unpack[QueryColumns],
) -> xr.DataTree:
    """Select patches; all conditions must hold.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube with the dimensions roi and time.
    where : str or sequence of str, optional
        Conditions such as ``difficulty<=3``, on any column of the root.
    bbox : (float, float, float, float), optional
        West, south, east, north of the patch's centre in degrees; west > east crosses the antimeridian.
    geometry : shapely geometry, optional
        In longitude and latitude, or anything with ``__geo_interface__``; the patch's centre must lie in it.
    **columns : optional
        Properties: a value, a list of values, a tuple or slice (low, high), or a text with a trailing ``*``. A date or
        month is the whole of it.

    Returns
    -------
    xarray.DataTree
        A cube of the same kind, lazy where the cube is; empty if no patch fits.

    Raises
    ------
    SelectionError
        If a name is no property, no patch has a value, or a value does not suit the type of its property.
    """
    root = cube.to_dataset()
    own = [
        str(name) for name, column in root.data_vars.items() if name not in BY_NAME and set(column.dims) <= {*_PATCH}
    ]
    conditions = [parse(text, own) for text in ([where] if isinstance(where, str) else where or ())]
    for name, value in columns.items():
        conditions += _conditions(name, value)
    keep: Mask = catalogue_values(root, "s2_id_gee") != ""
    names = [condition.column for condition in conditions if condition.column in {"roi_id", *root.variables}]
    if "proj_transform" in names:
        raise SelectionError("proj_transform holds six numbers per patch, which no condition compares")
    keep[keep] = matching(conditions, catalogue_rows(root, keep, names))
    if bbox is not None:
        keep &= in_box(catalogue_values(root, "longitude"), catalogue_values(root, "latitude"), bbox)
    if geometry is not None:
        from cloudsen12_cube.dataset.geometry import inside  # imports geopandas

        keep &= inside(cube, geometry)
    return select_tree(cube, keep)


def _conditions(name: str, value: Any) -> Iterator[Condition]:
    """Read a keyword of `query` as conditions."""
    column = "roi_id" if name == "roi" else find_column(name, ["roi"])
    kind = "text" if column == "roi_id" else BY_NAME[column].kind
    if value is None:
        return
    if isinstance(value, slice):
        if value.step is not None or kind == "text":
            reason = "has a step" if kind != "text" else f"orders texts, and {column} is text"
            raise SelectionError(f"{name}={value!r} {reason}: give slice(low, high) for numbers and times, or a list")
        value = (value.start, value.stop)
    if isinstance(value, tuple) and kind != "text":
        if len(value) != 2:
            raise SelectionError(f"{name}={value!r}: a range is (low, high); for some values give a list")
        low, high = (None if end is None else typed_value(column, end, kind) for end in value)
        low = low.first if isinstance(low, TimeSpan) else low
        high = high.last if isinstance(high, TimeSpan) else high
        if low is not None and high is not None and low > high:
            raise SelectionError(f"{name}={value!r}: the low end of the range is above the high one")
        # A range with two open ends still asks for a value that is known, which any low end does.
        yield Condition(column, ">=", (_LOWEST[kind] if low is None else low,))
        if high is not None:
            yield Condition(column, "<=", (high,))
    else:
        several = isinstance(value, Collection) and not isinstance(value, str)
        values: tuple[Any, ...] = tuple(value) if several else (value,)
        yield Condition(column, "=", values)


def _select(dataset: xr.Dataset, keep: Mask) -> xr.Dataset:
    """Select in one group of a cube, with the dims roi and time; lazy where the group is."""
    rois, times = keep.any(axis=1), keep.any(axis=0)
    left = dataset.isel(
        {d: np.flatnonzero(some) for d, some in zip(_PATCH, (rois, times), strict=True) if not some.all()}
    )
    rest = keep[rois][:, times]
    if rest.all():
        return left
    chosen = xr.DataArray(rest, dims=_PATCH)
    shown = {n: v if v.dims[:2] != _PATCH else _hidden(v, n, chosen) for n, v in left.variables.items()}
    coords = xr.Coordinates({n: shown[n] for n in left.coords}, indexes=left.xindexes)
    result = xr.Dataset({n: shown[n] for n in left.data_vars}, coords, left.attrs)
    result.encoding = left.encoding
    return result


def _hidden(variable: xr.Variable, name: Any, chosen: xr.DataArray) -> xr.Variable:
    """Put the fill where a patch is not selected."""
    fill = variable.attrs.get("missing_label", _blank(str(name), variable))  # 0 would call a label clear
    kernel = Kernel(partial(hide_unselected, fill=fill), variable.dtype)
    result = lazy_apply(kernel, xr.DataArray(variable), chosen).variable
    result.attrs, result.encoding = variable.attrs, variable.encoding
    return result


def hide_unselected(values: npt.NDArray[Any], chosen: Mask, fill: Any) -> npt.NDArray[Any]:
    """Put the fill where a patch is not selected. `check_unchanged` knows this function: it changes no other value."""
    return np.where(chosen, values, np.asarray(fill, dtype=values.dtype))


def _blank(name: str, variable: xr.Variable) -> Any:
    """Value of a patch that is not there: the fill of the pixels, or what stands for an unknown property."""
    dtype = variable.dtype
    if name in PRODUCTS:
        return fill_value(name, str(dtype))
    if "y" in variable.dims and dtype.kind in "iu":  # pixels of the user, which may be labels
        return fill_value("labels", str(dtype))
    row: Property | None = BY_NAME.get(name)
    if dtype.kind in "TUO":
        return ""
    if dtype.kind == "M":
        return "NaT"
    if dtype.kind == "f":
        return np.nan
    return row.missing if row else 0


def select_tree(cube: xr.DataTree, keep: Mask) -> xr.DataTree:
    """Select in every group of a cube the patches of a mask (roi, time)."""
    nodes = {"/": _select(cube.to_dataset(), keep)}
    nodes |= {name: _select(child.to_dataset(inherit=False), keep) for name, child in cube.children.items()}
    return xr.DataTree.from_dict(nodes, name=cube.name)

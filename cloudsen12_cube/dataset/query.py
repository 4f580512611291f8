"""Choosing patches of an open cube by what its catalogue says of them.

A query is data: names of properties, and the values, ranges or texts that they may have. What is not chosen is taken
away as ``xarray.where(..., drop=True)`` does it: an ROI or a date that has nothing left is dropped, and what remains of
the frame becomes absent, with ``status`` 0, blank properties and pixels that hold the fill. Labels on ``roi`` and
``time`` keep their meaning, so a patch has one address in a cube and in all its selections.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset.lazy import Kernel, mapped
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import fill_value
from cloudsen12_cube.schema import BY_NAME, PLUS, PRODUCTS, Property, in_box

Mask = npt.NDArray[np.bool_]
Value = str | float | datetime | date | np.datetime64
Wanted = Value | Collection[Value | None] | None
"""A value; a list of values, any of which will do; or, for numbers and times, a tuple (low, high), both ends in, where
None leaves an end open. A text with ``*`` behind it stands for all that begin so. None asks for nothing."""

NAMES = ("roi", *(name for name in BY_NAME if name != "proj_transform"))
"""What a query can ask for, beside a box and a geometry; a transform has six numbers, which no wish fits."""

_PATCH = ("roi", "time")


def matching(table: xr.Dataset, wanted: Mapping[str, Wanted]) -> Mask:
    """Tell which patches fulfil every wish.

    Parameters
    ----------
    table : xarray.Dataset
        With the properties that are asked for, (roi, time) or (roi,), and ``s2_id_gee``.
    wanted : mapping
        Property, or ``roi``, -> what it should be.

    Returns
    -------
    numpy.ndarray of bool, shape (roi, time)
        False where there is no patch. An unknown value (NaN, NaT, an absent number, an empty text) fulfils nothing but
        the wish for an empty text.

    Raises
    ------
    SelectionError
        If a name is no property, or a wish does not suit its type.
    """
    keep: Mask = _values(table, "s2_id_gee") != ""
    for name, wish in wanted.items():
        if wish is not None:
            found = _fulfilled(name, _column(table, name), wish)
            keep = keep & (found[:, None] if found.ndim == 1 else found)
    return keep


def _column(table: xr.Dataset, name: str) -> npt.NDArray[Any]:
    if name not in NAMES:
        raise SelectionError(f"no property {name!r}; there are {', '.join(NAMES)}")
    if name not in table.variables:
        if name in {row.name for row in PLUS}:
            raise SelectionError(f"{name} is a property of CloudSEN12+; this cube was made of something else")
        raise SelectionError(f"{name} is not among the columns here: ask the whole cube, whose root has all of them")
    return _values(table, name)


def _values(table: xr.Dataset, name: str) -> npt.NDArray[Any]:
    """Values in the order (roi, time); asked of the column itself, which keeps them, and not of a turned copy."""
    column = table[name]
    values: npt.NDArray[Any] = column.values
    return values.T if column.dims == _PATCH[::-1] else values


def _fulfilled(name: str, column: npt.NDArray[Any], wish: Wanted) -> Mask:
    kind = "text" if name == "roi" else BY_NAME[name].kind
    if isinstance(wish, tuple) and kind != "text":
        return _in_range(name, column, wish)
    many = isinstance(wish, Collection) and not isinstance(wish, str)
    values = list(wish) if many else [wish]  # type: ignore[arg-type]  # a collection, as the line above saw
    if kind == "text":
        return _is_text(name, column, values)
    found = np.zeros(column.shape, dtype=bool)
    for value in values:
        found |= column == _typed(name, value)
    return found & _known(name, column)


def _in_range(name: str, column: npt.NDArray[Any], wish: tuple[Any, ...]) -> Mask:
    if len(wish) != 2:
        raise SelectionError(f"{name}={wish!r}: a range is (low, high); for some values give a list")
    low, high = (None if end is None else _typed(name, end) for end in wish)
    if low is not None and high is not None and low > high:
        raise SelectionError(f"{name}={wish!r}: the low end of the range is above the high one")
    found = _known(name, column)
    if low is not None:
        found &= column >= low
    return found if high is None else found & (column <= high)


def _known(name: str, column: npt.NDArray[Any]) -> Mask:
    known: Mask = column != BY_NAME[name].missing if BY_NAME[name].kind == "int" else ~pd.isna(column)
    return known


def _typed(name: str, value: Any) -> Any:
    """Give a wish the type of its column; a text is a number or a date only where it reads as one."""
    kind = BY_NAME[name].kind
    try:
        if kind == "time":
            moment = pd.Timestamp(value)
            return np.datetime64(moment.tz_convert(None) if moment.tzinfo else moment)
        if isinstance(value, (bool, datetime, date)):
            raise TypeError
        return float(value)
    except (ValueError, TypeError):
        raise SelectionError(f"{name}={value!r} is no {'date' if kind == 'time' else 'number'}") from None


def _is_text(name: str, column: npt.NDArray[Any], values: list[Any]) -> Mask:
    found = np.zeros(column.shape, dtype=bool)
    for value in values:
        if not isinstance(value, str):
            raise SelectionError(f"{name}={value!r}: {name} is text, give a text or a list of texts")
        if value.endswith("*"):
            found |= np.strings.startswith(column, value[:-1])
        else:
            found |= column == value
    return found


def inside_box(table: xr.Dataset, bbox: tuple[float, float, float, float]) -> Mask:
    """Tell which patches have their centre in a box.

    Parameters
    ----------
    table : xarray.Dataset
        With ``longitude`` and ``latitude``.
    bbox : (float, float, float, float)
        West, south, east, north in degrees, edges in; west > east crosses the antimeridian.

    Returns
    -------
    numpy.ndarray of bool, shape (roi, time)
    """
    return in_box(_values(table, "longitude"), _values(table, "latitude"), bbox)


def selected(dataset: xr.Dataset, keep: Mask) -> xr.Dataset:
    """Take away from one group of a cube what is not chosen; lazy where the group is.

    Parameters
    ----------
    dataset : xarray.Dataset
        A product's group, or the root, with the dims roi and time.
    keep : numpy.ndarray of bool, shape (roi, time)
    """
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
    made = xr.Dataset({n: shown[n] for n in left.data_vars}, coords, left.attrs)
    made.encoding = left.encoding
    return made


def _hidden(variable: xr.Variable, name: Any, chosen: xr.DataArray) -> xr.Variable:
    """Put the fill where a patch is not chosen."""
    fill = variable.attrs.get("missing_label", _blank(str(name), variable.dtype))  # 0 would call a label clear
    kernel = Kernel(partial(_where, fill=fill), variable.dtype)
    made = mapped(kernel, xr.DataArray(variable), chosen).variable
    made.attrs, made.encoding = variable.attrs, variable.encoding
    return made


def _where(values: npt.NDArray[Any], chosen: Mask, fill: Any) -> npt.NDArray[Any]:
    return np.where(chosen, values, np.asarray(fill, dtype=values.dtype))


def _blank(name: str, dtype: np.dtype[Any]) -> Any:
    """Value of a patch that is not there: the fill of the pixels, or what stands for an unknown property."""
    if name in PRODUCTS:
        return fill_value(name, str(dtype))
    row: Property | None = BY_NAME.get(name)
    if dtype.kind in "TUO":
        return ""
    if dtype.kind == "M":
        return "NaT"
    if dtype.kind == "f":
        return np.nan
    return row.missing if row else 0


def selected_tree(cube: xr.DataTree, keep: Mask) -> xr.DataTree:
    """Take away from every group of a cube what is not chosen.

    Parameters
    ----------
    cube : xarray.DataTree
    keep : numpy.ndarray of bool, shape (roi, time)
    """
    nodes = {"/": selected(cube.to_dataset(), keep)}
    nodes |= {name: selected(child.to_dataset(inherit=False), keep) for name, child in cube.children.items()}
    return xr.DataTree.from_dict(nodes, name=cube.name)

"""Whether a tree still holds what its store holds: for readers that take the pixels from the store, past xarray.

They find a patch by its labels on ``roi`` and ``time``, and its channels by those on ``band``. They would not see other
changes to the pixels of a tree: a crop, a flipped axis, new values; so these are refused here. An array that xarray has
not read yet records which part of which stored array it is; values in memory are compared with the store; the layers of
a dask graph must be selections of the stored array, and three patches are compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from xarray.core import indexing

from cloudsen12_cube.dataset.lazy import LazyResult
from cloudsen12_cube.dataset.pixel_grid import AXES, PixelAxis, pixel_axes
from cloudsen12_cube.dataset.selection import hide_unselected
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import DIMS, ChunkReader, ProductLayout, array_path

Positions = list[npt.NDArray[np.int64]]
"""For each dim of a stored array, which of its elements are selected."""

_SELECTING = ("original", "xarray", "getitem", "rechunk", "array", "transpose", "hide_unselected")
_WAY = (
    "Pixels are read from the store by the labels of roi, time and band, so other changes to the tree would be lost: "
    "open the cube again and select with query, isel or sel of roi, time and band"
)
"""Way out of each error."""


@dataclass(frozen=True)
class StoredArray:
    """The array of one product in a store, to compare with.

    Parameters
    ----------
    chunks : ChunkReader
    order : tuple[str, ...]
        ROIs as they lie on disk.
    files : Any
        The `VirtualArray`, of an archive that was opened in place; else None.
    """

    chunks: ChunkReader
    order: tuple[str, ...]
    files: Any


def check_unchanged(cube: xr.DataTree, stored: StoredArray, patches: pd.DataFrame) -> None:
    """Check that the pixels of a product are those of the store, for each label of roi, time and band.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube, or a selection of it.
    stored : StoredArray
        The array of the product in the store.
    patches : pandas.DataFrame
        Patches to be read: ``roi``, ``time``, and ``disk``, the position of the ROI in the store.

    Raises
    ------
    SelectionError
        If something else was done than to select labels; the message says what.
    """
    product = stored.chunks.layout.product
    group = cube[product].to_dataset()
    if product not in group.data_vars:
        held = ", ".join(map(str, group.data_vars)) or "none"
        raise SelectionError(f"the group {product} has no variable {product!r}, it has {held}. {_WAY}")
    array = group[product]
    if array.dims != DIMS or array.dtype != np.dtype(stored.chunks.layout.dtype):
        raise _changed(
            product,
            f"is {array.dtype} {tuple(map(str, array.dims))}, the store has {stored.chunks.layout.dtype} {DIMS}",
        )
    check_whole(group, product)
    bands = band_positions(cube, stored.chunks.layout)
    positions = selected_positions(array.variable, stored)
    if positions is not None:
        _check_labels(group, stored, positions, bands)
    elif array.chunks is not None:
        _check_graph(array, stored)
        _compare(array, stored, patches.iloc[sorted({0, len(patches) // 2, len(patches) - 1})], bands)
    elif array.variable._in_memory:
        _compare(array, stored, patches, bands)
    else:
        raise _changed(product, "is computed from the array of the store, or read from another one")


def check_whole(group: xr.Dataset, product: str) -> None:
    """Check that the pixels of a product are those of whole patches, in their order.

    Raises
    ------
    SelectionError
        If they are cropped, turned or thinned out.
    """
    for axis, pixels in zip(AXES, pixel_axes(group), strict=True):
        if not pixels.is_whole:
            raise SelectionError(
                f"{product} of this tree has {_described(pixels)} along {axis}, the store has 0 to {pixels.whole - 1}. "
                f"{_WAY}; a stream crops by StreamOptions(crop=...)"
            )


def _described(pixels: PixelAxis) -> str:
    last = pixels.first + pixels.step * (pixels.size - 1)
    return f"the pixels {pixels.first:g} to {last:g}" + (f" in steps of {pixels.step:g}" if pixels.step != 1 else "")


def band_positions(cube: xr.DataTree, layout: ProductLayout) -> dict[str, int]:
    """Find the bands that a tree has of a product, in its order, and their positions in the store.

    Raises
    ------
    SelectionError
        If the product has lost its bands, or one is not in the store.
    """
    product, known = layout.product, layout.bands
    group = cube[product].to_dataset()
    if "band" not in group.indexes:
        raise SelectionError(
            f"{product} has lost its dimension band: select with a list, as in sel(band=['{known[0]}'])"
        )
    names = [str(name) for name in group.indexes["band"]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _changed(product, f"has a band {unknown[0]!r}, the store has {', '.join(known)}")
    return {name: known.index(name) for name in names}


def _changed(product: str, text: str) -> SelectionError:
    return SelectionError(f"{product} of this tree {text}. {_WAY}")


def selected_positions(variable: xr.Variable, stored: StoredArray) -> Positions | None:
    """Find which part of the stored array a variable is; None if xarray does not hold it as such a part."""
    return _positions(variable._data, stored)


def _positions(data: Any, stored: StoredArray) -> Positions | None:
    if isinstance(
        data, indexing.MemoryCachedArray | indexing.CopyOnWriteArray | indexing.ImplicitToExplicitIndexingAdapter
    ):
        return _positions(data.array, stored)
    if isinstance(data, indexing.LazilyIndexedArray):
        inner = _positions(data.array, stored)
        if inner is None or any(np.ndim(key) == 0 and not isinstance(key, slice) for key in data.key.tuple):
            return None
        return [part[key] for part, key in zip(inner, data.key.tuple, strict=True)]
    if isinstance(data, LazyResult):  # a query hides the patches that it does not select, and no others
        function = data.kernel.function
        hides = isinstance(function, partial) and function.func is hide_unselected
        return _positions(data.source._data, stored) if hides else None
    return [np.arange(size) for size in data.shape] if _is_base(data, stored) else None


def _is_base(data: Any, stored: StoredArray) -> bool:
    """Whether this is the whole array in the store: of the same place and the same path in it."""
    if stored.files is not None:
        mine = getattr(data, "tasks", None)
        return mine is not None and _identity(data) == _identity(stored.files)
    if not hasattr(data, "get_array"):
        return False
    array = data.get_array()
    path = array_path(stored.chunks.layout.product)
    return bool(array.path == path) and _root(array.store) == _root(stored.chunks.objects)


def _identity(files: Any) -> tuple[Any, ...]:
    return files.layout, [(task.store.root, task.roi_id) for task in files.tasks]


def _root(store: Any) -> str:
    return os.path.abspath(str(getattr(store, "root", store)))


def _check_labels(group: xr.Dataset, stored: StoredArray, positions: Positions, bands: dict[str, int]) -> None:
    """Check that each label names the element of the stored array that lies there."""
    product, layout = stored.chunks.layout.product, stored.chunks.layout
    rois, times = [str(roi) for roi in group["roi"].values], group["time"].values
    facts = {
        "roi": [stored.order[i] for i in positions[0]] == rois,
        "time": np.array_equal(positions[1], times),
        "band": np.array_equal(positions[2], list(bands.values())),
        "y": np.array_equal(positions[3], np.arange(layout.height)),
        "x": np.array_equal(positions[4], np.arange(layout.width)),
    }
    for dim, right in facts.items():
        if not right:
            raise _changed(product, f"has other pixels along {dim} than its labels say")


def _check_graph(array: xr.DataArray, stored: StoredArray) -> None:
    """Check that a dask graph does nothing but select from the stored array."""
    product = stored.chunks.layout.product
    graph = array.data.__dask_graph__()
    others = [name for name in graph.layers if not name.startswith(_SELECTING)]
    if others:
        raise _changed(product, f"is the result of {others[0].rpartition('-')[0]}, not the array of the store")
    sources = [value for name, layer in graph.layers.items() if name.startswith("original") for value in layer.values()]
    parts = [_positions(getattr(source, "value", source), stored) for source in sources]
    if not parts or any(part is None for part in parts):
        raise _changed(product, "is computed from something else than the array of the store")


def _compare(array: xr.DataArray, stored: StoredArray, patches: pd.DataFrame, bands: dict[str, int]) -> None:
    """Compare the pixels of patches with those of the store."""
    rows = [[index.get_loc(value) for value in patches[dim]] for dim, index in _label_indexes(array).items()]
    places = list(zip(*rows, patches["disk"].tolist(), patches["time"].tolist(), strict=True))
    compare = partial(_first_difference, array.variable, stored.chunks, bands)
    # Closing the results cancels what has not begun.
    with ThreadPoolExecutor(os.cpu_count()) as threads, closing(threads.map(compare, places)) as found:  # type: ignore[type-var]  # a generator
        for place, band in zip(places, found, strict=True):
            if band is not None:
                roi, time = stored.order[place[2]], place[3]
                raise _changed(
                    stored.chunks.layout.product,
                    f"has other values than the store, such as {band} of {roi} at time {time}",
                )


def _label_indexes(array: xr.DataArray) -> dict[str, pd.Index[Any]]:
    return {"roi": pd.Index([str(roi) for roi in array["roi"].values]), "time": pd.Index(array["time"].values)}


def _first_difference(
    variable: xr.Variable, chunks: ChunkReader, bands: dict[str, int], place: Sequence[int]
) -> str | None:
    """Name the first band of a patch whose pixels are not those of the store."""
    roi, time, disk, stored_time = place
    pixels = variable[roi, time].values
    fetched = chunks.fetch(disk, stored_time, list(bands.values()))
    plane = np.empty(pixels.shape[1:], dtype=chunks.layout.dtype)
    for position, band in enumerate(bands):
        chunks.decode(fetched, position, plane)
        if not np.array_equal(plane, pixels[position], equal_nan=plane.dtype.kind == "f"):
            return band
    return None

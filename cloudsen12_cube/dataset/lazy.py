"""Functions of arrays whose values are computed when they are needed: at once, by dask, or on reading.

`lazy_apply` keeps the shape of the leading dims. What is in memory is computed at once, as with numpy; dask arrays give
dask arrays; and what an opened cube has not read yet stays unread: only the part that is selected later is read and
computed. So a class view of a terabyte takes a moment, with and without dask.

`reduce_per_roi` makes one pass over arrays that are larger than memory, with a small result for each ROI. With dask
arrays the pass is a graph with a task per ROI, for a laptop or a cluster. Without dask, threads share the ROIs, each
with one of them in memory, and the result is cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """A function of arrays, and the dims that it needs whole."""

    function: Callable[..., Values]
    """Of numpy arrays, with the core dims last; picklable."""
    dtype: np.dtype[Any]
    core: tuple[str, ...] = ()
    """Dims that the function must see whole; the other dims of the first array are computed one by one."""
    left: tuple[str, ...] = ()
    """Core dims that the result still has."""


def lazy_apply(kernel: Kernel, array: xr.DataArray, *others: xr.DataArray) -> xr.DataArray:
    """Apply a kernel.

    Parameters
    ----------
    kernel : Kernel
    array : xarray.DataArray
        With the core dims, last and in their order if it is not in memory.
    *others : xarray.DataArray
        With some of the other dims of the first one, and the same size along them.

    Returns
    -------
    xarray.DataArray
        Without attributes; lazy where ``array`` is. Coordinates are those of ``array`` that still fit.
    """
    if _is_unread(array):
        return _apply_on_reading(kernel, array, others)
    beside = [_cut(other.variable, array) for other in others]  # without coordinates, which would be read to compare
    result: xr.DataArray = xr.apply_ufunc(
        kernel.function,
        array,
        *beside,
        input_core_dims=[kernel.core, *[()] * len(others)],
        output_core_dims=[kernel.left],
        dask="parallelized",
        output_dtypes=[kernel.dtype],
        dask_gufunc_kwargs={"allow_rechunk": True},
        keep_attrs=True,  # of the coordinates
    )
    return result.drop_attrs(deep=False)


def _cut(other: xr.Variable, array: xr.DataArray) -> xr.Variable:
    """Cut another array as the first one is, if that is dask's: dask would do it, ten times slower."""
    if array.chunks is None or other.chunks is not None:
        return other
    return other.chunk({dim: array.chunksizes[dim] for dim in other.dims})


def _is_unread(array: xr.DataArray) -> bool:
    """Whether the values still lie in a store; xarray has no public attribute for it."""
    return array.chunks is None and not array.variable._in_memory


def _apply_on_reading(kernel: Kernel, array: xr.DataArray, others: Sequence[xr.DataArray]) -> xr.DataArray:
    lead = array.dims[: array.ndim - len(kernel.core)]
    if array.dims != (*lead, *kernel.core):
        return lazy_apply(kernel, array.transpose(..., *kernel.core).load(), *others)
    result = LazyResult(kernel, array.variable, tuple(other.variable for other in others))
    variable = xr.Variable(result.dims, indexing.LazilyIndexedArray(result))
    kept = {name: c for name, c in array.coords.items() if set(c.dims) <= set(result.dims)}
    return xr.DataArray(variable, coords=kept, name=array.name)


class LazyResult(BackendArray):
    """An array whose values are computed when xarray asks for them, of the part that it asks for."""

    def __init__(self, kernel: Kernel, source: xr.Variable, others: tuple[xr.Variable, ...]) -> None:
        self.kernel, self.source, self.others = kernel, source, others
        self.lead = source.dims[: source.ndim - len(kernel.core)]
        self.dims = (*self.lead, *kernel.left)
        self.shape = tuple(source.sizes[dim] for dim in self.dims)
        self.dtype = kernel.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Compute what a key selects."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Values:
        chosen = dict(zip(self.lead, key, strict=False))
        source = self.source.isel(chosen)
        lead = {dim: source.sizes[dim] for dim in self.lead if dim in source.dims}
        beside = [self._aligned(other, chosen, tuple(lead)) for other in self.others]
        whole = xr.Variable((*lead, *self.kernel.left), self.kernel.function(source.values, *beside))
        values: Values = whole.isel(dict(zip(self.kernel.left, key[len(self.lead) :], strict=True))).values
        return values

    @staticmethod
    def _aligned(other: xr.Variable, chosen: dict[Any, Any], lead: tuple[Any, ...]) -> Values:
        """Values of another array with an axis, of length 1 where it has none, for each of the lead dims left."""
        part = other.isel({dim: index for dim, index in chosen.items() if dim in other.dims})
        values: Values = part.transpose(*(dim for dim in lead if dim in part.dims)).values
        return values.reshape([part.sizes.get(dim, 1) for dim in lead])


@dataclass(frozen=True)
class Reduction:
    """A function that reduces each row of the first dim."""

    function: Callable[..., Values]
    """Of numpy arrays with one or more rows; picklable. The result has as many rows, and the dims of ``sizes``."""
    dtype: np.dtype[Any]
    sizes: dict[str, int]
    """Dims of the result behind the first, and their sizes."""


def reduce_per_roi(reduction: Reduction, *arrays: xr.DataArray) -> xr.DataArray:
    """Reduce arrays along all dims but their first.

    Parameters
    ----------
    reduction : Reduction
        Function of one or more rows, and the type and dims of its result.
    *arrays : xarray.DataArray
        With the same first dim, of the same length.

    Returns
    -------
    xarray.DataArray
        Dims: the first, then those of ``reduction.sizes``; lazy, without coordinates.
    """
    lead = str(arrays[0].dims[0])
    dims, shape = (lead, *reduction.sizes), (arrays[0].sizes[lead], *reduction.sizes.values())
    if any(array.chunks is not None for array in arrays):
        return _dask_reduction(reduction, arrays)
    result = _LazyReduction(reduction, tuple(array.variable for array in arrays), shape)
    cached = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(result))  # type: ignore[no-untyped-call]  # xarray
    variable = xr.Variable(dims, cached)
    return xr.DataArray(variable)


def _dask_reduction(reduction: Reduction, arrays: Sequence[xr.DataArray]) -> xr.DataArray:
    """Reduce by dask: each block of rows is one task, whatever the chunks of the other dims were."""
    lead = arrays[0].dims[0]
    rows = next(array.chunksizes[lead] for array in arrays if array.chunks is not None)
    bare = [array.drop_vars(list(array.coords)) for array in arrays]
    # Dims of the same name need not be the same here: those of each array are its own.
    own = [a.rename({d: f"{d}_{i}" for d in a.dims[1:]}).chunk({lead: rows}) for i, a in enumerate(bare)]
    graph: xr.DataArray = xr.apply_ufunc(
        reduction.function,
        *own,
        input_core_dims=[array.dims[1:] for array in own],
        output_core_dims=[list(reduction.sizes)],
        dask="parallelized",
        output_dtypes=[reduction.dtype],
        dask_gufunc_kwargs={"output_sizes": reduction.sizes, "allow_rechunk": True},
    )
    return graph


class _LazyReduction(BackendArray):
    """Values that are computed when xarray asks for them, of the rows that it asks for."""

    def __init__(self, reduction: Reduction, sources: tuple[xr.Variable, ...], shape: tuple[int, ...]) -> None:
        self.reduction, self.sources = reduction, sources
        self.shape, self.dtype = shape, reduction.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Compute what a key selects."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Values:
        rows = np.atleast_1d(np.arange(self.shape[0])[key[0]])
        values = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for place, row in enumerate(threads.map(self._row, rows.tolist())):
                values[place] = row[0]
        single = isinstance(key[0], int | np.integer)
        variable = xr.Variable([f"dim_{i}" for i in range(values.ndim)], values)
        selected: Values = variable[(0 if single else slice(None), *key[1:])].values
        return selected

    def _row(self, row: int) -> Values:
        return self.reduction.function(*(source[row].values[np.newaxis] for source in self.sources))

"""One pass over arrays that are larger than memory: a small result of each ROI, made once, when it is asked for.

Where the arrays are dask arrays, the pass is a dask graph, a task a ROI, for a laptop or a cluster. Where they are read
without dask, threads share the ROIs, each with one of them in memory, and the result is remembered.
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
class Reduction:
    """What is made of each row of the first dim."""

    function: Callable[..., Values]
    """Of numpy arrays with one or more rows; picklable. The result has as many rows, and the dims of ``made``."""
    dtype: np.dtype[Any]
    made: dict[str, int]
    """Dims of the result behind the first, and their sizes."""


def reduced(reduction: Reduction, *arrays: xr.DataArray) -> xr.DataArray:
    """Reduce arrays along all dims but their first.

    Parameters
    ----------
    reduction : Reduction
    *arrays : xarray.DataArray
        With the same first dim, of the same length.

    Returns
    -------
    xarray.DataArray
        Dims: the first, then those of ``reduction.made``; lazy, without coordinates.
    """
    lead = str(arrays[0].dims[0])
    dims, shape = (lead, *reduction.made), (arrays[0].sizes[lead], *reduction.made.values())
    if any(array.chunks is not None for array in arrays):
        return _as_graph(reduction, arrays)
    later = _Pass(reduction, tuple(array.variable for array in arrays), shape)
    remembered = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(later))  # type: ignore[no-untyped-call]  # xarray
    variable = xr.Variable(dims, remembered)
    return xr.DataArray(variable)


def _as_graph(reduction: Reduction, arrays: Sequence[xr.DataArray]) -> xr.DataArray:
    """Let dask do it: each block of rows is one task, whatever the chunks of the other dims were."""
    lead = arrays[0].dims[0]
    rows = next(array.chunksizes[lead] for array in arrays if array.chunks is not None)
    bare = [array.drop_vars(list(array.coords)) for array in arrays]
    # Dims of the same name need not be the same here: those of each array are its own.
    own = [a.rename({d: f"{d}_{i}" for d in a.dims[1:]}).chunk({lead: rows}) for i, a in enumerate(bare)]
    graph: xr.DataArray = xr.apply_ufunc(
        reduction.function,
        *own,
        input_core_dims=[array.dims[1:] for array in own],
        output_core_dims=[list(reduction.made)],
        dask="parallelized",
        output_dtypes=[reduction.dtype],
        dask_gufunc_kwargs={"output_sizes": reduction.made, "allow_rechunk": True},
    )
    return graph


class _Pass(BackendArray):
    """Values that are computed when xarray asks for them, of the rows that it asks for."""

    def __init__(self, reduction: Reduction, sources: tuple[xr.Variable, ...], shape: tuple[int, ...]) -> None:
        self.reduction, self.sources = reduction, sources
        self.shape, self.dtype = shape, reduction.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Compute what a key selects."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Values:
        rows = np.atleast_1d(np.arange(self.shape[0])[key[0]])
        made = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for place, row in enumerate(threads.map(self._row, rows.tolist())):
                made[place] = row[0]
        single = isinstance(key[0], int | np.integer)
        variable = xr.Variable([f"dim_{i}" for i in range(made.ndim)], made)
        values: Values = variable[(0 if single else slice(None), *key[1:])].values
        return values

    def _row(self, row: int) -> Values:
        return self.reduction.function(*(source[row].values[np.newaxis] for source in self.sources))

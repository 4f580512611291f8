"""Three analyses of a whole cube as dask graphs: a few tasks a shard, small results, on threads or on a cluster.

Each function takes an open cube (``open_cube(url, chunks="roi")``) and gives something lazy; ``dask.compute`` or a
client's ``compute`` does the work. Reductions are made inside a shard first, so what travels between workers is a few
numbers an ROI.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr

from benchmarks.common import MiB, Settings, call, lengthened, table

CLASSES = ("clear", "thick_cloud", "thin_cloud", "cloud_shadow", "unlabelled")


def class_counts(cube: xr.DataTree, layer: str = "manual_hq") -> xr.DataArray:
    """Count the pixels of each class, an ROI a row: sums of rows answer questions by land cover, label type, split."""
    codes = cube.cloudsen12.classes(layer)
    counts = xr.apply_ufunc(
        _counted,
        codes,
        input_core_dims=[["time", "y", "x"]],
        output_core_dims=[["class"]],
        dask="parallelized",
        output_dtypes=[np.int64],
        dask_gufunc_kwargs={"output_sizes": {"class": len(CLASSES)}, "allow_rechunk": True},
    )
    return counts.assign_coords({"class": list(CLASSES)})


def _counted(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    kinds = (0, 1, 2, 3, 255)
    return np.stack([(codes == kind).sum((-3, -2, -1)) for kind in kinds], axis=-1)


def by(cube: xr.DataTree, counts: xr.DataArray, names: list[str]) -> xr.DataArray:
    """Add the counts of ROIs that share properties; `counts` is computed."""
    root = cube.to_dataset()
    columns = [root[name].values for name in names]
    keys = [
        "/".join(str(column[i] if column.ndim == 1 else column[i, 0]) for column in columns) for i in range(len(counts))
    ]
    key = " and ".join(names)
    return counts.assign_coords({key: ("roi", keys)}).groupby(key).sum("roi")


def band_statistics(cube: xr.DataTree, product: str = "s2l1c") -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard deviation of each band over all pixels that are there."""
    data = cube[product].to_dataset()
    sums = xr.apply_ufunc(
        _sums,
        data[product],
        data["status"].chunk(roi=1) if data[product].chunks else data["status"],
        kwargs={"fill": _fill(cube, product)},
        input_core_dims=[["time", "band", "y", "x"], ["time"]],
        output_core_dims=[["band", "moment"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"moment": 3}},
    ).sum("roi")
    count, first, second = (sums.isel(moment=i) for i in range(3))
    mean = first / count
    return mean, np.sqrt(second / count - mean**2)


def _fill(cube: xr.DataTree, product: str) -> float:
    return float(cube.cloudsen12.settings["products"][product]["fill_value"])


def _sums(pixels: npt.NDArray[Any], status: npt.NDArray[np.uint8], fill: float) -> npt.NDArray[np.float64]:
    """Count, sum and sum of squares of each band; a plane at a time, so that no whole shard becomes float64."""
    roi, times, bands = pixels.shape[:3]
    found = np.zeros((roi, bands, 3))
    for r, t, b in np.ndindex(roi, times, bands):
        if status[r, t] == 1:
            plane = pixels[r, t, b]
            kept = plane[plane == plane] if np.isnan(fill) else plane[plane != fill]
            values = kept.astype(np.float64)
            found[r, b] += kept.size, values.sum(), np.square(values).sum()
    return found


def composite(cube: xr.DataTree, bands: list[str], layer: str = "manual_hq") -> xr.DataArray:
    """Median of the clear pixels of an ROI's images, in the archive's units; NaN where no image is clear.

    Images of an ROI may lie on other grids (`proj_transform` tells): this one is by rank of pixel.
    """
    pixels = cube["s2l1c"]["s2l1c"].sel(band=bands)
    codes = cube.cloudsen12.classes(layer)
    return xr.apply_ufunc(
        _median,
        pixels,
        codes,
        input_core_dims=[["time", "band", "y", "x"], ["time", "y", "x"]],
        output_core_dims=[["band", "y", "x"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"allow_rechunk": True},
        join="override",
    )


def _median(pixels: npt.NDArray[Any], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    clear = np.where((codes == 0)[:, :, None], pixels.astype(np.float32), np.nan)
    return _nanmedian(clear)


def _nanmedian(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Median along the second axis, NaN where nothing is: numpy's own warns there and is slow."""
    ordered = np.sort(values, axis=1)  # NaN goes last
    count = (~np.isnan(values)).sum(1, keepdims=True)
    low, high = np.maximum((count - 1) // 2, 0), count // 2
    high = np.minimum(high, values.shape[1] - 1)
    pair = np.take_along_axis(ordered, low, 1), np.take_along_axis(ordered, high, 1)
    return ((pair[0] + pair[1]) / 2)[:, 0]


def tasks(lazy: Any) -> int:
    """Tasks of the graphs as they are handed to a scheduler together."""
    parts = lazy if isinstance(lazy, tuple) else (lazy,)
    return len({key for part in dask.optimize(*parts) for key in dict(part.__dask_graph__())})


def run(settings: Settings) -> None:
    base = [p for p in settings.archive.glob("*/ROI_*") if p.is_dir()]
    rois = len(base) * settings.copies
    archive = lengthened(settings.archive, settings.work / "analysis", rois)
    place = settings.work / "analysis.zarr"
    call("benchmarks.conversion:ours", [str(archive), str(place)])
    rows = []
    for name in ANALYSES:
        done = call("benchmarks.analysis:measure", [str(place), name])
        result = done["result"]
        rows.append(
            (name, result["tasks"], result["tasks"] / rois, result["seconds"] / rois, round(done["peak"] / MiB))
        )
    table(f"Analyses of {rois} ROIs on two threads", ("analysis", "tasks", "tasks / ROI", "s / ROI", "peak MiB"), rows)
    shutil.rmtree(archive)
    shutil.rmtree(place)


ANALYSES = {
    "class counts": class_counts,
    "band statistics": band_statistics,
    "composites, RGB": lambda cube: composite(cube, ["B4", "B3", "B2"]).mean(("y", "x")),
}


def measure(place: str, name: str) -> dict[str, float]:
    from cloudsen12_cube import open_cube

    cube = open_cube(place, chunks="roi")
    lazy = ANALYSES[name](cube)
    start = time.perf_counter()
    dask.compute(lazy, scheduler="threads", num_workers=2)
    return {"seconds": time.perf_counter() - start, "tasks": tasks(lazy)}

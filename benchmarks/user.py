"""What a user would write today: rioxarray for each file, xr.concat over bands, dates and ROIs, to_zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rioxarray
import xarray as xr

from benchmarks.common import timed


def convert(archive: str, cube: str) -> dict[str, float]:
    return timed(lambda: _convert(archive, cube))


def _convert(archive: str, cube: str) -> None:
    from cloudsen12_cube.schema.assets import PRODUCTS, files_of

    patches: dict[str, list[Path]] = {}
    for folder in sorted(Path(archive).glob("*/ROI_*/*")):
        patches.setdefault(folder.parent.name, []).append(folder)
    for product in PRODUCTS:
        names = tuple(files_of(product))
        rois = [xr.concat([_patch(folder, names) for folder in folders], "time") for folders in patches.values()]
        whole = xr.concat(rois, "roi").assign_coords(roi=list(patches))
        whole.to_dataset(name=product).to_zarr(cube, group=product, mode="a", zarr_format=3)


def _patch(folder: Path, names: tuple[str, ...]) -> xr.DataArray:
    files = {name: _open(folder / f"{name}.tif") for name in names if (folder / f"{name}.tif").exists()}
    like = next(iter(files.values()))
    blank = xr.full_like(like, 255)
    parts = [files.get(name, blank) for name in names]
    dtype = np.result_type(*(part.dtype for part in parts))
    return xr.concat([part.astype(dtype) for part in parts], "band")


def _open(path: Path) -> xr.DataArray:
    # Place and attributes differ from ROI to ROI, and pixels are wanted side by side: they are left out.
    return rioxarray.open_rasterio(path).drop_vars(["band", "x", "y", "spatial_ref"]).drop_attrs()

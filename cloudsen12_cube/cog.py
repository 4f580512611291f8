"""A patch back as files: the archive's layout of one patch folder, as cloud-optimised GeoTIFFs.

The pixels are the archive's, bit for bit, so a folder written here can be converted again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr

from cloudsen12_cube.assets import PRODUCTS, Asset, assets_of, files_of
from cloudsen12_cube.errors import DestinationError, SelectionError
from cloudsen12_cube.layout import fill_value

_BLOCK = 256  # the archive's


@dataclass(frozen=True)
class _File:
    """One file to be, and where its pixels come from."""

    path: Path
    array: xr.DataArray
    """(band, y, x), not yet read."""
    assets: tuple[Asset, ...]
    """One a band, in order; all of one published data type."""
    fill: int | float
    """Value of a pixel that is not there."""


def write_cogs(patch: xr.Dataset, path: str | os.PathLike[str]) -> list[Path]:
    """Write a patch as ``S2L1C.tif``, ``extra/CDI.tif``, ``labels/fmask.tif`` and so on.

    Parameters
    ----------
    patch : xarray.Dataset
        As `patch_view.select_patch` or `patch_view.select_patch_of` give it; also clipped or reprojected.
    path : path
        Folder of the patch; made where it is not there.

    Returns
    -------
    list of pathlib.Path
        The files written: LZW, tiled, with band descriptions. A label layer that holds nothing but fill was never
        labelled and has no file, as in the archive. The data type is the published one where every value survives it,
        else the stored one.

    Raises
    ------
    DestinationError
        If one of the files is there already; then none is written.
    SelectionError
        If the Dataset is no patch, or has only some of the bands that a file holds.
    """
    files = list(_files(patch, Path(path)))
    there = [str(file.path.relative_to(path)) for file in files if file.path.exists()]
    if there:
        raise DestinationError(f"{path} has {', '.join(there)} already: remove them or give another folder")
    crs, transform = _grid(patch)
    return [file.path for file in files if _write(file, crs, transform)]


def _files(patch: xr.Dataset, folder: Path) -> Iterator[_File]:
    products = [name for name in PRODUCTS if name in patch.data_vars]
    if not products:
        raise SelectionError(f"nothing to write: the Dataset has none of {', '.join(PRODUCTS)}")
    for product in products:
        array = patch[product]
        dim = f"band_{product}" if f"band_{product}" in array.dims else "band"
        if set(array.dims) != {dim, "y", "x"}:
            raise SelectionError(f"{product} has the dims {', '.join(map(str, array.dims))}: select one patch first")
        array = array.transpose(dim, "y", "x")
        assets = {asset.band: asset for asset in assets_of(product)}
        for name, bands in _whole_files(product, [str(band) for band in array[dim].values]):
            rows = tuple(assets[band] for band in bands)
            yield _File(
                folder / f"{name}.tif", array.sel({dim: list(bands)}), rows, fill_value(product, str(array.dtype))
            )


def _whole_files(product: str, there: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, bands in files_of(product).items():
        lacking = [band for band in bands if band not in there]
        if not lacking:
            yield name, bands
        elif len(lacking) < len(bands):
            raise SelectionError(
                f"{name}.tif holds {len(bands)} bands and {', '.join(lacking)} are not in this Dataset: "
                "take all of them, or write the selection with .rio.to_raster"
            )


def _grid(patch: xr.Dataset) -> tuple[rasterio.crs.CRS, rasterio.Affine]:
    """Read where the patch lies from its coordinates, which hold after a clip too; the stated GeoTransform may not."""
    if "spatial_ref" not in patch.coords or min(patch.sizes["y"], patch.sizes["x"]) < 2:
        raise SelectionError("the Dataset does not say where it lies: it needs spatial_ref, and two rows and columns")
    (west, a), (north, e) = (_origin(patch[axis].values) for axis in ("x", "y"))
    crs = rasterio.crs.CRS.from_wkt(patch["spatial_ref"].attrs["crs_wkt"])
    return crs, rasterio.Affine(a, 0.0, west, 0.0, e, north)


def _origin(centres: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Outer edge of the first pixel, and the step."""
    step = float((centres[-1] - centres[0]) / (len(centres) - 1))
    return float(centres[0]) - step / 2, step


def _write(file: _File, crs: rasterio.crs.CRS, transform: rasterio.Affine) -> bool:
    """Write one file beside its place, then move it there; False if there is nothing to write."""
    pixels = file.array.values
    absent = pixels == file.fill  # never true for NaN, which says by itself that it is no value
    if file.assets[0].product == "labels" and absent.all():
        return False
    nodata = file.fill if absent.any() else file.assets[0].nodata
    pixels = _narrowed(pixels, np.dtype(file.assets[0].dtype))
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = file.path.with_name(f".{file.path.name}.part")
    try:
        with rasterio.open(part, "w", crs=crs, transform=transform, **_profile(pixels, nodata)) as target:
            target.write(pixels)
            target.descriptions = tuple(asset.band for asset in file.assets)
        os.replace(part, file.path)
    finally:
        part.unlink(missing_ok=True)
    return True


def _narrowed(pixels: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(invalid="ignore"):  # an impossible cast is found by the comparison
        narrow = pixels.astype(dtype)
    same = np.array_equal(narrow, pixels, equal_nan=dtype.kind == "f" and pixels.dtype.kind == "f")
    return narrow if same else pixels


def _profile(pixels: npt.NDArray[Any], nodata: float | None) -> dict[str, Any]:
    profile = {
        "driver": "COG",
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "compress": "LZW",
        "predictor": "YES",
        "blocksize": _BLOCK,
        "overview_resampling": "NEAREST",  # a mean of two label codes is a third one
    }
    return profile | {"nodata": nodata} if _fits(nodata, pixels.dtype) else profile


def _fits(nodata: float | None, dtype: np.dtype[Any]) -> bool:
    if nodata is None or dtype.kind == "f":
        return nodata is not None
    return np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max

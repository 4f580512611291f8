"""A patch back as files: the archive's layout of one patch folder, as cloud-optimised GeoTIFFs.

The pixels are the archive's, bit for bit, so a folder written here can be converted again. GDAL writes every file into
memory first: what a full disk refuses is an error of ours then, not one that GDAL tells nobody. And it copies from a
plain file, which takes a tenth longer than writing straight into a COG, but leaves other threads their interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.shutil
import xarray as xr
from rasterio.io import MemoryFile

from cloudsen12_cube.errors import DestinationError, SelectionError, StoreError
from cloudsen12_cube.format import fill_value, stored_dtype
from cloudsen12_cube.schema import PRODUCTS, Asset, ProductName, assets_of, files_of

Pixels = npt.NDArray[Any]
Georeference = tuple[rasterio.crs.CRS | None, rasterio.Affine | None]
"""Reference system and transform; None where nobody knows."""

_BLOCK = 256  # the archive's
_LARGE = 512  # rows or columns beyond which a COG should have overviews; a published patch has 509, and none


@dataclass(frozen=True)
class RasterPlanes:
    """Bands of one file, with the stored values."""

    name: str
    """Path in the patch's folder, without suffix: ``labels/fmask``."""
    assets: tuple[Asset, ...]
    """One a band, in order; all of one published data type."""
    pixels: Pixels
    """(band, y, x)"""
    fill: int | float
    """Value of a pixel that is not there."""

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """Which pixels are not there, (band, y, x)."""
        found: npt.NDArray[np.bool_] = np.isnan(self.pixels) if self.fill != self.fill else self.pixels == self.fill
        return found

    @property
    def nodata(self) -> float | None:
        """What the file declares: the fill where it has some, else as published. NaN says by itself what it is."""
        return self.fill if self.fill == self.fill and self.absent.any() else self.assets[0].nodata


def planes_of(product: ProductName, bands: Sequence[str], pixels: Pixels) -> Iterator[RasterPlanes]:
    """Divide the pixels of one patch of a product among its files.

    Parameters
    ----------
    product : str
    bands : sequence of str
        Which bands there are, in order.
    pixels : numpy.ndarray, shape (band, y, x)

    Raises
    ------
    SelectionError
        If only some of the bands of a file are there.
    """
    assets, place = {asset.band: asset for asset in assets_of(product)}, {band: i for i, band in enumerate(bands)}
    fill = fill_value(product, str(pixels.dtype))
    for name, wanted in _whole_files(product, bands):
        first, rows = place[wanted[0]], tuple(assets[band] for band in wanted)
        chosen = [place[band] for band in wanted]
        together = chosen == list(range(first, first + len(chosen)))  # as stored: no copy
        yield RasterPlanes(name, rows, pixels[first : first + len(chosen)] if together else pixels[chosen], fill)


def _whole_files(product: ProductName, there: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, bands in files_of(product).items():
        lacking = [band for band in bands if band not in there]
        if not lacking:
            yield name, bands
        elif len(lacking) < len(bands):
            raise SelectionError(
                f"{name}.tif holds {len(bands)} bands and {', '.join(lacking)} are not in this Dataset: "
                "take all of them, or write the selection with .rio.to_raster"
            )


def as_published(planes: Iterable[RasterPlanes]) -> list[Pixels]:
    """Give the pixels of the files of one patch of a product the data types of the published files.

    Parameters
    ----------
    planes : iterable of Planes
        Of one product.

    Returns
    -------
    list of numpy.ndarray, (band, y, x)
        The published type where every value survives it and the stored type holds it, so that no file asks for another
        cube than the one that it comes from. If a cube made of these files would have another type all the same (it
        was made of a copy with uint16, say), all keep the stored one.
    """
    files = list(planes)
    narrow = [_narrowed(file.pixels, np.dtype(file.assets[0].dtype)) for file in files]
    if files and stored_dtype(files[0].assets[0].product, [p.dtype for p in narrow]) != str(files[0].pixels.dtype):
        return [file.pixels for file in files]
    return narrow


def _narrowed(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    if dtype == pixels.dtype or not np.can_cast(dtype, pixels.dtype, "safe"):
        return pixels
    with np.errstate(invalid="ignore"):  # an impossible cast is found by the comparison
        narrow = pixels.astype(dtype)
    return narrow if np.array_equal(narrow, pixels, equal_nan=dtype.kind == "f") else pixels


def georeference(epsg: int, transform: Sequence[float] | None) -> Georeference:
    """Say where a patch lies in rasterio's words; nothing where the code is 0 or there is no transform.

    Raises
    ------
    StoreError
        If there is no such code.
    """
    try:
        crs = rasterio.crs.CRS.from_epsg(epsg) if epsg else None
    except rasterio.errors.CRSError:
        raise StoreError(f"EPSG:{epsg} is no reference system that PROJ knows") from None
    return crs, rasterio.Affine(*transform) if transform else None


def encode(pixels: Pixels, planes: RasterPlanes, where: Georeference) -> bytes:
    """Make the bytes of one COG: LZW, tiled, with band descriptions, and overviews if it is larger than 512 pixels.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (band, y, x)
        As `as_published` gives them.
    planes : Planes
        What they are.
    where : (CRS or None, Affine or None)
        As `georeference` gives it.
    """
    crs, transform = where
    plain = {
        "driver": "GTiff",
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "interleave": "band",
        "crs": crs,
        "transform": transform,
        "nodata": planes.nodata if _fits(planes.nodata, pixels.dtype) else None,
    }
    with MemoryFile() as source, MemoryFile() as made:
        with source.open(**plain) as target:
            target.write(pixels)
            target.descriptions = tuple(asset.band for asset in planes.assets)
        rasterio.shutil.copy(source.name, made.name, driver="COG", **_options(pixels))
        return bytes(made.getbuffer())


def _options(pixels: Pixels) -> dict[str, Any]:
    return {
        "compress": "LZW",
        "predictor": "YES",
        "blocksize": _BLOCK,
        "interleave": "BAND",
        "overviews": "AUTO" if max(pixels.shape[1:]) > _LARGE else "NONE",
        "overview_resampling": "NEAREST",  # a mean of two label codes is a third one
    }


def _fits(nodata: float | None, dtype: np.dtype[Any]) -> bool:
    if nodata is None or dtype.kind == "f":
        return nodata is not None
    return bool(np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max)


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
    products = [name for name in PRODUCTS if name in patch.data_vars]
    if not products:
        raise SelectionError(f"nothing to write: the Dataset has none of {', '.join(PRODUCTS)}")
    arrays = {name: _array(patch[name], name) for name in products}
    names = [name for product, array in arrays.items() for name, _ in _whole_files(product, _bands(array))]
    there = [f"{name}.tif" for name in names if Path(path, f"{name}.tif").exists()]
    if there:
        raise DestinationError(f"{path} has {', '.join(there)} already: remove them or give another folder")
    where = _grid(patch)
    written = []
    for product, array in arrays.items():
        planes = [p for p in planes_of(product, _bands(array), array.values) if _is_there(p)]
        for file, pixels in zip(planes, as_published(planes), strict=True):
            written.append(_put(Path(path, f"{file.name}.tif"), encode(pixels, file, where)))
    return written


def _array(array: xr.DataArray, product: str) -> xr.DataArray:
    dim = f"band_{product}" if f"band_{product}" in array.dims else "band"
    if set(array.dims) != {dim, "y", "x"}:
        raise SelectionError(f"{product} has the dims {', '.join(map(str, array.dims))}: select one patch first")
    return array.transpose(dim, "y", "x")


def _bands(array: xr.DataArray) -> list[str]:
    return [str(band) for band in array[array.dims[0]].values]


def _is_there(planes: RasterPlanes) -> bool:
    return planes.assets[0].product != "labels" or not planes.absent.all()


def _grid(patch: xr.Dataset) -> Georeference:
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


def _put(path: Path, data: bytes) -> Path:
    """Write one file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path

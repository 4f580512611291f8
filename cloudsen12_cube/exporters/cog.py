"""A patch as files: the archive's layout of one patch folder, as cloud-optimised GeoTIFFs.

The pixels are those of the archive, bit for bit, so the folder can be converted again. GDAL writes every file into
memory first: an error on a full disk is then raised here, while GDAL only logs it. It copies from a plain GeoTIFF,
which takes a tenth longer than writing straight into a COG, but releases the interpreter for other threads.
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
from cloudsen12_cube.schema import LAYERS, PRODUCTS, Asset, ProductName, assets_of, files_of

Pixels = npt.NDArray[Any]
Georeference = tuple[rasterio.crs.CRS | None, rasterio.Affine | None]
"""Reference system and transform; None where they are unknown."""

_BLOCK = 256  # tile size of the archive
_LARGE = 512  # rows or columns from which a COG should have overviews; a published patch has 509, and none


@dataclass(frozen=True)
class RasterPlanes:
    """Bands of one file, with the stored values.

    Parameters
    ----------
    name : str
        Path in the patch's folder, without suffix: ``labels/fmask``.
    assets : tuple[Asset, ...]
        One per band, in order; all of one published data type.
    pixels : Pixels
        (band, y, x)
    fill : int | float
        Value of a missing pixel.
    """

    name: str
    assets: tuple[Asset, ...]
    pixels: Pixels
    fill: int | float

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """Mask of the missing pixels, (band, y, x)."""
        return np.asarray(np.isnan(self.pixels) if np.isnan(self.fill) else self.pixels == self.fill)

    @property
    def nodata(self) -> float | None:
        """The value that the file declares: the fill where it occurs, else as published. NaN needs no declaration."""
        # Published files do not declare the 0 of a reflectance, which is a value of AOT in the same file.
        published = None if self.assets[0].product in ("s2l1c", "s2l2a") else self.assets[0].nodata
        return self.fill if not np.isnan(self.fill) and self.absent.any() else published


def planes_of(product: ProductName, bands: Sequence[str], pixels: Pixels) -> Iterator[RasterPlanes]:
    """Divide the pixels of one patch of a product among its files.

    Parameters
    ----------
    product : str
        Product of the pixels.
    bands : sequence of str
        Names of the bands, in order.
    pixels : numpy.ndarray, shape (band, y, x)
        Stored values.

    Yields
    ------
    RasterPlanes
        One per file.

    Raises
    ------
    SelectionError
        If only some of the bands of a file are given.
    """
    assets, names = {asset.band: asset for asset in assets_of(product)}, list(bands)
    fill = fill_value(product, str(pixels.dtype))
    for file, wanted in _complete_files(product, names):
        rows, positions = tuple(assets[band] for band in wanted), [names.index(band) for band in wanted]
        run = slice(positions[0], positions[0] + len(positions))
        adjacent = positions == list(range(run.start, run.stop))  # as stored: a view instead of a copy
        yield RasterPlanes(file, rows, pixels[run if adjacent else positions], fill)


def _complete_files(product: ProductName, available: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each file of a product whose bands are available, with its bands."""
    for name, bands in files_of(product).items():
        missing = [band for band in bands if band not in available]
        if not missing:
            yield name, bands
        elif len(missing) < len(bands):
            raise SelectionError(
                f"{name}.tif holds {len(bands)} bands and {', '.join(missing)} are not in this Dataset: "
                "take all of them, or write the selection with .rio.to_raster"
            )


def as_published(planes: Iterable[RasterPlanes]) -> list[Pixels]:
    """Cast the pixels of the files of one patch of a product to the data types of the published files.

    Parameters
    ----------
    planes : iterable of RasterPlanes
        Files of one product.

    Returns
    -------
    list of numpy.ndarray, (band, y, x)
        In the published type if it holds every value and the stored type holds it, so that a cube made of these files
        equals the one that they come from. If such a cube would have another type all the same (because this one was
        made of a copy with uint16, say), all files keep the stored type.
    """
    files = list(planes)
    narrow = [_narrow(file.pixels, _published_dtype(file)) for file in files]
    if files and stored_dtype(files[0].assets[0].product, [p.dtype for p in narrow]) != str(files[0].pixels.dtype):
        return [file.pixels for file in files]
    return narrow


def _published_dtype(planes: RasterPlanes) -> np.dtype[Any]:
    """Return the data type of a published file: CD-FCNN has 8 bits where its values are per cent."""
    asset = planes.assets[0]
    rows = [row for row in LAYERS if asset.product == "labels" and row.band == asset.band]
    per_cent = any(row.probability and row.full_scale is None for row in rows) and planes.pixels.max() <= 100
    return np.dtype("uint8" if per_cent else asset.dtype)


def _narrow(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    if dtype == pixels.dtype or not np.can_cast(dtype, pixels.dtype, "safe"):
        return pixels
    with np.errstate(invalid="ignore"):  # the comparison below detects values that do not fit
        narrow = pixels.astype(dtype)
    return narrow if np.array_equal(narrow, pixels, equal_nan=dtype.kind == "f") else pixels


def georeference(epsg: int, transform: Sequence[float] | None) -> Georeference:
    """Convert the location of a patch to rasterio's types.

    Parameters
    ----------
    epsg : int
        EPSG code; 0 if unknown.
    transform : sequence of float or None
        Affine transform as six numbers; None if unknown.

    Returns
    -------
    (rasterio.crs.CRS or None, rasterio.Affine or None)

    Raises
    ------
    StoreError
        If PROJ does not know the code.
    """
    try:
        crs = rasterio.crs.CRS.from_epsg(epsg) if epsg else None
    except rasterio.errors.CRSError:
        raise StoreError(f"EPSG:{epsg} is no reference system that PROJ knows") from None
    return crs, rasterio.Affine(*transform) if transform else None


def encode(pixels: Pixels, planes: RasterPlanes, where: Georeference) -> bytes:
    """Encode one COG: LZW, tiled, with band descriptions, and overviews if it is larger than 512 pixels.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (band, y, x)
        Pixels in the data type of the file, from `as_published`.
    planes : RasterPlanes
        Bands and nodata value of the file.
    where : (CRS or None, Affine or None)
        Location, from `georeference`.

    Returns
    -------
    bytes
    """
    crs, transform = where
    profile = {
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
    options = {
        "compress": "LZW",
        "predictor": "YES",
        "blocksize": _BLOCK,
        "interleave": "BAND",
        "overviews": "AUTO" if max(pixels.shape[1:]) > _LARGE else "NONE",
        "overview_resampling": "NEAREST",  # a mean of two label codes is a third one
    }
    with MemoryFile() as source, MemoryFile() as target:
        with source.open(**profile) as plain:
            plain.write(pixels)
            plain.descriptions = tuple(asset.band for asset in planes.assets)
        rasterio.shutil.copy(source.name, target.name, driver="COG", **options)
        return bytes(target.getbuffer())


def _fits(nodata: float | None, dtype: np.dtype[Any]) -> bool:
    if nodata is None or dtype.kind == "f":
        return nodata is not None
    return bool(np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max)


def write_cogs(patch: xr.Dataset, path: str | os.PathLike[str]) -> list[Path]:
    """Write a patch as ``S2L1C.tif``, ``extra/CDI.tif``, ``labels/fmask.tif`` and so on.

    Parameters
    ----------
    patch : xarray.Dataset
        Result of ``cube.cloudsen12.patch``; also clipped or reprojected.
    path : path
        Folder of the patch; created if necessary.

    Returns
    -------
    list of pathlib.Path
        The files written: LZW, tiled, with band descriptions. A label layer that holds nothing but fill was never
        labelled and has no file, as in the archive. The data type is the published one if it holds every value, else
        the stored one.

    Raises
    ------
    DestinationError
        If one of the files exists already; then none is written.
    SelectionError
        If the Dataset is not a patch, or has only some of the bands of a file.
    """
    products = [name for name in PRODUCTS if name in patch.data_vars]
    if not products:
        raise SelectionError(f"nothing to write: the Dataset has none of {', '.join(PRODUCTS)}")
    others = [str(name) for name in patch.data_vars if name not in PRODUCTS]
    if others:
        raise SelectionError(
            f"the Dataset also has {', '.join(others)}, which no file of the archive holds: leave it out with "
            f"drop_vars, or write it with .rio.to_raster"
        )
    arrays = {name: _array(patch[name], name) for name in products}
    names = [name for product, array in arrays.items() for name, _ in _complete_files(product, _bands(array))]
    existing = [f"{name}.tif" for name in names if Path(path, f"{name}.tif").exists()]
    if existing:
        raise DestinationError(f"{path} has {', '.join(existing)} already: remove them or give another folder")
    where = _georeference_of(patch)
    written = []
    for product, array in arrays.items():
        planes = planes_of(product, _bands(array), array.values)
        files = [file for file in planes if product != "labels" or not file.absent.all()]
        for file, pixels in zip(files, as_published(files), strict=True):
            written.append(_write(Path(path, f"{file.name}.tif"), encode(pixels, file, where)))
    return written


def _array(array: xr.DataArray, product: str) -> xr.DataArray:
    dim = f"band_{product}" if f"band_{product}" in array.dims else "band"
    if set(array.dims) != {dim, "y", "x"}:
        raise SelectionError(f"{product} has the dims {', '.join(map(str, array.dims))}: select one patch first")
    return array.transpose(dim, "y", "x")


def _bands(array: xr.DataArray) -> list[str]:
    return [str(band) for band in array[array.dims[0]].values]


def _georeference_of(patch: xr.Dataset) -> Georeference:
    """Derive the location from the coordinates, which stay right after a clip, unlike the attribute GeoTransform."""
    if "spatial_ref" not in patch.coords or min(patch.sizes["y"], patch.sizes["x"]) < 2:
        raise SelectionError("the Dataset has no location: it needs spatial_ref, and at least two rows and columns")
    (west, a), (north, e) = (_origin(patch[axis].values) for axis in ("x", "y"))
    crs = rasterio.crs.CRS.from_wkt(patch["spatial_ref"].attrs["crs_wkt"])
    return crs, rasterio.Affine(a, 0.0, west, 0.0, e, north)


def _origin(centres: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Compute the outer edge of the first pixel, and the step, the same all along."""
    step = float((centres[-1] - centres[0]) / (len(centres) - 1))
    if not np.allclose(np.diff(centres), step, rtol=1e-6, atol=0):
        raise SelectionError(
            f"the pixels from {centres[0]:g} to {centres[-1]:g} are not regularly spaced, so they are no raster: "
            "select with slices, as in isel(x=slice(0, 64))"
        )
    return float(centres[0]) - step / 2, step


def _write(path: Path, data: bytes) -> Path:
    """Write one file under a temporary name, then rename it: no reader sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path

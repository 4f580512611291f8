"""Stored integers as physical values: float32 by each band's own scale, lazy, with NaN where there is no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset.lazy import Kernel, lazy_apply
from cloudsen12_cube.format import fill_value
from cloudsen12_cube.schema import assets_of, find_band

OPTICAL = ("s2l1c", "s2l2a")
"""Products that hold reflectance, the one that the algorithms of the paper were run on first."""

_FLOAT32 = np.dtype("float32")


def reflectance(pixels: xr.DataArray, bands: str | Sequence[str] | None = None) -> xr.DataArray:
    """Return the pixels of a Sentinel-2 product in physical units.

    Parameters
    ----------
    pixels : xarray.DataArray
        ``s2l1c`` or ``s2l2a`` of a cube, with its ``band`` dim and the coordinates ``scale`` and ``offset``.
    bands : str or sequence of str, optional
        Names such as ``B4``, ``B04`` or ``red``; by default all. One name gives an array without ``band``.

    Returns
    -------
    xarray.DataArray of float32
        Reflectance; AOT without a unit, WVP in cm and TCI in counts, as the coordinate ``units`` says. NaN where there
        is no pixel, and where the stored value of a spectral band is 0, Sentinel-2's NODATA. The coordinates that
        describe stored values are left out, so nothing is scaled twice.

    Raises
    ------
    KeyError
        If the product has no such band.
    ValueError
        If the array is no Sentinel-2 product, or lies there without its scales.
    """
    product = str(pixels.name)
    if product not in OPTICAL:
        raise ValueError(f"{product} holds no reflectance: take {' or '.join(OPTICAL)}")
    if not {"band", "scale", "offset"} <= set(pixels.coords):
        raise ValueError(
            f"the coordinates band, scale and offset are gone from {product}: take it as open_cube gave it"
        )
    chosen = pixels if bands is None else pixels.sel(band=_names(product, bands))
    fill = fill_value(product, str(pixels.dtype))
    kernel = Kernel(partial(_scaled, fill=fill), _FLOAT32)
    scaled = lazy_apply(kernel, chosen, chosen["scale"], chosen["offset"], _nodata(product, chosen["band"]))
    scaled = scaled.drop_vars(["scale", "offset", "nodata"], errors="ignore").rename("reflectance")
    names = [str(band) for band in np.atleast_1d(chosen["band"].values)]
    # A list names the bands of a raster that rioxarray writes.
    several = "band" in chosen.dims and not {"roi", "time"} & set(chosen.dims)
    scaled.attrs = {"long_name": names if several else f"{product} in physical units"}
    return scaled


def _names(product: str, bands: str | Sequence[str]) -> str | list[str]:
    return find_band(product, bands) if isinstance(bands, str) else [find_band(product, band) for band in bands]


def _nodata(product: str, band: xr.DataArray) -> xr.DataArray:
    """Return the stored value of each band that is no measurement, or NaN; older cubes have no coordinate of it."""
    values = {asset.band: asset.unmeasured for asset in assets_of(product)}
    numbers = [values[str(name)] for name in band.values.ravel()]
    table = np.array([np.nan if number is None else number for number in numbers], np.float32)
    return band.copy(data=table.reshape(band.shape))


def _scaled(
    stored: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    nodata: npt.NDArray[np.float32],
    fill: float,
) -> npt.NDArray[np.float32]:
    values = stored.astype(np.float32) * np.asarray(scale, np.float32) + np.asarray(offset, np.float32)
    values[(stored == fill) | (stored == nodata)] = np.nan
    return values

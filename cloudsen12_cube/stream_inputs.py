"""What a stream reads: bands as channels, scaled or not, and a label layer as target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube import labels as label_values
from cloudsen12_cube.assets import Asset, ProductName, assets_of
from cloudsen12_cube.class_view import check_resolves, full_scale
from cloudsen12_cube.classes import LAYERS, Superclass, Threshold, layer
from cloudsen12_cube.cutout import Scaling
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.patches import StoredCube
from cloudsen12_cube.recipe import Part, Target
from cloudsen12_cube.statistics import BandStatistics, read_bands

Normalise = Literal["raw", "physical", "standard"]


def make_parts(
    stored: StoredCube, inputs: Mapping[str, Sequence[str] | None], normalise: Normalise
) -> tuple[Part, ...]:
    """Find the wanted bands of each product, and how they are scaled."""
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise is {normalise!r}: give one of {', '.join(get_args(Normalise))}")
    return tuple(_part(stored, product, bands, normalise) for product, bands in inputs.items())


def _part(stored: StoredCube, product: Any, bands: Sequence[str] | None, normalise: Normalise) -> Part:
    layout = stored.layout(product)
    names = [bands] if isinstance(bands, str) else layout.bands if bands is None else list(bands)
    for name in names:
        if name not in layout.bands:
            raise KeyError(f"no band {name!r} in {product}; it has {', '.join(layout.bands)}")
    if not names:
        raise ValueError(f"no band of {product} is named: give some of {', '.join(layout.bands)}, or None for all")
    scalings = None if normalise == "raw" else _scalings(stored, product, names, normalise)
    return Part(stored.chunks(product), tuple(layout.bands.index(name) for name in names), scalings)


def _scalings(
    stored: StoredCube, product: ProductName, names: Sequence[str], normalise: Normalise
) -> tuple[Scaling, ...]:
    assets = {asset.band: asset for asset in assets_of(product)}
    if normalise == "physical":
        return tuple(Scaling(assets[name].scale, 0.0, _nodata(assets[name])) for name in names)
    found = read_bands(stored.objects, product)
    if found is None:
        raise StoreError(
            f"{stored.url} has no statistics of {product}: run `cloudsen12-cube stats` on it once, "
            "or stream normalise='physical'"
        )
    return tuple(_standard(found[0][name], assets[name]) for name in names)


def _standard(band: BandStatistics, asset: Asset) -> Scaling:
    """Mean 0, deviation 1; a band of one value becomes 0."""
    gain = 1.0 / band.std if band.std > 0 else 0.0
    return Scaling(gain, -band.mean * gain if band.pixels else 0.0, _nodata(asset), 0.0)


def _nodata(asset: Asset) -> float | None:
    """Value of no data. That of the elevation is 0, which is the height of the sea, too: it stays."""
    return None if asset.nodata == 0 else asset.nodata


def pixel_type(parts: Sequence[Part]) -> np.dtype[Any]:
    """Tell the data type of a batch: float32 if scaled, else the smallest that holds the stored values of all parts."""
    if any(part.scalings is not None for part in parts):
        return np.dtype(np.float32)
    return np.result_type(*(np.dtype(part.chunks.layout.dtype) for part in parts))


def make_target(
    cube: xr.DataTree,
    stored: StoredCube,
    name: str | None,
    reading: tuple[Superclass | None, Threshold | None, int | None],
) -> Target | None:
    """Find a label layer, and how its values become classes, or a superclass.

    Parameters
    ----------
    cube, stored
        Opened, and where it lies.
    name : str or None
        Label layer.
    reading : tuple
        Superclass, threshold and full scale, None for the default of each.
    """
    if name is None:
        return None
    scheme, threshold, scale = reading
    known = [row.band for row in LAYERS]
    if name not in known:
        raise KeyError(f"no label layer {name!r}; there are {', '.join(known)}")
    row = layer(name)
    if threshold is not None and not row.probability:
        raise ValueError(f"{name} holds codes, no probability: leave the threshold out")
    if scheme is not None:
        check_resolves(row, scheme)
    unknown = row.probability and not row.full_scale
    full = full_scale(cube["labels"].to_dataset()["labels"], name, scale) if unknown else None
    codes = partial(_codes, name=name, full=full, threshold=threshold, scheme=scheme)
    return Target(stored.chunks("labels"), stored.layout("labels").bands.index(name), codes)


def _codes(
    plane: npt.NDArray[Any], name: str, full: int | None, threshold: Threshold | None, scheme: Superclass | None
) -> npt.NDArray[np.uint8]:
    codes = label_values.to_classes(plane, name, full, threshold)
    return codes if scheme is None else label_values.to_superclass(codes, scheme)

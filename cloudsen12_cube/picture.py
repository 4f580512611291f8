"""What a picture shows: one patch as red, green and blue pixels, before anything is drawn.

White is the class "clear" and black is dark land or shadow, so whatever is not known is grey, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube import class_view
from cloudsen12_cube.assets import assets_of
from cloudsen12_cube.classes import CLASSES, UNLABELLED, UNLABELLED_COLOR, layer
from cloudsen12_cube.layout import fill_value
from cloudsen12_cube.record import ABSENT, DONE, FAILED

Image = Literal["s2l1c", "s2l2a"]
_IMAGES: tuple[Image, ...] = ("s2l1c", "s2l2a")
_BRIGHTEST = 0.55
"""Reflectance that is shown white: thin clouds keep their structure, the brightest tops alone saturate."""
_GAMMA = 1 / 1.8
_NOTES = {ABSENT: "not in the cube", FAILED: "failed"}
_LISTED = 8


def _palette() -> npt.NDArray[np.float32]:
    """Colour of each class code, shape (256, 3); a code that is no class is grey."""
    colors = {c.code: c.color for c in CLASSES}
    rows = [list(bytes.fromhex(colors.get(code, UNLABELLED_COLOR)[1:])) for code in range(UNLABELLED + 1)]
    return np.array(rows, dtype=np.float32) / np.float32(255)


_PALETTE = _palette()
_GREY = _PALETTE[UNLABELLED]


@dataclass(frozen=True)
class Tile:
    """One patch as one pair of axes shows it."""

    pixels: npt.NDArray[np.float32]
    """(y, x, 3), 0..1"""
    note: str = ""
    """Why it is all grey."""
    interpolation: Literal["auto", "nearest"] = "nearest"
    """How to fit it to the screen; between two classes there is no third one."""


def dates(cube: xr.DataTree, product: str, roi: str) -> list[xr.Dataset]:
    """Select the patches of one ROI that the catalogue has, by time; no pixel is read."""
    images = cube[product].to_dataset()
    _check(images, "roi", roi)
    row = images.sel(roi=roi)
    there = [row.isel(time=t) for t, name in enumerate(row["s2_id_gee"].values) if name]
    if not there:
        raise KeyError(
            f"no patch of {roi} in the cube: the query that made it left all of them out, choose another ROI"
        )
    return there


def select(cube: xr.DataTree, product: str, roi: str, time: int) -> xr.Dataset:
    """Select one patch of one product; no pixel is read."""
    if product not in cube.children:
        raise KeyError(f"no product {product!r} in the cube; it has {', '.join(cube.children)}")
    images = cube[product].to_dataset()
    _check(images, "roi", roi)
    _check(images, "time", time)
    return images.sel(roi=roi, time=time)


def _check(images: xr.Dataset, dim: str, label: object) -> None:
    legal = images.indexes[dim]
    if label not in legal:
        first = ", ".join(map(str, legal[:_LISTED]))
        more = f", ... {legal[-1]} ({len(legal)} in all)" if len(legal) > _LISTED else ""
        raise KeyError(f"no {dim} {label!r} in the cube; it has {first}{more}")


def image_product(cube: xr.DataTree, product: str | None) -> str:
    """Name the product to draw: the one asked for, or the first image product of the cube."""
    there = [p for p in _IMAGES if p in cube.children]
    chosen = product or next(iter(there), None)
    if chosen not in there:
        raise KeyError(
            f"product is {product!r}: an image needs {' or '.join(_IMAGES)}; the cube has {', '.join(cube.children)}"
        )
    return chosen


def image(patch: xr.Dataset, product: str, bands: Sequence[str]) -> Tile:
    """Read three bands of one patch, stretched for the eye; what holds no data is grey."""
    if len(bands) != 3:
        raise ValueError(f"bands are {', '.join(bands) or 'none'}: give three, for red, green and blue")
    spectral = [a.band for a in assets_of(product) if a.wavelength and a.band in patch.indexes["band"]]
    for band in bands:
        if band not in spectral:
            raise KeyError(f"no spectral band {band!r} in {product}; it has {', '.join(spectral)}")
    if int(patch["status"]) != DONE:
        return _nothing(patch)
    chosen = patch[product].sel(band=list(bands))
    stored = chosen.values
    scale, offset = (chosen[name].values[:, None, None] for name in ("scale", "offset"))
    known = _known(stored, product)
    pixels = np.where(known[..., None], true_colour(stored * scale + offset), _GREY)
    return Tile(pixels, "" if known.any() else "no data", "auto")


def _known(stored: npt.NDArray[Any], product: str) -> npt.NDArray[np.bool_]:
    """Tell which pixels hold data: not where a band is the fill, nor where all are 0, beyond the swath's edge."""
    here: npt.NDArray[np.bool_] = stored != fill_value(product, str(stored.dtype))
    known: npt.NDArray[np.bool_] = here.all(axis=0) & (stored != 0).any(axis=0)
    return known


def codes(patch: xr.Dataset, of: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Read one label layer of one patch as class codes (y, x), and say why none is known, if none is."""
    if layer(of).band not in patch.indexes["band"]:
        raise KeyError(f"no layer {of!r} in the cube; it has {', '.join(patch.indexes['band'])}")
    if int(patch["status"]) != DONE:
        return np.full((patch.sizes["y"], patch.sizes["x"]), UNLABELLED, np.uint8), _NOTES[int(patch["status"])]
    found = class_view.classes(patch["labels"], of).values
    return found, "unlabelled" if (found == UNLABELLED).all() else ""


def classes(patch: xr.Dataset, of: str) -> Tile:
    """Read one label layer of one patch in the colours of the classes; what is not labelled is grey."""
    found, note = codes(patch, of)
    return Tile(_PALETTE[found], note)


def coded(found: npt.NDArray[np.uint8]) -> Tile:
    """Give class codes (y, x) of any origin their colours; what is not labelled is grey."""
    return Tile(_PALETTE[found], "unlabelled" if (found == UNLABELLED).all() else "")


def _nothing(patch: xr.Dataset) -> Tile:
    return Tile(np.tile(_GREY, (patch.sizes["y"], patch.sizes["x"], 1)), _NOTES[int(patch["status"])])


def true_colour(reflectance: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Stretch reflectance for the eye.

    Parameters
    ----------
    reflectance : numpy.ndarray, shape (3, y, x)
        Red, green, blue; 1 is white.

    Returns
    -------
    numpy.ndarray of float32, shape (y, x, 3)
        Values 0..1, with a gamma that lifts dark land.
    """
    bright = np.clip(reflectance.astype(np.float32) / np.float32(_BRIGHTEST), 0, 1)
    lifted: npt.NDArray[np.float32] = np.moveaxis(bright ** np.float32(_GAMMA), 0, -1)
    return lifted

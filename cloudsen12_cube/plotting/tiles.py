"""The pixels that a picture shows: one patch as red, green and blue values, before anything is drawn.

numpy only, so that the web page needs no matplotlib. White is the class "clear" and black is dark land or shadow, so
unknown pixels are grey, with a note that gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset import class_views
from cloudsen12_cube.format import ABSENT, DONE, FAILED, fill_value
from cloudsen12_cube.schema import CLASSES, UNLABELLED, UNLABELLED_COLOR, assets_of, layer

ImageProduct = Literal["s2l1c", "s2l2a"]
TRUE_COLOUR = ("B4", "B3", "B2")

_IMAGE_PRODUCTS: tuple[ImageProduct, ...] = ("s2l1c", "s2l2a")
# Reflectance that is shown white: thin clouds keep their structure, only the brightest tops saturate.
_WHITE = 0.55
_GAMMA = 1 / 1.8
_STATUS_NOTES = {ABSENT: "not in the cube", FAILED: "failed"}
_LISTED = 8  # labels of a dim that an error message lists


def _palette() -> npt.NDArray[np.float32]:
    """Colour of each class code, shape (256, 3); a code without a class is grey."""
    colors = {c.code: c.color for c in CLASSES}
    rows = [list(bytes.fromhex(colors.get(code, UNLABELLED_COLOR)[1:])) for code in range(UNLABELLED + 1)]
    return np.array(rows, dtype=np.float32) / np.float32(255)


_PALETTE = _palette()
_GREY = _PALETTE[UNLABELLED]


@dataclass(frozen=True)
class Tile:
    """One patch as one pair of axes shows it.

    Parameters
    ----------
    pixels : npt.NDArray[np.float32]
        (y, x, 3), 0..1
    note : str
        Why it is all grey; empty if it is not.
    interpolation : Literal['auto', 'nearest']
        How to resample it for the screen: codes must not be interpolated, a mean of two classes is a third one.
    """

    pixels: npt.NDArray[np.float32]
    note: str = ""
    interpolation: Literal["auto", "nearest"] = "nearest"


def select_dates(cube: xr.DataTree, product: str, roi: str) -> list[xr.Dataset]:
    """Select the patches of one ROI that the catalogue has, in order of time; no pixel is read."""
    images = cube[product].to_dataset()
    _check_label(images, "roi", roi)
    row = images.sel(roi=roi)
    patches = [row.isel(time=t) for t, name in enumerate(row["s2_id_gee"].values) if name]
    if not patches:
        raise KeyError(f"the cube has no patch of {roi} left: its query excluded all of them, choose another ROI")
    return patches


def select_patch(cube: xr.DataTree, product: str, roi: str, time: int) -> xr.Dataset:
    """Select one patch of one product; no pixel is read."""
    if product not in cube.children:
        raise KeyError(f"no product {product!r} in the cube; it has {', '.join(cube.children)}")
    images = cube[product].to_dataset()
    _check_label(images, "roi", roi)
    _check_label(images, "time", time)
    return images.sel(roi=roi, time=time)


def _check_label(images: xr.Dataset, dim: str, label: object) -> None:
    labels = images.indexes[dim]
    if label not in labels:
        first = ", ".join(map(str, labels[:_LISTED]))
        more = f", ... {labels[-1]} ({len(labels)} in all)" if len(labels) > _LISTED else ""
        raise KeyError(f"no {dim} {label!r} in the cube; it has {first}{more}")


def image_product(cube: xr.DataTree, product: str | None = None) -> str:
    """Choose the product to draw: the requested one, or the first image product of the cube."""
    available = [name for name in _IMAGE_PRODUCTS if name in cube.children]
    chosen = product or next(iter(available), None)
    if chosen not in available:
        raise KeyError(
            f"product is {product!r}: an image needs {' or '.join(_IMAGE_PRODUCTS)}; the cube has "
            f"{', '.join(cube.children)}"
        )
    return chosen


def image_tile(patch: xr.Dataset, product: str, bands: Sequence[str] = TRUE_COLOUR) -> Tile:
    """Read three bands of one patch, stretched for display; pixels without data are grey."""
    if len(bands) != 3:
        raise ValueError(f"bands are {', '.join(bands) or 'none'}: give three, for red, green and blue")
    spectral = [a.band for a in assets_of(product) if a.wavelength and a.band in patch.indexes["band"]]
    for band in bands:
        if band not in spectral:
            raise KeyError(f"no spectral band {band!r} in {product}; it has {', '.join(spectral)}")
    if int(patch["status"]) != DONE:
        return _colour(*read_codes(patch))
    chosen = patch[product].sel(band=list(bands)).transpose("band", "y", "x")
    stored = chosen.values
    scale, offset = (chosen[name].values[:, None, None] for name in ("scale", "offset"))
    # Outside the swath all bands are 0; a single 0 is a dark pixel.
    known = (stored != fill_value(product, str(stored.dtype))).all(axis=0) & (stored != 0).any(axis=0)
    pixels = np.where(known[..., None], true_colour(stored * scale + offset), _GREY)
    return Tile(pixels, "" if known.any() else "no data", "auto")


def read_codes(patch: xr.Dataset, of: str | None = None) -> tuple[npt.NDArray[np.uint8], str]:
    """Read a label layer of one patch as class codes (y, x); and the reason why none is known, if none is."""
    if of is not None and layer(of).band not in patch.indexes["band"]:
        raise KeyError(f"no layer {of!r} in the cube; it has {', '.join(patch.indexes['band'])}")
    if of is None or int(patch["status"]) != DONE:
        blank = np.full((patch.sizes["y"], patch.sizes["x"]), UNLABELLED, np.uint8)
        return blank, _STATUS_NOTES[int(patch["status"])]
    codes = class_views.classes(patch["labels"], of).transpose("y", "x").values
    return codes, "unlabelled" if (codes == UNLABELLED).all() else ""


def label_tile(patch: xr.Dataset, of: str) -> Tile:
    """Read a label layer of one patch in the colours of the classes; unlabelled pixels are grey."""
    return _colour(*read_codes(patch, of))


def codes_tile(codes: npt.NDArray[np.uint8]) -> Tile:
    """Return class codes (y, x) of any origin their colours; unlabelled pixels are grey."""
    return _colour(codes, "unlabelled" if (codes == UNLABELLED).all() else "")


def _colour(codes: npt.NDArray[np.uint8], note: str) -> Tile:
    return Tile(_PALETTE[codes], note)


def true_colour(reflectance: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Stretch reflectance for display.

    Parameters
    ----------
    reflectance : numpy.ndarray, shape (3, y, x)
        Red, green, blue; 1 is white.

    Returns
    -------
    numpy.ndarray of float32, shape (y, x, 3)
        Values 0..1, with a gamma that brightens dark land.
    """
    bright = np.clip(reflectance.astype(np.float32) / np.float32(_WHITE), 0, 1)
    return np.moveaxis(bright ** np.float32(_GAMMA), 0, -1)

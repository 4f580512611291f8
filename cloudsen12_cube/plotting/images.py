"""What a picture shows: one patch as red, green and blue pixels, before anything is drawn.

White is the class "clear" and black is dark land or shadow, so whatever is not known is grey, and says why.

Pictures of a cube: true colour and classes of a patch, and the dates of an ROI side by side.

Everything is read before a figure is made: what cannot be drawn leaves no empty figure behind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cloudsen12_cube.dataset import GROUP, find_layer
from cloudsen12_cube.dataset import class_views as class_view
from cloudsen12_cube.format import ABSENT, DONE, FAILED, fill_value
from cloudsen12_cube.schema import CLASSES, UNLABELLED, UNLABELLED_COLOR, assets_of, layer

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


_RGB = ("B4", "B3", "B2")
_FRAME = "#808080"


def rgb(
    cube: xr.DataTree,
    roi: str,
    time: int,
    ax: Axes | None = None,
    product: Image | None = None,
    bands: Sequence[str] = _RGB,
) -> Axes:
    """Draw one patch in true colour, or in three other bands.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``s2l1c`` or ``s2l2a``.
    roi : str
        ROI id.
    time : int
        Label on ``time``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    product : {"s2l1c", "s2l2a"}, optional
        By default the first that the cube has.
    bands : sequence of str
        Spectral bands shown as red, green and blue.

    Returns
    -------
    matplotlib.axes.Axes
        Pixels without data, and a patch that is absent or failed, are grey.

    Raises
    ------
    KeyError
        If the cube has no such product, ROI, time or band.
    ValueError
        If there are not three bands.
    """
    chosen = image_product(cube, product)
    patch = select(cube, chosen, roi, time)
    tile = image(patch, chosen, bands)
    axes = _new_axes() if ax is None else ax
    _show(axes, tile)
    _title(axes, f"{roi}, {_when(patch)}\n{_what(patch)}")
    return axes


def labels(
    cube: xr.DataTree, roi: str, time: int, of: str = "manual_hq", ax: Axes | None = None, legend: bool = True
) -> Axes:
    """Draw one label layer of one patch in the four classes.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``labels``.
    roi : str
        ROI id.
    time : int
        Label on ``time``.
    of : str
        Label layer.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    legend : bool
        Name the classes, right of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        Unlabelled pixels, and a patch that is absent or failed, are grey.

    Raises
    ------
    KeyError
        If the cube has no labels, or no such ROI, time or layer.
    ValueError
        If nothing in the cube tells the full scale of a CD-FCNN layer.
    """
    patch, tile = _labelled(cube, roi, time, of)
    axes = _new_axes() if ax is None else ax
    _show(axes, tile)
    _title(axes, f"{roi}, {_when(patch)}\n" + ", ".join(filter(None, (of, _what(patch)))))
    if legend:
        axes.legend(
            handles=_handles(), loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False, fontsize=9
        )
    return axes


def overview(
    cube: xr.DataTree, roi: str, of: Sequence[str] = ("manual_hq",), product: Image | None = None
) -> npt.NDArray[Any]:
    """Draw the dates of one ROI as columns: true colour in the first row, then a row a label layer.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``s2l1c`` or ``s2l2a``, and with ``labels`` where a layer is asked for.
    roi : str
        ROI id.
    of : sequence of str
        Label layers; none draws the images alone.
    product : {"s2l1c", "s2l2a"}, optional
        By default the first that the cube has.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (1 + layers, dates)

    Raises
    ------
    KeyError
        If the cube has no such product, ROI or layer, or no patch of the ROI.
    ValueError
        As `labels` does.
    """
    from matplotlib import pyplot  # here, since it looks for a display: only a figure that shows itself needs it

    return _overview(cube, roi, of, product, pyplot.figure)


def save_overview(
    cube: xr.DataTree, roi: str, path: str | os.PathLike[str], of: Sequence[str] = ("manual_hq",), dpi: int = 110
) -> None:
    """Write an overview to a file; no figure stays open.

    Parameters
    ----------
    cube, roi, of
        As for `overview`.
    path : path
        File, whose suffix says the format.
    dpi : int
        Pixels an inch; a column is about two inches wide.

    Raises
    ------
    KeyError
        As `overview` does.
    """
    axes = _overview(cube, roi, of, None, Figure)
    axes[0, 0].figure.savefig(os.fspath(path), dpi=dpi)


def _overview(
    cube: xr.DataTree, roi: str, of: Sequence[str], product: Image | None, make: Callable[..., Figure]
) -> npt.NDArray[Any]:
    layers = [of] if isinstance(of, str) else list(of)
    chosen = image_product(cube, product)
    images = dates(cube, chosen, roi)
    tiles = [[image(shot, chosen, _RGB) for shot in images], *(_row(cube, images, name) for name in layers)]
    width = max(2.2 * len(images) + 0.4, 3.2)
    figure = make(figsize=(width, 2.2 * len(tiles) + 0.9), layout="constrained")
    axes = figure.subplots(len(tiles), len(images), squeeze=False)
    for one, tile in zip(axes.flat, itertools.chain(*tiles), strict=True):
        _show(one, tile)
    for one, name in zip(axes[:, 0], ["true colour", *layers], strict=True):
        one.set_ylabel(name, fontsize=10, parse_math=False)
    for one, shot in zip(axes[0], images, strict=True):
        _title(one, f"{_when(shot)}\n{_what(shot)}")
    figure.suptitle(_whose(roi, images[0]), fontsize=11, parse_math=False)
    if layers:
        columns = min(int(width // 1.25), len(CLASSES) + 1)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return axes


def _row(cube: xr.DataTree, images: list[xr.Dataset], layer: str) -> list[Tile]:
    roi = str(images[0]["roi"].item())
    return [_labelled(cube, roi, int(image["time"]), layer)[1] for image in images]


def _labelled(cube: xr.DataTree, roi: str, time: int, of: str) -> tuple[xr.Dataset, Tile]:
    """Select a patch, and read one of its layers, stored or predicted."""
    found = find_layer(cube, of)
    product = "labels" if found is None else next(name for name in cube.children if name != GROUP)
    patch = select(cube, product, roi, time)
    if found is None:
        return patch, classes(patch, of)
    return patch, coded(class_view.classes(found.sel(roi=roi, time=time), of).values)


def _new_axes() -> Axes:
    from matplotlib import pyplot  # see overview

    return pyplot.figure(figsize=(5, 4), layout="compressed").add_subplot()


def _show(axes: Axes, tile: Tile) -> None:
    axes.imshow(tile.pixels, interpolation=tile.interpolation)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=_FRAME, linewidth=0.6)
    if tile.note:
        axes.text(0.5, 0.5, tile.note, ha="center", va="center", transform=axes.transAxes, fontsize=9, color="black")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, parse_math=False)


def _when(patch: xr.Dataset) -> str:
    date = patch["datetime"].values
    return f"time {patch['time'].item()}, {'date unknown' if np.isnat(date) else np.datetime_as_string(date, unit='D')}"


def _whose(roi: str, patch: xr.Dataset) -> str:
    return f"{roi} ({patch['label_type'].item()}, {patch['split'].item() or 'no split'})"


def _what(patch: xr.Dataset) -> str:
    difficulty = float(patch["difficulty"])
    hard = "" if np.isnan(difficulty) else f"difficulty {difficulty:g}"
    return ", ".join(filter(None, (patch["cloud_coverage"].item(), hard)))


def _handles() -> list[Patch]:
    rows = [*((c.name.replace("_", " "), c.color) for c in CLASSES), ("unlabelled", UNLABELLED_COLOR)]
    return [Patch(facecolor=color, edgecolor=_FRAME, linewidth=0.6, label=name) for name, color in rows]

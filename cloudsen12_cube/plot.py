"""Pictures of a cube: true colour and classes of a patch, and the dates of an ROI side by side.

Everything is read before a figure is made: what cannot be drawn leaves no empty figure behind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cloudsen12_cube import class_view, picture
from cloudsen12_cube.classes import CLASSES, UNLABELLED_COLOR
from cloudsen12_cube.picture import Image, Tile
from cloudsen12_cube.prediction import GROUP, find_layer

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
    chosen = picture.image_product(cube, product)
    patch = picture.select(cube, chosen, roi, time)
    tile = picture.image(patch, chosen, bands)
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
    chosen = picture.image_product(cube, product)
    images = picture.dates(cube, chosen, roi)
    tiles = [[picture.image(image, chosen, _RGB) for image in images], *(_row(cube, images, name) for name in layers)]
    width = max(2.2 * len(images) + 0.4, 3.2)
    figure = make(figsize=(width, 2.2 * len(tiles) + 0.9), layout="constrained")
    axes = figure.subplots(len(tiles), len(images), squeeze=False)
    for one, tile in zip(axes.flat, itertools.chain(*tiles), strict=True):
        _show(one, tile)
    for one, name in zip(axes[:, 0], ["true colour", *layers], strict=True):
        one.set_ylabel(name, fontsize=10, parse_math=False)
    for one, image in zip(axes[0], images, strict=True):
        _title(one, f"{_when(image)}\n{_what(image)}")
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
    patch = picture.select(cube, product, roi, time)
    if found is None:
        return patch, picture.classes(patch, of)
    return patch, picture.coded(class_view.classes(found.sel(roi=roi, time=time), of).values)


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

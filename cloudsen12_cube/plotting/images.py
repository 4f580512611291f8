"""Figures of a cube: true colour and classes of a patch, and the dates of an ROI side by side.

Everything is read before a figure is made, so that an error leaves no empty figure behind.
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

from cloudsen12_cube.dataset import GROUP, class_views, find_layer
from cloudsen12_cube.plotting import tiles
from cloudsen12_cube.plotting.tiles import TRUE_COLOUR, ImageProduct, Tile
from cloudsen12_cube.schema import CLASSES, UNLABELLED_COLOR

_FRAME = "#808080"


def rgb(
    cube: xr.DataTree,
    roi: str,
    time: int,
    ax: Axes | None = None,
    product: ImageProduct | None = None,
    bands: Sequence[str] = TRUE_COLOUR,
) -> Axes:
    """Draw one patch in true colour, or in three other bands.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with ``s2l1c`` or ``s2l2a``.
    roi : str
        ROI id.
    time : int
        Label of the dim ``time``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure.
    product : {"s2l1c", "s2l2a"}, optional
        Product to draw; by default the first that the cube has.
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
        If the number of bands is not three.
    """
    chosen = tiles.image_product(cube, product)
    patch = tiles.select_patch(cube, chosen, roi, time)
    tile = tiles.image_tile(patch, chosen, bands)
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
        Cube with ``labels``.
    roi : str
        ROI id.
    time : int
        Label of the dim ``time``.
    of : str
        Label layer.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure.
    legend : bool
        Add a legend of the classes, right of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        Unlabelled pixels, and a patch that is absent or failed, are grey.

    Raises
    ------
    KeyError
        If the cube has no labels, or no such ROI, time or layer.
    ValueError
        If the full scale of a CD-FCNN layer is unknown.
    """
    patch, tile = _label_tile(cube, roi, time, of)
    axes = _new_axes() if ax is None else ax
    _show(axes, tile)
    _title(axes, f"{roi}, {_when(patch)}\n" + ", ".join(filter(None, (of, _what(patch)))))
    if legend:
        axes.legend(
            handles=_handles(), loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False, fontsize=9
        )
    return axes


def overview(
    cube: xr.DataTree, roi: str, of: Sequence[str] = ("manual_hq",), product: ImageProduct | None = None
) -> npt.NDArray[Any]:
    """Draw the dates of one ROI as columns: true colour in the first row, then one row per label layer.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with ``s2l1c`` or ``s2l2a``, and with ``labels`` if ``of`` is not empty.
    roi : str
        ROI id.
    of : sequence of str
        Label layers; empty for the images alone.
    product : {"s2l1c", "s2l2a"}, optional
        Product to draw; by default the first that the cube has.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (1 + layers, dates)

    Raises
    ------
    KeyError
        If the cube has no such product, ROI or layer, or no patch of the ROI.
    ValueError
        If the full scale of a CD-FCNN layer is unknown.
    """
    from matplotlib import pyplot  # imported late: it looks for a display, which only an interactive figure needs

    return _overview(cube, roi, of, product, pyplot.figure)


def save_overview(
    cube: xr.DataTree, roi: str, path: str | os.PathLike[str], of: Sequence[str] = ("manual_hq",), dpi: int = 110
) -> None:
    """Write an overview to a file; no figure stays open.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with ``s2l1c`` or ``s2l2a``, and with ``labels`` if ``of`` is not empty.
    roi : str
        ROI id.
    path : path
        File to write; its suffix decides the format.
    of : sequence of str
        Label layers; empty for the images alone.
    dpi : int
        Pixels per inch; a column is about two inches wide.

    Raises
    ------
    KeyError
        As `overview` does.
    """
    axes = _overview(cube, roi, of, None, Figure)
    axes[0, 0].figure.savefig(os.fspath(path), dpi=dpi)


def _overview(
    cube: xr.DataTree, roi: str, of: Sequence[str], product: ImageProduct | None, make: Callable[..., Figure]
) -> npt.NDArray[Any]:
    layers = [of] if isinstance(of, str) else list(of)
    chosen = tiles.image_product(cube, product)
    patches = tiles.select_dates(cube, chosen, roi)
    times = [int(patch["time"]) for patch in patches]
    rows = [[tiles.image_tile(patch, chosen) for patch in patches]]
    rows += [[_label_tile(cube, roi, time, name)[1] for time in times] for name in layers]
    width = max(2.2 * len(patches) + 0.4, 3.2)
    figure = make(figsize=(width, 2.2 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), len(patches), squeeze=False)
    for one, tile in zip(axes.flat, itertools.chain(*rows), strict=True):
        _show(one, tile)
    for one, name in zip(axes[:, 0], ["true colour", *layers], strict=True):
        one.set_ylabel(name, fontsize=10, parse_math=False)
    for one, patch in zip(axes[0], patches, strict=True):
        _title(one, f"{_when(patch)}\n{_what(patch)}")
    about = f"{patches[0]['label_type'].item()}, {patches[0]['split'].item() or 'no split'}"
    figure.suptitle(f"{roi} ({about})", fontsize=11, parse_math=False)
    if layers:
        columns = min(int(width // 1.25), len(CLASSES) + 1)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return axes


def _label_tile(cube: xr.DataTree, roi: str, time: int, of: str) -> tuple[xr.Dataset, Tile]:
    """Select a patch, and read one of its layers, stored or predicted."""
    predicted = find_layer(cube, of)
    product = "labels" if predicted is None else next(name for name in cube.children if name != GROUP)
    patch = tiles.select_patch(cube, product, roi, time)
    if predicted is None:
        return patch, tiles.label_tile(patch, of)
    return patch, tiles.codes_tile(class_views.classes(predicted.sel(roi=roi, time=time), of).values)


def _new_axes() -> Axes:
    from matplotlib import pyplot  # imported late, see `overview`

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


def _what(patch: xr.Dataset) -> str:
    difficulty = float(patch["difficulty"])
    hard = "" if np.isnan(difficulty) else f"difficulty {difficulty:g}"
    return ", ".join(filter(None, (patch["cloud_coverage"].item(), hard)))


def _handles() -> list[Patch]:
    rows = [*((c.name.replace("_", " "), c.color) for c in CLASSES), ("unlabelled", UNLABELLED_COLOR)]
    return [Patch(facecolor=color, edgecolor=_FRAME, linewidth=0.6, label=name) for name, color in rows]

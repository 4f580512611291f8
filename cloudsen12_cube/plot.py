"""Pictures of a cube: the dates of an ROI as columns, true colour and labels as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cloudsen12_cube.classes import CLASSES
from cloudsen12_cube.record import DONE

_RGB = ["B4", "B3", "B2"]
_BRIGHTEST = 0.35
"""Reflectance that is shown white: land keeps its contrast, clouds saturate a little."""
_GREY = "#BDBDBD"


def overview(cube: xr.DataTree, roi: str) -> Figure:
    """Draw all dates of one ROI: true colour above, the experts' label below.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``s2l1c`` or ``s2l2a``; a row of labels is added where the cube has ``labels``.
    roi : str
        ROI id.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    KeyError
        If the cube has no Sentinel-2 product or no such ROI.
    """
    product = next((p for p in ("s2l1c", "s2l2a") if p in cube.children), None)
    if product is None:
        raise KeyError(f"a picture needs s2l1c or s2l2a; the cube has {', '.join(cube.children)}")
    images = cube[product].to_dataset().sel(roi=roi)
    times = [t for t in range(images.sizes["time"]) if images["s2_id_gee"].values[t]]
    rows = 2 if "labels" in cube.children else 1
    figure = Figure(figsize=(2.2 * len(times) + 0.2, 2.35 * rows + 0.7), layout="constrained")
    axes: Any = figure.subplots(rows, len(times), squeeze=False)
    for column, time in enumerate(times):
        _show_image(axes[0, column], images.isel(time=time), product)
        if rows == 2:
            _show_label(axes[1, column], cube["labels"].to_dataset().sel(roi=roi).isel(time=time))
    axes[0, 0].set_ylabel("true colour")
    if rows == 2:
        axes[1, 0].set_ylabel("expert label")
        handles = [Patch(facecolor=c.color, edgecolor="black", label=c.name.replace("_", " ")) for c in CLASSES]
        handles.append(Patch(facecolor=_GREY, edgecolor="black", label="no label"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(f"{roi} ({images['label_type'].item()}, {images['split'].item() or 'no split'})", fontsize=11)
    return figure


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _show_image(axes: Any, image: xr.Dataset, product: str) -> None:
    date = np.datetime_as_string(image["datetime"].values, unit="D") if not np.isnat(image["datetime"].values) else "?"
    axes.set_title(f"{date}\n{image['cloud_coverage'].item()}", fontsize=9)
    _bare(axes)
    if int(image["status"]) == DONE:
        axes.imshow(true_colour(image[product].sel(band=_RGB).values))
    else:
        _nothing(axes)


def true_colour(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Stretch stored reflectance for the eye.

    Parameters
    ----------
    stored : numpy.ndarray, shape (3, y, x)
        Red, green, blue as integers of 1e-4.

    Returns
    -------
    numpy.ndarray of float32, shape (y, x, 3)
        Values 0..1, with a gamma that lifts dark land.
    """
    reflectance = np.clip(stored.astype(np.float32) * np.float32(1e-4 / _BRIGHTEST), 0, 1)
    lifted: npt.NDArray[np.float32] = np.moveaxis(reflectance ** np.float32(1 / 1.6), 0, -1)
    return lifted


def _show_label(axes: Any, patch: xr.Dataset) -> None:
    _bare(axes)
    if int(patch["status"]) != DONE:
        _nothing(axes)
        return
    label = patch["labels"].sel(band="manual_hq").values.astype("int64")
    shown = np.where((label >= 0) & (label < len(CLASSES)), label, len(CLASSES))
    colours = ListedColormap([*(c.color for c in CLASSES), _GREY])
    axes.imshow(shown, cmap=colours, vmin=-0.5, vmax=len(CLASSES) + 0.5, interpolation="nearest")


def _nothing(axes: Any) -> None:
    axes.set_facecolor(_GREY)
    axes.text(0.5, 0.5, "not in the cube", ha="center", va="center", transform=axes.transAxes, fontsize=8)

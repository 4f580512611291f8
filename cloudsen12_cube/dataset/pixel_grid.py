"""Where the pixels of a selection lie in the whole patch, by the coordinates that `open_cube` gives ``y`` and ``x``.

These are the numbers of rows and columns in the stored patch, from 0. They follow every crop, flip and step, so that
what is left of a patch is placed on the map where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import KEY

AXES = ("y", "x")
_RANGE = "valid_range"
_NAMES = {"y": "row of the pixel in the whole patch", "x": "column of the pixel in the whole patch"}


def pixel_coords(height: int, width: int) -> dict[str, xr.Variable]:
    """Return the coordinates ``y`` and ``x`` of whole patches."""
    return {
        axis: xr.Variable(axis, np.arange(size), {"long_name": _NAMES[axis], _RANGE: [0, size - 1]})
        for axis, size in zip(AXES, (height, width), strict=True)
    }


@dataclass(frozen=True)
class PixelAxis:
    """The pixels of a selection along one axis, regularly spaced.

    Parameters
    ----------
    first : float
        Row or column of the centre of the first pixel in the whole patch, where pixel 0 has its centre at 0.
    step : float
        Distance of neighbouring pixels: 1 of the whole patch, negative where the order is turned.
    size : int
    whole : int
        Rows or columns of the whole patch.
    """

    first: float
    step: float
    size: int
    whole: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all pixels of the patch, in their order."""
        return (self.first, self.step, self.size) == (0, 1, self.whole)

    @property
    def start(self) -> float:
        """Outer edge of the first pixel, in pixels from the edge of the whole patch."""
        return self.first + 0.5 - self.step / 2

    @property
    def edges(self) -> tuple[float, float]:
        """Outer edges, in pixels from the edge of the whole patch, the lower one first."""
        ends = self.start, self.start + self.step * self.size
        return min(ends), max(ends)


def pixel_axes(part: xr.Dataset) -> tuple[PixelAxis, PixelAxis]:
    """Find where the pixels of a cube's Dataset lie in the whole patch: the axes ``y`` and ``x``.

    Raises
    ------
    SelectionError
        If an axis or its coordinate is gone, is not what `open_cube` gave, or is not regularly spaced.
    """
    y, x = (_axis(part, axis) for axis in AXES)
    return y, x


def _axis(part: xr.Dataset, axis: str) -> PixelAxis:
    if axis not in part.dims:
        raise SelectionError(
            f"the pixels have lost their dimension {axis}, so their location is unknown; they have "
            f"{', '.join(map(str, part.dims))}: select with slices, as in isel({axis}=slice(0, 64))"
        )
    limits = part[axis].attrs.get(_RANGE) if axis in part.coords else None
    if limits is None:
        raise SelectionError(
            f"{axis} has no numbers of the pixels in the whole patch, so their location is unknown: keep the "
            f"coordinate {axis} of open_cube, and place single patches on the map with patch()"
        )
    labels, whole = np.asarray(part[axis].values, dtype=np.float64), int(limits[1]) + 1
    if not labels.size:
        raise SelectionError(f"no pixel is left along {axis}: select some of 0 to {whole - 1}")
    if not (np.isfinite(labels).all() and labels.min() >= 0 and labels.max() < whole):
        raise SelectionError(
            f"{axis} runs from {labels[0]:g} to {labels[-1]:g}, the pixels of the whole patch are 0 to {whole - 1}: "
            f"keep the coordinate {axis} of open_cube"
        )
    steps = np.unique(np.diff(labels)) if labels.size > 1 else np.ones(1)
    if len(steps) > 1 or steps[0] == 0:
        raise SelectionError(
            f"the pixels along {axis} are not regularly spaced (steps {', '.join(f'{s:g}' for s in steps[:5])}), so "
            f"they are no raster: select with a slice, as in isel({axis}=slice(0, 64, 2))"
        )
    return PixelAxis(float(labels[0]), float(steps[0]), labels.size, whole)


def cube_axes(cube: xr.DataTree) -> tuple[PixelAxis, PixelAxis]:
    """Find where the pixels of a cube lie in the whole patch.

    Raises
    ------
    SelectionError
        If there are no pixels, or products have different ones.
    """
    groups = {name: node.to_dataset() for name, node in cube.children.items() if set(node.dims) & set(AXES)}
    if KEY not in cube.attrs:  # not opened from a store: a tree of whole patches, unless it says otherwise
        groups = {name: _numbered(group) for name, group in groups.items()}
    found = {name: pixel_axes(group) for name, group in groups.items()}
    if not found:
        raise SelectionError("the size of a patch is unknown: open the cube with at least one product")
    (first, axes), *others = found.items()
    for name, other in others:
        if other != axes:
            raise SelectionError(
                f"{first} and {name} hold different pixels (y: {axes[0]} and {other[0]}; x: {axes[1]} and "
                f"{other[1]}): select the same of all products, as in cube.isel(y=slice(0, 64), x=slice(0, 64))"
            )
    return axes


def _numbered(group: xr.Dataset) -> xr.Dataset:
    missing = {axis for axis in AXES if axis in group.dims and axis not in group.coords}
    coords = pixel_coords(group.sizes.get("y", 0), group.sizes.get("x", 0))
    return group.assign_coords({axis: coords[axis] for axis in missing})

"""Crop, padding, flips, rotations and scaling of a patch on its way into a batch.

One window and one of the eight flips and rotations are drawn per patch, and all channels and the target are written
through the same views, so they cannot differ. The batch is written in the order of its memory; flipped or rotated is
the plane that is read, which is small and still in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

PadMode = Literal["reflect", "constant"]
PadAt = Literal["both", "end"]
CropAt = Literal["random", "centre"]
Plane = npt.NDArray[Any]
Draw = npt.NDArray[np.float64]
"""Random numbers of a patch, shape (3,), 0 to 1: position of the crop in y and x, flip or rotation."""
TRANSPOSE, _FLIP_Y, _FLIP_X = 4, 1, 2


@dataclass(frozen=True)
class PatchTransform:
    """Size, crop, padding and augmentation of every patch.

    Parameters
    ----------
    height : int
    width : int
        Of a stored patch.
    crop : tuple[int, int] | None
        Rows and columns to crop; None takes the whole patch.
    crop_at : CropAt
    pad : int | None
        Pad rows and columns to a multiple of this.
    pad_mode : PadMode
        How input is padded; ``constant`` writes zeros. The padding of a target is always unlabelled.
    pad_at : PadAt
        ``both``: half of the padding before and half after, an odd row or column after, as the authors of the dataset
        pad 509 to 512: one before, two after. ``end``: all of it below and to the right.
    augment : bool
        Apply one of the eight flips and rotations of a square, or of the four flips to a rectangle.
    """

    height: int
    width: int
    crop: tuple[int, int] | None = None
    crop_at: CropAt = "random"
    pad: int | None = None
    pad_mode: PadMode = "reflect"
    augment: bool = False
    pad_at: PadAt = "both"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.crop_at not in get_args(CropAt):
            raise ValueError(f"crop_at is {self.crop_at!r}: give one of {', '.join(get_args(CropAt))}")
        if self.pad_mode not in get_args(PadMode):
            raise ValueError(f"pad_mode is {self.pad_mode!r}: give one of {', '.join(get_args(PadMode))}")
        if self.pad_at not in get_args(PadAt):
            raise ValueError(f"pad_at is {self.pad_at!r}: give one of {', '.join(get_args(PadAt))}")
        rows, columns = self.cropped
        if not (0 < rows <= self.height and 0 < columns <= self.width):
            raise ValueError(f"crop is {rows} x {columns}: a patch has {self.height} x {self.width} pixels")
        if self.pad is not None and self.pad < 1:
            raise ValueError(f"pad is {self.pad}: give a multiple of 1 or more")
        inner, (height, width) = self.inner, self.shape
        if self.pad_mode == "reflect" and not (height - inner[0].stop < rows and width - inner[1].stop < columns):
            raise ValueError(f"{rows} x {columns} pixels cannot be reflected to {self.shape}: give pad_mode='constant'")

    @property
    def cropped(self) -> tuple[int, int]:
        """Rows and columns before padding."""
        return self.crop or (self.height, self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in the batch."""
        rows, columns = self.cropped
        step = self.pad or 1
        return -(-rows // step) * step, -(-columns // step) * step

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns in the batch that are no padding, without flip or rotation."""
        rows, columns = self.cropped
        height, width = self.shape
        top, left = ((height - rows) // 2, (width - columns) // 2) if self.pad_at == "both" else (0, 0)
        return slice(top, top + rows), slice(left, left + columns)

    @property
    def is_identity(self) -> bool:
        """Whether a patch goes into the batch unchanged."""
        return self.shape == (self.height, self.width) == self.cropped and not self.augment

    def window(self, draw: Draw) -> tuple[slice, slice]:
        """Rows and columns of the patch that a draw selects."""
        rows, columns = self.cropped
        y, x = (0.5, 0.5) if self.crop_at == "centre" else (float(draw[0]), float(draw[1]))
        top, left = int(y * (self.height - rows + 1)), int(x * (self.width - columns + 1))
        return slice(top, top + rows), slice(left, left + columns)

    def orientation(self, draw: Draw) -> int:
        """Bits of the flip or rotation that a draw selects: flip y, flip x, transpose; 0 leaves the patch as it is."""
        if not self.augment:
            return 0
        return int(draw[2] * (8 if self.shape[0] == self.shape[1] else 4))

    def source_view(self, plane: Plane, draw: Draw) -> Plane:
        """View the window of a stored plane in the orientation that it has in the batch."""
        view, orientation = plane[self.window(draw)], self.orientation(draw)
        view = view[::-1] if orientation & _FLIP_Y else view
        view = view[:, ::-1] if orientation & _FLIP_X else view
        return view.T if orientation & TRANSPOSE else view

    def target_view(self, out: Plane, draw: Draw) -> Plane:
        """View the part of a plane of the batch that `source_view` is written to: all but the padding."""
        orientation = self.orientation(draw)
        upright = self._upright(out, orientation)[self.inner]
        view = upright[:, ::-1] if orientation & _FLIP_X else upright
        view = view[::-1] if orientation & _FLIP_Y else view
        return view.T if orientation & TRANSPOSE else view

    @staticmethod
    def _upright(out: Plane, orientation: int) -> Plane:
        """View a plane of the batch in the orientation of the stored patch: the inverse of a flip or rotation."""
        view = out.T if orientation & TRANSPOSE else out
        view = view[::-1] if orientation & _FLIP_Y else view
        return view[:, ::-1] if orientation & _FLIP_X else view

    def fill_padding(self, out: Plane, draw: Draw, value: float | None) -> None:
        """Fill the padding of a plane of the batch with the constant ``value``, or by reflection at the edge."""
        if self.shape == self.cropped:
            return
        view = self._upright(out, self.orientation(draw))
        rows, columns = self.inner
        _fill_ends(view[rows].T, columns, value)  # left and right of the patch
        _fill_ends(view, rows, value)  # above and below, with the corners


def _fill_ends(lines: Plane, part: slice, value: float | None) -> None:
    """Fill the lines before and after a part with a value, or without one by reflection at its first and last line."""
    before, after = part.start, len(lines) - part.stop
    first, last = part.start, part.stop - 1
    lines[:first] = lines[first + 1 : first + 1 + before][::-1] if value is None else value
    lines[last + 1 :] = lines[last - after : last][::-1] if value is None else value


@dataclass(frozen=True)
class Scaling:
    """Linear scaling of the stored values of a band to floats: gain times value plus offset.

    Parameters
    ----------
    gain : float
    offset : float
    nodata : float | None
        Stored value that is not a measurement.
    missing : float
        Value in the batch in its place, and for a band that is not stored.
    """

    gain: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    missing: float = float("nan")

    def write(self, plane: Plane, out: Plane) -> None:
        """Write the scaled values of a plane into a float32 view of the same shape."""
        np.multiply(plane, np.float32(self.gain), out=out, casting="same_kind")
        if self.offset:
            out += np.float32(self.offset)
        if self.nodata is not None:
            out[plane == self.nodata] = self.missing
        if plane.dtype.kind == "f" and not np.isnan(self.missing):
            out[np.isnan(plane)] = self.missing

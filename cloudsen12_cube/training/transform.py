"""What a patch becomes on its way into a batch: cropped, padded, turned, scaled.

One window and one turn are drawn for a patch, and every channel and the target go through the same view of the batch,
so they cannot be treated differently. The batch is written in the order of its memory; what is turned is the plane that
is read, which is small and still in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

PadMode = Literal["reflect", "constant"]
CropAt = Literal["random", "centre"]
Plane = npt.NDArray[Any]
Lot = npt.NDArray[np.float64]
TRANSPOSE, _DOWN, _RIGHT = 4, 1, 2


@dataclass(frozen=True)
class PatchTransform:
    """Size and treatment of what is cut out of every patch."""

    height: int
    width: int
    """Of a patch."""
    crop: tuple[int, int] | None = None
    """Rows and columns to cut out; None takes the whole patch."""
    crop_at: CropAt = "random"
    pad: int | None = None
    """Pad rows and columns, below and to the right, to a multiple of this."""
    pad_mode: PadMode = "reflect"
    """How input is padded; ``constant`` writes zeros. A target's padding is always unlabelled."""
    augment: bool = False
    """Turn by one of the eight flips and rotations of a square (the four flips where it is none)."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.crop_at not in get_args(CropAt):
            raise ValueError(f"crop_at is {self.crop_at!r}: give one of {', '.join(get_args(CropAt))}")
        if self.pad_mode not in get_args(PadMode):
            raise ValueError(f"pad_mode is {self.pad_mode!r}: give one of {', '.join(get_args(PadMode))}")
        rows, columns = self.cropped
        if not (0 < rows <= self.height and 0 < columns <= self.width):
            raise ValueError(f"crop is {rows} x {columns}: a patch has {self.height} x {self.width} pixels")
        if self.pad is not None and self.pad < 1:
            raise ValueError(f"pad is {self.pad}: give a multiple of 1 or more")
        if self.pad_mode == "reflect" and max(self.shape[0] - rows, self.shape[1] - columns) >= min(rows, columns):
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
    def plain(self) -> bool:
        """Whether a patch goes into the batch as it is."""
        return self.shape == (self.height, self.width) == self.cropped and not self.augment

    def window(self, lot: Lot) -> tuple[slice, slice]:
        """Rows and columns of the patch that a lot falls on."""
        rows, columns = self.cropped
        y, x = (0.5, 0.5) if self.crop_at == "centre" else (float(lot[0]), float(lot[1]))
        top, left = int(y * (self.height - rows + 1)), int(x * (self.width - columns + 1))
        return slice(top, top + rows), slice(left, left + columns)

    def turn(self, lot: Lot) -> int:
        """Which of the eight turns a lot falls on; 0 is none."""
        if not self.augment:
            return 0
        return int(lot[2] * (8 if self.shape[0] == self.shape[1] else 4))

    def source(self, plane: Plane, lot: Lot) -> Plane:
        """View the window of a patch's plane as it stands in the batch, turned."""
        view, turn = plane[self.window(lot)], self.turn(lot)
        view = view[::-1] if turn & _DOWN else view
        view = view[:, ::-1] if turn & _RIGHT else view
        return view.T if turn & TRANSPOSE else view

    def inner(self, out: Plane, lot: Lot) -> Plane:
        """View the part of a plane of the batch that `source` goes into, in the same turn: all but the padding."""
        turn = self.turn(lot)
        upright = self._upright(out, turn)[: self.cropped[0], : self.cropped[1]]
        view = upright[:, ::-1] if turn & _RIGHT else upright
        view = view[::-1] if turn & _DOWN else view
        return view.T if turn & TRANSPOSE else view

    @staticmethod
    def _upright(out: Plane, turn: int) -> Plane:
        """View a plane of the batch as the patch would see it, had it not been turned."""
        view = out.T if turn & TRANSPOSE else out
        view = view[::-1] if turn & _DOWN else view
        return view[:, ::-1] if turn & _RIGHT else view

    def frame(self, out: Plane, lot: Lot, padding: float | None) -> None:
        """Fill the padding of a plane of the batch: with a constant, or with None by reflection at the edge."""
        if self.shape == self.cropped:
            return
        view = self._upright(out, self.turn(lot))
        rows, columns = self.cropped
        below, right = self.shape[0] - rows, self.shape[1] - columns
        if padding is not None:
            view[rows:] = padding
            view[:rows, columns:] = padding
            return
        if right:
            view[:rows, columns:] = view[:rows, columns - 1 - right : columns - 1][:, ::-1]
        if below:
            view[rows:] = view[rows - 1 - below : rows - 1][::-1]


@dataclass(frozen=True)
class Scaling:
    """How the stored values of a band become floats: gain times value plus offset."""

    gain: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    """Stored value that is no measurement."""
    missing: float = float("nan")
    """What stands in the batch for it, and for a band that is not there."""

    def write(self, plane: Plane, out: Plane) -> None:
        """Write the scaled values of a plane into a float32 view of the same shape."""
        np.multiply(plane, np.float32(self.gain), out=out, casting="same_kind")
        if self.offset:
            out += np.float32(self.offset)
        if self.nodata is not None:
            out[plane == self.nodata] = self.missing
        if plane.dtype.kind == "f" and not np.isnan(self.missing):
            out[np.isnan(plane)] = self.missing

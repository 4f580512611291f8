"""What the records of a cube add up to: the status of every patch, and the scale of the probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.classes import layer
from cloudsen12_cube.labels import probability_scale
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.record import ShardRecord

_CERTAIN = 10_000
"""The scale that a single value tells; the other follows from all values."""


@dataclass
class Tally:
    """Sums that grow as records are added; equal records in any order give equal sums."""

    status: dict[str, npt.NDArray[np.uint8]]
    """Product -> (roi, time) of 0 absent, 1 done, 2 failed."""
    maxima: dict[int, int] = field(default_factory=dict)
    """Place of an ROI on disk -> largest value of CD-FCNN in its labels; -1 where none was read."""
    known: int = -1
    """Full scale that a larger cube told, from which this one was taken; -1 where none did."""

    @classmethod
    def empty(cls, layouts: Sequence[ProductLayout], rois: int, known: int | None = None) -> Tally:
        """Begin with nothing done."""
        status: dict[str, npt.NDArray[np.uint8]] = {
            row.product: np.zeros((rois, row.times), dtype=np.uint8) for row in layouts
        }
        return cls(status, known=-1 if known is None else known)

    def add(self, record: ShardRecord, shown: bool = True) -> None:
        """Add a record; one of an ROI and product that was added before takes its place.

        Parameters
        ----------
        record : ShardRecord
        shown : bool
            Whether readers may be told that its patches are there.
        """
        status = self.status[record.product]
        status[record.index] = 0
        for patch in record.patches if shown else ():
            status[record.index, patch.time] = patch.status
        if record.product == "labels":
            values = [v for p in record.patches for band, v in p.maxima.items() if layer(band).full_scale is None]
            self.maxima[record.index] = max(values, default=-1)

    @property
    def scale(self) -> int | None:
        """Full scale of CD-FCNN's probability; None as long as an ROI that is still missing may decide it."""
        largest = max(self.known, *self.maxima.values(), -1)
        if largest < 0:
            return None
        scale = probability_scale(largest)
        whole = len(self.maxima) == len(next(iter(self.status.values())))
        return scale if whole or scale == _CERTAIN else None

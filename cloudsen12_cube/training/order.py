"""Which patches, in which order: a pure function of seed, epoch, rank and world size. Indices only, no file.

All ranks know the order of the whole epoch and take their share of it, so what they draw is disjoint by construction,
and the k-th batches of all ranks together are the k-th batch of one rank with a larger batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Last = Literal["keep", "drop", "pad"]
FILLER = -1
"""Stands in a batch for a patch that is not there."""


@dataclass(frozen=True)
class Order:
    """How the patches of an epoch follow each other, and which of them are this rank's."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    window: int | None = 1024
    """ROIs whose patches are mixed with each other; None mixes all."""
    rank: int = 0
    world_size: int = 1
    last: Last = "keep"
    """What becomes of patches that do not fill a batch on every rank: ``keep`` makes a short batch (one rank only),
    ``drop`` leaves them out, ``pad`` fills up with `FILLER`."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("batch_size", 1), ("window", 1), ("world_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: give {least} or more")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank is {self.rank}: give 0 to {self.world_size - 1}, for world_size {self.world_size}")
        if self.last not in get_args(Last):
            raise ValueError(f"last is {self.last!r}: give one of {', '.join(get_args(Last))}")
        if self.last == "keep" and self.world_size > 1:
            raise ValueError("last='keep' cannot give all ranks equally many batches: give last='drop' or last='pad'")

    def steps(self, count: int) -> int:
        """Count the batches of every rank in an epoch of so many patches."""
        share = self.batch_size * self.world_size
        return count // share if self.last == "drop" else -(-count // share)


@dataclass(frozen=True)
class Epoch:
    """One epoch: the patches in order, and what is drawn by lot for each."""

    order: Order
    patches: Indices
    """Positions in the table of patches, for all ranks."""
    lots: npt.NDArray[np.float64]
    """Shape (patches, 3), 0 to 1: where a crop lies in y and x, and how it is turned."""

    @property
    def steps(self) -> int:
        """Batches of every rank."""
        return self.order.steps(len(self.patches))

    def batch(self, step: int) -> tuple[Indices, npt.NDArray[np.float64]]:
        """Patches and lots of this rank's batch at a step; with ``pad``, `FILLER` where there is no patch left."""
        size = self.order.batch_size
        start = (step * self.order.world_size + self.order.rank) * size
        patches, lots = self.patches[start : start + size], self.lots[start : start + size]
        lacking = size - len(patches) if self.order.last == "pad" else 0
        return np.pad(patches, (0, lacking), constant_values=FILLER), np.pad(lots, ((0, lacking), (0, 0)))


def make_epoch(order: Order, number: int, rois: Indices, weights: npt.NDArray[np.float64] | None = None) -> Epoch:
    """Lay out an epoch.

    Parameters
    ----------
    order : Order
    number : int
        Of the epoch, from 0.
    rois : numpy.ndarray, shape (patches,)
        Position of each patch's ROI: a shard of every product.
    weights : numpy.ndarray, shape (patches,), optional
        How often a patch comes, relative to the others; by default each comes once.
    """
    random = np.random.default_rng([order.seed, number])
    drawn = np.arange(len(rois)) if weights is None else _weighted(weights, random)
    if order.shuffle and len(rois):
        place = random.permutation(int(rois.max()) + 1)
        present = np.unique(place[rois[drawn]])  # a window counts the ROIs that have patches here
        window = np.searchsorted(present, place[rois[drawn]]) // (order.window or len(present))
        drawn = drawn[np.lexsort((random.random(len(drawn)), window))]
    return Epoch(order, drawn.astype(np.int64), random.random((len(drawn), 3)))


def _weighted(weights: npt.NDArray[np.float64], random: np.random.Generator) -> Any:
    """Draw as many patches as there are; each comes as often as its share says, rounded up or down by one lot."""
    total = weights.sum()
    if not (np.isfinite(weights).all() and (weights >= 0).all() and total > 0):
        raise ValueError("weights must be numbers of 0 or more, and one of them more than 0")
    ends = np.cumsum(weights) / total * len(weights)
    ends[-1] = len(weights)
    return np.searchsorted(ends, np.arange(len(weights)) + random.random(), side="right")


def shuffle_quality(rois: Indices) -> float:
    """Tell how well an order is mixed.

    Parameters
    ----------
    rois : numpy.ndarray, shape (patches,)
        ROI of each patch, in order.

    Returns
    -------
    float
        Mean distance from a patch to the next one of its ROI, over what a uniform shuffle would give: about 1 is as
        good as that, near 0 is no shuffle. 1 where no ROI has two patches.
    """
    by_roi = np.argsort(rois, kind="stable")
    same = np.diff(rois[by_roi]) == 0
    if not same.any():
        return 1.0
    _, inverse, counts = np.unique(rois, return_inverse=True, return_counts=True)
    expected = (len(rois) + 1) / (counts[inverse[by_roi[1:]]] + 1)
    return float((np.diff(by_roi)[same] / expected[same]).mean())

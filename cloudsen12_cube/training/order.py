"""Which patches, in which order: a pure function of seed, epoch, rank and world size. Indices only, no file is read.

All ranks compute the order of the whole epoch and take their share of it, so their patches are disjoint by
construction, and the k-th batches of all ranks together are the k-th batch of a single rank with a larger batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Last = Literal["keep", "drop", "pad"]
FILLER = -1
"""Index in a batch in place of a patch, where ``last="pad"`` fills the batch up."""


@dataclass(frozen=True)
class Order:
    """Order of the patches of an epoch, and the share of this rank.

    Parameters
    ----------
    batch_size : int
    seed : int
    shuffle : bool
    window : int | None
        Number of ROIs whose patches are mixed with each other; None mixes all.
    rank : int
    world_size : int
    last : Last
        Patches that do not fill a batch on every rank: ``keep`` makes a short batch (one rank only), ``drop``
        leaves them out, ``pad`` fills the batch up with `FILLER`.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    window: int | None = 1024
    rank: int = 0
    world_size: int = 1
    last: Last = "keep"

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
        """Count the batches of every rank in an epoch of ``count`` patches."""
        share = self.batch_size * self.world_size
        return count // share if self.last == "drop" else -(-count // share)


@dataclass(frozen=True)
class Epoch:
    """One epoch: the patches in order, and the random numbers of each.

    Parameters
    ----------
    order : Order
    patches : Indices
        Positions in the table of patches, for all ranks.
    draws : Floats
        Shape (patches, 3), 0 to 1: the position of a crop in y and x, and the flip or rotation.
    """

    order: Order
    patches: Indices
    draws: Floats

    @property
    def steps(self) -> int:
        """Number of batches of every rank."""
        return self.order.steps(len(self.patches))

    def batch(self, step: int) -> tuple[Indices, Floats]:
        """Patches and draws of this rank's batch at a step; with ``pad``, `FILLER` after the last patch."""
        size = self.order.batch_size
        start = (step * self.order.world_size + self.order.rank) * size
        patches, draws = self.patches[start : start + size], self.draws[start : start + size]
        missing = size - len(patches) if self.order.last == "pad" else 0
        return np.pad(patches, (0, missing), constant_values=FILLER), np.pad(draws, ((0, missing), (0, 0)))


def make_epoch(order: Order, number: int, rois: Indices, weights: Floats | None = None) -> Epoch:
    """Compute an epoch.

    Parameters
    ----------
    order : Order
        Order of the patches.
    number : int
        Number of the epoch, from 0.
    rois : numpy.ndarray, shape (patches,)
        Index of each patch's ROI: a shard of every product.
    weights : numpy.ndarray, shape (patches,), optional
        Frequency of each patch relative to the others; by default each comes once.

    Returns
    -------
    Epoch
    """
    random = np.random.default_rng([order.seed, number])
    chosen = np.arange(len(rois)) if weights is None else _sample(weights, random)
    if order.shuffle and len(rois):
        rank = random.permutation(int(rois.max()) + 1)[rois[chosen]]  # ROIs in random order
        present = np.unique(rank)  # a window counts only the ROIs that have patches here
        window = np.searchsorted(present, rank) // (order.window or len(present))
        chosen = chosen[np.lexsort((random.random(len(chosen)), window))]
    return Epoch(order, chosen.astype(np.int64), random.random((len(chosen), 3)))


def _sample(weights: Floats, random: np.random.Generator) -> Any:
    """Sample systematically: as many patches as there are, each as often as its share, rounded up or down at random."""
    total = weights.sum()
    if not (np.isfinite(weights).all() and (weights >= 0).all() and total > 0):
        raise ValueError("weights must be numbers of 0 or more, and one of them more than 0")
    ends = np.cumsum(weights) / total * len(weights)
    ends[-1] = len(weights)  # rounding must not push the last sample past the end
    return np.searchsorted(ends, np.arange(len(weights)) + random.random(), side="right")


def shuffle_quality(rois: Indices) -> float:
    """Measure how well an order is mixed.

    Parameters
    ----------
    rois : numpy.ndarray, shape (patches,)
        ROI of each patch, in order.

    Returns
    -------
    float
        Mean distance from a patch to the next one of its ROI, divided by that of a uniform shuffle: about 1 is as good
        as uniform, near 0 is no shuffle. 1 where no ROI has two patches.
    """
    by_roi = np.argsort(rois, kind="stable")
    same = np.diff(rois[by_roi]) == 0
    if not same.any():
        return 1.0
    _, inverse, counts = np.unique(rois, return_inverse=True, return_counts=True)
    expected = (len(rois) + 1) / (counts[inverse[by_roi[1:]]] + 1)
    return float((np.diff(by_roi)[same] / expected[same]).mean())

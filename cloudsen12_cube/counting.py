"""Counting: how many pixels of a patch each pair of classes has, for many layers against one reference.

A layer becomes masks, one a class, packed to a bit a pixel; the pixels that are in two masks are the bits that are set
in both. That is exact, and several times as fast as a look-up and a histogram by pixel. All schemes of classes follow
from these counts, so the labels are read once, whatever is asked of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.classes import CLASSES, UNLABELLED, layer
from cloudsen12_cube.labels import Mask, class_masks

Counts = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

CLASS_COUNT = len(CLASSES)


@dataclass(frozen=True)
class Counting:
    """What is counted against what. Picklable, so that a cluster can do it."""

    bands: tuple[str, ...]
    """Label layers of the block, by position; arrays in the caller's hands follow as further sources."""
    scales: tuple[int | None, ...]
    """Stored value of probability 1 of each of them, where it is needed."""
    reference: int
    """Position of the reference among the sources."""
    predicted: tuple[int, ...]
    """Positions of the layers that are held against it."""

    def __call__(self, wanted: Mask, *arrays: npt.NDArray[Any]) -> Counts:
        """Count pixels.

        Parameters
        ----------
        wanted : numpy.ndarray of bool, shape (roi, time)
            Patches to count; the others get 0.
        *arrays : numpy.ndarray
            The block of stored labels, shape (roi, time, band, y, x), if there are bands; then one array of class
            codes, shape (roi, time, y, x), a further source.

        Returns
        -------
        numpy.ndarray of int64, shape (roi, time, layer, 4, 5)
            Reference class and predicted class of labelled reference pixels; column 4 is unlabelled by the prediction.
        """
        shape = (*wanted.shape, len(self.predicted), CLASS_COUNT, CLASS_COUNT + 1)
        counts = np.zeros(shape, dtype=np.int64)
        for patch in map(tuple, np.argwhere(wanted)):
            self._count([array[patch] for array in arrays], counts[patch])
        return counts

    def _count(self, planes: list[npt.NDArray[Any]], counts: Counts) -> None:
        """Count one patch; classes that are nowhere in the reference cost nothing."""
        bits = packed(self._masks(self.reference, planes))
        there = np.flatnonzero(bits.any(axis=1))
        rows = np.array(self._classes(self.reference))[there]
        every = np.bitwise_count(bits[there]).sum(axis=1, dtype=np.int64)
        for index, source in enumerate(self.predicted if rows.size else ()):
            both = joint(bits[there], packed(self._masks(source, planes)))
            counts[index][np.ix_(rows, self._classes(source))] = both
            counts[index][rows, CLASS_COUNT] = every - both.sum(axis=1)

    def _classes(self, source: int) -> list[int]:
        """Class codes that a source can give, in the order of its masks."""
        return sorted(layer(self.bands[source]).classes) if source < len(self.bands) else list(range(CLASS_COUNT))

    def _masks(self, source: int, planes: list[npt.NDArray[Any]]) -> Iterable[Mask]:
        if source < len(self.bands):
            return class_masks(planes[0][source], self.bands[source], self.scales[source])
        return _own(planes[source - len(self.bands) + bool(self.bands)])


def _own(codes: npt.NDArray[Any]) -> Iterable[Mask]:
    """Mask the classes of an array in the caller's hands, if it holds class codes and nothing else."""
    strange = ((codes < 0) | (codes >= CLASS_COUNT)) & (codes != UNLABELLED)
    if strange.any():
        raise ValueError(
            f"the predictions hold {codes[strange].flat[0]}: give 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud "
            f"shadow, and {UNLABELLED} where there is no prediction"
        )
    return (codes == code for code in range(CLASS_COUNT))


def packed(masks: Iterable[Mask]) -> Words:
    """Pack masks to a bit a pixel.

    Parameters
    ----------
    masks : iterable of numpy.ndarray of bool
        Of the same shape.

    Returns
    -------
    numpy.ndarray of uint64, shape (mask, words)
        Bits behind the last pixel are 0.
    """
    rows = [np.packbits(mask) for mask in masks]
    words = np.zeros((len(rows), -(-rows[0].size // 8)), dtype=np.uint64)
    words.view(np.uint8)[:, : rows[0].size] = rows
    return words


def joint(reference: Words, predicted: Words) -> Counts:
    """Count the pixels that are in each pair of masks.

    Parameters
    ----------
    reference, predicted : numpy.ndarray of uint64, shape (n, words) and (m, words)
        Packed masks of patches of fewer than 2**32 pixels.

    Returns
    -------
    numpy.ndarray of int64, shape (n, m)
    """
    bits = np.bitwise_count(reference[:, None] & predicted)
    return bits.sum(axis=-1, dtype=np.uint32).astype(np.int64)  # half the time of a sum in 64 bits

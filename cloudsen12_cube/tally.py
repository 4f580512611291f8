"""Counting: how many pixels of a patch each pair of classes has, for many layers against one reference.

A layer becomes four masks, one a class, packed to a bit a pixel; the pixels that are in two masks are the bits that are
set in both. That is exact, and five times as fast as a look-up and a histogram by pixel. All schemes of classes follow
from these counts, so the labels are read once, whatever is asked of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.classes import CLASSES, UNLABELLED
from cloudsen12_cube.labels import Mask, class_masks, masks_of

Counts = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

CLASS_COUNT = len(CLASSES)


@dataclass(frozen=True)
class Tally:
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
            planes = [array[patch] for array in arrays]
            reference = packed(self._masks(self.reference, planes))
            if reference.any():
                counts[patch] = [joint(reference, packed(self._masks(s, planes))) for s in self.predicted]
        return counts

    def _masks(self, source: int, planes: list[npt.NDArray[Any]]) -> Mask:
        if source < len(self.bands):
            return class_masks(planes[0][source], self.bands[source], self.scales[source])
        return _own(planes[source - len(self.bands) + bool(self.bands)])


def _own(codes: npt.NDArray[Any]) -> Mask:
    """Mask the classes of an array in the caller's hands, if it holds class codes and nothing else."""
    strange = (codes >= CLASS_COUNT) & (codes != UNLABELLED)
    if strange.any():
        raise ValueError(
            f"the predictions hold {codes[strange].flat[0]}: give 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, "
            f"and {UNLABELLED} where there is no prediction"
        )
    return masks_of(codes)


def packed(masks: Mask) -> Words:
    """Pack masks to a bit a pixel.

    Parameters
    ----------
    masks : numpy.ndarray of bool, shape (mask, ...)

    Returns
    -------
    numpy.ndarray of uint64, shape (mask, words)
        Bits behind the last pixel are 0.
    """
    bits = np.packbits(masks.reshape(len(masks), -1), axis=1)
    words = np.zeros((len(masks), -(-bits.shape[1] // 8)), dtype=np.uint64)
    words.view(np.uint8)[:, : bits.shape[1]] = bits
    return words


def joint(reference: Words, predicted: Words) -> Counts:
    """Count the pixels of each pair of classes.

    Parameters
    ----------
    reference, predicted : numpy.ndarray of uint64, shape (4, words)
        Packed masks; no pixel is in two of them.

    Returns
    -------
    numpy.ndarray of int64, shape (4, 5)
        Last column: pixels of the reference that the prediction leaves unlabelled.
    """
    both = np.bitwise_count(reference[:, None] & predicted).sum(axis=-1, dtype=np.int64)
    every = np.bitwise_count(reference).sum(axis=-1, dtype=np.int64)
    return np.column_stack([both, every - both.sum(axis=1)])

"""Stored label values -> classes -> superclasses -> masks, on numpy arrays.

Each step is a look-up in a small table derived from ``classes``, except for cloud probabilities, whose masks depend on
the neighbours of a pixel. Unlabelled pixels are 255 in every step and never become 0, which means clear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.schema.classes import CLASSES, LAYERS, SUPERCLASSES, UNLABELLED, Superclass, Threshold, layer

Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_THICK = next(row.code for row in CLASSES if row.name == "thick_cloud")
_MISSING = 2**16 - 1  # fill of a label array, as the 16 bits of either sign


def to_classes(
    values: npt.NDArray[Any], name: str, scale: int | None = None, threshold: Threshold | None = None
) -> Codes:
    """Convert the stored values of a label layer to the four classes.

    Parameters
    ----------
    values : numpy.ndarray of integers, shape (..., y, x)
        Stored values.
    name : str
        Label layer, such as ``sen2cor``.
    scale : int, optional
        Stored value of probability 1 for the CD-FCNN layers: 100 or 10000. Ignored for other layers.
    threshold : Threshold, optional
        Conversion of a probability to cloud; by default that of the benchmark of the paper. Ignored for layers of
        codes.

    Returns
    -------
    numpy.ndarray of uint8, shape (..., y, x)
        0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, 255 unlabelled (Aybar et al. 2022, tables 3 and 5). The
        cloud of a layer with a single cloud class is thick cloud. Values without a class are unlabelled.

    Raises
    ------
    KeyError
        If the layer is unknown.
    TypeError
        If the values are not integers.
    ValueError
        If the scale of a probability is unknown.
    """
    row = layer(name)
    bits = _as_16_bits(values, name)
    if row.threshold is None:
        codes: Codes = code_table(name)[bits]
        return codes
    full = row.full_scale or scale
    if full is None:
        raise ValueError(
            f"the full scale of {name} is unknown: pass scale=100 or scale=10000, the stored value of probability 1"
        )
    return _cloud(bits, full, threshold or row.threshold)


def _as_16_bits(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint16]:
    """Convert integers of any type to unsigned 16 bits; values outside their range become missing."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"labels of {name} have the dtype {values.dtype}, not integers: pass the stored values")
    if values.dtype.itemsize == 2:
        return values.astype(values.dtype.newbyteorder("="), copy=False).view(np.uint16)
    if values.dtype == np.uint8:
        return values.astype(np.uint16)
    fits = (values >= 0) & (values < _MISSING)
    return np.where(fits, values, _MISSING).astype(np.uint16)


@lru_cache(maxsize=len(LAYERS))
def code_table(name: str) -> Codes:
    """Return the class code of each 16-bit value of a layer of codes.

    Returns
    -------
    numpy.ndarray of uint8, shape (65536,)
    """
    row = layer(name)
    table = np.full(2**16, UNLABELLED, dtype=np.uint8)
    values = np.arange(_MISSING)
    for value, code in reversed(row.codes.items()):  # of bit flags, the first one wins
        table[:_MISSING][(values & value) > 0 if row.bits and value else values == value] = code
    table.flags.writeable = False
    return table


def _limit(full: int, probability: float) -> float:
    """Return the largest stored value that is clear."""
    return round(probability * full, 6)  # without rounding, 0.29 * 100 is less than 29


def _cloud(values: npt.NDArray[np.uint16], full: int, threshold: Threshold) -> Codes:
    """Convert a probability to clear and thick cloud, as the s2cloudless detector does.

    The sum of integers over a disk is compared, which is exact, except where it equals the threshold: there the
    rounding of the detector's average in float64 decides. Missing pixels are excluded from averages and are unlabelled
    in the result. The image is extended by reflection at its edges.
    """
    known = None if values.max(initial=0) <= full else values <= full
    limit = _limit(full, threshold.probability)
    cloud: Mask = values > int(limit)  # an integer limit: a float would convert the array
    reached = values >= math.ceil(limit)
    if known is not None:
        cloud &= known
        reached &= known
    if threshold.average_over and reached.any():  # otherwise no average reaches the limit
        cloud = _average_above(threshold, full, values, known)
    if threshold.dilation_size and cloud.any():  # reflected pixels are nearer inside the image
        cloud = _over(cloud, _disk(threshold.dilation_size), np.logical_or)
    codes = cloud.astype(np.uint8)  # 0 clear, 1 thick cloud
    if known is not None:
        np.copyto(codes, UNLABELLED, where=~known)
    return codes


def _average_above(threshold: Threshold, full: int, values: npt.NDArray[np.uint16], known: Mask | None) -> Mask:
    """Return where the mean of the known values over a disk exceeds a threshold; ``known=None`` means all."""
    disk, limit = _disk(threshold.average_over), _limit(full, threshold.probability)
    size = int(disk.sum())
    kept = values if known is None else np.where(known, values, 0)
    total = _over(kept.astype(np.min_scalar_type(int(kept.max()) * size), copy=False), disk, np.add)
    whole = round(limit * size, 6)
    if known is None:
        above: Mask = total > int(whole)
        ties = total == whole
    else:
        count = _over(known.astype(np.min_scalar_type(size)), disk, np.add)
        above = (total > limit * count) & known
        ties = (total == whole) & (count == size) & known
    if ties.any():
        above[ties] = _float_averages(kept, ties, full, disk) > threshold.probability
    return above


def _float_averages(values: npt.NDArray[np.uint16], where: Mask, full: int, disk: Mask) -> npt.NDArray[np.float64]:
    """Average probabilities over a disk in float64 at some pixels, rounded as a convolution with the disk rounds.

    The average of five times 0.4 is 0.4000000000000001 there, so the benchmark's detector calls it cloud at a threshold
    of 0.4.
    """
    radius = disk.shape[0] // 2
    padded = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(radius, radius)] * 2, mode="symmetric")
    *lead, rows, columns = np.nonzero(where)
    average = np.zeros(len(rows))
    for y, x in np.argwhere(disk):  # in the order of a convolution: the sum depends on it
        average += padded[(*lead, rows + y, columns + x)] / full * (1 / disk.sum())
    return average


def _over(values: npt.NDArray[Any], disk: Mask, combine: np.ufunc) -> npt.NDArray[Any]:
    """Combine the values over a disk around each pixel; one window widens step by step for all rows of the disk.

    The work is done plane by plane in the narrowest dtype that holds the result, so it stays in the processor cache.
    This takes a tenth of the time of running sums; the step is the slowest of a whole evaluation.
    """
    radius, (height, width) = disk.shape[0] // 2, values.shape[-2:]
    half_of_row = disk.sum(axis=1) // 2
    steps = [(half, np.flatnonzero(half_of_row == half).tolist()) for half in range(radius + 1)]
    result = np.empty_like(values)
    for index in np.ndindex(values.shape[:-2]):
        padded = np.pad(values[index], radius, mode="symmetric").ravel()  # shifts of a one-dimensional array are fast
        stride, size = width + 2 * radius, padded.size - 2 * radius
        window = padded[radius : radius + size].copy()
        combined = np.zeros(height * stride, dtype=values.dtype)
        inner = combined[: height * stride - 2 * radius]  # values between rows are not used
        for half, rows in steps:
            if half:
                combine(window, padded[radius - half : radius - half + size], out=window)
                combine(window, padded[radius + half : radius + half + size], out=window)
            for row in rows:
                combine(inner, window[row * stride : row * stride + inner.size], out=inner)
        result[index] = combined.reshape(height, stride)[:, :width]
    return result


def _disk(radius: int) -> Mask:
    """Return the pixels with centres within a radius, shape (2 radius + 1, 2 radius + 1)."""
    offset = np.arange(-radius, radius + 1)
    disk: Mask = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2
    return disk


def to_superclass(codes: Codes, scheme: Superclass) -> Codes:
    """Convert class codes to a superclass of table 3 of the paper.

    Parameters
    ----------
    codes : numpy.ndarray of uint8, any shape
        Class codes, as returned by `to_classes`.
    scheme : {"cloud", "valid"}
        ``cloud``: 0 non-cloud, 1 cloud. ``valid``: 0 valid, 1 invalid.

    Returns
    -------
    numpy.ndarray of uint8, same shape
        255 where unlabelled.
    """
    if scheme not in SUPERCLASSES:
        raise ValueError(f"unknown superclass {scheme!r}; the superclasses are {', '.join(SUPERCLASSES)}")
    table = np.full(256, UNLABELLED, dtype=np.uint8)
    for row in CLASSES:
        table[row.code] = row.cloud if scheme == "cloud" else not row.valid
    superclass: Codes = table[codes]
    return superclass


def in_classes(codes: Codes, wanted: Iterable[int]) -> Mask:
    """Return which pixels belong to given classes; False for unlabelled pixels.

    Parameters
    ----------
    codes : numpy.ndarray of uint8, any shape
        Class codes.
    wanted : iterable of int
        Codes of the classes.

    Returns
    -------
    numpy.ndarray of bool, same shape as ``codes``
    """
    table = np.zeros(256, dtype=bool)
    table[list(wanted)] = True
    mask: Mask = table[codes]
    return mask


def class_masks(values: npt.NDArray[Any], name: str, scale: int | None = None) -> Iterator[Mask]:
    """Yield a mask for each class of a label layer, as the paper's benchmark reads it.

    The masks are those of `to_classes`, without a look-up for each pixel, except that any value of QA60 above 0 is
    cloud, also where it has neither of the two known bits.

    Parameters
    ----------
    values : numpy.ndarray of integers, shape (..., y, x)
        Stored values.
    name : str
        Label layer.
    scale : int, optional
        Stored value of probability 1 for the CD-FCNN layers.

    Yields
    ------
    numpy.ndarray of bool, shape (..., y, x)
        In the order of the class codes ``layer(name).classes``. The masks are computed one by one, so each is used
        while it is in the processor cache. Unlabelled pixels are False in all masks.
    """
    row = layer(name)
    if row.threshold is not None:
        codes = to_classes(values, name, scale)
        yield from (codes == code for code in sorted(row.classes))
        return
    bits: npt.NDArray[Any] = _as_16_bits(values, name)
    if row.bits:
        codes = code_table(name)[bits]
        codes[(codes == UNLABELLED) & (bits != _MISSING)] = _THICK
        yield from (codes == code for code in sorted(row.classes))
        return
    if bits.size and bits.max() < 256:  # half the bytes, half the time
        bits = bits.astype(np.uint8)
    for code in sorted(row.classes):
        first, *others = (value for value, of in row.codes.items() if of == code)
        mask = bits == first
        for value in others:
            mask |= bits == value
        yield mask


def is_labelled(codes: Codes) -> Mask:
    """Return which pixels of class or superclass codes have a label."""
    mask: Mask = codes != UNLABELLED
    return mask


def merge(codes: Codes) -> Codes:
    """Merge layers pixel by pixel; the class with the highest priority in table 3 of the paper takes precedence.

    Parameters
    ----------
    codes : numpy.ndarray of uint8, shape (layer, ...)
        Class codes.

    Returns
    -------
    numpy.ndarray of uint8, shape (...)
        Thick cloud before cloud shadow before thin cloud before clear; 255 where no layer has a label.
    """
    rank = np.full(256, UNLABELLED, dtype=np.uint8)
    code = np.full(256, UNLABELLED, dtype=np.uint8)
    for row in CLASSES:
        rank[row.code], code[row.priority] = row.priority, row.code
    merged: Codes = code[rank[codes].min(axis=0)]
    return merged


def probability_scale(maximum: int) -> int | None:
    """Return the full scale of the probability layers of a cube.

    Parameters
    ----------
    maximum : int
        Largest value over all patches and both CD-FCNN layers, which have the same scale.

    Returns
    -------
    int or None
        10000 or 100; None if the maximum is 1, which may be a mask or one per cent.
    """
    if maximum > 100:
        return 10_000
    return None if maximum == 1 else 100

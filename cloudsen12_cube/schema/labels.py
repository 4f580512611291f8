"""Raw label values -> class -> superclass -> mask, on numpy arrays.

Every step is one look-up in a small table that is derived from ``classes``; only a cloud probability needs more, since
its mask depends on the neighbours of a pixel. What nobody labelled is 255 all the way, and never turns into 0, which
says "clear".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.schema.classes import CLASSES, LAYERS, SUPERCLASSES, UNLABELLED, Superclass, Threshold, layer

Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_MISSING = 2**16 - 1  # fill of a label array, as the 16 bits of either sign


def to_classes(
    values: npt.NDArray[Any], name: str, scale: int | None = None, threshold: Threshold | None = None
) -> Codes:
    """Read the stored values of a label layer as the four classes.

    Parameters
    ----------
    values : numpy.ndarray of integers, shape (..., y, x)
        As they are stored.
    name : str
        Label layer, such as ``sen2cor``.
    scale : int, optional
        Stored value of probability 1, for CD-FCNN: 100 or 10000. The other layers have their own.
    threshold : Threshold, optional
        How a probability becomes cloud; by default as the paper's benchmark did it. Codes need none.

    Returns
    -------
    numpy.ndarray of uint8, shape (..., y, x)
        0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, 255 unlabelled (Aybar et al. 2022, tables 3 and 5). A
        layer with one class of cloud calls it thick. A value that no code table has is unlabelled.

    Raises
    ------
    KeyError
        If there is no such layer.
    TypeError
        If the values are no integers.
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
            f"the full scale of {name} is unknown: give scale=100 or scale=10000 (values of probability 1)"
        )
    return _cloud(bits, full, threshold or row.threshold)


def _as_16_bits(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint16]:
    """Give integers of any type as 16 bits without a sign; what does not fit is missing."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"labels of {name} are {values.dtype}, no integers: give the values as they are stored")
    if values.dtype.itemsize == 2:
        return values.astype(values.dtype.newbyteorder("="), copy=False).view(np.uint16)
    if values.dtype == np.uint8:
        return values.astype(np.uint16)
    fits = (values >= 0) & (values < _MISSING)
    return np.where(fits, values, _MISSING).astype(np.uint16)


@lru_cache(maxsize=len(LAYERS))
def code_table(name: str) -> Codes:
    """Class code of each of the 65,536 values of 16 bits, for a layer of codes.

    Returns
    -------
    numpy.ndarray of uint8, shape (65536,)
    """
    table = np.full(2**16, UNLABELLED, dtype=np.uint8)
    for value, code in layer(name).codes.items():
        table[value] = code
    table.flags.writeable = False
    return table


def _limit(full: int, probability: float) -> float:
    """Largest stored value that is still clear; 0.29 * 100 alone is less than 29."""
    return round(probability * full, 6)


def _cloud(values: npt.NDArray[np.uint16], full: int, threshold: Threshold) -> Codes:
    """Make clear and thick cloud of a probability, as the s2cloudless detector does.

    The arithmetic is exact: a disk is compared by its sum of integers, not by a rounded mean. What is missing neither
    counts in the average nor becomes clear, and the frame reflects at the edges.
    """
    known = None if values.max(initial=0) <= full else values <= full
    limit = _limit(full, threshold.probability)
    cloud: Mask = values > int(limit)  # integers: compared with a fraction they would be copied as floats
    if known is not None:
        cloud &= known
    if threshold.average_over and cloud.any():  # else no average is above the limit either
        cloud = _average_above(limit, values, known, _disk(threshold.average_over))
    if threshold.dilation_size and cloud.any():  # what is reflected at the edges is nearer inside the frame
        cloud = _over(cloud, _disk(threshold.dilation_size), np.logical_or)
    codes = cloud.astype(np.uint8)  # 0 clear, 1 thick cloud
    if known is not None:
        np.copyto(codes, UNLABELLED, where=~known)
    return codes


def _average_above(limit: float, values: npt.NDArray[np.uint16], known: Mask | None, disk: Mask) -> Mask:
    """Tell where the average of the known values on a disk is above a limit; None stands for all known."""
    kept = values if known is None else np.where(known, values, 0)
    total = _over(kept.astype(np.min_scalar_type(int(kept.max()) * int(disk.sum())), copy=False), disk, np.add)
    if known is None:
        above: Mask = total > int(limit * disk.sum())
        return above
    count = _over(known.astype(np.min_scalar_type(disk.sum())), disk, np.add)
    return (total > limit * count) & known


def _over(values: npt.NDArray[Any], disk: Mask, combine: np.ufunc) -> npt.NDArray[Any]:
    """Combine the values on a disk around each pixel: a window that widens step by step serves all rows of the disk.

    Plane by plane and in the narrowest type, which must hold the result, all of it stays in the processor's cache: a
    tenth of the time of running sums, and this step is the slowest of a whole evaluation.
    """
    radius, (height, width) = disk.shape[0] // 2, values.shape[-2:]
    half_of_row = disk.sum(axis=1) // 2
    steps = [(half, np.flatnonzero(half_of_row == half).tolist()) for half in range(radius + 1)]
    result = np.empty_like(values)
    for index in np.ndindex(values.shape[:-2]):
        padded = np.pad(values[index], radius, mode="symmetric").ravel()  # shifts of one line of memory are fast
        stride, size = width + 2 * radius, padded.size - 2 * radius
        window = padded[radius : radius + size].copy()
        combined = np.zeros(height * stride, dtype=values.dtype)
        inner = combined[: height * stride - 2 * radius]  # between rows lie values that nobody reads
        for half, rows in steps:
            if half:
                combine(window, padded[radius - half : radius - half + size], out=window)
                combine(window, padded[radius + half : radius + half + size], out=window)
            for row in rows:
                combine(inner, window[row * stride : row * stride + inner.size], out=inner)
        result[index] = combined.reshape(height, stride)[:, :width]
    return result


def _disk(radius: int) -> Mask:
    """Pixels whose centres lie within a radius, shape (2 radius + 1, 2 radius + 1)."""
    offset = np.arange(-radius, radius + 1)
    disk: Mask = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2
    return disk


def to_superclass(codes: Codes, scheme: Superclass) -> Codes:
    """Read class codes as a superclass of the paper's table 3.

    Parameters
    ----------
    codes : numpy.ndarray of uint8, any shape
        As `to_classes` gives them.
    scheme : {"cloud", "valid"}
        ``cloud``: 0 non-cloud, 1 cloud. ``valid``: 0 valid, 1 invalid.

    Returns
    -------
    numpy.ndarray of uint8, same shape
        255 where unlabelled.
    """
    if scheme not in SUPERCLASSES:
        raise ValueError(f"no superclass {scheme!r}; there are {', '.join(SUPERCLASSES)}")
    table = np.full(256, UNLABELLED, dtype=np.uint8)
    for row in CLASSES:
        table[row.code] = row.cloud if scheme == "cloud" else not row.valid
    superclass: Codes = table[codes]
    return superclass


def in_classes(codes: Codes, wanted: Iterable[int]) -> Mask:
    """Tell which pixels are of some classes; an unlabelled pixel is of none.

    Returns
    -------
    numpy.ndarray of bool, same shape as ``codes``
    """
    table = np.zeros(256, dtype=bool)
    table[list(wanted)] = True
    mask: Mask = table[codes]
    return mask


def class_masks(values: npt.NDArray[Any], name: str, scale: int | None = None) -> Iterator[Mask]:
    """Mask each class that a label layer can give: `to_classes` as planes, without its look-up by pixel.

    Parameters
    ----------
    values, name, scale
        As in `to_classes`.

    Yields
    ------
    numpy.ndarray of bool, shape (..., y, x)
        By class code, those of ``layer(name).classes``, one after the other, so that each is used while it is in the
        processor's cache. An unlabelled pixel is in none.
    """
    row = layer(name)
    if row.threshold is not None:
        codes = to_classes(values, name, scale)
        yield from (codes == code for code in sorted(row.classes))
        return
    bits: npt.NDArray[Any] = _as_16_bits(values, name)
    if bits.size and bits.max() < 256:  # half the bytes are compared in half the time
        bits = bits.astype(np.uint8)
    for code in sorted(row.classes):
        first, *others = (value for value, of in row.codes.items() if of == code)
        mask = bits == first
        for value in others:
            mask |= bits == value
        yield mask


def is_labelled(codes: Codes) -> Mask:
    """Tell which pixels have a label, in class or superclass codes."""
    mask: Mask = codes != UNLABELLED
    return mask


def merge(codes: Codes) -> Codes:
    """Merge layers pixel by pixel: the class of the highest priority in the paper's table 3 wins.

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
    """Full scale of a probability layer, from its largest value in a whole cube.

    Parameters
    ----------
    maximum : int
        Over all patches and both CD-FCNN layers, which one program wrote.

    Returns
    -------
    int or None
        10000 or 100; None where it cannot be told: a largest value of 1 may be a mask or one per cent.
    """
    if maximum > 100:
        return 10_000
    return None if maximum == 1 else 100

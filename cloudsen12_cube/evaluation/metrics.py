"""Accuracies from confusion counts, and the paper's table 6 from accuracies by patch.

Counts add: those of patches are summed to those of a split, a land cover or an annotator before any accuracy is made of
them. All arrays here are small; no pixel comes into this file. Rules and names follow Aybar et al. 2022
(doi:10.1038/s41597-022-01878-2), section "Technical Validation" and table 6.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.schema import CLASSES, SUPERCLASSES, Scheme

Counts = npt.NDArray[np.integer[Any]]
Rates = npt.NDArray[np.float64]

CLASS_NAMES: dict[Scheme, tuple[str, ...]] = {
    "four": tuple(row.name for row in CLASSES),
    "cloud": SUPERCLASSES["cloud"],
    "shadow": ("no_shadow", "shadow"),
    "valid": SUPERCLASSES["valid"],
}
"""Classes of each scheme by code; in the binary ones, 1 is the positive class."""

BINARY: tuple[Scheme, ...] = ("cloud", "shadow", "valid")
"""Schemes of the paper's table 6, in its order."""

MEMBERS: dict[Scheme, tuple[int, ...]] = {
    "four": tuple(row.code for row in CLASSES),
    "cloud": tuple(int(row.cloud) for row in CLASSES),
    "shadow": tuple(int(row.name == "cloud_shadow") for row in CLASSES),
    "valid": tuple(int(not row.valid) for row in CLASSES),
}
"""Class of each scheme that each of the four classes is in."""

LOW, HIGH = 0.1, 0.9
SHARES = ("low", "middle", "high")
COLUMNS = ("boa", *(f"{metric}_{share}" for metric in ("pa", "ua") for share in SHARES))
"""A row of table 6."""

ALGORITHMS = (
    "kappamask_L2A",
    "kappamask_L1C",
    "fmask",
    "s2cloudless",
    "sen2cor",
    "qa60",
    "CD-FCNN-RGBI",
    "CD-FCNN-RGBISWIR",
)
"""The eight algorithms of the archive, in the order of table 6."""


def coarsened(counts: Counts, scheme: Scheme) -> Counts:
    """Add up counts of the four classes to those of a coarser scheme.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., 4, 4)
        Reference class, predicted class.
    scheme : {"four", "cloud", "shadow", "valid"}

    Returns
    -------
    numpy.ndarray of integers, shape (..., n, n)

    Raises
    ------
    ValueError
        If there is no such scheme.
    """
    if scheme not in MEMBERS:
        raise ValueError(f"no scheme {scheme!r}; there are {', '.join(get_args(Scheme))}")
    into = np.eye(len(CLASS_NAMES[scheme]), dtype=np.int64)[list(MEMBERS[scheme])]
    coarse: Counts = into.T @ counts @ into
    return coarse


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Rates:
    """Divide; NaN where there is nothing to divide by."""
    part, whole = np.broadcast_arrays(part, whole)
    ratio: Rates = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole != 0)
    return ratio


def _right(counts: Counts) -> Counts:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def producers_accuracy(counts: Counts) -> Rates:
    """Share of the reference's pixels of each class that the prediction finds: TP / (TP + FN), the recall.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n)
        Reference class, predicted class.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN where the reference has no pixel of the class.
    """
    return _ratio(_right(counts), counts.sum(axis=-1))


def users_accuracy(counts: Counts) -> Rates:
    """Share of the prediction's pixels of each class that are right: TP / (TP + FP), the precision.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN where the prediction has no pixel of the class.
    """
    return _ratio(_right(counts), counts.sum(axis=-2))


def balanced_overall_accuracy(counts: Counts) -> Rates:
    """Mean over the classes of the producer's accuracy; of two classes, (TP / (TP + FN) + TN / (TN + FP)) / 2.

    Returns
    -------
    numpy.ndarray of float64, shape (...)
        NaN where the reference lacks a class.
    """
    mean: Rates = producers_accuracy(counts).mean(axis=-1)
    return mean


def overall_agreement(counts: Counts) -> Rates:
    """Share of all pixels that agree, shape (...); NaN where there are none."""
    return _ratio(_right(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def f1(counts: Counts) -> Rates:
    """Harmonic mean of the two accuracies of each class: 2 TP / (2 TP + FP + FN), shape (..., n).

    NaN where neither the reference nor the prediction has a pixel of the class.
    """
    return _ratio(2 * _right(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def iou(counts: Counts) -> Rates:
    """Intersection over union of each class: TP / (TP + FP + FN), shape (..., n); NaN as for `f1`."""
    right = _right(counts)
    return _ratio(right, counts.sum(axis=-1) + counts.sum(axis=-2) - right)


def binary_accuracies(counts: Counts, cloudy: npt.NDArray[np.bool_]) -> dict[str, Rates]:
    """Give the three columns that table 6 summarises.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., 2, 2)
        Of one binary scheme.
    cloudy : numpy.ndarray of bool, shape (...)
        Whether the reference of the patch holds any cloud, thick or thin.

    Returns
    -------
    dict of numpy.ndarray of float64, shape (...)
        ``pa``, ``ua``, ``boa`` of the positive class. In every scheme, of shadow too, the paper takes PA and UA from
        patches with cloud alone: they are NaN elsewhere. BOA is not so restricted.
    """
    pa, ua = (np.where(cloudy, metric(counts)[..., 1], np.nan) for metric in (producers_accuracy, users_accuracy))
    return {"pa": pa, "ua": ua, "boa": balanced_overall_accuracy(counts)}


def summarise(per_patch: pd.DataFrame) -> pd.Series[float]:
    """Make a row of the paper's table 6.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        A row a patch; columns ``pa``, ``ua``, ``boa`` from 0 to 1, NaN where undefined.

    Returns
    -------
    pandas.Series
        ``boa``, the median; ``pa_low``, ``pa_middle``, ``pa_high``, ``ua_low``, ``ua_middle``, ``ua_high``, the shares
        of the patches in per cent below 0.1, from 0.1 to 0.9 (both ends in) and above 0.9. Each column leaves out its
        own NaN; where nothing is left it gives NaN.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a value lies outside 0 to 1.
    """
    missing = {"pa", "ua", "boa"} - set(per_patch.columns)
    if missing:
        raise KeyError(f"the table lacks {', '.join(sorted(missing))}; it has {', '.join(map(str, per_patch.columns))}")
    row = {"boa": float(np.median(values)) if (values := _defined(per_patch, "boa")).size else np.nan}
    for metric in ("pa", "ua"):
        values = _defined(per_patch, metric)
        low, high = int((values < LOW).sum()), int((values > HIGH).sum())
        for share, count in zip(SHARES, (low, values.size - low - high, high), strict=True):
            row[f"{metric}_{share}"] = count / values.size * 100 if values.size else np.nan
    return pd.Series(row, index=list(COLUMNS), dtype=np.float64)


def _defined(per_patch: pd.DataFrame, column: str) -> Rates:
    values: Rates = per_patch[column].to_numpy(dtype=np.float64, na_value=np.nan)
    values = values[~np.isnan(values)]
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise ValueError(f"{column} holds {outside[0]:g}: give shares from 0 to 1, not per cent")
    return values

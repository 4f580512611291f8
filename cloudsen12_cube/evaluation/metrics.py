"""Accuracies from confusion counts, and the paper's table 6 from accuracies per patch.

Counts are additive: sum them over a split, a land cover or an annotator first, then compute an accuracy of the sum. All
arrays here are small; no pixel is read in this module. Rules and names follow Aybar et al. 2022
(doi:10.1038/s41597-022-01878-2), section "Technical Validation" and table 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.schema import CLASSES, SUPERCLASSES, Scheme

Counts = npt.NDArray[np.integer[Any]]
Rates = npt.NDArray[np.float64]
Unclassified = Literal["negative", "exclude"]
"""What a labelled reference pixel without a predicted class counts as: ``negative``, as in the paper, or nothing."""

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
"""For each scheme, the code in the scheme of each of the four classes."""

LOW, HIGH = 0.1, 0.9
SHARES = ("low", "middle", "high")
COLUMNS = ("boa", *(f"{metric}_{share}" for metric in ("pa", "ua") for share in SHARES))
"""Columns of table 6."""

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


def aggregate_counts(counts: Counts, scheme: Scheme, unclassified: Unclassified = "negative") -> Counts:
    """Sum counts of the four classes to those of a coarser scheme.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., 4, 5)
        Reference class, predicted class; the last column is unclassified by the prediction.
    scheme : {"four", "cloud", "shadow", "valid"}
        Scheme of the result.
    unclassified : {"negative", "exclude"}
        ``negative`` counts the last column as predicted negative (not cloud, not shadow, not invalid) and keeps it as a
        column of its own in ``four``; ``exclude`` drops it.

    Returns
    -------
    numpy.ndarray of integers, shape (..., n, n), or (..., 4, 5) for ``four`` with ``negative``
        ``n`` is 4 for ``four``, else 2.

    Raises
    ------
    ValueError
        If the scheme or the option is unknown.
    """
    if scheme not in MEMBERS:
        raise ValueError(f"no scheme {scheme!r}; there are {', '.join(get_args(Scheme))}")
    check_unclassified(unclassified)
    reference = np.eye(len(CLASS_NAMES[scheme]), dtype=np.int64)[list(MEMBERS[scheme])]
    if unclassified == "exclude":
        return np.asarray(reference.T @ counts[..., :-1] @ reference)
    if scheme == "four":
        return counts
    return np.asarray(reference.T @ counts @ np.concatenate([reference, [[1, 0]]]))  # code 0 is the negative class


def check_unclassified(unclassified: str) -> None:
    """Raise a ValueError if the option is unknown."""
    if unclassified not in get_args(Unclassified):
        raise ValueError(f"unclassified is {unclassified!r}: give one of {', '.join(get_args(Unclassified))}")


def _divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Rates:
    """Divide; NaN where the denominator is 0."""
    ratio: Rates = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def _agreeing(counts: Counts) -> Counts:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _predicted(counts: Counts) -> Counts:
    """Count the pixels predicted as each class, without a column of unclassified pixels."""
    return np.asarray(counts.sum(axis=-2)[..., : counts.shape[-2]])


def producers_accuracy(counts: Counts) -> Rates:
    """Compute the producer's accuracy (recall) of each class: TP / (TP + FN).

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN where the reference has no pixel of the class.
    """
    return _divide(_agreeing(counts), counts.sum(axis=-1))


def users_accuracy(counts: Counts) -> Rates:
    """Compute the user's accuracy (precision) of each class: TP / (TP + FP).

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN where the prediction has no pixel of the class.
    """
    return _divide(_agreeing(counts), _predicted(counts))


def balanced_overall_accuracy(counts: Counts) -> Rates:
    """Average the producer's accuracy over the classes; of two classes, (TP / (TP + FN) + TN / (TN + FP)) / 2.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.

    Returns
    -------
    numpy.ndarray of float64, shape (...)
        NaN where the reference lacks a class.
    """
    return np.asarray(producers_accuracy(counts).mean(axis=-1))


def overall_agreement(counts: Counts, without: Sequence[int] = ()) -> Rates:
    """Compute the share of all pixels whose classes agree.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.
    without : sequence of int
        Classes whose rows and columns are dropped; the paper states the agreement also without thin cloud, ``(2,)``.

    Returns
    -------
    numpy.ndarray of float64, shape (...)
        NaN where there are no pixels.
    """
    counts = np.delete(np.delete(counts, list(without), axis=-1), list(without), axis=-2)
    return _divide(_agreeing(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def f1(counts: Counts) -> Rates:
    """Compute the F1 score of each class: 2 TP / (2 TP + FP + FN).

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN where neither the reference nor the prediction has a pixel of the class.
    """
    return _divide(2 * _agreeing(counts), counts.sum(axis=-1) + _predicted(counts))


def iou(counts: Counts) -> Rates:
    """Compute the intersection over union of each class: TP / (TP + FP + FN).

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., n, n) or (..., n, n + 1)
        Reference class, predicted class; a further column is unclassified by the prediction.

    Returns
    -------
    numpy.ndarray of float64, shape (..., n)
        NaN as for `f1`.
    """
    intersection = _agreeing(counts)
    return _divide(intersection, counts.sum(axis=-1) + _predicted(counts) - intersection)


def binary_accuracies(counts: Counts, cloudy: npt.NDArray[np.bool_]) -> dict[str, Rates]:
    """Compute the three columns that table 6 summarises.

    Parameters
    ----------
    counts : numpy.ndarray of integers, shape (..., 2, 2)
        Counts in one of the binary schemes.
    cloudy : numpy.ndarray of bool, shape (...)
        Whether the reference of the patch holds any cloud, thick or thin.

    Returns
    -------
    dict of numpy.ndarray of float64, shape (...)
        ``pa``, ``ua``, ``boa`` of the positive class. In every scheme, shadow included, the paper computes PA and UA
        over patches with cloud alone: they are NaN elsewhere. BOA has no such restriction.
    """
    pa, ua = (np.where(cloudy, metric(counts)[..., 1], np.nan) for metric in (producers_accuracy, users_accuracy))
    return {"pa": pa, "ua": ua, "boa": balanced_overall_accuracy(counts)}


def summarise(per_patch: pd.DataFrame) -> pd.Series[float]:
    """Summarise accuracies per patch as a row of the paper's table 6.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        One row per patch; columns ``pa``, ``ua``, ``boa`` from 0 to 1, NaN where undefined.

    Returns
    -------
    pandas.Series
        ``boa``, the median; ``pa_low``, ``pa_middle``, ``pa_high``, ``ua_low``, ``ua_middle``, ``ua_high``, the shares
        of the patches in per cent below 0.1, from 0.1 to 0.9 (both included) and above 0.9. Each column skips its own
        NaN; a column of nothing but NaN gives NaN.

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

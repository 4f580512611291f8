"""Which patches of a stream have a label, and how often each comes: from class counts that were stored once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.patches import StoredCube
from cloudsen12_cube.recipe import Target
from cloudsen12_cube.statistics import balanced, even, read_counts

Weights = str | Mapping[str, Mapping[Any, float]] | None

_PROPERTIES = ("difficulty", "cloud_coverage")
_AT_ONCE = 32  # indices that are read at a time


def labelled(table: pd.DataFrame, stored: StoredCube, target: Target, name: str) -> pd.DataFrame:
    """Keep the patches that have a label in a layer.

    The stored class counts tell, if they know all patches; else the shards' indices do, of which a stream needs most
    anyway: they tell that a patch has no such layer, but not that all of it says "unlabelled". Where a chunk holds all
    layers, each is read: `stats` spares that.
    """
    counts = read_counts(stored.objects)
    known = counts.of(table, name) if counts else None
    there = known[:, :4].sum(axis=1) > 0 if known is not None else _stored(table, target)
    if not there.any():
        raise SelectionError(
            f"none of the {len(table)} patches has a label in {name}: choose another target or split, or give "
            "labelled_only=False to read them as unlabelled"
        )
    return table[there].reset_index(drop=True)


def _stored(table: pd.DataFrame, target: Target) -> npt.NDArray[np.bool_]:
    with ThreadPoolExecutor(_AT_ONCE if target.chunks.objects.remote else 2) as pool:
        rows = (table["disk"].tolist(), table["time"].tolist())
        return np.array(list(pool.map(lambda disk, time: target.chunks.is_there(disk, time, target.band), *rows)))


def weigh(
    table: pd.DataFrame, weights: Weights, stored: StoredCube, target: str | None
) -> npt.NDArray[np.float64] | None:
    """Find how often each patch comes, relative to the others; None if each comes once."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        return _by_value(table, weights)
    if weights in _PROPERTIES:
        return even(table[weights].to_numpy())
    if weights != "class":
        raise ValueError(f"weights is {weights!r}: give class, {', '.join(_PROPERTIES)} or a mapping")
    if target is None:
        raise ValueError("weights='class' evens out the classes of a target: name one")
    counts = read_counts(stored.objects)
    known = counts.of(table, target) if counts else None
    if known is None:
        raise StoreError(
            f"{stored.url} has no class counts of {target} for all {len(table)} patches: run `cloudsen12-cube stats`"
        )
    return balanced(known)


def _by_value(table: pd.DataFrame, weights: Mapping[str, Mapping[Any, float]]) -> npt.NDArray[np.float64]:
    total = np.ones(len(table))
    for name, factors in weights.items():
        if name not in (*_PROPERTIES, "label_type"):
            raise KeyError(
                f"patches have no property {name!r} to weigh by; there are label_type, difficulty, cloud_coverage"
            )
        total *= np.array([float(factors.get(value, 1.0)) for value in table[name]])
    return total

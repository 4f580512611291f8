"""What is in a cube: groups, shapes, bytes and counts, from the store alone."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloudsen12_cube import record as records
from cloudsen12_cube.access import is_url
from cloudsen12_cube.costs import Cost, Stored, costs
from cloudsen12_cube.layout import object_key
from cloudsen12_cube.place import Place, each, place_of
from cloudsen12_cube.record import DONE, FAILED
from cloudsen12_cube.store import ROOT_KEY, read_table, settings_of

_COUNTED = ("label_type", "split", "cloud_coverage")


@dataclass(frozen=True)
class ProductState:
    """How far one product of a cube is."""

    product: str
    shape: tuple[int, ...]
    """(roi, time, band, y, x)"""
    dtype: str
    done: int
    """Patches whose pixels are in the cube."""
    failed: int
    """Patches with a damaged file."""
    missing: int
    """Patches that were not converted yet, or have no files."""
    bytes: int
    """Stored bytes."""
    raw_bytes: int
    """Bytes of the array, uncompressed."""
    objects: int
    """Shards and their records."""
    shards: int = 0
    """Objects with pixels."""


@dataclass(frozen=True)
class Info:
    """What is in a cube."""

    place: str
    settings: dict[str, Any]
    rois: int
    patches: int
    products: tuple[ProductState, ...]
    counts: dict[str, dict[str, int]]
    """Property -> value -> patches."""
    costs: tuple[Cost, ...] = ()
    """What reading it costs, where it lies behind a URL."""


def info(cube: str | os.PathLike[str]) -> Info:
    """Look into a cube; the records of its shards are read, so it is right while a run goes on, too.

    Raises
    ------
    StoreError
        If there is no cube at the place.
    """
    sink = place_of(cube)
    settings = settings_of(sink.get(ROOT_KEY), sink.root)
    order, table = read_table(sink.root, sink.access)
    sink = sink.listed()
    products = tuple(_state(sink, p, settings, order, len(table)) for p in settings["products"])
    counts = {name: dict(sorted(Counter(table[name]).items())) for name in _COUNTED}
    sheet = costs({state.product: _stored(state, settings["products"][state.product]) for state in products})
    return Info(sink.root, settings, len(order), len(table), products, counts, sheet if is_url(sink.root) else ())


def _stored(state: ProductState, layout: dict[str, Any]) -> Stored:
    _, times, bands, _, _ = state.shape
    form = (layout["shard"][0], layout["chunk"][2] > 1)
    return Stored(times, bands, state.shards, state.done, state.bytes, *form)


def _state(sink: Place, product: str, settings: dict[str, Any], order: tuple[str, ...], patches: int) -> ProductState:
    status: Counter[int] = Counter()
    sizes: dict[str, int] = {}
    notes = 0
    for index, record in enumerate(each(sink, lambda roi: records.load(sink, product, roi), order)):
        if record is not None:
            status.update(patch.status for patch in record.patches)
            key = object_key(settings, product, index)
            sizes[key] = sink.size(key) or 0
            notes += 1
    size, shards = sum(sizes.values()), sum(map(bool, sizes.values()))
    layout = settings["products"][product]
    shape = (len(order), *layout["shard"][1:])
    raw = math.prod(shape) * np.dtype(layout["dtype"]).itemsize
    missing = patches - status[DONE] - status[FAILED]
    counts = (status[DONE], status[FAILED], missing)
    return ProductState(product, shape, layout["dtype"], *counts, size, raw, notes + shards, shards)

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
from cloudsen12_cube.layout import shard_key
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
    products = tuple(_state(sink, p, layout, order, len(table)) for p, layout in settings["products"].items())
    counts = {name: dict(sorted(Counter(table[name]).items())) for name in _COUNTED}
    sheet = costs({state.product: _stored(state) for state in products}) if is_url(sink.root) else ()
    return Info(sink.root, settings, len(order), len(table), products, counts, sheet)


def _stored(state: ProductState) -> Stored:
    _, times, bands, _, _ = state.shape
    return Stored(times, bands, state.objects // 2, state.done, state.bytes)


def _state(sink: Place, product: str, layout: dict[str, Any], order: tuple[str, ...], patches: int) -> ProductState:
    status: Counter[int] = Counter()
    size = objects = 0
    for index, record in enumerate(each(sink, lambda roi: records.load(sink, product, roi), order)):
        if record is not None:
            status.update(patch.status for patch in record.patches)
            stored = sink.size(shard_key(product, index)) or 0
            size += stored
            objects += 2 if stored else 1
    shape = (len(order), *layout["shard"][1:])
    raw = math.prod(shape) * np.dtype(layout["dtype"]).itemsize
    missing = patches - status[DONE] - status[FAILED]
    return ProductState(product, shape, layout["dtype"], status[DONE], status[FAILED], missing, size, raw, objects)

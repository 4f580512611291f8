"""What reading a cube costs where each request is paid or waited for: requests and bytes, from the layout alone.

A shard's index is one request, which an open cube makes once; the inner chunks of a patch are neighbours and come in
one more; a whole shard is one, and an ROI that shares its shard is as a patch. A test counts the requests that
are really made.

What is in a cube: groups, shapes, bytes and counts, from the store alone.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloudsen12_cube.format import DONE, FAILED, ROOT_KEY, object_key, read_table, settings_of
from cloudsen12_cube.format import record as records
from cloudsen12_cube.storage import ObjectStore, each, is_url, open_store

_INDEX_ENTRY, _CHECKSUM = 16, 4


@dataclass(frozen=True)
class Cost:
    """What one kind of read costs."""

    what: str
    requests: int
    bytes: int
    """On average over the cube, compressed as stored."""


@dataclass(frozen=True)
class Stored:
    """What of a product lies in the store."""

    times: int
    bands: int
    shards: int
    """Shards that are there."""
    patches: int
    """Patches that are done."""
    bytes: int
    rois_per_shard: int = 1
    whole: bool = False
    """Whether all bands of a date are one chunk."""

    @property
    def index(self) -> int:
        """Bytes of the index of one shard."""
        return _INDEX_ENTRY * self.rois_per_shard * self.times * (1 if self.whole else self.bands) + _CHECKSUM

    def part(self, bands: int) -> float:
        """Mean bytes that are read for some bands of a patch."""
        return self.patch if self.whole else self.patch * bands / self.bands

    @property
    def roi(self) -> Cost:
        """Cost of all of an ROI: its object, or its part of one."""
        if self.rois_per_shard == 1:
            return Cost("ROI", 1, round(self.bytes / self.shards))
        return Cost("ROI", 2, round(self.index + self.patch * self.times))

    @property
    def patch(self) -> float:
        """Mean bytes of the chunks of one patch."""
        return max(self.bytes - self.shards * self.index, 0) / max(self.patches, 1)


def costs(products: Mapping[str, Stored]) -> tuple[Cost, ...]:
    """Write the sheet.

    Parameters
    ----------
    products : mapping
        Product -> what is stored of it.
    """
    made: list[Cost] = []
    image, label = products.get("s2l1c"), products.get("labels")
    if image and image.shards:
        made += [
            Cost("patch", 2, round(image.index + image.patch)),
            Cost("second patch of an ROI", 1, round(image.patch)),
            Cost("RGB patch", 2, round(image.index + image.part(3))),
            image.roi,
        ]
    if label and label.shards:
        made.append(Cost("label", 2, round(label.index + label.part(1))))
    if image and image.shards and label and label.shards:
        requests = image.shards + image.patches + label.shards + label.patches
        size = image.bytes + label.shards * label.index + label.patches * label.part(1)
        made.append(Cost("epoch of patches and one label layer", requests, round(size)))
    return tuple(made)


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
    sink = open_store(cube)
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


def _state(
    sink: ObjectStore, product: str, settings: dict[str, Any], order: tuple[str, ...], patches: int
) -> ProductState:
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

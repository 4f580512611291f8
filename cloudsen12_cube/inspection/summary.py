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

from cloudsen12_cube.format import DONE, FAILED, ProductLayout, StoredCube, open_stored_cube
from cloudsen12_cube.schema import ProductName
from cloudsen12_cube.storage import each, is_url

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
    stored = open_stored_cube(cube)
    products = tuple(_state(stored, product) for product in stored.layouts)
    counts = {name: dict(sorted(Counter(stored.table[name]).items())) for name in _COUNTED}
    sheet = costs(
        {row.product: _stored(row, layout) for row, layout in zip(products, stored.layouts.values(), strict=True)}
    )
    place, shape = stored.store.root, (len(stored.order), stored.patches)
    return Info(place, stored.settings, *shape, products, counts, sheet if is_url(place) else ())


def _stored(state: ProductState, layout: ProductLayout) -> Stored:
    whole = layout.form.chunk == "bands"
    sizes = layout.times, len(layout.bands), state.shards, state.done, state.bytes
    return Stored(*sizes, layout.form.rois_per_shard, whole)


def _state(cube: StoredCube, product: ProductName) -> ProductState:
    status: Counter[int] = Counter()
    sizes: dict[str, int] = {}
    notes, layout, store = 0, cube.layouts[product], cube.listed
    for index, record in enumerate(each(store, lambda roi: cube.record(product, roi), cube.order)):
        if record is not None:
            status.update(patch.status for patch in record.patches)
            key = layout.place(index)[0]
            sizes[key] = store.size(key) or 0
            notes += 1
    size, shards = sum(sizes.values()), sum(map(bool, sizes.values()))
    shape = layout.shape(len(cube.order))
    raw = math.prod(shape) * np.dtype(layout.dtype).itemsize
    missing = cube.patches - status[DONE] - status[FAILED]
    counts = (status[DONE], status[FAILED], missing)
    return ProductState(product, shape, layout.dtype, *counts, size, raw, notes + shards, shards)

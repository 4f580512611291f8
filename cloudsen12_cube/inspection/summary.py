"""What is in a cube: groups, shapes, bytes and counts, from the store alone, and what reading it costs.

The costs are requests and bytes, from the layout alone: a shard's index is one request, which an open cube makes once;
the inner chunks of a patch are neighbours and come in one more; a whole shard is one, and an ROI that shares its shard
is read as a patch is. A test counts the requests that are made.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from cloudsen12_cube.format import CRC, DONE, FAILED, ProductLayout, StoredCube, open_stored_cube
from cloudsen12_cube.schema import ProductName
from cloudsen12_cube.storage import is_url

_COUNTED = ("label_type", "split", "cloud_coverage")


@dataclass(frozen=True)
class Cost:
    """What one kind of read costs."""

    what: str
    requests: int
    bytes: int
    """On average over the cube, compressed as stored."""


@dataclass(frozen=True)
class ProductInfo:
    """What a cube stores of one product."""

    product: ProductName
    shape: tuple[int, ...]
    """(roi, time, band, y, x)."""
    dtype: str
    done: int
    """Patches whose pixels are in the cube."""
    failed: int
    """Patches with a damaged file."""
    missing: int
    """Patches that are not converted yet, or have no files."""
    bytes: int
    """Stored bytes."""
    raw_bytes: int
    """Bytes of the array, uncompressed."""
    objects: int
    """Shards and their records."""
    shards: int = 0
    """Objects with pixels."""


@dataclass(frozen=True, repr=False)
class Info:
    """What is in a cube."""

    place: str
    """Path or URL."""
    settings: dict[str, Any]
    """Root attribute ``cloudsen12``."""
    rois: int
    patches: int
    products: tuple[ProductInfo, ...]
    counts: dict[str, dict[str, int]]
    """Property -> value -> patches."""
    costs: tuple[Cost, ...] = ()
    """What reading costs, if the cube lies behind a URL."""

    def __repr__(self) -> str:
        products = ", ".join(row.product for row in self.products)
        stored = sum(row.bytes for row in self.products)
        return f"<Info of {self.place}: {self.rois} ROIs, {self.patches} patches of {products}, {stored:,} bytes>"


def info(cube: Any) -> Info:
    """Summarise a cube. The records of its shards are read, so counts are right during a run, too.

    Parameters
    ----------
    cube : path, URL, `Url` or store
        The cube.

    Returns
    -------
    Info
        Shapes, bytes and counts.

    Raises
    ------
    StoreError
        If there is no cube at the location.
    """
    stored = open_stored_cube(cube)
    products = tuple(_product(stored, layout) for layout in stored.layouts.values())
    counts = {name: dict(sorted(Counter(stored.table[name]).items())) for name in _COUNTED}
    costs = read_costs(stored, products) if is_url(stored.store.root) else ()
    return Info(stored.store.root, stored.settings, len(stored.order), stored.patches, products, counts, costs)


def _product(cube: StoredCube, layout: ProductLayout) -> ProductInfo:
    status: Counter[int] = Counter()
    sizes: dict[str, int] = {}
    records = 0
    for _, record in cube.records(layout.product):
        if record is not None:
            status.update(patch.status for patch in record.patches)
            sizes[layout.place(record.index)[0]] = record.size
            records += 1
    shape, shards = layout.shape(len(cube.order)), sum(map(bool, sizes.values()))
    return ProductInfo(
        layout.product,
        shape,
        layout.dtype,
        done=status[DONE],
        failed=status[FAILED],
        missing=cube.patches - status[DONE] - status[FAILED],
        bytes=sum(sizes.values()),
        raw_bytes=layout.roi_bytes * shape[0],
        objects=records + shards,
        shards=shards,
    )


@dataclass(frozen=True)
class _ReadSizes:
    """Mean bytes of what is read of a product."""

    layout: ProductLayout
    info: ProductInfo

    @property
    def index(self) -> int:
        """The index of one shard."""
        return 8 * math.prod(self.layout.index_shape) + CRC

    def chunks(self, bands: int) -> float:
        """Estimate the chunks that hold some bands of a patch."""
        patch = max(self.info.bytes - self.info.shards * self.index, 0) / max(self.info.done, 1)
        return patch if self.layout.form.chunk == "bands" else patch * bands / len(self.layout.bands)

    @property
    def patch(self) -> float:
        """All chunks of a patch."""
        return self.chunks(len(self.layout.bands))

    @property
    def roi(self) -> Cost:
        """An ROI: its object, or its part of one."""
        if self.layout.form.rois_per_shard == 1:
            return Cost("ROI", 1, round(self.info.bytes / self.info.shards))
        return Cost("ROI", 2, round(self.index + self.patch * self.layout.times))


def read_costs(cube: StoredCube, products: tuple[ProductInfo, ...]) -> tuple[Cost, ...]:
    """List what it costs to read a patch, an ROI and all patches with one label layer."""
    sizes = {row.product: _ReadSizes(cube.layouts[row.product], row) for row in products if row.shards}
    image, label = sizes.get("s2l1c"), sizes.get("labels")
    costs: list[Cost] = []
    if image:
        costs += [
            Cost("patch", 2, round(image.index + image.patch)),
            Cost("second patch of an ROI", 1, round(image.patch)),
            Cost("RGB patch", 2, round(image.index + image.chunks(3))),
            image.roi,
        ]
    if label:
        costs.append(Cost("label", 2, round(label.index + label.chunks(1))))
    if image and label:
        requests = image.info.shards + image.info.done + label.info.shards + label.info.done
        size = image.info.bytes + label.info.shards * label.index + label.info.done * label.chunks(1)
        costs.append(Cost("epoch of patches and one label layer", requests, round(size)))
    return tuple(costs)

"""What a subset would take: shards and bytes, from the records of the cube; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from cloudsen12_cube.conversion.cube_plan import CubePlan
from cloudsen12_cube.conversion.jobs import plan_part
from cloudsen12_cube.conversion.options import SUBSET_DEFAULTS, SubsetOptions
from cloudsen12_cube.conversion.readers import ShardTask
from cloudsen12_cube.storage import each


@dataclass(frozen=True)
class ProductPreview:
    """What would be copied of one product.

    Parameters
    ----------
    product : str
    shards : int
    whole : int
        Shards that go byte for byte.
    cut : int
        Shards of which some dates go.
    lacking : int
        Shards that the cube does not have.
    read : int
        Bytes.
    written : int
    """

    product: str
    shards: int
    whole: int
    cut: int
    lacking: int
    read: int
    written: int
    """Bytes, as if all dates of a shard were equally long."""


@dataclass(frozen=True)
class Preview:
    """What a subset would take."""

    rois: int
    patches: int
    products: tuple[ProductPreview, ...]


def preview_subset(
    cube: str | os.PathLike[str],
    out: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: SubsetOptions = SUBSET_DEFAULTS,
) -> Preview:
    """Compute what `subset` would do with the same arguments.

    Parameters
    ----------
    cube, out, products, where, options
        As in `subset`.

    Returns
    -------
    Preview

    Raises
    ------
    CubeError
        As `subset` does.
    """
    plan = plan_part(cube, out, products, where, options)
    rows = list(each(plan.cube.store, lambda task: _preview(task, plan), plan.tasks()))
    joint = []
    for layout in plan.layouts:
        own = [astuple(row)[1:] for row in rows if row.product == layout.product]
        joint.append(ProductPreview(layout.product, *map(sum, zip(*own, strict=True))))
    return Preview(len(plan.catalogue.rois), len(plan.catalogue.table), tuple(joint))


def _preview(task: ShardTask, plan: CubePlan) -> ProductPreview:
    """Check the record of one shard."""
    (roi,), product = task.rois, task.layout.product
    record = plan.cube.record(product, roi.roi_id)
    if record is None:
        return ProductPreview(product, 1, 0, 0, 1, 0, 0)
    there = tuple((patch.time, patch.s2_id_gee) for patch in record.patches)
    whole = task.layout.times == plan.cube.layouts[task.layout.product].times and there == roi.patches
    share = 1.0 if whole else len(roi.patches) / max(len(there), 1)
    return ProductPreview(product, 1, int(whole), int(not whole), 0, record.size, round(record.size * share))

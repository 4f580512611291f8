"""Plans of what is made from a cube: its patches in another layout, or some of them in the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from cloudsen12_cube.conversion.options import Options, selection_of
from cloudsen12_cube.conversion.planning import (
    CONVERTED_BY,
    Plan,
    Settings,
    cube_settings,
    describe_layouts,
    made_now,
    selection_json,
)
from cloudsen12_cube.conversion.readers import CACHED_SHARDS, CubeReader, OnLoss, RoiReader, ShardTask
from cloudsen12_cube.errors import DestinationError, SelectionError, StoreError
from cloudsen12_cube.format import AcceptedFailure, ProductLayout, StoredCube, open_stored_cube
from cloudsen12_cube.inspection import accepted_failures, accepted_setting
from cloudsen12_cube.schema import PRODUCTS, Catalogue, ProductName, Selection, files_of, select
from cloudsen12_cube.storage import absolute

_RESHARD_SECONDS_PER_GB = 2.0
"""Raw gigabytes (1e9) on one core, decode and encode: a cautious guess."""


@dataclass(frozen=True, kw_only=True, repr=False)
class CubePlan(Plan):
    """What will be made from a cube: the same patches in another layout, or some of them in the same."""

    cube: StoredCube
    on_loss: OnLoss = "keep"

    @cached_property
    def _disk(self) -> dict[str, int]:
        """Position of each ROI in the source."""
        return {roi: index for index, roi in enumerate(self.cube.order)}

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        store, index, compare = absolute(self.cube.store), self._disk[roi_id], self.on_loss == "remove"
        sources = (self.cube.layouts[layout.product] for layout in self.layouts)
        return tuple(CubeReader(store, source, index, compare) for source in sources)

    def tasks(self, table: pd.DataFrame | None = None) -> Iterator[ShardTask]:
        """Yield the shards that hold an ROI of the plan, those from one shard of the source behind each other.

        Parameters
        ----------
        table : pandas.DataFrame, optional
            Catalogue of the whole cube.

        Raises
        ------
        DestinationError
            If the source lacks an ROI whose shard must be written again.
        """
        if table is not None:
            there = set(zip(self.cube.table["roi_id"], self.cube.table["s2_id_gee"], strict=True))
            wanted = zip(table["roi_id"], table["s2_id_gee"], strict=True)
            missing = {roi for roi, image in wanted if (roi, image) not in there}
            count, chosen = self.layouts[0].form.rois_per_shard, set(self.catalogue.rois)
            groups = (self.order[first : first + count] for first in range(0, len(self.order), count))
            for lost in (missing.intersection(group) for group in groups if chosen.intersection(group)):
                if lost:
                    raise DestinationError(
                        f"{min(lost)} shares a shard with what is to be added, but {self.root} lacks it or some of its "
                        "patches: give a source that has both, or a new place"
                    )
        return super().tasks(table)

    def source_bytes(self) -> int:
        """Bytes of the shards that will be read, each once."""
        disks = [self._disk[roi] for roi in self.catalogue.rois]
        sources = (self.cube.layouts[layout.product] for layout in self.layouts)
        keys = (key for source in sources for key in {source.place(disk)[0] for disk in disks})
        return sum(self.cube.listed.size(key) or 0 for key in keys)

    def _line(self, task: ShardTask) -> dict[str, Any]:
        source = self.cube.layouts[task.layout.product]
        return {
            "rois": [roi.roi_id for roi in task.rois],
            "product": task.layout.product,
            "raw_bytes": len(task.rois) * task.layout.roi_bytes,
            "from": sorted({source.place(self._disk[roi.roi_id])[0] for roi in task.rois}),
        }


def _plan_cube(
    cube: StoredCube,
    chosen: Catalogue,
    selection: Selection,
    settings: dict[str, Any],
    layouts: Sequence[ProductLayout],
) -> CubePlan:
    """Plan what re-sharding and subsets share; settings that both add stand at the end."""
    shared = next(iter(cube.layouts.values())).form.rois_per_shard
    products = [layout.product for layout in layouts]
    more = accepted_setting(_accepted(cube, chosen, products)) | (
        {"full_scale": cube.full_scale} if cube.full_scale else {}
    )
    # Each worker holds a shard of the source, a patch, and the shard that it makes, whose chunks it joins once.
    need = (
        cube.layouts[layout.product].shard_bytes + 2 * layout.roi_bytes // layout.times + 2 * layout.shard_bytes
        for layout in layouts
    )
    return CubePlan(
        root=cube.store.root,
        catalogue=chosen,
        selection=selection,
        layouts=tuple(layouts),
        order=tuple(chosen.rois),
        settings=settings | more,
        source_shards={roi: index // shared for index, roi in enumerate(cube.order)},
        worker_bytes=max(need),
        seconds_per_gb=_RESHARD_SECONDS_PER_GB,
        ratio=1.0 if layouts[0].form.codec == "none" else None,
        cached_shards=CACHED_SHARDS,
        cube=cube,
    )


def plan_resharding(
    source: str | os.PathLike[str], products: Sequence[str], where: Sequence[str], options: Options
) -> CubePlan:
    """Plan a cube that has patches of another cube in another layout.

    Raises
    ------
    CubeError
        If the source is not finished, or lacks what is asked for.
    """
    cube = open_stored_cube(source, "final")
    settings = cube.settings
    if options.test_meaning not in (None, settings["test_meaning"]):
        raise SelectionError(
            f"{cube.store.root} reads `test` as {settings['test_meaning']}: leave the meaning of it to the cube"
        )
    kept = select_products(cube, products)
    selection = selection_of(where, options)
    chosen = _select(cube, selection)
    layouts = tuple(replace(cube.layouts[p], times=chosen.times, form=options.layout) for p in kept)
    before = {
        "cube": _name(cube),
        "history": cube.attributes.get("history", ""),
        "layout_version": settings["layout_version"],
        "products": settings["products"],
    }
    made = {**cube_settings(layouts, settings, _joint_selection(cube, selection, chosen)), "resharded_from": before}
    return _plan_cube(cube, chosen, selection, made, layouts)


def plan_subset(cube: Any, products: Sequence[str] | None, selection: Selection) -> CubePlan:
    """Plan a part of a cube in the cube's own layout; its catalogue is read, and no shard.

    Parameters
    ----------
    cube : path, URL or `Url`
    products : sequence of str, optional
        By default all that the cube has.
    selection : Selection

    Raises
    ------
    StoreError
        If there is no cube at the place, or one whose shards cannot be taken apart.
    SelectionError
        If a condition cannot be read, a product or ROI is not there, or nothing is selected.
    """
    found = open_stored_cube(cube)
    settings = found.settings
    kept = select_products(found, products or ())
    for product in kept:
        layout, row = found.layouts[product], settings["products"][product]
        if layout.form.rois_per_shard > 1 or layout.as_json() != row:
            raise StoreError(
                f"the shards of {product} in {found.store.root} have a layout that cannot be taken apart without "
                f"decoding (shard {row['shard']}, chunk {row['chunk']}, codec {row.get('codec')}): give convert the "
                "same conditions instead"
            )
    chosen = _select(found, selection)
    layouts = tuple(replace(found.layouts[p], times=chosen.times) for p in kept)
    now = made_now()
    step = {
        "cube": _name(found),
        "created": now["created"],
        "tool": now["tool"],
        "selection": selection_json(selection),
        "products": list(kept),
    }
    made = {
        **{name: settings[name] for name in CONVERTED_BY},
        "selection": _joint_selection(found, selection, chosen),
        "products": describe_layouts(layouts),
        "subsets": [*settings.get("subsets", []), step],
        **({"resharded_from": settings["resharded_from"]} if "resharded_from" in settings else {}),
    }
    return replace(
        _plan_cube(found, chosen, selection, made, layouts),
        on_loss="remove",
        concurrency=found.store.concurrency,
        fixed=_fixed_of_subset,
        kept=("subsets",),
    )


def _name(cube: StoredCube) -> str:
    """Return the last part of the path or URL of a cube; where it lies is left out of what may be given away."""
    return os.path.basename(os.path.abspath(cube.store.root))


def select_products(cube: StoredCube, wanted: Sequence[str]) -> tuple[ProductName, ...]:
    """Choose products of a cube.

    Parameters
    ----------
    cube : StoredCube
    wanted : sequence of str
        Any of the cube's; all if it is empty.

    Returns
    -------
    tuple of str
        In the order of the products.

    Raises
    ------
    SelectionError
        If the cube does not have one.
    """
    there = [name for name in PRODUCTS if name in cube.layouts]
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in there:
            raise SelectionError(f"no product {name!r} in {cube.store.root}; it has {', '.join(there)}")
    return tuple(name for name in there if not wanted or name in wanted)


def _select(cube: StoredCube, selection: Selection) -> Catalogue:
    if not len(cube.table):
        raise SelectionError(f"{cube.store.root} has no patch that could be taken along")
    known = set(cube.order)
    unknown = [roi for roi in selection.rois if roi not in known]
    if unknown:
        raise SelectionError(f"no ROI {unknown[0]!r} in {cube.store.root}; ids look like {cube.order[0]}")
    return select(Catalogue(cube.table, cube.settings["test_meaning"]), selection)


def _joint_selection(cube: StoredCube, asked: Selection, chosen: Catalogue) -> dict[str, Any]:
    """Combine the conditions of a cube with these; two boxes are not always a box, so the ROIs are listed instead."""
    before = cube.settings["selection"]
    rois, box = list(asked.rois) or before["rois"], list(asked.bbox) if asked.bbox else before["bbox"]
    if asked.bbox and before["bbox"] not in (None, box):
        rois = chosen.rois
    return {"where": list(dict.fromkeys([*before["where"], *asked.where])), "bbox": box, "rois": rois}


def _accepted(cube: StoredCube, chosen: Catalogue, products: Sequence[ProductName]) -> frozenset[AcceptedFailure]:
    """Return the accepted failures of the selected patches and products."""
    behind = set(zip(cube.table["roi_id"], cube.table["s2_id_gee"], strict=True)) - set(chosen.keys)
    files = {file for product in products for file in files_of(product)} | {""}
    known = accepted_failures(cube.settings)
    return frozenset(gap for gap in known if (gap.roi_id, gap.s2_id_gee) not in behind and gap.asset in files)


def _fixed_of_subset(settings: Settings) -> dict[str, Any]:
    """Return what two subsets must share: where their cube lies now is not asked, it may have been moved."""
    if not settings.get("subsets"):
        return {"subset": None}
    *before, step = settings["subsets"]
    asked = step["selection"]
    parts = [*asked["where"], *([f"bbox {asked['bbox']}"] if asked["bbox"] else []), *asked["rois"]]
    made = ", ".join(str(settings.get(name)) for name in CONVERTED_BY)
    return {
        "conditions": f"{' and '.join(parts) or 'no condition'}; {', '.join(step['products'])}",
        "origin": "; subset of ".join([made, *(step["created"] for step in before)]),
        **{f"layout of {product}": row for product, row in settings["products"].items()},
    }

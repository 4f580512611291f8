"""The plan of a cube that is made from a cube: which shard from which, and what that will take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.assets import PRODUCTS, files_of
from cloudsen12_cube.catalogue import Catalogue, Selection, select
from cloudsen12_cube.errors import DestinationError, SelectionError
from cloudsen12_cube.form_tif import TifForm
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.listing import Listing
from cloudsen12_cube.options import Options
from cloudsen12_cube.origin import KEPT, Origin, open_origin
from cloudsen12_cube.place import Place
from cloudsen12_cube.plan import Plan
from cloudsen12_cube.plan_document import document
from cloudsen12_cube.redact import without_secrets

_SECONDS_PER_GB = 2.0
"""Raw gigabytes (1e9) on one core, decode and encode: a cautious guess."""


@dataclass(frozen=True)
class Member:
    """An ROI of a shard, and where it comes from."""

    roi_id: str
    index: int
    """Position on disk."""
    source: int
    """Position on the source's disk."""
    patches: tuple[tuple[int, str, int], ...]
    """Time, ``s2_id_gee`` and time in the source."""


@dataclass(frozen=True)
class SharedTask:
    """All that is needed to make one shard of one ROI or of several: small, and sent as it is to a worker anywhere."""

    source: Place
    origin: ProductLayout
    """Of the product in the source."""
    layout: ProductLayout
    members: tuple[Member, ...]

    @property
    def key(self) -> str:
        """Of the object."""
        return self.layout.place(self.members[0].index)[0]


@dataclass(frozen=True)
class Resharding(Plan):
    """What will be made from a cube."""

    origin: Origin = field(kw_only=True)

    def shared(self, table: pd.DataFrame) -> list[SharedTask]:
        """List the shards that hold an ROI of the plan, those from one shard of the source behind each other.

        Parameters
        ----------
        table : pandas.DataFrame
            Catalogue of the whole cube: a shard may hold ROIs of an earlier run, too.

        Raises
        ------
        DestinationError
            If the source lacks an ROI whose shard must be written again.
        """
        if not self.order:
            return []
        members = self._members(table)
        shared = self.layouts[0].form.rois_per_shard
        groups = [members[first : first + shared] for first in range(0, len(members), shared)]
        chosen = [group for group in groups if any(member.roi_id in self.groups for member in group)]
        for group in chosen:
            _complete(group, self.origin)
        tasks = [
            SharedTask(self.origin.place, self.origin.layouts[layout.product], layout, tuple(group))
            for layout in self.layouts
            for group in chosen
        ]
        return sorted(tasks, key=lambda task: task.members[0].source // task.origin.form.rois_per_shard)

    def _members(self, table: pd.DataFrame) -> list[Member]:
        """List the ROIs in the order of the disk; the source of one that it lacks is -1."""
        disk = {roi: index for index, roi in enumerate(self.origin.order)}
        rows = self.origin.table
        when = dict(zip(zip(rows["roi_id"], rows["s2_id_gee"], strict=True), rows["time"], strict=True))
        found: dict[str, list[tuple[int, str, int]]] = {roi: [] for roi in self.order}
        for roi, image, time in zip(table["roi_id"], table["s2_id_gee"], table["time"], strict=True):
            found[roi].append((int(time), str(image), int(when.get((roi, image), -1))))
        patches = {roi: tuple(sorted(own)) for roi, own in found.items()}
        lacking = {roi for roi, own in patches.items() if any(time < 0 for *_, time in own)}
        return [
            Member(roi, index, -1 if roi in lacking else disk.get(roi, -1), patches[roi])
            for index, roi in enumerate(self.order)
        ]

    def memory_need(self, workers: int) -> int:
        """Bytes that it needs at most.

        Each worker holds a shard of the source, a patch, and the shard that it makes, whose compressed chunks it joins
        once; and a few shards of the source are kept.
        """
        need = 0
        for layout in self.layouts:
            origin = self.origin.layouts[layout.product]
            need = max(need, origin.shard_bytes + 2 * layout.roi_bytes // layout.times + 2 * layout.shard_bytes)
        return 200 * 2**20 + need * (max(workers, 1) + KEPT)

    def totals(self, workers: int) -> dict[str, int | float]:
        """Sum up: shards, objects, bytes, memory and time; what is stored is guessed from what is stored there."""
        rois = len(self.catalogue.rois)
        raw = sum(layout.roi_bytes for layout in self.layouts) * rois
        shards = sum(-(-rois // layout.form.rois_per_shard) for layout in self.layouts)
        read = self._source_bytes()
        packed = self.layouts[0].form.codec != "none"
        return {
            "rois": rois,
            "patches": len(self.catalogue.table),
            "shards": shards,
            "objects": shards + rois * len(self.layouts),
            "source_bytes": read,
            "raw_bytes": raw,
            "stored_bytes_estimate": min(read, raw) if packed else raw,
            "memory_bytes": self.memory_need(workers),
            "seconds_estimate": round(raw / 1e9 * _SECONDS_PER_GB / max(workers, 1), 1),
        }

    def _source_bytes(self) -> int:
        """Sum up the shards that will be read, each once."""
        place, chosen = self.origin.place.listed(), set(self.catalogue.rois)
        disks = [index for index, roi in enumerate(self.origin.order) if roi in chosen]
        origins = (self.origin.layouts[layout.product] for layout in self.layouts)
        return sum(place.size(key) or 0 for o in origins for key in {o.place(disk)[0] for disk in disks})

    def as_json(self, workers: int) -> str:
        """Write the plan as a document, one line a shard."""
        return document(self, workers, map(_shard_json, self.shared(self.catalogue.table)))


def _complete(group: Sequence[Member], origin: Origin) -> None:
    for member in group:
        if member.source < 0:
            raise DestinationError(
                f"{member.roi_id} shares a shard with what is to be added, but {origin.place.root} lacks it or some of "
                "its patches: give a source that has both, or a new place"
            )


def _shard_json(task: SharedTask) -> dict[str, Any]:
    return {
        "rois": [member.roi_id for member in task.members],
        "product": task.layout.product,
        "raw_bytes": len(task.members) * task.layout.roi_bytes,
        "from": sorted({task.origin.place(member.source)[0] for member in task.members}),
    }


def plan_resharding(
    source: str | os.PathLike[str], products: Sequence[str], where: Sequence[str], options: Options
) -> Resharding:
    """Plan a cube that is made from a cube; nothing is written.

    Raises
    ------
    CubeError
        If the source is not finished, or lacks what is asked for.
    """
    origin = open_origin(source)
    root, settings = origin.place.root, origin.settings
    for name in products:
        if name not in settings["products"]:
            raise SelectionError(f"no product {name!r} in {root}; it has {', '.join(settings['products'])}")
    if options.test_meaning not in (None, settings["test_meaning"]):
        raise SelectionError(f"{root} reads `test` as {settings['test_meaning']}: leave the meaning of it to the cube")
    selection = Selection(tuple(where), options.bbox, options.rois)
    chosen = select(Catalogue(origin.table, settings["test_meaning"]), selection)
    kept = [product for product in PRODUCTS if product in (products or settings["products"])]
    layouts = tuple(replace(origin.layouts[p], times=chosen.times, form=options.layout) for p in kept)
    listing = Listing(root, origin.place.access)
    archive = Archive(listing, TifForm(listing, {}, (), ()))  # no file is known: gaps are the source's own
    required: dict[str, frozenset[str]] = {product: frozenset(files_of(product)) for product in kept}
    plan = Resharding(
        archive, chosen, settings["metadata"], selection, layouts, required, tuple(chosen.rois), origin=origin
    )
    return replace(plan, about=_about(origin, selection))


def _about(origin: Origin, selection: Selection) -> dict[str, Any]:
    """Give the settings that a cube has from the one it was made from, and where that was."""
    settings = origin.settings
    before = {
        "cube": without_secrets(origin.place.root),
        "history": origin.attributes.get("history", ""),
        "layout_version": settings["layout_version"],
        "products": settings["products"],
    }
    scale = {"full_scale": origin.scale} if origin.scale else {}
    return {
        "source": settings["source"],
        "selection": _together(settings["selection"], selection),
        "resharded_from": before,
        **scale,
    }


def _together(before: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """Give the conditions of the source and the new ones as one selection."""
    box: Any = selection.bbox or before["bbox"]
    if selection.bbox and before["bbox"] and selection.bbox[0] <= selection.bbox[2]:
        (w, s, e, n), (west, south, east, north) = selection.bbox, before["bbox"]
        box = (max(w, west), max(s, south), min(e, east), min(n, north)) if west <= east else selection.bbox
    where = [*before["where"], *(text for text in selection.where if text not in before["where"])]
    return {"where": where, "bbox": box and list(box), "rois": list(selection.rois) or before["rois"]}

"""A cube being made: created or continued, which shards it has, and its last word on what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube import record as records
from cloudsen12_cube.classes import layer
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.labels import probability_scale
from cloudsen12_cube.layout import LAYOUT_VERSION, shard_key
from cloudsen12_cube.plan import Plan, ShardTask
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.sink import Sink
from cloudsen12_cube.store import KEY, ROOT_KEY, Contents, objects, read_settings, read_table, restated
from cloudsen12_cube.tables import Frame

_FIXED = ("layout_version", "products", "test_meaning")
"""Settings that a cube keeps for life."""

_ABOUT = {
    "title": "CloudSEN12: Sentinel-2 image patches with cloud and cloud-shadow labels",
    "references": "https://doi.org/10.1038/s41597-022-01878-2",
    "citation": "Aybar, C. et al. CloudSEN12, a global dataset for semantic understanding of cloud and cloud shadow in "
    "Sentinel-2. Scientific Data 9, 782 (2022).",
    "institution": "contains modified Copernicus Sentinel data",
}


@dataclass(frozen=True)
class Cube:
    """A cube and the plan that is being carried out on it."""

    sink: Sink
    plan: Plan
    """With ``order`` as the ROIs lie on disk."""
    table: pd.DataFrame
    """Catalogue of the whole cube: what was there before, and what the plan adds."""
    settings: dict[str, Any]
    made: dict[str, bytes] = field(default_factory=dict)
    """Metadata objects as this run has written them."""
    outdated: bool = False
    """Whether the metadata on disk do not have all ROIs yet."""

    def is_done(self, task: ShardTask) -> bool:
        """Tell whether a shard has a record without faults, and an object of the length that the record states."""
        record = records.load(self.sink, task.layout.product, task.roi_id)
        if record is None or record.faults or record.index != task.index:
            return False
        stated = [(p.time, p.s2_id_gee) for p in record.patches]
        if stated != [(p.time, p.s2_id_gee) for p in task.patches]:
            return False
        return record.size == (self.sink.size(shard_key(record.product, record.index)) or 0)

    def begun(self) -> Cube:
        """Write the metadata of a new or grown cube, with the statuses of what is there; do nothing to another."""
        return replace(self, made=self.write_metadata("converting", {})) if self.outdated else self

    def finalise(self, fresh: dict[tuple[str, str], ShardRecord]) -> None:
        """Write what every patch's status is, and the consolidated metadata last.

        Parameters
        ----------
        fresh : dict
            Records of this run by (product, roi_id); all others are read.
        """
        self.write_metadata("final", fresh)

    def write_metadata(self, state: str, fresh: dict[tuple[str, str], ShardRecord]) -> dict[str, bytes]:
        """Write the metadata objects that changed, the root's last; return them all."""
        status: dict[str, npt.NDArray[np.uint8]] = {}
        maxima: list[int] = []
        for layout in self.plan.layouts:
            status[layout.product], found = self._summary(layout.product, fresh)
            maxima += found
        settings = self.settings | {"state": state}
        frame = Frame(self.plan.order, self.plan.layouts[0].times, self.table)
        scale = probability_scale(max(maxima)) if maxima else None
        contents = Contents(frame, self.plan.layouts, status, settings, _ABOUT | _history(settings), scale)
        made = restated(self.made, contents) if self.made else objects(contents)
        for key, data in made.items():
            if self.made.get(key) != data and self.sink.get(key) != data:
                self.sink.put(key, data, durable=key == ROOT_KEY)
        return made

    def _summary(
        self, product: str, fresh: dict[tuple[str, str], ShardRecord]
    ) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """Gather from the records of a product the status of each patch, and the largest values of CD-FCNN."""
        grid = np.zeros((len(self.plan.order), self.plan.layouts[0].times), dtype=np.uint8)
        maxima: list[int] = []
        for index, roi in enumerate(self.plan.order):
            record = fresh.get((product, roi)) or records.load(self.sink, product, roi)
            for patch in record.patches if record else ():
                grid[index, patch.time] = patch.status
                maxima += [value for band, value in patch.maxima.items() if layer(band).full_scale is None]
        return grid, maxima


def _history(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "source": settings["source"],
        "history": f"{settings['created']}: converted by {settings['tool']}",
        "date_created": settings["created"],
    }


def open_or_create(plan: Plan, sink: Sink) -> Cube:
    """Create the cube that a plan asks for, or find it and check that the plan continues it.

    Raises
    ------
    DestinationError
        If the place holds something else, or a cube with other settings or other patches.
    """
    root = sink.get(ROOT_KEY)
    if root is None:
        if not sink.empty():
            raise DestinationError(f"{sink.root} is there and holds something else: give the cube a place of its own")
        return _create(plan, sink, _settings(plan))
    try:
        found = read_settings(root, sink.root)
    except StoreError as error:
        raise DestinationError(f"{error}; give the cube a place of its own") from None
    plan = _with_times(plan, found)
    settings = _settings(plan)
    _same_settings(found, settings, sink.root)
    if found.get("state") == "creating":
        return _create(plan, sink, settings)
    return _continue(plan, sink, settings | {key: found[key] for key in ("created", "tool", "source")})


def _with_times(plan: Plan, found: dict[str, Any]) -> Plan:
    """Give the plan as many dates as the cube has room for: an ROI with fewer leaves some absent."""
    shards = [layout["shard"] for layout in found.get("products", {}).values()]
    room = max((shard[1] for shard in shards), default=0)
    return replace(plan, layouts=tuple(replace(row, times=max(row.times, room)) for row in plan.layouts))


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "layout_version": LAYOUT_VERSION,
        "tool": f"cloudsen12-cube {version('cloudsen12-cube')}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": plan.archive.root,
        "metadata": plan.source,
        "test_meaning": plan.catalogue.test_meaning,
        "selection": {
            "where": list(plan.selection.where),
            "bbox": plan.selection.bbox and list(plan.selection.bbox),
            "rois": list(plan.selection.rois),
        },
        "products": {layout.product: layout.as_json() for layout in plan.layouts},
    }


def _create(plan: Plan, sink: Sink, settings: dict[str, Any]) -> Cube:
    """Mark the place as ours first: if this is cut short, the next run begins again here."""
    mark = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: settings | {"state": "creating"}}}
    sink.put(ROOT_KEY, json.dumps(mark, indent=1).encode())
    return Cube(sink, plan, plan.catalogue.table, settings, outdated=True)


def _same_settings(found: dict[str, Any], wanted: dict[str, Any], place: str) -> None:
    if found.get("layout_version") != LAYOUT_VERSION:
        raise DestinationError(
            f"{place} has layout version {found.get('layout_version')}, this release writes {LAYOUT_VERSION}: "
            "convert into a new place, or use the release that made it"
        )
    for name in _FIXED:
        if json.loads(json.dumps(wanted[name])) != found.get(name):
            has, asks = _difference(found.get(name), json.loads(json.dumps(wanted[name])))
            raise DestinationError(
                f"{place} was made with other {name} ({has}, now {asks}): give the same or convert into a new place"
            )


def _difference(found: Any, wanted: Any) -> tuple[str, str]:
    """Name what differs, not all that is the same."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return str(found), str(wanted)
    if found.keys() != wanted.keys():
        return ", ".join(found), ", ".join(wanted)
    name = next(key for key in wanted if found[key] != wanted[key])
    has, asks = _difference(found[name], wanted[name])
    return f"{name} {has}", f"{name} {asks}"


def _continue(plan: Plan, sink: Sink, settings: dict[str, Any]) -> Cube:
    """Keep what lies on disk where it lies; new ROIs go behind it."""
    order, before = read_table(sink.root)
    new = plan.catalogue.table
    _same_patches(before, new, sink.root)
    kept = before[~before["roi_id"].isin(new["roi_id"])]
    table = pd.concat([kept, new], ignore_index=True) if len(kept) else new
    known = set(order)
    whole = (*order, *(roi for roi in plan.catalogue.rois if roi not in known))
    return Cube(sink, replace(plan, order=whole), table, settings, outdated=whole != order)


def _same_patches(before: pd.DataFrame, new: pd.DataFrame, place: str) -> None:
    """Refuse a run that would give an ROI other patches than those that lie on disk."""
    had, has = _images(before), _images(new)
    for roi, images in has.items():
        if roi in had and had[roi] != images:
            raise DestinationError(
                f"{roi} has {len(had[roi])} patches in {place}, and others ({len(images)}) in this selection: "
                "use the conditions that made the cube, or a new place"
            )


def _images(table: pd.DataFrame) -> dict[str, list[str]]:
    return {str(roi): list(images) for roi, images in table.groupby("roi_id", sort=False)["s2_id_gee"]}

"""The cube that a plan asks for: created, or found and checked whether the plan continues it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd

from cloudsen12_cube import accept
from cloudsen12_cube import record as records
from cloudsen12_cube.cube import Cube
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.layout import records_path
from cloudsen12_cube.place import Place
from cloudsen12_cube.plan import Plan
from cloudsen12_cube.properties import PLUS
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.store import KEY, ROOT_KEY, read_settings, read_table

_FIXED = ("products", "layout_version", "test_meaning")
"""Settings that a cube keeps for life."""

_KEPT = ("created", "tool", "source", "accepted", "subsets", "resharded_from", "full_scale")
"""Settings of the first run, or of an earlier one, that a later run keeps."""


def open_or_create(plan: Plan, sink: Place, repair: bool = False) -> Cube:
    """Create the cube that a plan asks for, or find it and check that the plan continues it.

    Parameters
    ----------
    plan : Plan
    sink : Place
    repair : bool
        Go on even if the cube's catalogue cannot be read.

    Raises
    ------
    DestinationError
        If the place holds something else, or a cube with other settings or other patches.
    """
    found = settings_at(sink)
    if found is None:
        return _create(plan, sink)
    plan = _with_times(plan, found)
    settings = settings_of(plan)
    _same_settings(found, settings, sink.root)
    settings |= {key: found[key] for key in _KEPT if key in found}
    if found.get("state") == "creating":
        return _cube(plan, sink, plan.catalogue.table, settings, new=True)
    return _continue(plan, sink, settings, repair)


def settings_at(sink: Place) -> dict[str, Any] | None:
    """Read the settings of the cube at a place where one is to be made or continued; None if the place is free.

    Raises
    ------
    DestinationError
        If the place holds something else.
    """
    root = sink.get(ROOT_KEY)
    if root is None:
        if not sink.empty():
            raise DestinationError(f"{sink.root} is there and holds something else: give the cube a place of its own")
        return None
    try:
        return read_settings(root, sink.root)
    except StoreError as error:
        raise DestinationError(f"{error}; give the cube a place of its own") from None


def _with_times(plan: Plan, found: dict[str, Any]) -> Plan:
    """Give the plan as many dates as the cube has room for: an ROI with fewer leaves some absent."""
    room = room_of(found)
    return replace(plan, layouts=tuple(replace(row, times=max(row.times, room)) for row in plan.layouts))


def room_of(found: dict[str, Any]) -> int:
    """Dates that a cube has room for, by its settings."""
    shards = [layout["shard"] for layout in found.get("products", {}).values()]
    return max((shard[1] for shard in shards), default=0)


def settings_of(plan: Plan) -> dict[str, Any]:
    """Make the settings of the cube that a plan asks for, all but its state."""
    return {
        "layout_version": plan.layouts[0].form.version,
        "tool": f"cloudsen12-cube {version('cloudsen12-cube')}",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": without_secrets(plan.archive.root),
        "metadata": plan.source,
        "test_meaning": plan.catalogue.test_meaning,
        "selection": {
            "where": list(plan.selection.where),
            "bbox": plan.selection.bbox and list(plan.selection.bbox),
            "rois": list(plan.selection.rois),
        },
        "products": {layout.product: layout.as_json() for layout in plan.layouts},
        **plan.about,
    }


def _create(plan: Plan, sink: Place) -> Cube:
    """Mark the place as ours first: if this is cut short, the next run begins again here."""
    settings = settings_of(plan)
    claim(sink, settings, len(plan.catalogue.table))
    return _cube(plan, sink, plan.catalogue.table, settings, new=True)


def claim(sink: Place, settings: dict[str, Any], patches: int) -> None:
    """Write a root that says whose place this is, and that nothing can be read yet."""
    mine = settings | {"state": "creating", "patches": patches}
    mark = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: mine}}
    sink.put(ROOT_KEY, json.dumps(mark, indent=1).encode())


def _cube(plan: Plan, sink: Place, table: pd.DataFrame, settings: dict[str, Any], *, new: bool = False) -> Cube:
    accepted = accept.holding(accept.in_settings(settings), plan.archive)
    return Cube(sink, plan, table, settings, accepted, new)


def _same_settings(found: dict[str, Any], wanted: dict[str, Any], place: str) -> None:
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


def _continue(plan: Plan, sink: Place, settings: dict[str, Any], repair: bool) -> Cube:
    """Keep what lies on disk where it lies; new ROIs go behind it."""
    try:
        order, before = read_table(sink.root, sink.access)
    except StoreError:
        if not repair:
            raise
        return _cube(replace(plan, order=_places(plan, sink)), sink, plan.catalogue.table, settings)
    new = plan.catalogue.table
    _same_patches(before, new, sink.root)
    kept = before[~before["roi_id"].isin(new["roi_id"])]
    table = _joined(kept, new) if len(kept) else new
    known = set(order)
    whole = (*order, *(roi for roi in plan.catalogue.rois if roi not in known))
    return _cube(replace(plan, order=whole), sink, table, settings)


def _joined(kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Put tables one below the other; columns that one of them lacks are unknown there."""
    table = pd.concat([kept, new], ignore_index=True)
    return table.fillna({row.name: "" for row in PLUS if row.kind == "text" and row.name in table})


def _places(plan: Plan, sink: Place) -> tuple[str, ...]:
    """Order of the ROIs on disk by their records, where the cube's own catalogue cannot be read."""
    found: dict[int, str] = {}
    for layout in plan.layouts:
        for name in sink.names(records_path(layout.product)):
            record = records.load(sink, layout.product, name.removesuffix(".json"))
            if record:
                found[record.index] = record.roi_id
    placed = set(found.values())
    rest = iter([roi for roi in plan.catalogue.rois if roi not in placed])  # none of their shards is there
    order = [found.get(index) or next(rest, "") for index in range(max(found, default=-1) + 1)]
    strange = [roi for roi in order if roi not in plan.groups]
    if strange:
        raise DestinationError(
            f"the catalogue of {sink.root} is damaged, and this selection lacks ROIs of it: take all"
        )
    return (*order, *rest)


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

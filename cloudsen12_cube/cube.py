"""A cube being made: created or continued, which shards it has, and its last word on what is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd

from cloudsen12_cube import accept
from cloudsen12_cube import record as records
from cloudsen12_cube.changes import outdated
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.layout import LAYOUT_VERSION, records_path, shard_key
from cloudsen12_cube.place import Place, each
from cloudsen12_cube.plan import Plan, ShardTask
from cloudsen12_cube.record import ShardRecord, Tally
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.store import KEY, ROOT_KEY, Contents, objects, read_settings, read_table, restated
from cloudsen12_cube.tables import Frame

_FIXED = ("layout_version", "products", "test_meaning")
"""Settings that a cube keeps for life."""

_KEPT = ("created", "tool", "source", "accepted")
"""Settings of the first run, or of an earlier one, that a later run keeps."""

_ABOUT = {
    "title": "CloudSEN12: Sentinel-2 image patches with cloud and cloud-shadow labels",
    "references": "https://doi.org/10.1038/s41597-022-01878-2",
    "citation": "Aybar, C. et al. CloudSEN12, a global dataset for semantic understanding of cloud and cloud shadow in "
    "Sentinel-2. Scientific Data 9, 782 (2022).",
    "institution": "contains modified Copernicus Sentinel data",
}


@dataclass(frozen=True)
class Survey:
    """What there is of a plan before a run."""

    todo: list[ShardTask]
    """Shards to be made, in the order of the plan."""
    tally: Tally
    """What readers may be shown while those are made: all of their patches are absent."""


@dataclass(frozen=True)
class Cube:
    """A cube and the plan that is being carried out on it."""

    sink: Place
    plan: Plan
    """With ``order`` as the ROIs lie on disk."""
    table: pd.DataFrame
    """Catalogue of the whole cube: what was there before, and what the plan adds."""
    settings: dict[str, Any]
    accepted: frozenset[accept.Key] = frozenset()
    """Failures that somebody decided to live with, as long as their files stay as they are."""
    new: bool = False
    """Whether no reader can see it yet: its metadata are not there."""
    made: dict[str, bytes] = field(default_factory=dict)
    """Metadata objects as this run has written them."""

    def accepting(self, choices: Sequence[accept.Key]) -> Cube:
        """Record decisions to keep a gap; the next metadata that are written hold them."""
        pairs = [(p.product, roi) for p in self.plan.layouts for roi in self.plan.order]
        there = self.sink.listed()
        loaded = each(there, lambda pair: records.load(there, *pair), pairs)
        known = {accept.key_of(fault) for record in loaded if record for fault in record.faults}
        known |= {(row.roi_id, row.s2_id_gee, "", "metadata") for row in self.plan.faults()}
        gaps = accept.decide(choices, known, accept.in_settings(self.settings), self.plan.archive)
        return replace(
            self,
            settings=self.settings | accept.as_setting(gaps),
            accepted=accept.holding(gaps, self.plan.archive),
        )

    def survey(self, repair: bool = False, workers: int = 1) -> Survey:
        """Find out which shards are to be made.

        Parameters
        ----------
        repair : bool
            Read every shard: what does not have the recorded sha256, has faults, or has other files now is made again.
        workers : int
            Threads that read.
        """
        tasks = list(self.plan.tasks())
        there = replace(self, sink=self.sink.listed())
        found = list(each(there.sink, there._right if repair else there._done, tasks, workers if repair else 1))
        tally = self._tally(record for record in (*found, *there._others()) if record)
        return Survey([task for task, record in zip(tasks, found, strict=True) if record is None], tally)

    def is_done(self, task: ShardTask) -> bool:
        """Tell whether a shard has a record without faults, and an object of the length that the record states."""
        return self._done(task) is not None

    def _done(self, task: ShardTask) -> ShardRecord | None:
        record = records.load(self.sink, task.layout.product, task.roi_id)
        if record is None or record.index != task.index:
            return None
        if any(accept.key_of(fault) not in self.accepted for fault in record.faults):
            return None
        stated = [(p.time, p.s2_id_gee) for p in record.patches]
        if stated != [(p.time, p.s2_id_gee) for p in task.patches]:
            return None
        whole = record.size == (self.sink.size(shard_key(record.product, record.index)) or 0)
        return record.without_sources() if whole else None

    def _right(self, task: ShardTask) -> ShardRecord | None:
        """Give the record of a shard that needs no repair."""
        record = records.load(self.sink, task.layout.product, task.roi_id)
        if record is None or record.faults or self._done(task) is None:
            return None
        if outdated(task.layout.product, record, {patch.time: patch.files for patch in task.patches}):
            return None
        data = self.sink.get(shard_key(record.product, record.index)) or b""
        return record.without_sources() if hashlib.sha256(data).hexdigest() == record.sha256 else None

    def _others(self) -> Iterator[ShardRecord | None]:
        """Yield the records of the ROIs that the plan leaves alone."""
        planned = set(self.plan.catalogue.rois)
        rest = [(row.product, roi) for row in self.plan.layouts for roi in self.plan.order if roi not in planned]
        yield from each(self.sink, lambda pair: records.load(self.sink, *pair), rest)

    def _tally(self, there: Iterable[ShardRecord]) -> Tally:
        layouts = self.plan.layouts
        return records.tally((row.product for row in layouts), len(self.plan.order), layouts[0].times, there)

    def begun(self, tally: Tally) -> Cube:
        """Write the metadata of a cube that changes, before a shard that a reader can see is written again."""
        return replace(self, made=self.write_metadata("converting", tally), new=False)

    def finalise(self, tally: Tally, fresh: Iterable[ShardRecord]) -> None:
        """Write what every patch's status is, and the consolidated metadata last.

        Parameters
        ----------
        tally : Tally
            Of what was there before; added to.
        fresh : iterable of ShardRecord
            Records of this run.
        """
        for record in fresh:
            tally.add(record)
        self.write_metadata("final", tally)

    def write_metadata(self, state: str, tally: Tally) -> dict[str, bytes]:
        """Write the metadata objects that changed, the root's last; return them all."""
        settings = self.settings | tally.learnt() | {"state": state}
        frame = Frame(self.plan.order, self.plan.layouts[0].times, self.table)
        contents = Contents(frame, self.plan.layouts, tally.status, settings, _ABOUT | _history(settings))
        made = restated(self.made, contents) if self.made else objects(contents)
        there = self.sink.listed() if self.new else self.sink

        def write(item: tuple[str, bytes]) -> None:
            if self.made.get(item[0]) != item[1] and there.get(item[0]) != item[1]:
                self.sink.put(*item, durable=item[0] == ROOT_KEY)

        *others, root = made.items()
        list(each(self.sink, write, others))
        write(root)
        return made


def _history(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "source": settings["source"],
        "history": f"{settings['created']}: converted by {settings['tool']}",
        "date_created": settings["created"],
    }


def open_or_create(plan: Plan, sink: Place, repair: bool = False) -> Cube:
    """Create the cube that a plan asks for, or find it and check that the plan continues it.

    Parameters
    ----------
    plan : Plan
    sink : Sink
    repair : bool
        Go on even if the cube's catalogue cannot be read.

    Raises
    ------
    DestinationError
        If the place holds something else, or a cube with other settings or other patches.
    """
    root = sink.get(ROOT_KEY)
    if root is None:
        if not sink.empty():
            raise DestinationError(f"{sink.root} is there and holds something else: give the cube a place of its own")
        return _create(plan, sink)
    try:
        found = read_settings(root, sink.root)
    except StoreError as error:
        raise DestinationError(f"{error}; give the cube a place of its own") from None
    plan = _with_times(plan, found)
    settings = _settings(plan)
    _same_settings(found, settings, sink.root)
    settings |= {key: found[key] for key in _KEPT if key in found}
    if found.get("state") == "creating":
        return _cube(plan, sink, plan.catalogue.table, settings, new=True)
    return _continue(plan, sink, settings, repair)


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
        "source": without_secrets(plan.archive.root),
        "metadata": plan.source,
        "test_meaning": plan.catalogue.test_meaning,
        "selection": {
            "where": list(plan.selection.where),
            "bbox": plan.selection.bbox and list(plan.selection.bbox),
            "rois": list(plan.selection.rois),
        },
        "products": {layout.product: layout.as_json() for layout in plan.layouts},
    }


def _create(plan: Plan, sink: Place) -> Cube:
    """Mark the place as ours first: if this is cut short, the next run begins again here."""
    settings = _settings(plan)
    mine = settings | {"state": "creating", "patches": len(plan.catalogue.table)}
    mark = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: mine}}
    sink.put(ROOT_KEY, json.dumps(mark, indent=1).encode())
    return _cube(plan, sink, plan.catalogue.table, settings, new=True)


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
    table = pd.concat([kept, new], ignore_index=True) if len(kept) else new
    known = set(order)
    whole = (*order, *(roi for roi in plan.catalogue.rois if roi not in known))
    return _cube(replace(plan, order=whole), sink, table, settings)


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

"""A cube being made: which shards it has, which are to be made, and its last word on what is in it.

The cube that a plan asks for: created, or found and checked whether the plan continues it.

What a subset says of itself: the conversion that made its pixels, and what was taken out of what, step by step.

The cube that an excerpt becomes: created or continued, and filled with the shards that it lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd

from cloudsen12_cube.archive import ShardTask
from cloudsen12_cube.conversion.cube_source import CopiedShard, copy_shard, is_there
from cloudsen12_cube.conversion.executor import started, submitting
from cloudsen12_cube.conversion.options import Progress, Step
from cloudsen12_cube.conversion.planning import Plan, ShardCopy, SubsetPlan
from cloudsen12_cube.errors import DestinationError, RemoteError, StoreError, without_secrets
from cloudsen12_cube.format import (
    ABOUT,
    KEY,
    ROOT_KEY,
    Contents,
    Frame,
    ProductLayout,
    ShardRecord,
    StatusGrid,
    object_key,
    objects,
    read_order,
    read_settings,
    read_table,
    records_path,
    restated,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.inspection import accepted as accept
from cloudsen12_cube.inspection import outdated
from cloudsen12_cube.schema import PLUS, files_of
from cloudsen12_cube.storage import ObjectStore, each, is_empty, list_names, list_once


@dataclass(frozen=True)
class PendingWork:
    """What there is of a plan before a run."""

    todo: list[ShardTask]
    """Shards to be made, in the order of the plan."""
    there: StatusGrid
    """What readers may be told while those are made: all of their patches are absent."""


@dataclass(frozen=True)
class Cube:
    """A cube and the plan that is being carried out on it."""

    sink: ObjectStore
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
        listed = list_once(self.sink)
        loaded = each(listed, lambda pair: records.load(listed, *pair), pairs)
        known = {accept.key_of(fault) for record in loaded if record for fault in record.faults}
        known |= {(row.roi_id, row.s2_id_gee, "", "metadata") for row in self.plan.faults()}
        gaps = accept.decide(choices, known, accept.in_settings(self.settings), self.plan.archive)
        return replace(
            self,
            settings=self.settings | accept.as_setting(gaps),
            accepted=accept.holding(gaps, self.plan.archive),
        )

    def survey(self, repair: bool = False, workers: int = 1) -> PendingWork:
        """Find out which shards are to be made.

        Parameters
        ----------
        repair : bool
            Read every shard: what does not have the recorded sha256, has faults, or has other files now is made again.
        workers : int
            Threads that read.
        """
        listed = replace(self, sink=list_once(self.sink))
        look = partial(listed._looked_at, check=listed._right if repair else listed._done)
        tasks = list(self.plan.tasks())
        found = list(each(listed.sink, look, tasks, workers if repair else 1))
        there = StatusGrid.empty(self.plan.layouts, len(self.plan.order), self.settings.get("full_scale"))
        for task, (record, right) in zip(tasks, found, strict=True):
            if record and record.index == task.index:
                there.add(record, shown=right)
        for record in listed._others():
            there.add(record)
        return PendingWork([task for task, (_, right) in zip(tasks, found, strict=True) if not right], there)

    def _looked_at(
        self, task: ShardTask, check: Callable[[ShardTask, ShardRecord | None], bool]
    ) -> tuple[ShardRecord | None, bool]:
        record = records.load(self.sink, task.layout.product, task.roi_id)
        return record and record.without_sources(), check(task, record)

    def is_done(self, task: ShardTask) -> bool:
        """Tell whether a shard has a record without faults but accepted ones, and an object of the stated length."""
        return self._done(task, records.load(self.sink, task.layout.product, task.roi_id))

    def _done(self, task: ShardTask, record: ShardRecord | None) -> bool:
        if record is None or record.index != task.index:
            return False
        if any(accept.key_of(fault) not in self.accepted for fault in record.faults):
            return False
        stated = [(p.time, p.s2_id_gee) for p in record.patches]
        if stated != [(p.time, p.s2_id_gee) for p in task.patches]:
            return False
        return record.size == (self.sink.size(self._key(record)) or 0)

    def _right(self, task: ShardTask, record: ShardRecord | None) -> bool:
        """Tell whether a shard needs no repair."""
        if record is None or record.faults or not self._done(task, record):
            return False
        files = {patch.time: patch.files for patch in task.patches}
        if outdated(task.layout.product, record, files, task.decoder):
            return False
        data = self.sink.get(self._key(record)) or b""
        return hashlib.sha256(data).hexdigest() == record.sha256

    def _key(self, record: ShardRecord) -> str:
        return object_key(self.settings, record.product, record.index)

    def _others(self) -> Iterator[ShardRecord]:
        """Yield the records of the ROIs that the plan leaves alone."""
        rest = [(p.product, roi) for p in self.plan.layouts for roi in self.plan.order if roi not in self.plan.groups]
        found = each(self.sink, lambda pair: records.load(self.sink, *pair), rest)
        yield from (record for record in found if record)

    def begun(self, there: StatusGrid) -> Cube:
        """Write the metadata of a cube that changes, before a shard that a reader can see is written again."""
        return replace(self, made=self.write_metadata("converting", there), new=False)

    def finalise(self, there: StatusGrid, fresh: Iterable[ShardRecord]) -> None:
        """Write what every patch's status is, and the consolidated metadata last.

        Parameters
        ----------
        there : Tally
            Of what was there before; changed in place.
        fresh : iterable of ShardRecord
            Records of this run.
        """
        for record in fresh:
            there.add(record)
        self.write_metadata("final", there)

    def write_metadata(self, state: str, tally: StatusGrid) -> dict[str, bytes]:
        """Write the metadata objects that changed, the root's last; return them all."""
        settings = self.settings | {"state": state}
        frame = Frame(self.plan.order, self.plan.layouts[0].times, self.table)
        contents = Contents(frame, self.plan.layouts, tally.status, settings, about(settings), tally.scale)
        return publish(self.sink, contents, self.made, self.new)


def publish(sink: ObjectStore, contents: Contents, before: dict[str, bytes], new: bool = False) -> dict[str, bytes]:
    """Write the metadata objects of a cube that changed, the root's last.

    Parameters
    ----------
    sink : Place
    contents : Contents
    before : dict of str to bytes
        What this gave the last time, for the same frame and layouts; empty the first time.
    new : bool
        Whether most are not there yet: then the place is listed, not asked for each.

    Returns
    -------
    dict of str to bytes
        All of them.
    """
    made = restated(before, contents) if before else objects(contents)
    there = list_once(sink) if new else sink

    def write(item: tuple[str, bytes]) -> None:
        if before.get(item[0]) != item[1] and there.get(item[0]) != item[1]:
            sink.put(*item, sync=item[0] == ROOT_KEY)

    *others, root = made.items()
    list(each(sink, write, others))
    write(root)
    return made


def about(settings: dict[str, Any]) -> dict[str, str]:
    """Say in the root's attributes what a cube is, and by which steps it came about."""
    steps, before = settings.get("subsets", []), settings.get("resharded_from")
    line = f"{settings['created']}: converted by {settings['tool']}"
    if before:
        line = f"{before['history']}\n{settings['created']}: re-sharded from {before['cube']} by {settings['tool']}"
    lines = [line, *(f"{step['created']}: subset of {step['cube']} by {step['tool']}" for step in steps)]
    return ABOUT | {
        "source": settings["source"],
        "history": "\n".join(lines).strip(),
        "date_created": steps[-1]["created"] if steps else settings["created"],
    }


_FIXED = ("products", "layout_version", "test_meaning")
"""Settings that a cube keeps for life."""

_KEPT = ("created", "tool", "source", "accepted", "subsets", "resharded_from", "full_scale")
"""Settings of the first run, or of an earlier one, that a later run keeps."""


def open_or_create(plan: Plan, sink: ObjectStore, repair: bool = False) -> Cube:
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


def settings_at(sink: ObjectStore) -> dict[str, Any] | None:
    """Read the settings of the cube at a place where one is to be made or continued; None if the place is free.

    Raises
    ------
    DestinationError
        If the place holds something else.
    """
    root = sink.get(ROOT_KEY)
    if root is None:
        if not is_empty(sink):
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


def _create(plan: Plan, sink: ObjectStore) -> Cube:
    """Mark the place as ours first: if this is cut short, the next run begins again here."""
    settings = settings_of(plan)
    claim(sink, settings, len(plan.catalogue.table))
    return _cube(plan, sink, plan.catalogue.table, settings, new=True)


def claim(sink: ObjectStore, settings: dict[str, Any], patches: int) -> None:
    """Write a root that says whose place this is, and that nothing can be read yet."""
    mine = settings | {"state": "creating", "patches": patches}
    mark = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: mine}}
    sink.put(ROOT_KEY, json.dumps(mark, indent=1).encode())


def _cube(plan: Plan, sink: ObjectStore, table: pd.DataFrame, settings: dict[str, Any], *, new: bool = False) -> Cube:
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


def _continue(plan: Plan, sink: ObjectStore, settings: dict[str, Any], repair: bool) -> Cube:
    """Keep what lies on disk where it lies; new ROIs go behind it."""
    try:
        order, before = read_table(sink)
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


def _places(plan: Plan, sink: ObjectStore) -> tuple[str, ...]:
    """Order of the ROIs on disk by their records, where the cube's own catalogue cannot be read."""
    found: dict[int, str] = {}
    for layout in plan.layouts:
        for name in list_names(sink, records_path(layout.product)):
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


_MADE = ("layout_version", "tool", "created", "source", "metadata", "test_meaning")
"""Settings of the conversion that made the pixels."""


def settings_for(excerpt: SubsetPlan, times: int) -> dict[str, Any]:
    """Make the settings of a subset: those of its cube, and in ``subsets`` one step more.

    Parameters
    ----------
    excerpt : Excerpt
    times : int
        Length of ``time``.
    """
    layouts = (replace(layout, times=times) for layout in excerpt.layouts)
    return {
        **{key: excerpt.settings[key] for key in _MADE},
        "selection": _both(excerpt),
        "products": {layout.product: layout.as_json() for layout in layouts},
        "subsets": [*excerpt.settings.get("subsets", []), _step(excerpt)],
        **({"resharded_from": excerpt.settings["resharded_from"]} if "resharded_from" in excerpt.settings else {}),
        **accept.as_setting(_gaps(excerpt)),
        **({"full_scale": excerpt.full_scale} if excerpt.full_scale else {}),
    }


def _step(excerpt: SubsetPlan) -> dict[str, Any]:
    asked = excerpt.selection
    return {
        "cube": without_secrets(excerpt.source.root),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool": f"cloudsen12-cube {version('cloudsen12-cube')}",
        "selection": {"where": list(asked.where), "bbox": asked.bbox and list(asked.bbox), "rois": list(asked.rois)},
        "products": [layout.product for layout in excerpt.layouts],
    }


def _both(excerpt: SubsetPlan) -> dict[str, Any]:
    """Say the cube's conditions and these in one; two boxes are not always a box, so the ROIs are named instead."""
    before, asked = excerpt.settings["selection"], excerpt.selection
    rois, box = list(asked.rois) or before["rois"], list(asked.bbox) if asked.bbox else before["bbox"]
    if asked.bbox and before["bbox"] not in (None, box):
        rois = excerpt.catalogue.rois
    return {"where": list(dict.fromkeys([*before["where"], *asked.where])), "bbox": box, "rois": rois}


def _gaps(excerpt: SubsetPlan) -> frozenset[accept.AcceptedFailure]:
    """Give the accepted failures that go along: not those of patches and products that stay behind."""
    behind = excerpt.dates.keys() - set(excerpt.catalogue.keys)
    files = {file for layout in excerpt.layouts for file in files_of(layout.product)} | {""}
    known = accept.in_settings(excerpt.settings)
    return frozenset(gap for gap in known if (gap.roi_id, gap.s2_id_gee) not in behind and gap.asset in files)


def continued(found: dict[str, Any], wanted: dict[str, Any], place: str) -> dict[str, Any]:
    """Give the settings of a subset that is continued: as wanted, less the day on which it was begun.

    Parameters
    ----------
    found : dict
        Settings of the cube that lies at the place.
    wanted : dict
        As `settings_for` gives them.
    place : str
        For the message.

    Raises
    ------
    DestinationError
        If it is no subset, or one of another cube or another selection.
    """
    if not found.get("subsets"):
        raise DestinationError(f"{place} holds a cube that is no subset: give the subset a place of its own")
    for name, has, asks in _compared(found, wanted):
        if has != asks:
            raise DestinationError(
                f"{place} holds a subset with other {name} ({has}, now {asks}): give the same, or another place"
            )
    return wanted | {"subsets": [*wanted["subsets"][:-1], found["subsets"][-1]]}


def _compared(found: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Pair what must be equal, the telling first: where the cube lies now is not asked, it may have moved."""
    layouts = wanted["products"].items()
    return [
        ("conditions", _told(found), _told(wanted)),
        ("origin", _origin(found), _origin(wanted)),
        *((f"layout of {name}", *_differing(found["products"].get(name, {}), layout)) for name, layout in layouts),
    ]


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, str]:
    """Write what differs, not all that is the same."""
    names = [name for name in wanted if found.get(name) != wanted[name]]
    has, asks = (", ".join(f"{name} {row.get(name)}" for name in names) for row in (found, wanted))
    return has, asks


def _told(settings: dict[str, Any]) -> str:
    step = settings["subsets"][-1]
    asked = step["selection"]
    parts = [*asked["where"], *([f"bbox {asked['bbox']}"] if asked["bbox"] else []), *asked["rois"]]
    return f"{' and '.join(parts) or 'no condition'}; {', '.join(step['products'])}"


def _origin(settings: dict[str, Any]) -> str:
    """Name the cube: the conversion that made it, and what it was taken out of itself."""
    made = ", ".join(str(settings.get(key)) for key in _MADE)
    return "; subset of ".join([made, *(step["created"] for step in settings["subsets"][:-1])])


@dataclass(frozen=True)
class CubeWriter:
    """The cube that an excerpt becomes."""

    excerpt: SubsetPlan
    sink: ObjectStore
    order: tuple[str, ...]
    """ROIs as they lie on disk."""
    settings: dict[str, Any]

    @property
    def layouts(self) -> tuple[ProductLayout, ...]:
        """Of the products in this cube."""
        return tuple(replace(layout, times=room_of(self.settings)) for layout in self.excerpt.layouts)

    def surveyed(self) -> tuple[list[ShardRecord], list[ShardCopy]]:
        """Find the records of the shards that are there, and the shards that are not."""
        source, listed = self.excerpt.source, list_once(self.sink)
        pieces = list(self.excerpt.pieces(self.order, room_of(self.settings)))

        def look(piece: ShardCopy) -> ShardRecord | None:
            mine = records.load(listed, piece.layout.product, piece.roi_id)
            theirs = records.load(source, piece.layout.product, piece.roi_id) if mine else None
            return mine.without_sources() if mine and is_there(piece, mine, theirs, listed) else None

        found = list(each(listed, look, pieces, source.concurrency))
        todo = [piece for piece, record in zip(pieces, found, strict=True) if record is None]
        return [record for record in found if record], todo

    def filled(
        self, there: list[ShardRecord], todo: list[ShardCopy], workers: int, progress: Progress | None
    ) -> list[CopiedShard]:
        """Copy what is not there, and say so in the metadata: before, that it is absent, and afterwards what it is.

        Parameters
        ----------
        there : list of ShardRecord
            Of the shards that stay as they are.
        todo : list of ShardPiece
        workers : int
            Threads; with 0 the caller copies.
        progress : callable, optional
        """
        tally = StatusGrid.empty(self.layouts, len(self.order), self.settings.get("full_scale"))
        for record in there:
            tally.add(record)
        made = self._publish("converting", tally, {}) if todo else {}
        copied = []
        for one in self._copied(todo, workers):
            copied.append(one)
            if one.record:
                tally.add(one.record)
            if progress:
                progress(_target_step(one, len(todo)))
        self._publish("converting" if any(one.fault for one in copied) else "final", tally, made)
        return copied

    def _copied(self, todo: list[ShardCopy], workers: int) -> Iterable[CopiedShard]:
        copy = partial(copy_shard, source=self.excerpt.source, sink=self.sink)
        with submitting(copy, None, workers) as (submit, ahead), closing(started(todo, submit, ahead)) as results:
            yield from results

    def _publish(self, state: str, tally: StatusGrid, before: dict[str, bytes]) -> dict[str, bytes]:
        settings = self.settings | {"state": state}
        frame = Frame(self.order, room_of(settings), self.excerpt.catalogue.table)
        contents = Contents(frame, self.layouts, tally.status, settings, about(settings), tally.scale)
        return publish(self.sink, contents, before, new=not before)


def _target_step(one: CopiedShard, shards: int) -> Step:
    """Tell the progress bar, which counts patches and bytes."""
    piece = one.piece
    record = one.record or ShardRecord(piece.layout.product, piece.roi_id, piece.index, 0, "")
    return Step(record, record.size, shards)


def open_cube_writer(excerpt: SubsetPlan, sink: ObjectStore) -> CubeWriter:
    """Create the cube of an excerpt, or find it and check that this is the one that was begun.

    Raises
    ------
    DestinationError
        If the place holds something else, a cube that is no subset, or another subset.
    """
    rois, found = excerpt.catalogue.rois, settings_at(sink)
    if found is None:
        settings = settings_for(excerpt, excerpt.catalogue.times)
        claim(sink, settings, len(excerpt.catalogue.table))
        return CubeWriter(excerpt, sink, tuple(rois), settings)
    settings = settings_for(excerpt, max(excerpt.catalogue.times, room_of(found)))
    settings = continued(found, settings, sink.root)
    order = () if found.get("state") == "creating" else _order(sink)
    strange = set(order) - set(rois)
    if strange:
        raise DestinationError(
            f"{sink.root} has {min(strange)}, which is not in the selection: give the subset a place of its own"
        )
    known = set(order)
    return CubeWriter(excerpt, sink, (*order, *(roi for roi in rois if roi not in known)), settings)


def _order(sink: ObjectStore) -> tuple[str, ...]:
    """Read the ROIs as they lie on disk; none if that is damaged: shards in other places are copied again."""
    try:
        return read_order(sink)
    except RemoteError:
        raise
    except StoreError:
        return ()

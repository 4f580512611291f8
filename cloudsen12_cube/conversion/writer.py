"""The cube that is written: what is there of it, its shards and their records, and its metadata last.

A cube grows in an order that lets it be read, and the run be continued, whenever it stops: a new cube begins with a
root that says "creating"; a shard's old record goes before its object is replaced, and the new record comes after;
patches that are rewritten are absent in the metadata before their shard is touched; the root object is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.conversion.options import Part
from cloudsen12_cube.conversion.planning import Plan
from cloudsen12_cube.conversion.readers import CubeReader, RoiContent, ShardRoi, ShardTask
from cloudsen12_cube.errors import DestinationError, PatchError, ReadError, StoreError, without_secrets
from cloudsen12_cube.format import (
    KEY,
    ROOT_KEY,
    Chunk,
    Contents,
    FailureKey,
    Fault,
    Frame,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    StatusGrid,
    StoredCube,
    assemble,
    find_stored_cube,
    record_key,
    records_path,
    root_attributes,
    write_metadata,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.inspection import accept_failures, accepted_failures, accepted_setting
from cloudsen12_cube.schema import PLUS
from cloudsen12_cube.storage import ObjectStore, each, is_empty, list_names, list_once


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Parameters
    ----------
    records : tuple of ShardRecord
        One for each ROI that is in it, without the files it was made from.
    lost : tuple of Fault
        ROIs that the source does not have, or has damaged.
    missing : int
        Number of these ROIs that the shard does not have either.
    copied : bool
        Whether it is the source's object as it was.
    """

    records: tuple[ShardRecord, ...]
    lost: tuple[Fault, ...] = ()
    missing: int = 0
    copied: bool = False

    def joint_record(self, task: ShardTask) -> ShardRecord:
        """Describe the shard as if all its patches were of one ROI."""
        first, patches = task.rois[0], tuple(patch for record in self.records for patch in record.patches)
        size, digest = (self.records[0].size, self.records[0].sha256) if self.records else (0, "")
        return ShardRecord(task.layout.product, first.roi_id, first.index, size, digest, patches)


@dataclass(frozen=True)
class TaskState:
    """What there is of a shard before a run."""

    task: ShardTask
    done: bool
    records: tuple[ShardRecord, ...] = ()


@dataclass(frozen=True)
class PendingWork:
    """What there is of a plan before a run.

    Parameters
    ----------
    states : tuple of TaskState
        Of all shards of the plan, in its order; records of those that have faults only.
    grid : StatusGrid
        Status that readers see during the run: patches that are rewritten are absent.
    """

    states: tuple[TaskState, ...]
    grid: StatusGrid

    def share(self, part: Part) -> PendingWork:
        """Select a part of the shards: all products of an ROI, or of the ROIs that share an object, go together."""
        own = part.of(list(dict.fromkeys(state.task.rois[0].roi_id for state in self.states)))
        return replace(self, states=tuple(state for state in self.states if state.task.rois[0].roi_id in own))

    @property
    def todo(self) -> list[ShardTask]:
        """Shards to be made."""
        return [state.task for state in self.states if not state.done]


@dataclass(frozen=True)
class CubeWriter:
    """A cube, and the plan that is carried out on it. Made by `open_writer`.

    Parameters
    ----------
    store : ObjectStore
    plan : Plan
        With ``order`` and layouts of the cube.
    table : pd.DataFrame
        Catalogue of the whole cube: what was there before, and what the plan adds.
    settings : dict of str to Any
    accepted : frozenset of FailureKey
        Failures that are accepted, as long as their files stay as they are.
    is_new : bool
        Whether no reader can see it yet: its metadata are not there.
    published : dict of str to bytes
        Metadata objects as this run has written them.
    """

    store: ObjectStore
    plan: Plan
    table: pd.DataFrame
    settings: dict[str, Any]
    accepted: frozenset[FailureKey] = frozenset()
    is_new: bool = False
    published: dict[str, bytes] = field(default_factory=dict)

    def accepting(self, choices: Sequence[FailureKey], archive: Archive) -> CubeWriter:
        """Accept failures of an archive; the next metadata that are written hold them."""
        pairs = [(layout, roi) for layout in self.plan.layouts for roi in self.plan.order]
        listed = list_once(self.store)
        loaded = each(listed, lambda pair: records.load(listed, *pair), pairs)
        known = {fault.key for record in loaded if record for fault in record.faults}
        known |= {FailureKey(row.roi_id, row.s2_id_gee, "", "metadata") for row in self.plan.faults()}
        gaps = accept_failures(choices, known, accepted_failures(self.settings), archive)
        return replace(self, settings=self.settings | accepted_setting(gaps), accepted=self.plan.still_accepted(gaps))

    def survey(self, repair: bool = False, workers: int = 1) -> PendingWork:
        """Find out which shards are to be made.

        Parameters
        ----------
        repair : bool
            Read every shard: what does not have the recorded sha256, has faults, or has other files now is rewritten.
        workers : int
            Threads that read shards in a repair.
        """
        listed, grid = list_once(self.store), self._empty_grid()
        tasks, states = list(self.plan.tasks(self.table)), []
        look = partial(self.state_of, listed, repair=repair)
        seen: set[tuple[str, str]] = set()
        for state in each(listed, look, tasks, max(workers if repair else 1, self.plan.concurrency)):
            if state.done or self.plan.on_loss != "remove":
                for record in state.records:
                    grid.add(record, shown=state.done)
            seen |= {(state.task.layout.product, roi.roi_id) for roi in state.task.rois}
            states.append(replace(state, records=tuple(record for record in state.records if record.faults)))
        rest = [(p, roi) for p in self.plan.layouts for roi in self.plan.order if (p.product, roi) not in seen]
        for other in each(listed, lambda pair: _load(listed, *pair, repair), rest):
            if other and self.plan.order[other.index : other.index + 1] == (other.roi_id,):
                grid.add(other)
        return PendingWork(tuple(states), grid)

    def _empty_grid(self) -> StatusGrid:
        return StatusGrid.empty(self.plan.layouts, len(self.plan.order), self.settings.get("full_scale"))

    def state_of(self, store: ObjectStore, task: ShardTask, repair: bool = False) -> TaskState:
        """Check a shard: it is done if the records of all its ROIs agree, and its size is the recorded one.

        Parameters
        ----------
        store : ObjectStore
            Of the cube, perhaps with its objects listed.
        task : ShardTask
        repair : bool
            Compare its sha256, and its source.
        """
        loaded = [_load(store, task.layout, roi.roi_id, repair) for roi in task.rois]
        pairs = [(record, roi) for record, roi in zip(loaded, task.rois, strict=True) if record]
        pairs = [(record, roi) for record, roi in pairs if record.index == roi.index]
        found = [record for record, _ in pairs]
        done = (
            len(found) == len(task.rois)
            and len({(record.size, record.sha256) for record in found}) == 1
            and found[0].size == (store.size(task.key) or 0)
            and all(self._is_current(record, roi, repair) for record, roi in pairs)
            and not (repair and _digest(store, task.key) != found[0].sha256)
        )
        return TaskState(task, done, tuple(record.without_sources() for record in found))

    def _is_current(self, record: ShardRecord, roi: ShardRoi, repair: bool) -> bool:
        if tuple((patch.time, patch.s2_id_gee) for patch in record.patches) != roi.patches:
            return False
        open_faults = any(fault.key not in self.accepted for fault in record.faults)
        return not roi.reader.is_outdated(roi, record, open_faults, repair)

    def publish(self, state: str, grid: StatusGrid) -> CubeWriter:
        """Write the metadata objects that changed, the root's last.

        Parameters
        ----------
        state : {"converting", "final"}
        grid : StatusGrid
            What readers may see.

        Returns
        -------
        CubeWriter
            Which knows what it has written.
        """
        settings = self.settings | {"state": state}
        frame = Frame(self.plan.order, self.plan.layouts[0].times, self.table)
        contents = Contents(frame, self.plan.layouts, grid.status, settings, root_attributes(settings), grid.scale)
        made = write_metadata(self.store, contents, self.published, self.is_new)
        return replace(self, published=made, is_new=False)

    def finish(self, grid: StatusGrid, results: Iterable[ShardResult]) -> None:
        """Write the status of every patch; as long as the source does not give an ROI, the cube is not final.

        Parameters
        ----------
        grid : StatusGrid
            Of what was there before; changed in place.
        results : iterable of ShardResult
        """
        if self.published and self.store.get(ROOT_KEY) != self.published[ROOT_KEY]:
            raise DestinationError(
                f"{self.store.root}/{ROOT_KEY} was removed or replaced while this run wrote to the cube: remove what "
                "is left of it, or give another place"
            )
        is_lost = False
        for result in results:
            for record in result.records:
                grid.add(record)
            is_lost |= result.missing > 0
        self.publish("converting" if is_lost else "final", grid)


def _load(store: ObjectStore, layout: ProductLayout, roi_id: str, repair: bool) -> ShardRecord | None:
    """Read a record; a repair takes one that the disk cannot read for missing, so that its shard is rewritten."""
    try:
        return records.load(store, layout, roi_id)
    except ReadError:
        if not repair:
            raise
        return None


def _digest(store: ObjectStore, key: str) -> str:
    """Compute the sha256 of an object; empty if the disk cannot read it."""
    with suppress(ReadError):
        return hashlib.sha256(store.get(key) or b"").hexdigest()
    return ""


def write_shard(task: ShardTask, store: ObjectStore) -> ShardResult:
    """Make one shard: read its ROIs, then commit the object and after it their records.

    Nothing is touched before all of the source has been read. A module's function, so that it can be sent anywhere.

    Parameters
    ----------
    task : ShardTask
    store : ObjectStore
        Of the cube that is written.

    Returns
    -------
    ShardResult
        What is damaged in the source is in it, and raises nothing.
    """
    found: list[tuple[ShardRoi, RoiContent]] = []
    lost: list[Fault] = []
    chunks: list[Chunk] = []
    per_roi = task.layout.times * task.layout.chunks_a_date
    for roi in task.rois:
        content: RoiContent | None
        try:
            content = roi.reader.read(roi, task.layout)
        except PatchError as error:
            texts = (without_secrets(text) for text in (error.path, error.found, error.expected))
            lost.append(Fault(roi.roi_id, "", task.layout.product, "", *texts))
            content = _kept(task, roi, store) if task.on_loss == "keep" else None
        own = content.chunks if content else ()
        chunks += [*own, *[b""] * (per_roi - len(own))]
        if content:
            found.append((roi, content))
    if not found:
        if task.on_loss == "remove":
            delete_shard(task, store)
        return ShardResult((), tuple(lost), len(task.rois))
    chunks += [b""] * (per_roi * task.layout.form.rois_per_shard - len(chunks))
    copy, data = found[0][1].copy, found[0][1].data
    if copy is None:
        data = assemble(chunks) if any(map(len, chunks)) else b""
    made = _commit(task, data, [(roi, content.patches) for roi, content in found], copy, store)
    missing = len(task.rois) - len(found)
    return ShardResult(tuple(record.without_sources() for record in made), tuple(lost), missing, copy is not None)


def _kept(task: ShardTask, roi: ShardRoi, store: ObjectStore) -> RoiContent | None:
    """Read what the shard has of an ROI before it is written again; None if that is not whole."""
    try:
        return CubeReader(store, task.layout, roi.index).read(roi, task.layout)
    except PatchError:
        return None


def _commit(
    task: ShardTask,
    data: bytes,
    rois: Sequence[tuple[ShardRoi, tuple[PatchRecord, ...]]],
    copy: ShardRecord | None,
    store: ObjectStore,
) -> list[ShardRecord]:
    """Write a shard, and then the records of its ROIs.

    Old records go first: whenever this stops, what is on disk has the records that belong to it, or too few of them.
    """
    digest = copy.sha256 if copy else hashlib.sha256(data).hexdigest()
    product = task.layout.product
    made = [ShardRecord(product, roi.roi_id, roi.index, len(data), digest, patches) for roi, patches in rois]
    delete_shard(task, store, keep_object=bool(data))
    if data:
        store.put(task.key, data)
    for record in made:
        store.put(record_key(product, record.roi_id), record.as_bytes())
    return made


def delete_shard(task: ShardTask, store: ObjectStore, keep_object: bool = False) -> None:
    """Remove what a cube has of a shard: its records first."""
    for roi in task.rois:
        store.delete(record_key(task.layout.product, roi.roi_id))
    if not keep_object:
        store.delete(task.key)


def open_writer(plan: Plan, store: ObjectStore, repair: bool = False) -> CubeWriter:
    """Create the cube that a plan asks for, or find it and check that the plan continues it.

    Parameters
    ----------
    plan : Plan
    store : ObjectStore
        Where the cube lies, or is to lie.
    repair : bool
        Go on even if the cube's catalogue cannot be read.

    Raises
    ------
    DestinationError
        If the place holds something else, or a cube with other settings or other patches.
    """
    try:
        found = find_stored_cube(store)
    except StoreError as error:
        raise DestinationError(f"{error}; give the cube a place of its own") from None
    if found is None:
        return _create(plan, store)
    plan = plan.with_room(
        max((layout["shard"][1] for layout in found.settings.get("products", {}).values()), default=0)
    )
    validate_resume(found.settings, plan, store.root)
    settings = plan.settings | {name: found.settings[name] for name in plan.kept if name in found.settings}
    # What the source accepts is newer than what was taken over from it before.
    gaps = {gap.key: gap for known in (found.settings, plan.settings) for gap in accepted_failures(known)}
    settings |= accepted_setting(frozenset(gaps.values()))
    order, table = _grown(plan, found, repair)
    is_new = found.state == "creating"
    return CubeWriter(store, replace(plan, order=order), table, settings, plan.still_accepted(gaps.values()), is_new)


def _create(plan: Plan, store: ObjectStore) -> CubeWriter:
    """Mark the place first: if this run is cut short, the next one begins again here."""
    if not is_empty(store):
        raise DestinationError(f"{store.root} is there and holds something else: give the cube a place of its own")
    claimed = plan.settings | {"state": "creating", "patches": len(plan.catalogue.table)}
    mark = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: claimed}}
    store.put(ROOT_KEY, json.dumps(mark, indent=1).encode())
    accepted = plan.still_accepted(accepted_failures(plan.settings))
    return CubeWriter(store, plan, plan.catalogue.table, plan.settings, accepted, is_new=True)


def validate_resume(found: dict[str, Any], plan: Plan, place: str) -> None:
    """Check that a plan continues the cube that has these settings.

    Raises
    ------
    DestinationError
        If a setting differs that both must share.
    """
    has = json.loads(json.dumps(plan.fixed(found)))
    wants = json.loads(json.dumps(plan.fixed(plan.settings)))
    if "subset" in has:
        raise DestinationError(f"{place} holds a cube that is no subset: give the subset a place of its own")
    for name, wanted in wants.items():
        if wanted != has.get(name):
            here, now = _difference(has.get(name), wanted)
            what, same = f"other {name}", ""
            if name == "products" and wanted.keys() == has[name].keys():
                what, same = "another layout", " --codec, --chunk and --rois-per-shard"
            raise DestinationError(
                f"{place} was made with {what} ({here}, now {now}): give the same{same}, or give another place"
            )


def _difference(found: Any, wanted: Any) -> tuple[str, str]:
    """Describe the differences only."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return str(found), str(wanted)
    if found.keys() != wanted.keys():
        return ", ".join(found), ", ".join(wanted)
    name = next(key for key in wanted if found[key] != wanted[key])
    has, asks = _difference(found[name], wanted[name])
    return f"{name} {has}", f"{name} {asks}"


def _grown(plan: Plan, found: StoredCube, repair: bool) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Return the order and the catalogue of a cube that a plan adds to: what lies on disk stays where it lies."""
    new = plan.catalogue.table
    if found.state == "creating":
        return plan.order, new
    try:
        order, before = found.order, found.table
    except StoreError:
        if not (repair or plan.on_loss == "remove"):
            raise
        return _order_by_records(plan, found.store), new
    extra = set(order) - set(plan.catalogue.rois)
    if plan.on_loss != "remove":
        _check_patches(before, new, found.store.root)
    elif extra:
        raise DestinationError(
            f"{found.store.root} has {min(extra)}, which is not in the selection: give the subset a place of its own"
        )
    known = set(order)
    order = (*order, *(roi for roi in plan.catalogue.rois if roi not in known))
    if not extra:
        return order, new
    table = pd.concat([before[before["roi_id"].isin(extra)], new], ignore_index=True)
    # Columns that one of the tables lacks are unknown there.
    return order, table.fillna({row.name: "" for row in PLUS if row.kind == "text" and row.name in table})


def _order_by_records(plan: Plan, store: ObjectStore) -> tuple[str, ...]:
    """Order of the ROIs on disk by their records, where the cube's own catalogue cannot be read."""
    placed: dict[int, str] = {}
    for layout in plan.layouts:
        for name in list_names(store, records_path(layout.product)):
            record = records.load(store, layout, name.removesuffix(".json"))
            if record:
                placed[record.index] = record.roi_id
    selected, there = set(plan.catalogue.rois), set(placed.values())
    rest = iter([roi for roi in plan.catalogue.rois if roi not in there])  # none of their shards is there
    # A record may state any position: no more are filled than there are selected ROIs.
    order = [placed.get(index) or next(rest, "") for index in range(min(max(placed, default=-1), len(selected)) + 1)]
    if not selected.issuperset(order):
        raise DestinationError(
            f"the catalogue of {store.root} is damaged, and this selection lacks ROIs of it: select all of them"
        )
    return (*order, *rest)


def _check_patches(before: pd.DataFrame, new: pd.DataFrame, place: str) -> None:
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

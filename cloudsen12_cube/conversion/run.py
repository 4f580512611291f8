"""A cube made from a cube: for each missing shard, read and check the source's -> decode -> encode -> commit.

An ROI has a record of its own, also where several share an object: it is written after the object, and the shard is
done when the records of all its ROIs say the same of it.

The conversion on one screen: for each missing shard, read -> check -> encode -> commit.

The end of a conversion in parts: what every patch's status is, and the consolidated metadata last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cloudsen12_cube.archive import ShardTask, build, encode_patch, open_archive, with_files
from cloudsen12_cube.conversion.cube_source import ShardResult, forget, patches_of, write_grouped_shard
from cloudsen12_cube.conversion.executor import cluster, started, submitting, worker_count
from cloudsen12_cube.conversion.options import DEFAULTS, Options, Progress, Step, StrictError
from cloudsen12_cube.conversion.planning import GroupedShardTask, Member, Plan, Resharding, make_plan, plan_resharding
from cloudsen12_cube.conversion.report import Report, faults_of_rows, write_failures
from cloudsen12_cube.conversion.writer import Cube, PendingWork, open_or_create
from cloudsen12_cube.errors import ArchiveError, DestinationError, PatchError, SelectionError, StoreError
from cloudsen12_cube.format import (
    COUNTS_KEY,
    ROOT_KEY,
    Contents,
    Fault,
    Frame,
    PatchRecord,
    ShardRecord,
    StatusGrid,
    StoredCube,
    assemble,
    by_plane,
    commit,
    faults_of,
    is_cube,
    joined,
    open_stored_cube,
    statistics_key,
    told,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.inspection import (
    AcceptedFailure,
    Status,
    as_setting,
    in_settings,
    key_of,
    look,
    read_choices,
)
from cloudsen12_cube.schema import Selection, select
from cloudsen12_cube.storage import ObjectStore, clean, each, is_url, list_once, open_store, write_lock


@dataclass(frozen=True)
class _Found:
    """What there is of a shard before a run."""

    task: GroupedShardTask
    records: tuple[ShardRecord, ...]
    done: bool


def reshard(
    made: Resharding,
    cube: str | os.PathLike[str],
    executor: Executor | None,
    options: Options,
    progress: Progress | None,
) -> Report:
    """Make a cube from a cube, as `convert` does from an archive. Run it again to continue.

    Parameters
    ----------
    made : Resharding
    cube, executor, options, progress
        As in `convert`.

    Raises
    ------
    CubeError
        If nothing could be done, or, with ``options.strict``, at the first shard of the source that is damaged.
    """
    sink, part = open_store(cube), options.part
    _check(made, sink, options)
    waiting = is_url(made.origin.place.root) or is_url(sink.root)
    workers = worker_count(made, options.workers, options.memory, waiting)
    with ExitStack() as stack:
        stack.callback(forget)
        if options.scheduler:
            executor = stack.enter_context(cluster(options.scheduler))
        stack.enter_context(write_lock(sink, part is not None, options.break_lock))
        store = _with_gaps(open_or_create(made, sink, options.repair), made)
        found, there = _survey(store, made, options.repair, workers)
        mine = part.of(list(dict.fromkeys(row.task.key for row in found))) if part else None
        own = [row for row in found if mine is None or row.task.key in mine]
        todo = [row.task for row in own if not row.done]
        store, fresh = _run_reshard(todo, (store, there), (executor, workers), options, progress)
        if part is None:
            _finalise(store, there, fresh)
            _copy_statistics(store, made)
    kept = [record for row in own if row.done for record in row.records]
    faults = _faults([*kept, *(record for row in fresh for record in row.records)], fresh, store.accepted)
    write_failures(faults, cube, part)
    return _report(own, fresh, faults, store, options)


def _check(made: Resharding, sink: ObjectStore, options: Options) -> None:
    if options.accept:
        raise SelectionError(
            f"what can be accepted is a file's failure: accept it in {made.origin.place.root}, then run this again"
        )
    here, there = (root if is_url(root) else os.path.realpath(root) for root in (made.origin.place.root, sink.root))
    if clean(here) == clean(there):
        raise DestinationError(f"{sink.root} cannot be made from itself: give the new cube a place of its own")


def _with_gaps(store: Cube, made: Resharding) -> Cube:
    """Take over the decisions to live with a failure; those of the source are its newest."""
    gaps: dict[object, AcceptedFailure] = {gap.key: gap for gap in in_settings(store.settings)}
    gaps |= {gap.key: gap for gap in in_settings(made.origin.settings)}
    settings = store.settings | as_setting(frozenset(gaps.values()))
    return replace(store, settings=settings, accepted=frozenset(gap.key for gap in gaps.values()))


def _survey(store: Cube, made: Resharding, repair: bool, workers: int) -> tuple[list[_Found], StatusGrid]:
    """Find out which shards are to be made, and what readers may be told while they are."""
    plan = replace(made, layouts=store.plan.layouts, order=store.plan.order)
    listed = list_once(store.sink)
    look = partial(_looked_at, sink=listed, store=store, repair=repair)
    found = list(each(listed, look, plan.shared(store.table), workers if repair else 1))
    there = StatusGrid.empty(plan.layouts, len(plan.order), store.settings.get("full_scale"))
    seen: set[tuple[str, str]] = set()
    for row in found:
        seen |= {(row.task.layout.product, member.roi_id) for member in row.task.members}
        for record in row.records:
            there.add(record, shown=row.done)
    rest = [(p.product, roi) for p in plan.layouts for roi in plan.order if (p.product, roi) not in seen]
    for other in each(listed, lambda pair: records.load(listed, *pair), rest):
        if other is not None:
            there.add(other)
    return found, there


def _looked_at(task: GroupedShardTask, sink: ObjectStore, store: Cube, repair: bool) -> _Found:
    loaded = [records.load(sink, task.layout.product, member.roi_id) for member in task.members]
    own = [r for r, member in zip(loaded, task.members, strict=True) if r and r.index == member.index]
    done = len(own) == len(task.members) and _is_done(task, own, sink, store, repair)
    return _Found(task, tuple(record.without_sources() for record in own), done)


def _is_done(task: GroupedShardTask, own: Sequence[ShardRecord], sink: ObjectStore, store: Cube, repair: bool) -> bool:
    """Tell whether all records of a shard say the same, its object is there, and the source has nothing newer."""
    if len({(record.size, record.sha256) for record in own}) > 1 or own[0].size != (sink.size(task.key) or 0):
        return False
    for record, member in zip(own, task.members, strict=True):
        if [(p.time, p.s2_id_gee) for p in record.patches] != [(time, image) for time, image, _ in member.patches]:
            return False
        open_faults = any(key_of(fault) not in store.accepted for fault in record.faults)
        if (open_faults or repair) and _is_outdated(record, task, member):
            return False
    return not repair or hashlib.sha256(sink.get(task.key) or b"").hexdigest() == own[0].sha256


def _is_outdated(record: ShardRecord, task: GroupedShardTask, member: Member) -> bool:
    """Tell whether the source's patches are others now; a source without a whole record has nothing better."""
    there = records.load(task.source, task.layout.product, member.roi_id)
    try:
        return there is not None and record.patches != patches_of(there, member)
    except PatchError:
        return False


def _run_reshard(
    todo: list[GroupedShardTask],
    state: tuple[Cube, StatusGrid],
    who: tuple[Executor | None, int],
    options: Options,
    progress: Progress | None,
) -> tuple[Cube, list[ShardResult]]:
    store, there = state
    made: list[ShardResult] = []
    if todo and not store.new:
        store = store.begun(there)  # what is made again is absent before it is touched
    # Another process may have had the same part: what it has done meanwhile is left alone.
    again = partial(_looked_at, sink=store.sink, store=store, repair=False)
    queue = (task for task in todo if not (options.part and again(task).done))
    making = submitting(partial(write_grouped_shard, sink=store.sink), *who)
    with making as (submit, ahead), closing(started(queue, submit, ahead)) as results:
        if store.new:
            store = store.begun(there)  # while the first shards are being made
        for result in results:
            made.append(replace(result, records=tuple(row.without_sources() for row in result.records)))
            if progress and result.whole:
                progress(Step(result.whole, len(result.records) * result.task.layout.roi_bytes, len(todo)))
            for fault in result.faults if options.strict else ():
                raise StrictError(fault)
    return store, made


def _finalise(store: Cube, there: StatusGrid, fresh: Sequence[ShardResult]) -> None:
    """Write what every patch's status is; as long as an ROI is left out, the cube is not final."""
    for made in fresh:
        for record in made.records:
            there.add(record)
    lost = any(len(made.records) < len(made.task.members) for made in fresh)
    store.write_metadata("converting" if lost else "final", there)


def _copy_statistics(store: Cube, made: Resharding) -> None:
    """Take over what was computed from the source, if this cube has just its patches and nothing of its own."""
    names = ["roi_id", "s2_id_gee", "time"]
    ours, theirs = (set(table[names].itertuples(index=False, name=None)) for table in (store.table, made.origin.table))
    if ours != theirs:
        return
    products = [layout.product for layout in store.plan.layouts]
    for key in [*map(statistics_key, products), *([COUNTS_KEY] if "labels" in products else [])]:
        data = made.origin.place.get(key) if store.sink.size(key) is None else None
        if data is not None:
            store.sink.put(key, data)


def _faults(
    rows: Sequence[ShardRecord], fresh: Sequence[ShardResult], accepted: frozenset[object]
) -> tuple[Fault, ...]:
    """Collect the damaged shards of the source, and the failures that came with it."""
    damaged = [fault for made in fresh for fault in made.faults]
    found = faults_of(sorted(rows, key=lambda r: (r.product, r.roi_id)))
    return (*damaged, *(fault for fault in found if key_of(fault) not in accepted))


def _report(
    own: list[_Found], fresh: list[ShardResult], faults: tuple[Fault, ...], store: Cube, options: Options
) -> Report:
    written = [made.whole for made in fresh if made.whole]
    skipped = sum(row.done for row in own)
    return replace(Report.of(len(own), skipped, written, faults), accepted=len(store.accepted), part=options.part)


def plan(
    source: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: Options = DEFAULTS,
) -> Plan:
    """Plan a conversion; nothing is written.

    Parameters
    ----------
    source : path, URL or `Url`
        The archive, or a finished cube that is to be laid out in another way.
    products : sequence of str, optional
        Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that the archive has.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : Options

    Raises
    ------
    CubeError
        If there is nothing that could be converted; the message says why.
    """
    where = [where] if isinstance(where, str) else where
    if is_cube(source):
        return plan_resharding(source, tuple(products or ()), where, options)
    return plan_archive(source, products, where, options)


def plan_archive(
    source: str | os.PathLike[str], products: Sequence[str] | None, where: Sequence[str], options: Options
) -> Plan:
    """Plan the conversion of what is known to be no cube."""
    if options.layout.rois_per_shard > 1:
        raise SelectionError(
            "several ROIs a shard are made from a cube, not from an archive: convert it with one first, then convert "
            f"that cube with rois_per_shard={options.layout.rois_per_shard}"
        )
    archive = open_archive(source)
    kind, texts = archive.table()
    whole = build(texts, options.test_meaning or archive.meaning)
    selection = Selection(tuple(where), options.bbox, options.rois)
    made = make_plan(archive, select(whole, selection), kind, (selection, tuple(products or ())))
    return replace(made, layouts=tuple(replace(row, form=options.layout) for row in made.layouts))


def convert(
    source: str | os.PathLike[str],
    cube: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    executor: Executor | None = None,
    options: Options = DEFAULTS,
    progress: Progress | None = None,
) -> Report:
    """Convert an archive or a cube, or a part of it, into a cube. Run it again to continue.

    Parameters
    ----------
    source, cube : path, URL or `Url`
        The archive, or a finished cube, and the Zarr v3 store to make.
    products, where, options
        As in `plan`.
    executor : concurrent.futures.Executor, optional
        Makes the shards; by default a pool of threads. It must give results of picklable functions, as
        ``Client.get_executor()`` of dask does.
    progress : callable, optional
        Called after each shard.

    Returns
    -------
    Report
        What was done, skipped and refused.

    Raises
    ------
    CubeError
        If nothing could be done, or, with ``options.strict``, at the first damaged file.
    """
    made = plan(source, products, where, options)
    if isinstance(made, Resharding):
        return reshard(made, cube, executor, options, progress)
    if not any(key in made.archive.patches for key in made.catalogue.keys):
        raise ArchiveError(f"{made.archive.root} has metadata, but no file of the selected patches")
    choices = read_choices(Path(options.accept)) if options.accept else []
    sink, part = open_store(cube), options.part
    waiting = made.archive.is_remote or is_url(sink.root)
    workers = worker_count(made, options.workers, options.memory, waiting)
    if choices and sink.size(ROOT_KEY) is None:
        raise SelectionError(f"{sink.root} is no cube yet: convert first, then accept what failed")
    with ExitStack() as stack:
        if options.scheduler:
            executor = stack.enter_context(cluster(options.scheduler))
        stack.enter_context(write_lock(sink, part is not None, options.break_lock))
        store = open_or_create(made, sink, options.repair)
        store = store.accepting(choices) if choices else store
        survey = store.survey(options.repair, workers)
        mine = part.of(made.catalogue.rois) if part else None
        todo = [task for task in survey.todo if mine is None or task.roi_id in mine]
        store, records = _run(todo, store, survey, (executor, workers), options, progress)
        if part is None:
            store.finalise(survey.there, records)
    shards = len(made.layouts) * len(made.catalogue.rois if mine is None else mine)
    found = [*faults_of_rows(store.plan.faults()), *faults_of(sorted(records, key=lambda r: (r.product, r.roi_id)))]
    faults = tuple(fault for fault in found if key_of(fault) not in store.accepted)
    write_failures(faults, cube, part)
    report = Report.of(shards, shards - len(todo), records, faults)
    return replace(report, accepted=len(store.accepted), part=part)


def _run(
    todo: list[ShardTask],
    store: Cube,
    survey: PendingWork,
    who: tuple[Executor | None, int],
    options: Options,
    progress: Progress | None,
) -> tuple[Cube, list[ShardRecord]]:
    made: list[ShardRecord] = []
    raw: dict[str, int] = {layout.product: layout.shard_bytes for layout in store.plan.layouts}
    if todo and not store.new:
        store = store.begun(survey.there)  # what is made again is absent before it is touched
    # Another process may have had the same part: what it has done meanwhile is left alone.
    queue = (task for task in todo if not (options.part and store.is_done(task)))
    making = submitting(partial(write_shard, sink=store.sink), *who)
    with making as (submit, ahead), closing(started(queue, submit, ahead)) as records:
        if store.new:
            store = store.begun(survey.there)  # while the first shards are being made
        for record in records:
            made.append(record.without_sources())
            if progress:
                progress(Step(record, raw[record.product], len(todo)))
            for fault in record.faults:
                if options.strict and key_of(fault) not in store.accepted:
                    raise StrictError(fault)
    return store, made


def write_shard(task: ShardTask, sink: ObjectStore) -> ShardRecord:
    """Make one shard: read its patches, encode them one by one, commit the shard and then its record.

    Returns
    -------
    ShardRecord
        As it was stored. Damaged files are in it; they raise nothing.
    """
    chunks: list[bytes] = []
    patches: list[PatchRecord] = []
    planewise = replace(task, layout=by_plane(task.layout))
    for patch, fetch in with_files(planewise):
        encoded = encode_patch(planewise, patch, fetch)
        chunks += joined(encoded.chunks, task.layout)
        patches.append(encoded.record)
    chunks += [b""] * (task.layout.times * task.layout.chunks_a_date - len(chunks))
    data = assemble(chunks) if any(chunks) else b""
    digest = hashlib.sha256(data).hexdigest()
    record = ShardRecord(task.layout.product, task.roi_id, task.index, len(data), digest, tuple(patches))
    commit(sink, record, data)
    return record


def finalise(cube: str | os.PathLike[str]) -> Status:
    """End a conversion that was made in parts; the cube alone is needed.

    What is missing is named, and stays absent: run its part again, and this. As long as a shard is missing, the cube's
    state remains ``converting``.

    Returns
    -------
    Status
        What is done, missing and failed; ``exit_code`` is 1 if anything is not done.

    Raises
    ------
    StoreError
        If there is no cube at the place, or one whose creation was cut short.
    DestinationError
        If another process is writing the cube.
    """
    open_stored_cube(cube, "creating")  # before the lock, which makes a folder
    sink = open_store(cube)
    with write_lock(sink):
        stored = open_stored_cube(cube, "creating")
        root = sink.get(ROOT_KEY)
        if root is None or not stored.order:
            raise StoreError(f"the creation of {sink.root} was cut short: run any of its parts again")
        found = look(stored)
        for key, data in told(root, _contents(stored, "converting" if found.missing else "final")).items():
            if sink.get(key) != data:
                sink.put(key, data)
    write_failures(found.failures, cube)
    return look(open_stored_cube(cube))


def _contents(cube: StoredCube, state: str) -> Contents:
    layouts = tuple(cube.layouts.values())
    tally = StatusGrid.empty(layouts, len(cube.order), cube.settings.get("full_scale"))
    for layout in layouts:
        for _, record in cube.records(layout.product):
            if record is not None:
                tally.add(record)
    frame = Frame(cube.order, layouts[0].times, cube.table)
    return Contents(frame, layouts, tally.status, cube.settings | {"state": state}, scale=tally.scale)

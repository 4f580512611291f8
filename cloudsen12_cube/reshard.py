"""A cube made from a cube: for each missing shard, read and check the source's -> decode -> encode -> commit.

An ROI has a record of its own, also where several share an object: it is written after the object, and the shard is
done when the records of all its ROIs say the same of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

from cloudsen12_cube import record as records
from cloudsen12_cube.accept import Gap, as_setting, in_settings, key_of
from cloudsen12_cube.access import clean, is_url
from cloudsen12_cube.cluster import cluster
from cloudsen12_cube.cube import Cube
from cloudsen12_cube.errors import DestinationError, PatchError, SelectionError
from cloudsen12_cube.opening import open_or_create
from cloudsen12_cube.options import Options, Progress, Step, StrictError
from cloudsen12_cube.origin import forget
from cloudsen12_cube.place import Place, each, place_of
from cloudsen12_cube.record import Fault, ShardRecord
from cloudsen12_cube.report import Report, faults_of, write_failures
from cloudsen12_cube.resharding import Member, Resharding, SharedTask
from cloudsen12_cube.shared import Made, patches_of, write_shared
from cloudsen12_cube.statistics import COUNTS_KEY, statistics_key
from cloudsen12_cube.tally import Tally
from cloudsen12_cube.workers import started, submitting, worker_count


@dataclass(frozen=True)
class _Found:
    """What there is of a shard before a run."""

    task: SharedTask
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
    sink, part = place_of(cube), options.part
    _check(made, sink, options)
    waiting = is_url(made.origin.place.root) or is_url(sink.root)
    workers = worker_count(made, options.workers, options.memory, waiting)
    with ExitStack() as stack:
        stack.callback(forget)
        if options.scheduler:
            executor = stack.enter_context(cluster(options.scheduler))
        stack.enter_context(sink.locked(part is not None, options.break_lock))
        store = _with_gaps(open_or_create(made, sink, options.repair), made)
        found, there = _survey(store, made, options.repair, workers)
        mine = part.of(list(dict.fromkeys(row.task.key for row in found))) if part else None
        own = [row for row in found if mine is None or row.task.key in mine]
        todo = [row.task for row in own if not row.done]
        store, fresh = _run(todo, (store, there), (executor, workers), options, progress)
        if part is None:
            _finalise(store, there, fresh)
            _copy_statistics(store, made)
    kept = [record for row in own if row.done for record in row.records]
    faults = _faults([*kept, *(record for row in fresh for record in row.records)], fresh, store.accepted)
    write_failures(faults, cube, part)
    return _report(own, fresh, faults, store, options)


def _check(made: Resharding, sink: Place, options: Options) -> None:
    if options.accept:
        raise SelectionError(
            f"what can be accepted is a file's failure: accept it in {made.origin.place.root}, then run this again"
        )
    here, there = (root if is_url(root) else os.path.realpath(root) for root in (made.origin.place.root, sink.root))
    if clean(here) == clean(there):
        raise DestinationError(f"{sink.root} cannot be made from itself: give the new cube a place of its own")


def _with_gaps(store: Cube, made: Resharding) -> Cube:
    """Take over the decisions to live with a failure; those of the source are its newest."""
    gaps: dict[object, Gap] = {gap.key: gap for gap in in_settings(store.settings)}
    gaps |= {gap.key: gap for gap in in_settings(made.origin.settings)}
    settings = store.settings | as_setting(frozenset(gaps.values()))
    return replace(store, settings=settings, accepted=frozenset(gap.key for gap in gaps.values()))


def _survey(store: Cube, made: Resharding, repair: bool, workers: int) -> tuple[list[_Found], Tally]:
    """Find out which shards are to be made, and what readers may be told while they are."""
    plan = replace(made, layouts=store.plan.layouts, order=store.plan.order)
    listed = store.sink.listed()
    look = partial(_looked_at, sink=listed, store=store, repair=repair)
    found = list(each(listed, look, plan.shared(store.table), workers if repair else 1))
    there = Tally.empty(plan.layouts, len(plan.order), store.settings.get("full_scale"))
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


def _looked_at(task: SharedTask, sink: Place, store: Cube, repair: bool) -> _Found:
    loaded = [records.load(sink, task.layout.product, member.roi_id) for member in task.members]
    own = [r for r, member in zip(loaded, task.members, strict=True) if r and r.index == member.index]
    done = len(own) == len(task.members) and _is_done(task, own, sink, store, repair)
    return _Found(task, tuple(record.without_sources() for record in own), done)


def _is_done(task: SharedTask, own: Sequence[ShardRecord], sink: Place, store: Cube, repair: bool) -> bool:
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


def _is_outdated(record: ShardRecord, task: SharedTask, member: Member) -> bool:
    """Tell whether the source's patches are others now; a source without a whole record has nothing better."""
    there = records.load(task.source, task.layout.product, member.roi_id)
    try:
        return there is not None and record.patches != patches_of(there, member)
    except PatchError:
        return False


def _run(
    todo: list[SharedTask],
    state: tuple[Cube, Tally],
    who: tuple[Executor | None, int],
    options: Options,
    progress: Progress | None,
) -> tuple[Cube, list[Made]]:
    store, there = state
    made: list[Made] = []
    if todo and not store.new:
        store = store.begun(there)  # what is made again is absent before it is touched
    # Another process may have had the same part: what it has done meanwhile is left alone.
    again = partial(_looked_at, sink=store.sink, store=store, repair=False)
    queue = (task for task in todo if not (options.part and again(task).done))
    making = submitting(partial(write_shared, sink=store.sink.portable()), *who)
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


def _finalise(store: Cube, there: Tally, fresh: Sequence[Made]) -> None:
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


def _faults(rows: Sequence[ShardRecord], fresh: Sequence[Made], accepted: frozenset[object]) -> tuple[Fault, ...]:
    """Collect the damaged shards of the source, and the failures that came with it."""
    damaged = [fault for made in fresh for fault in made.faults]
    found = faults_of(sorted(rows, key=lambda r: (r.product, r.roi_id)))
    return (*damaged, *(fault for fault in found if key_of(fault) not in accepted))


def _report(own: list[_Found], fresh: list[Made], faults: tuple[Fault, ...], store: Cube, options: Options) -> Report:
    written = [made.whole for made in fresh if made.whole]
    skipped = sum(row.done for row in own)
    return replace(Report.of(len(own), skipped, written, faults), accepted=len(store.accepted), part=options.part)

"""The jobs: a plan is made, the cube is surveyed, what is not done is run, and the metadata are finished.

Converting an archive, re-sharding a cube and taking a subset of one differ in their plan and in their report alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cloudsen12_cube.conversion.archive_plan import ArchivePlan, plan_archive
from cloudsen12_cube.conversion.cube_plan import CubePlan, plan_resharding, plan_subset
from cloudsen12_cube.conversion.options import (
    DEFAULTS,
    SUBSET_DEFAULTS,
    Options,
    Progress,
    Step,
    StrictError,
    SubsetOptions,
    selection_of,
)
from cloudsen12_cube.conversion.planning import Plan
from cloudsen12_cube.conversion.readers import ShardTask, clear_cache
from cloudsen12_cube.conversion.report import Report, SubsetReport, write_failures
from cloudsen12_cube.conversion.runner import TaskRunner, open_runner, worker_count
from cloudsen12_cube.conversion.writer import CubeWriter, PendingWork, ShardResult, open_writer, write_shard
from cloudsen12_cube.errors import ArchiveError, CubeError, DestinationError, SelectionError, StoreError
from cloudsen12_cube.format import (
    ABSENT,
    COUNTS_KEY,
    DONE,
    FAILED,
    ROOT_KEY,
    Fault,
    ShardRecord,
    StatusGrid,
    contents_of,
    faults_of,
    find_stored_cube,
    is_cube,
    open_stored_cube,
    statistics_key,
    write_metadata,
)
from cloudsen12_cube.inspection import Status, read_choices, summarise
from cloudsen12_cube.storage import (
    INTERNAL,
    NOTHING,
    LocalStore,
    ObjectStore,
    is_url,
    open_store,
    root_of,
    s3_options,
    write_lock,
)


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
        Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that the source has.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : Options
        Further conditions, and the layout of the cube.

    Returns
    -------
    Plan
        What `convert` would do with the same arguments.

    Raises
    ------
    CubeError
        If there is nothing that could be converted; the message says why.
    """
    if is_cube(source):
        return plan_resharding(source, products or (), where, options)
    return plan_archive(source, products or (), where, options)


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
    source : path, URL or `Url`
        The archive, or a finished cube that is to be laid out in another way.
    cube : path, URL or `Url`
        The Zarr v3 store to make or to continue.
    products : sequence of str, optional
        Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that the source has.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    executor : concurrent.futures.Executor, optional
        Makes the shards; by default a pool of threads. It must give results of picklable functions, as
        ``Client.get_executor()`` of dask does.
    options : Options
        Further conditions, the layout of the cube, and how to run.
    progress : callable, optional
        Called with a `Step` after each shard.

    Returns
    -------
    Report
        What was done, skipped and refused.

    Raises
    ------
    CubeError
        If nothing could be done, or, with ``options.strict``, at the first damaged file.
    """
    made, store = plan(source, products, where, options), open_store(cube)
    if isinstance(made, CubePlan):
        if options.accept:
            raise SelectionError(
                f"what can be accepted is a file's failure: accept it in {made.root}, then run this again"
            )
        check_disjoint(source, cube)
    elif isinstance(made, ArchivePlan) and not any(key in made.archive.patches for key in made.catalogue.keys):
        raise ArchiveError(f"{made.root} has metadata, but no file of the selected patches")
    workers = worker_count(made, options.workers, options.memory, is_url(made.root) or is_url(store.root))
    outcome = _carry_out(made, store, workers, executor, options, progress)
    write_failures(outcome.faults, cube, options.part)
    return outcome.report(options)


def subset(
    cube: str | os.PathLike[str],
    out: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: SubsetOptions = SUBSET_DEFAULTS,
    progress: Progress | None = None,
) -> SubsetReport:
    """Copy the part of a cube that a selection names into a cube of its own. Run it again to continue.

    Conditions mean what they mean to `convert`, and the pixels, coordinates and shards are those that it would make of
    the archive with them. No pixel is decoded; every shard is compared with its sha256 before it is written.

    Parameters
    ----------
    cube : path, URL or `Url`
        The cube.
    out : path, URL or `Url`
        The cube to make or to continue.
    products : sequence of str, optional
        Any of the cube's; by default all.
    where : sequence of str
        Conditions on the catalogue, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : SubsetOptions
        Further conditions, and how to run.
    progress : callable, optional
        Called with a `Step` after each shard.

    Returns
    -------
    SubsetReport
        What was copied, skipped and refused.

    Raises
    ------
    CubeError
        If nothing could be done: no such cube, nothing selected, a place that holds something else.
    """
    made, store = plan_part(cube, out, products, where, options), open_store(out)
    workers = options.workers
    if workers is None:
        workers = max(os.cpu_count() or 1, made.cube.store.concurrency, store.concurrency)
    outcome = _carry_out(made, store, workers, None, Options(break_lock=options.break_lock), progress)
    write_failures(outcome.faults, out)
    return outcome.subset_report()


def plan_part(
    cube: str | os.PathLike[str],
    out: str | os.PathLike[str],
    products: Sequence[str] | None,
    where: Sequence[str],
    options: SubsetOptions,
) -> CubePlan:
    """Plan what the arguments of `subset` name, and check that the two places are apart."""
    made = plan_subset(cube, products, selection_of(where, options))
    check_disjoint(cube, out)
    return made


def check_disjoint(cube: Any, out: Any) -> None:
    """Check that neither of two places lies in the other.

    Parameters
    ----------
    cube : path, URL, `Url` or store
        A cube that is read.
    out : path, URL, `Url` or store
        What is to be written.

    Raises
    ------
    DestinationError
        If one lies in the other.
    """
    here, there = _location(cube), _location(out)
    if here == there:
        relation = "is the cube itself, and cannot be made from itself"
    elif there.startswith(here + "/"):
        relation = "lies inside the cube"
    elif here.startswith(there.rstrip("/") + "/"):
        relation = "holds the cube itself"
    else:
        return
    raise DestinationError(f"{root_of(out)} {relation}: give a place of its own")


def _location(place: Any) -> str:
    """Write where a place lies, so that equal places have equal texts: buckets of two servers may have one name."""
    store = open_store(place)
    if isinstance(store, LocalStore):
        return os.path.realpath(store.root)
    return f"{s3_options(getattr(store, 'config', NOTHING)).get('endpoint_url', '')} {store.root}"


@dataclass(frozen=True)
class _Outcome:
    """What a run has done."""

    writer: CubeWriter
    pending: PendingWork
    """What there was of the shards that this run was to make."""
    results: tuple[ShardResult, ...]

    @property
    def records(self) -> list[ShardRecord]:
        """Of the shards that were written."""
        return [record for result in self.results for record in result.records]

    @property
    def skipped(self) -> int:
        """Shards that were there already."""
        return sum(state.done for state in self.pending.states)

    @property
    def size(self) -> int:
        """Bytes of the shards that were written; ROIs of one object have each a record of it."""
        return sum(result.records[0].size for result in self.results if result.records)

    @property
    def written(self) -> int:
        """Shards that were written."""
        return sum(bool(result.records) for result in self.results)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Rows that cannot be used, ROIs that the source has lost, and what failed and is not accepted."""
        rows = (
            Fault(f.roi_id, f.s2_id_gee, "", "", "metadata", f.found, f.expected) for f in self.writer.plan.faults()
        )
        lost = (fault for result in self.results for fault in result.lost)
        kept = [record for state in self.pending.states if state.done for record in state.records]
        there = faults_of(sorted([*kept, *self.records], key=lambda record: (record.product, record.roi_id)))
        return tuple(fault for fault in (*rows, *lost, *there) if fault.key not in self.writer.accepted)

    def report(self, options: Options) -> Report:
        """Sum up a conversion."""
        status = [patch.status for record in self.records for patch in record.patches]
        return Report(
            shards=len(self.pending.states),
            written=self.written,
            skipped=self.skipped,
            done=status.count(DONE),
            failed=status.count(FAILED),
            absent=status.count(ABSENT),
            size=self.size,
            faults=self.faults,
            accepted=len(self.writer.accepted),
            part=options.part,
        )

    def subset_report(self) -> SubsetReport:
        """Sum up a subset."""
        whole, plan = sum(result.copied for result in self.results), self.writer.plan
        return SubsetReport(
            rois=len(plan.order),
            patches=len(plan.catalogue.table),
            shards=len(self.pending.states),
            whole=whole,
            cut=self.written - whole,
            skipped=self.skipped,
            size=self.size,
            faults=self.faults,
            accepted=len(self.writer.accepted),
        )


def _carry_out(
    plan: Plan, store: ObjectStore, workers: int, executor: Executor | None, options: Options, progress: Progress | None
) -> _Outcome:
    """Survey the cube, make the shards that are not done, and finish the metadata, all under the lock of the cube."""
    choices = read_choices(Path(options.accept)) if options.accept else []
    if choices and store.size(ROOT_KEY) is None:
        raise SelectionError(f"{store.root} is no cube yet: convert first, then accept what failed")
    with ExitStack() as stack:
        stack.callback(clear_cache)
        # The lock goes last: threads of a run that failed may be writing until they have been joined.
        stack.enter_context(write_lock(store, options.part is not None, options.break_lock))
        if options.part is None:
            stack.push(partial(_withdraw, store))
        runner = stack.enter_context(open_runner(workers, executor, options.scheduler))
        writer = open_writer(plan, store, options.repair)
        if choices and isinstance(plan, ArchivePlan):
            writer = writer.accepting(choices, plan.archive)
        pending = writer.survey(options.repair, workers)
        own = pending.share(options.part) if options.part else pending
        writer, results = _run(writer, own.todo, pending.grid, runner, options, progress)
        if options.part is None:
            writer.finish(pending.grid, results)
            _copy_statistics(writer)
    return _Outcome(writer, own, results)


def _withdraw(store: ObjectStore, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the mark of a creation that failed before it wrote anything else: the place is as it was before."""
    if kind is None:
        return
    with suppress(CubeError):
        cube = find_stored_cube(store)
        if cube and cube.state == "creating" and all(i.key.startswith((ROOT_KEY, *INTERNAL)) for i in store.list()):
            store.delete(ROOT_KEY)


def _run(
    writer: CubeWriter,
    todo: list[ShardTask],
    grid: StatusGrid,
    runner: TaskRunner,
    options: Options,
    progress: Progress | None,
) -> tuple[CubeWriter, tuple[ShardResult, ...]]:
    if todo and not writer.is_new:
        writer = writer.publish("converting", grid)  # a shard is absent in the metadata before it is rewritten
    # Another process may have had the same part: what it has done meanwhile is left alone.
    store = writer.store
    queue = (task for task in todo if not (options.part and writer.state_of(store, task).done))
    results: list[ShardResult] = []
    with closing(runner.run(partial(write_shard, store=store), queue)) as finished:
        if writer.is_new:
            writer = writer.publish("converting", grid)  # while the first shards are being made
        for task, result in finished:
            results.append(result)
            if progress:
                raw = len(result.records) * task.layout.roi_bytes
                progress(Step(result.joint_record(task), raw, len(todo)))
            if options.strict:
                # What a cube's source has failed to convert is not this run's failure.
                noted = result.records if task.on_loss == "note" else ()
                faults = (*result.lost, *(fault for record in noted for fault in record.faults))
                for fault in faults:
                    if fault.key not in writer.accepted:
                        raise StrictError(fault)
    return writer, tuple(results)


def _copy_statistics(writer: CubeWriter) -> None:
    """Copy what was computed from the source of a re-sharding, if the cube has just its patches."""
    plan, names = writer.plan, ["roi_id", "s2_id_gee", "time"]
    if not isinstance(plan, CubePlan) or plan.on_loss == "remove":
        return
    ours, theirs = (set(table[names].itertuples(index=False, name=None)) for table in (writer.table, plan.cube.table))
    if ours != theirs:
        return
    products = [layout.product for layout in plan.layouts]
    for key in [*map(statistics_key, products), *([COUNTS_KEY] if "labels" in products else [])]:
        data = plan.cube.store.get(key) if writer.store.size(key) is None else None
        if data is not None:
            writer.store.put(key, data)


def finalise(cube: str | os.PathLike[str]) -> Status:
    """End a conversion that was made in parts; the cube alone is needed.

    What is missing is named, and stays absent: run its part again, and this. As long as a shard is missing, the cube's
    state remains ``converting``.

    Parameters
    ----------
    cube : path, URL or `Url`
        The cube.

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
    store = open_store(cube)
    with write_lock(store):
        stored = open_stored_cube(cube, "creating")
        if not stored.order:
            raise StoreError(f"the creation of {store.root} was cut short: run any of its parts again")
        found = summarise(stored)
        write_metadata(store, contents_of(stored, "converting" if found.missing else "final"))
    write_failures(found.failures, cube)
    return summarise(open_stored_cube(cube))

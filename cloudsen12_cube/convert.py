"""The conversion on one screen: for each missing shard, read -> check -> encode -> commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from cloudsen12_cube import catalogue as catalogues
from cloudsen12_cube.accept import key_of, read_choices
from cloudsen12_cube.access import is_url
from cloudsen12_cube.archive import open_archive
from cloudsen12_cube.catalogue import Selection
from cloudsen12_cube.cluster import cluster
from cloudsen12_cube.cube import Cube, Survey
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.fetch import with_files
from cloudsen12_cube.opening import open_or_create
from cloudsen12_cube.options import DEFAULTS, Options, Progress, Step, StrictError
from cloudsen12_cube.origin import is_cube
from cloudsen12_cube.patch import encode_patch
from cloudsen12_cube.place import Place, place_of
from cloudsen12_cube.plan import Plan, ShardTask, make_plan
from cloudsen12_cube.record import PatchRecord, ShardRecord, commit
from cloudsen12_cube.report import Report, faults_of, faults_of_rows, write_failures
from cloudsen12_cube.reshard import reshard
from cloudsen12_cube.resharding import Resharding, plan_resharding
from cloudsen12_cube.shard import assemble, by_plane, joined
from cloudsen12_cube.store import ROOT_KEY
from cloudsen12_cube.workers import started, submitting, worker_count


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
    whole = catalogues.build(texts, options.test_meaning or archive.meaning)
    selection = Selection(tuple(where), options.bbox, options.rois)
    made = make_plan(archive, catalogues.select(whole, selection), kind, (selection, tuple(products or ())))
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
    sink, part = place_of(cube), options.part
    waiting = made.archive.is_remote or is_url(sink.root)
    workers = worker_count(made, options.workers, options.memory, waiting)
    if choices and sink.size(ROOT_KEY) is None:
        raise SelectionError(f"{sink.root} is no cube yet: convert first, then accept what failed")
    with ExitStack() as stack:
        if options.scheduler:
            executor = stack.enter_context(cluster(options.scheduler))
        stack.enter_context(sink.locked(part is not None, options.break_lock))
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
    survey: Survey,
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
    making = submitting(partial(write_shard, sink=store.sink.portable()), *who)
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


def write_shard(task: ShardTask, sink: Place) -> ShardRecord:
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

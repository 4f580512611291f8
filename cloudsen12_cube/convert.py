"""The conversion on one screen: for each missing shard, read -> check -> encode -> commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cloudsen12_cube import catalogue as catalogues
from cloudsen12_cube.accept import key_of, read_choices
from cloudsen12_cube.access import is_url
from cloudsen12_cube.archive import open_archive
from cloudsen12_cube.catalogue import Selection, TestMeaning
from cloudsen12_cube.cluster import cluster
from cloudsen12_cube.cube import Cube, Survey
from cloudsen12_cube.errors import ArchiveError, CubeError, SelectionError
from cloudsen12_cube.fetch import with_files
from cloudsen12_cube.layout import DEFAULT, Layout, record_key
from cloudsen12_cube.opening import open_or_create
from cloudsen12_cube.patch import encode_patch
from cloudsen12_cube.place import Place, place_of
from cloudsen12_cube.plan import Plan, ShardTask, make_plan
from cloudsen12_cube.record import PatchRecord, ShardRecord
from cloudsen12_cube.report import Report, faults_of, faults_of_rows, write_failures
from cloudsen12_cube.shard import assemble, by_plane, joined
from cloudsen12_cube.share import Part
from cloudsen12_cube.store import ROOT_KEY
from cloudsen12_cube.workers import started, submitting, worker_count


@dataclass(frozen=True)
class Step:
    """One shard more is done."""

    record: ShardRecord
    raw_bytes: int
    """Bytes of the shard, uncompressed."""
    shards: int
    """Shards that this run makes in all."""


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class Options:
    """What a conversion can be told beside source, cube, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 converts in the calling thread. By default the cores of the machine, or twice as many if they wait for
    a bucket."""
    memory: int | None = None
    """Bytes that the run may use; fewer workers are started if they would need more."""
    strict: bool = False
    """Stop at the first file that cannot be converted."""
    test_meaning: TestMeaning | None = None
    """How to read the codes of ``test``; by default it is told from the codes."""
    part: Part | None = None
    """Make this share of the shards alone; others may make theirs at the same time, and `finalise` ends the job."""
    accept: str | os.PathLike[str] | None = None
    """File that names failures to live with: ``CUBE.failures.json`` or an excerpt of it."""
    repair: bool = False
    """Read every shard, and make again what is damaged or has other files now."""
    scheduler: str | None = None
    """Address of a dask scheduler, ``tcp://HOST:PORT``, whose workers make the shards."""
    break_lock: bool = False
    """Take away the notes of other writers in a bucket: they are dead."""
    layout: Layout = DEFAULT
    """Codec, chunks and shards of the cube; several ROIs a shard are made from a cube alone."""

    def __post_init__(self) -> None:
        if self.part and (self.repair or self.accept):
            name = "repair" if self.repair else "accept"
            raise SelectionError(f"{name} concerns the whole cube: give it without a part")


def plan(
    source: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: Options = Options(),
) -> Plan:
    """Plan a conversion; nothing is written.

    Parameters
    ----------
    source : path, URL or `Url`
        The archive.
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
    archive = open_archive(source)
    kind, texts = archive.table()
    whole = catalogues.build(texts, options.test_meaning)
    if isinstance(where, str):
        where = [where]
    selection = Selection(tuple(where), options.bbox, options.rois)
    made = make_plan(archive, catalogues.select(whole, selection), kind, (selection, tuple(products or ())))
    return replace(made, layouts=tuple(replace(row, form=options.layout) for row in made.layouts))


def convert(
    source: str | os.PathLike[str],
    cube: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    executor: Executor | None = None,
    options: Options = Options(),
    progress: Progress | None = None,
) -> Report:
    """Convert an archive, or a part of it, into a cube. Run it again to continue.

    Parameters
    ----------
    source, cube : path, URL or `Url`
        The archive, and the Zarr v3 store to make.
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


class StrictError(CubeError):
    """A damaged file stopped a strict run (exit code 1)."""


def write_shard(task: ShardTask, sink: Place) -> ShardRecord:
    """Make one shard: read its patches, encode them one by one, commit the shard and then its record.

    An old record goes first: whenever this stops, what is on disk has the record that belongs to it, or none.

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
    key, note = task.layout.place(record.index)[0], record_key(record.product, record.roi_id)
    sink.delete(note)
    if data:
        sink.put(key, data)
    else:
        sink.delete(key)
    sink.put(note, record.as_bytes())
    return record

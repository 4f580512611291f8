"""The conversion on one screen: for each missing shard, read -> check -> encode -> commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from cloudsen12_cube import catalogue as catalogues
from cloudsen12_cube.archive import open_archive
from cloudsen12_cube.catalogue import Selection, TestMeaning
from cloudsen12_cube.cube import Cube, open_or_create
from cloudsen12_cube.errors import ArchiveError, CubeError
from cloudsen12_cube.layout import record_key, shard_key
from cloudsen12_cube.patch import encode_patch
from cloudsen12_cube.plan import Plan, ShardTask, make_plan, memory_need
from cloudsen12_cube.record import PatchRecord, ShardRecord
from cloudsen12_cube.report import Report, write_failures
from cloudsen12_cube.shard import assemble
from cloudsen12_cube.sink import Sink


@dataclass(frozen=True)
class Step:
    """One shard more is done."""

    record: ShardRecord
    raw_bytes: int
    """Bytes of the shard, uncompressed."""
    shards: int
    """Shards that this run makes in all."""


Progress = Callable[[Step], None]

Submit = Callable[[ShardTask], Future[ShardRecord]]

_AHEAD = 64
"""Shards that are handed to somebody's executor at a time."""


@dataclass(frozen=True)
class Options:
    """What a conversion can be told beside source, cube, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 converts in the calling thread. By default the cores of the machine."""
    memory: int | None = None
    """Bytes that the run may use; fewer workers are started if they would need more."""
    strict: bool = False
    """Stop at the first file that cannot be converted."""
    test_meaning: TestMeaning | None = None
    """How to read the codes of ``test``; by default it is told from the codes."""


def plan(
    source: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: Options = Options(),
) -> Plan:
    """Plan a conversion; nothing is written.

    Parameters
    ----------
    source : path
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
    return make_plan(archive, catalogues.select(whole, selection), kind, (selection, tuple(products or ())))


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
    source, cube : path
        The archive, and the Zarr v3 store to make.
    products, where, options
        As in `plan`.
    executor : concurrent.futures.Executor, optional
        Makes the shards; by default a pool of threads. It must give results of picklable functions.
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
    sink = Sink(os.fspath(cube))
    with sink.locked():
        store = open_or_create(made, sink)
        missing = [task for task in store.plan.tasks() if not store.is_done(task)]
        store, records = _run(missing, store, executor, options, progress)
        store.finalise(records)
    report = Report.of(store.plan, records, missing)
    write_failures(report, os.fspath(cube))
    return report


def _run(
    tasks: list[ShardTask], store: Cube, executor: Executor | None, options: Options, progress: Progress | None
) -> tuple[Cube, dict[tuple[str, str], ShardRecord]]:
    workers = worker_count(store.plan, options)
    records: dict[tuple[str, str], ShardRecord] = {}
    raw: dict[str, int] = {layout.product: layout.shard_bytes for layout in store.plan.layouts}
    with _submitting(executor, workers, store.sink) as submit:
        queue = iter(tasks)
        running = {submit(task) for task in islice(queue, workers + 1 if executor is None else _AHEAD)}
        try:
            store = store.begun()  # while the first shards are being made
            for record in _finished(running, queue, submit):
                records[record.product, record.roi_id] = record.without_sources()
                if progress:
                    progress(Step(record, raw[record.product], len(tasks)))
                if options.strict and record.faults:
                    raise StrictError(record.faults[0])
        finally:
            for future in running:
                future.cancel()
    return store, records


class StrictError(CubeError):
    """A damaged file stopped a strict run (exit code 1)."""


def worker_count(made: Plan, options: Options) -> int:
    """Threads that a run may use: those asked for, as far as the memory allows.

    Raises
    ------
    CubeError
        If not even one fits.
    """
    wanted = options.workers if options.workers is not None else os.cpu_count() or 1
    if options.memory is None:
        return wanted
    for workers in range(max(wanted, 1), 0, -1):
        if memory_need(made.layouts, workers) <= options.memory:
            return min(workers, wanted)
    need = memory_need(made.layouts, 1) / 2**20
    raise CubeError(f"{options.memory / 2**20:.0f} MiB do not suffice: one worker needs {need:.0f} MiB")


@contextmanager
def _submitting(executor: Executor | None, workers: int, sink: Sink) -> Iterator[Submit]:
    """Give a function that sets somebody to make a shard: an executor, a pool of threads, or the caller at once."""
    if executor is not None:
        yield lambda task: executor.submit(write_shard, task, sink)
    elif workers:
        with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
            yield lambda task: pool.submit(write_shard, task, sink)
    else:
        yield lambda task: _at_once(task, sink)


def _at_once(task: ShardTask, sink: Sink) -> Future[ShardRecord]:
    future: Future[ShardRecord] = Future()
    future.set_result(write_shard(task, sink))
    return future


def _finished(running: set[Future[ShardRecord]], queue: Iterator[ShardTask], submit: Submit) -> Iterator[ShardRecord]:
    """Yield records as shards are done, and keep as many under way: few, so that a stop loses little."""
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        running -= done
        running |= {submit(task) for task in islice(queue, len(done))}
        for future in done:
            yield future.result()


def write_shard(task: ShardTask, sink: Sink) -> ShardRecord:
    """Make one shard: read its patches, encode them one by one, commit the shard and then its record.

    Returns
    -------
    ShardRecord
        As it was stored. Damaged files are in it; they raise nothing.
    """
    chunks: list[bytes] = []
    patches: list[PatchRecord] = []
    for patch in task.patches:
        encoded = encode_patch(task, patch)
        chunks += encoded.chunks
        patches.append(encoded.record)
    chunks += [b""] * (task.layout.times * len(task.layout.bands) - len(chunks))
    data = assemble(chunks) if any(chunks) else b""
    digest = hashlib.sha256(data).hexdigest()
    record = ShardRecord(task.layout.product, task.roi_id, task.index, len(data), digest, tuple(patches))
    key = shard_key(record.product, record.index)
    if data:
        sink.put(key, data)
    else:
        sink.delete(key)
    sink.put(record_key(record.product, record.roi_id), record.as_bytes())
    return record

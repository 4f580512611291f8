"""The way back: the patches of a cube as the archive's folders of COGs, with the published table.

One task is one ROI of one product: its shard is read, divided among the files of the archive, encoded and written. A
patch that is not done in the cube is never written as fill.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.archive import TABLE_NAME, from_csv, to_csv
from cloudsen12_cube.conversion import check_disjoint, check_workers, open_runner, select_products, selection_of
from cloudsen12_cube.errors import ArchiveError, ReadError, StoreError
from cloudsen12_cube.exporters.cog import RasterPlanes, as_published, encode, georeference, planes_of
from cloudsen12_cube.exporters.folder import ExportFolder, ExportNote, LeftOut, open_folder
from cloudsen12_cube.format import (
    ABSENT,
    DONE,
    STATUS,
    ChunkReader,
    PatchRecord,
    ShardRecord,
    StoredCube,
    open_stored_cube,
)
from cloudsen12_cube.schema import (
    LABEL_FOLDERS,
    SPELLINGS,
    Catalogue,
    Grid,
    ProductName,
    TestMeaning,
    files_of,
    grid_of,
    is_legal_key,
    roi_number,
    select,
)

_FILE = re.compile(r"(?:.*?/)?((?:extra/|labels/)?[^/]+)\.tif")
_TIME = "disk_time"
"""Column of the table: position in the shard, which a selection leaves alone."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export beside cube, folder, products and conditions.

    Parameters
    ----------
    bbox : (float, float, float, float), optional
        West, south, east, north in degrees.
    rois : tuple of str
        Ids of the ROIs to take; by default all.
    workers : int, optional
        Threads; 0 exports in the calling one. By default the cores of the machine, or twice as many where they wait
        for a bucket. Each holds one product of one patch about four times: some 40 MiB.
    """

    bbox: tuple[float, float, float, float] | None = None
    rois: tuple[str, ...] = ()
    workers: int | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class ExportPatch:
    """A patch that is to leave the cube.

    Parameters
    ----------
    time : int
        Position in the shard.
    roi_id : str
    s2_id_gee : str
    label_type : str
        ``high``, ``scribble`` or ``nolabel``, or empty where the catalogue does not say.
    grid : Grid
    status : int
        Of the product, as readers see it: 0 absent, 1 done, 2 failed.
    """

    time: int
    roi_id: str
    s2_id_gee: str
    label_type: str
    grid: Grid
    status: int = ABSENT

    def folder(self, record: PatchRecord) -> str:
        """Where its files go: ``high/ROI_0827/20190123T095319_...``; as they lay, where the catalogue is silent."""
        paths = [f"/{source.path}" for source in record.sources]
        found = (name for path in paths for name in LABEL_FOLDERS if f"/{name}/{self.roi_id}/" in path)
        kind = self.label_type or LABEL_FOLDERS[next(found, "nolabel")]
        return f"{kind}/{self.roi_id}/{self.s2_id_gee}"


@dataclass(frozen=True)
class ExportTask:
    """One ROI of one product.

    Parameters
    ----------
    product : ProductName
    roi_id : str
    index : int
        Position of the ROI on disk.
    patches : tuple of ExportPatch
    """

    product: ProductName
    roi_id: str
    index: int
    patches: tuple[ExportPatch, ...]


@dataclass(frozen=True)
class ExportResult:
    """What became of a task, or of one of its patches.

    Parameters
    ----------
    written, bytes : int
        Files that were written, and their bytes.
    skipped : int
        Files that were there already, whole.
    replaced : tuple of str
        Files that were there, and were not whole or are of an older state of the cube.
    left_out : tuple of LeftOut
    """

    written: int = 0
    bytes: int = 0
    skipped: int = 0
    replaced: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def add_up(parts: Iterable[ExportResult]) -> ExportResult:
    """Add up results; all at once, since a cube has fifty thousand shards."""
    rows = list(parts)
    return ExportResult(
        sum(row.written for row in rows),
        sum(row.bytes for row in rows),
        sum(row.skipped for row in rows),
        tuple(name for row in rows for name in row.replaced),
        tuple(left for row in rows for left in row.left_out),
    )


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Parameters
    ----------
    patches : int
        Patches of the selection of which at least one product is in the folder now.
    files, bytes : int
        Files that this run wrote, and their bytes.
    skipped : int
        Files that were there already, whole.
    replaced : tuple of str
        Files of an earlier run that were written again: not whole, changed by another program, or of an older state of
        the cube.
    left_out : tuple of LeftOut
        What was not written, and why.
    test_meaning : {"v1.0", "v1.1"}
        Meaning of the codes of ``test`` in the table.
    ambiguous : bool
        Whether the codes alone would be read in another way; the folder's note says what they mean.
    """

    patches: int
    files: int
    bytes: int
    skipped: int
    replaced: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    test_meaning: TestMeaning
    ambiguous: bool

    def __repr__(self) -> str:
        return f"<ExportReport {self.patches} patches, {self.files} files written, {len(self.left_out)} left out>"

    @property
    def exit_code(self) -> int:
        """0 if everything was written, 1 if something was left out."""
        return 1 if self.left_out else 0


@dataclass(frozen=True)
class ExportStep:
    """Progress: one more shard is done."""

    done: ExportResult
    shards: int
    """Shards that this run looks at in all."""


@dataclass(frozen=True)
class _Exporter:
    """Writes the files of tasks; its threads share what is known of the cube's files."""

    cube: StoredCube
    folder: ExportFolder
    file_names: dict[ProductName, frozenset[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def export(self, task: ExportTask) -> ExportResult:
        """Write the files of every patch of a shard that is done, and name the others.

        Raises
        ------
        DestinationError, RemoteError
            If the disk or the bucket fails; what was written so far is in the journal.
        """
        try:
            record = self._record(task)
        except (StoreError, ReadError) as error:
            return add_up(_left_out(task, patch, str(error)) for patch in task.patches)
        chunks = ChunkReader(self.cube.store, self.cube.layouts[task.product])
        return add_up(self._export_patch(task, patch, record, chunks) for patch in task.patches)

    def _record(self, task: ExportTask) -> ShardRecord | None:
        """Read the record of a shard; of one with patches to write, it must belong to the object.

        What is not there would be read as fill.
        """
        record = self.cube.record(task.product, task.roi_id)
        if not any(patch.status == DONE for patch in task.patches):
            return record
        key = self.cube.layouts[task.product].place(task.index)[0]
        size = self.cube.store.size(key) or 0
        if record is None or record.index != task.index or record.size != size:
            stated = "no record" if record is None else f"a record of {record.size} bytes at {record.index}"
            raise StoreError(f"{key} has {size} bytes and {stated}: `convert --repair` makes it again")
        return record

    def _export_patch(
        self, task: ExportTask, patch: ExportPatch, record: ShardRecord | None, chunks: ChunkReader
    ) -> ExportResult:
        own = next((row for row in record.patches if row.time == patch.time), None) if record else None
        if patch.status != DONE:
            fault = f" ({own.faults[0]})" if own and own.faults else ""
            return _left_out(task, patch, f"{STATUS[patch.status]} in the cube{fault}")
        if record is None or own is None or own.s2_id_gee != patch.s2_id_gee or own.status != DONE:
            reason = "the shard's record does not say that it is done: `convert --repair` makes it again"
            return _left_out(task, patch, reason)
        unit = (task.roi_id, patch.s2_id_gee, task.product)
        there = self.folder.whole(unit, record.sha256)
        if there is not None:
            return ExportResult(skipped=len(there.files))
        try:
            files = dict(self._files(task, patch, patch.folder(own), chunks))
        except (StoreError, ReadError) as error:
            return _left_out(task, patch, str(error))
        for path, data in files.items():
            if self.folder.in_the_way(unit, path, data):
                return _left_out(task, patch, f"{path} is there and not from this export: move it away, then run again")
        replaced = self.folder.put(unit, record.sha256, files)
        return ExportResult(len(files), sum(map(len, files.values())), replaced=tuple(replaced))

    def _files(
        self, task: ExportTask, patch: ExportPatch, folder: str, chunks: ChunkReader
    ) -> Iterator[tuple[str, bytes]]:
        """Read all bands of a patch, comparing checksums, and encode them as files."""
        layout = self.cube.layouts[task.product]
        fetched = chunks.fetch(task.index, patch.time, range(len(layout.bands)))
        pixels = np.empty((len(layout.bands), layout.height, layout.width), layout.dtype)
        for band, plane in enumerate(pixels):
            chunks.decode(fetched, band, plane)
        planes = [row for row in planes_of(layout.product, layout.bands, pixels) if self._belongs(row)]
        where = georeference(patch.grid.epsg, patch.grid.transform)
        for file, published in zip(planes, as_published(planes), strict=True):
            yield f"{folder}/{file.name}.tif", encode(published, file, where)

    def _belongs(self, planes: RasterPlanes) -> bool:
        """Return whether there is a file: not of a manual label that was never given, nor of what no patch has."""
        if not planes.absent.all():
            return True
        asset = planes.assets[0]
        return not asset.manual and planes.name in self._names(asset.product)

    def _names(self, product: ProductName) -> frozenset[str]:
        """List the files that the archive had for any patch; from the records, and only if they are needed."""
        with self.lock:
            if product not in self.file_names:
                self.file_names[product] = frozenset(self._recorded_names(product))
            return self.file_names[product]

    def _recorded_names(self, product: ProductName) -> set[str]:
        every, found = set(files_of(product)), set[str]()
        for _, record in self.cube.records(product):
            paths = [source.path for patch in (record.patches if record else ()) for source in patch.sources]
            matches = filter(None, map(_FILE.fullmatch, paths))  # other forms have no file that is nothing but fill
            found |= {SPELLINGS.get(match[1], match[1]) for match in matches}
            if found >= every:
                break
        return found


def _left_out(task: ExportTask, patch: ExportPatch, reason: str) -> ExportResult:
    return ExportResult(left_out=(LeftOut(task.roi_id, patch.s2_id_gee, task.product, reason),))


def export(
    cube: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: ExportOptions = ExportOptions(),
    progress: Callable[[ExportStep], None] | None = None,
) -> ExportReport:
    """Write patches of a cube as an archive: folders of COGs, and ``cloudsen12_metadata.csv``.

    Run it again to continue. What it writes converts into an equal cube again: pixels, metadata, and the status of
    what is done.

    Parameters
    ----------
    cube : path, URL or `Url`
        The cube; it may lie in a bucket.
    folder : path
        A local folder: new, empty, or one that an earlier export of this cube has filled.
    products : sequence of str, optional
        Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that the cube has.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : ExportOptions
        Further conditions, and how to run.
    progress : callable, optional
        Called with an `ExportStep` after each shard.

    Returns
    -------
    ExportReport
        What was written, what was there, and what was left out: a patch that is not done in the cube is never written
        as fill.

    Raises
    ------
    CubeError
        If nothing could be done; the message says why.
    """
    check_disjoint(cube, folder)
    source = open_stored_cube(cube)
    names = select_products(source, products or ())
    table, illegal = _legal_rows(source)
    catalogue = Catalogue(table, source.stated.test_meaning)
    chosen = select(catalogue, selection_of(where, options)).table  # recounts `time`
    tasks = list(_tasks(source, names, chosen))
    workers = options.workers
    if workers is None:
        workers = (os.cpu_count() or 1) * (1 if source.store.concurrency == 1 else 2)
    with open_folder(folder, _note(source)) as target:
        rows = _rows(table, chosen, target)
        parts = [ExportResult(replaced=tuple(target.begin(to_csv(rows))), left_out=illegal)]
        with open_runner(workers) as runner, closing(runner.run(_Exporter(source, target).export, tasks)) as results:
            for _, done in results:
                parts.append(done)
                if progress:
                    progress(ExportStep(done, len(tasks)))
        total = add_up(parts)
        left_out = tuple(sorted(total.left_out, key=_in_order))
        target.end(replace(target.note, left_out=left_out))
    there = {unit[:2] for unit in target.entries}
    codes, meaning = set(rows["test"]), target.note.test_meaning
    return ExportReport(
        patches=len(there & set(zip(chosen["roi_id"], chosen["s2_id_gee"], strict=True))),
        files=total.written,
        bytes=total.bytes,
        skipped=total.skipped,
        replaced=total.replaced,
        left_out=left_out,
        test_meaning=meaning,
        ambiguous=meaning == "v1.1" and 1 in codes and 2 not in codes,
    )


def _in_order(row: LeftOut) -> tuple[int, tuple[str, ...]]:
    number = roi_number(row.roi_id) if is_legal_key(row.roi_id, "image") else -1
    return number, (row.roi_id, row.s2_id_gee, row.product)


def _note(cube: StoredCube) -> ExportNote:
    """Write into the folder what it was made from."""
    origin = {name: str(cube.settings.get(name, "")) for name in ("created", "source")}
    return ExportNote(cube.stated.test_meaning, origin, f"cloudsen12-cube {version('cloudsen12-cube')}", "")


def _legal_rows(cube: StoredCube) -> tuple[pd.DataFrame, tuple[LeftOut, ...]]:
    """Divide the catalogue into rows whose ids are names, and those whose ids may lead out of the folder."""
    table = cube.table.rename(columns={"time": _TIME})
    keys = list(zip(table["roi_id"], table["s2_id_gee"], strict=True))
    legal = np.array([is_legal_key(*key) for key in keys], dtype=bool)
    reason = "an illegal id, which may lead out of the folder"
    illegal = tuple(LeftOut(*key, "", reason) for key, is_legal in zip(keys, legal, strict=True) if not is_legal)
    return table[legal].reset_index(drop=True), illegal


def _rows(table: pd.DataFrame, chosen: pd.DataFrame, target: ExportFolder) -> pd.DataFrame:
    """Rows of the published table: what is selected now, and what an earlier run has put there."""
    keys = set(zip(chosen["roi_id"], chosen["s2_id_gee"], strict=True))
    there = target.store.get(TABLE_NAME)
    if there is not None:
        with suppress(ArchiveError, UnicodeDecodeError):
            earlier = from_csv(there.decode("utf-8"), TABLE_NAME)
            keys |= set(zip(earlier["roi_id"], earlier["s2_id_gee"], strict=True))
    table = table[[key in keys for key in zip(table["roi_id"], table["s2_id_gee"], strict=True)]]
    order = sorted(range(len(table)), key=lambda i: (roi_number(table["roi_id"].iloc[i]), table[_TIME].iloc[i]))
    return table.iloc[order]


def _tasks(cube: StoredCube, products: Sequence[ProductName], chosen: pd.DataFrame) -> Iterator[ExportTask]:
    position = {roi: index for index, roi in enumerate(cube.order)}
    for roi, rows in chosen.groupby("roi_id", sort=False):
        index = position[str(roi)]
        patches = [_patch(row) for row in rows.to_dict("records")]
        for product in products:
            status: npt.NDArray[np.uint8] = cube.status[product][index]
            own = tuple(replace(patch, status=int(status[patch.time])) for patch in patches)
            yield ExportTask(product, str(roi), index, own)


def _patch(row: dict[Any, Any]) -> ExportPatch:
    kind = LABEL_FOLDERS.get(row["label_type"], "")
    return ExportPatch(int(row[_TIME]), row["roi_id"], row["s2_id_gee"], kind, grid_of(row))

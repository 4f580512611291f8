"""One ROI of one product, out of a cube and into the archive's folders: read, divided among files, encoded, put.

The way back on one screen: the patches of a cube as the archive's folders of COGs, with the published table.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.archive import TABLE_NAME, from_csv, to_csv
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError, StoreError
from cloudsen12_cube.exporters.cog import RasterPlanes, as_published, encode, georeference, planes_of
from cloudsen12_cube.exporters.folder import ExportNote, Folder, LeftOut, opened
from cloudsen12_cube.format import (
    ABSENT,
    DONE,
    ROOT_KEY,
    STATUS,
    ChunkReader,
    PatchRecord,
    ProductLayout,
    ShardRecord,
    layout_of,
    read_status,
    read_table,
    settings_of,
)
from cloudsen12_cube.format import record as records
from cloudsen12_cube.schema import (
    LABEL_FOLDERS,
    SPELLINGS,
    Catalogue,
    Grid,
    Selection,
    TestMeaning,
    files_of,
    grid_of,
    is_legal_key,
    roi_number,
    select,
)
from cloudsen12_cube.storage import ObjectStore, clean, each, is_url, list_once, open_store

_FILE = re.compile(r"(?:.*?/)?((?:extra/|labels/)?[^/]+)\.tif")


@dataclass(frozen=True)
class ExportPatch:
    """A patch that is to leave the cube."""

    time: int
    """Position in the shard."""
    roi_id: str
    s2_id_gee: str
    label_type: str
    """``high``, ``scribble`` or ``nolabel``, or empty where the catalogue does not say."""
    grid: Grid
    status: int = ABSENT
    """Of the product, as readers are told: 0 absent, 1 done, 2 failed."""

    def folder(self, record: PatchRecord) -> str:
        """Where its files go: ``high/ROI_0827/20190123T095319_...``; as they lay, where the catalogue is silent."""
        paths = [f"/{source.path}" for source in record.sources]
        told = (name for path in paths for name in LABEL_FOLDERS if f"/{name}/{self.roi_id}/" in path)
        kind = self.label_type or LABEL_FOLDERS[next(told, "nolabel")]
        return f"{kind}/{self.roi_id}/{self.s2_id_gee}"


@dataclass(frozen=True)
class ExportTask:
    """One shard's share of an export."""

    product: str
    roi_id: str
    index: int
    """Position of the ROI on disk."""
    patches: tuple[ExportPatch, ...]


@dataclass(frozen=True)
class Exported:
    """What became of a task, or of one of its patches; `together` adds them."""

    written: int = 0
    """Files."""
    bytes: int = 0
    """Of the files written."""
    skipped: int = 0
    """Files that were there already, whole."""
    replaced: tuple[str, ...] = ()
    """Files that were there, and were not whole or are of an older state of the cube."""
    left_out: tuple[LeftOut, ...] = ()


def together(parts: Iterable[Exported]) -> Exported:
    """Add up; all at once, since a cube has fifty thousand shards."""
    rows = list(parts)
    return Exported(
        sum(row.written for row in rows),
        sum(row.bytes for row in rows),
        sum(row.skipped for row in rows),
        tuple(name for row in rows for name in row.replaced),
        tuple(left for row in rows for left in row.left_out),
    )


@dataclass(frozen=True)
class Shards:
    """The shards of a cube, for whoever takes all of a patch at a time."""

    place: ObjectStore
    layouts: dict[str, ProductLayout]
    order: tuple[str, ...]
    """ROIs as they lie on disk."""
    _stems: dict[str, frozenset[str]] = field(default_factory=dict, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def record(self, task: ExportTask) -> ShardRecord:
        """Give the record of a shard whose object is as long as it says.

        Raises
        ------
        StoreError
            If there is none, or it does not belong to the object: what is not there would read as fill.
        """
        found = records.load(self.place, task.product, task.roi_id)
        key = self.layouts[task.product].place(task.index)[0]
        size = self.place.size(key) or 0
        if found is None or found.index != task.index or found.size != size:
            stated = "no record" if found is None else f"a record of {found.size} bytes at {found.index}"
            raise StoreError(f"{key} has {size} bytes and {stated}: `convert --repair` makes it again")
        return found

    def pixels(self, task: ExportTask, patch: ExportPatch, chunks: ChunkReader) -> npt.NDArray[np.generic]:
        """Read all bands of a patch, (band, y, x), comparing checksums.

        Raises
        ------
        StoreError
            If a chunk is damaged.
        """
        layout = self.layouts[task.product]
        fetched = chunks.fetch(task.index, patch.time, range(len(layout.bands)))
        out = np.empty((len(layout.bands), layout.height, layout.width), layout.dtype)
        for band, plane in enumerate(out):
            chunks.decode(fetched, band, plane)
        return out

    def chunks(self, product: str) -> ChunkReader:
        """Open a product; the indices of its shards live as long as what this gives."""
        return ChunkReader(self.place, self.layouts[product])

    def has_layer(self, product: str, name: str) -> bool:
        """Tell whether the archive had this file for any patch; from the records, and only if somebody asks."""
        with self._lock:
            if product not in self._stems:
                self._stems[product] = frozenset(self._known(product))
        return name in self._stems[product]

    def _known(self, product: str) -> set[str]:
        every, found = set(files_of(self.layouts[product].product)), set[str]()
        listed = list_once(self.place)
        for record in each(listed, lambda roi: records.load(listed, product, roi), self.order):
            paths = [source.path for patch in (record.patches if record else ()) for source in patch.sources]
            for path in paths:
                match = _FILE.fullmatch(path)
                if match:  # other forms have no file that is nothing but fill
                    found.add(SPELLINGS.get(match[1], match[1]))
            if found >= every:
                break
        return found


def export_shard(task: ExportTask, shards: Shards, target: Folder) -> Exported:
    """Write the files of every patch of a shard that is done, and name the others.

    Raises
    ------
    DestinationError, RemoteError
        If the disk or the bucket fails; what was written so far is noted.
    """
    done = [patch for patch in task.patches if patch.status == DONE]
    try:
        record = shards.record(task) if done else records.load(shards.place, task.product, task.roi_id)
    except StoreError as error:
        return together(_left(task, patch, str(error)) for patch in task.patches)
    chunks = shards.chunks(task.product)
    return together(_read_patch(task, patch, record, (shards, chunks, target)) for patch in task.patches)


def _read_patch(
    task: ExportTask, patch: ExportPatch, record: ShardRecord | None, means: tuple[Shards, ChunkReader, Folder]
) -> Exported:
    own = next((p for p in record.patches if p.time == patch.time), None) if record else None
    reason = _against(patch, own)
    if reason or record is None or own is None:
        return _left(task, patch, reason)
    try:
        return _export_patch(_Unit(task, patch, patch.folder(own), record.sha256), *means)
    except StoreError as error:
        return _left(task, patch, str(error))


@dataclass(frozen=True)
class _Unit:
    """A patch of a task that can be written."""

    task: ExportTask
    patch: ExportPatch
    folder: str
    shard: str
    """sha256 of the shard."""


def _left(task: ExportTask, patch: ExportPatch, reason: str) -> Exported:
    return Exported(left_out=(LeftOut(task.roi_id, patch.s2_id_gee, task.product, reason),))


def _against(patch: ExportPatch, own: PatchRecord | None) -> str:
    """Say why a patch cannot be written, or nothing."""
    if patch.status != DONE:
        return f"{STATUS[patch.status]} in the cube{_faults(own)}"
    if own is None or own.s2_id_gee != patch.s2_id_gee or own.status != DONE:
        return "the shard's record does not say that it is done: `convert --repair` makes it again"
    return ""


def _faults(own: PatchRecord | None) -> str:
    return f" ({own.faults[0]})" if own and own.faults else ""


def _export_patch(unit: _Unit, shards: Shards, chunks: ChunkReader, target: Folder) -> Exported:
    task, patch = unit.task, unit.patch
    key = (task.roi_id, patch.s2_id_gee, task.product)
    there = target.whole(key, unit.shard)
    if there is not None:
        return Exported(skipped=len(there.files))
    layout = shards.layouts[task.product]
    planes = list(planes_of(layout.product, layout.bands, shards.pixels(task, patch, chunks)))
    files = dict(_files(unit.folder, patch.grid, [p for p in planes if _belongs(p, shards)]))
    for path, data in files.items():
        if target.in_the_way(key, path, data):
            return _left(task, patch, f"{path} is there and not from this export: move it away, then run again")
    replaced = target.put(key, unit.shard, files)
    return Exported(len(files), sum(map(len, files.values())), replaced=tuple(replaced))


def _belongs(planes: RasterPlanes, shards: Shards) -> bool:
    """Tell whether there is a file: not of a manual label that was never given, nor of what no patch has."""
    if not planes.absent.all():
        return True
    asset = planes.assets[0]
    return not asset.manual and shards.has_layer(asset.product, planes.name)


def _files(folder: str, grid: Grid, planes: list[RasterPlanes]) -> Iterator[tuple[str, bytes]]:
    where = georeference(grid.epsg, grid.transform)
    for file, pixels in zip(planes, as_published(planes), strict=True):
        yield f"{folder}/{file.name}.tif", encode(pixels, file, where)


Results = Generator[Exported, None, None]

_TIME = "disk_time"
"""Column of the table: position in the shard, which a selection leaves alone."""


@dataclass(frozen=True)
class ExportOptions:
    """What an export can be told beside cube, folder, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 exports in the calling one. By default the cores of the machine, or twice as many where they wait for
    a bucket. Each holds one product of one patch about four times: some 40 MiB."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export."""

    patches: int
    """Patches of the selection of which at least one product is in the folder now."""
    files: int
    """Files that this run wrote."""
    bytes: int
    """Of the files that this run wrote."""
    skipped: int
    """Files that were there already, whole."""
    replaced: tuple[str, ...]
    """Files of an earlier run that were written again: not whole, changed by somebody, or of an older state of the
    cube."""
    left_out: tuple[LeftOut, ...]
    """What was not written, and why."""
    test_meaning: TestMeaning
    """What the codes of ``test`` in the table mean."""
    ambiguous: bool
    """Whether the codes alone would be read in another way; the folder's note says what they mean."""

    @property
    def exit_code(self) -> int:
        """0 if everything was written, 1 if something was left out."""
        return 1 if self.left_out else 0


@dataclass(frozen=True)
class ExportStep:
    """One shard more is done."""

    done: Exported
    shards: int
    """Shards that this run looks at in all."""


@dataclass(frozen=True)
class _Source:
    """A cube, and what of it is to be exported."""

    shards: Shards
    table: pd.DataFrame
    """Catalogue of the whole cube."""
    chosen: pd.DataFrame
    """The selected rows of it."""
    status: dict[str, npt.NDArray[np.uint8]]
    settings: dict[str, Any]
    refused: tuple[LeftOut, ...]
    """Rows whose ids are no names."""

    @property
    def note(self) -> ExportNote:
        """What the folder is to say."""
        told = {name: str(self.settings.get(name, "")) for name in ("created", "source")}
        return ExportNote(self.settings["test_meaning"], told, f"cloudsen12-cube {version('cloudsen12-cube')}", "")


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
    if not is_url(clean(cube)) and not is_url(clean(folder)):
        _check_apart(clean(cube), clean(folder))
    conditions = (where,) if isinstance(where, str) else tuple(where)
    source = _source(cube, tuple(products or ()), Selection(conditions, options.bbox, options.rois))
    with opened(folder, source.note) as target:
        table = _rows(source, target)
        parts = [Exported(replaced=tuple(target.begin(to_csv(table))), left_out=source.refused)]
        tasks = list(_tasks(source))
        with closing(_run(tasks, source.shards, target, _workers(source, options.workers))) as results:
            for done in results:
                parts.append(done)
                if progress:
                    progress(ExportStep(done, len(tasks)))
        total = together(parts)
        total = replace(total, left_out=tuple(sorted(total.left_out, key=_in_order)))
        target.end(replace(source.note, left_out=total.left_out))
        return _report(source, table, target, total)


def _in_order(row: LeftOut) -> tuple[int, tuple[str, ...]]:
    number = roi_number(row.roi_id) if is_legal_key(row.roi_id, "image") else -1
    return number, (row.roi_id, row.s2_id_gee, row.product)


def _check_apart(cube: str, folder: str) -> None:
    inside = [os.path.realpath(folder), os.path.realpath(cube)]
    if os.path.commonpath(inside) == inside[1]:
        raise DestinationError(f"{folder} lies inside the cube {cube}: give a folder of its own")


def _source(cube: str | os.PathLike[str], wanted: tuple[str, ...], selection: Selection) -> _Source:
    """Open a cube as far as its tables, and choose."""
    place = open_store(cube)
    settings = settings_of(place.get(ROOT_KEY), place.root)
    for name in wanted:
        if name not in settings["products"]:
            raise SelectionError(f"no product {name!r} in {place.root}; it has {', '.join(settings['products'])}")
    products = [name for name in settings["products"] if name in wanted or not wanted]
    layouts: dict[str, ProductLayout] = {p: layout_of(p, settings["products"][p]) for p in products}
    order, table = read_table(place)
    legal = [is_legal_key(*key) for key in zip(table["roi_id"], table["s2_id_gee"], strict=True)]
    strange = table[~np.array(legal, dtype=bool)]
    table = table[legal].rename(columns={"time": _TIME}).reset_index(drop=True)
    chosen = select(Catalogue(table, settings["test_meaning"]), selection).table  # counts `time` anew
    refused = tuple(
        LeftOut(roi, image, "", "an illegal id, which may lead out of the folder")
        for roi, image in zip(strange["roi_id"], strange["s2_id_gee"], strict=True)
    )
    status = read_status(place, products)
    return _Source(Shards(place, layouts, order), table, chosen, status, settings, refused)


def _rows(source: _Source, target: Folder) -> pd.DataFrame:
    """Rows of the table: what is selected now, and what an earlier run has put there."""
    keys = set(zip(source.chosen["roi_id"], source.chosen["s2_id_gee"], strict=True))
    there = target.sink.get(TABLE_NAME)
    if there is not None:
        with suppress(ArchiveError, UnicodeDecodeError):
            earlier = from_csv(there.decode("utf-8"), TABLE_NAME)
            keys |= set(zip(earlier["roi_id"], earlier["s2_id_gee"], strict=True))
    named = [key in keys for key in zip(source.table["roi_id"], source.table["s2_id_gee"], strict=True)]
    table = source.table[named]
    order = sorted(range(len(table)), key=lambda i: (roi_number(table["roi_id"].iloc[i]), table[_TIME].iloc[i]))
    return table.iloc[order]


def _tasks(source: _Source) -> Iterator[ExportTask]:
    position = {roi: index for index, roi in enumerate(source.shards.order)}
    for roi, rows in source.chosen.groupby("roi_id", sort=False):
        index = position[str(roi)]
        patches = [_patch(row) for row in rows.to_dict("records")]
        for product, status in source.status.items():
            told = tuple(replace(patch, status=int(status[index, patch.time])) for patch in patches)
            yield ExportTask(product, str(roi), index, told)


def _patch(row: dict[Any, Any]) -> ExportPatch:
    kind = LABEL_FOLDERS.get(row["label_type"], "")
    return ExportPatch(int(row[_TIME]), row["roi_id"], row["s2_id_gee"], kind, grid_of(row))


def _workers(source: _Source, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    return (os.cpu_count() or 1) * (2 if is_url(source.shards.place.root) else 1)


def _run(tasks: Iterable[ExportTask], shards: Shards, target: Folder, workers: int) -> Results:
    """Yield what became of each task; tasks that have not begun when one fails, or the caller stops, never begin."""
    if not workers:
        yield from (export_shard(task, shards, target) for task in tasks)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="export") as pool:
        futures = [pool.submit(export_shard, task, shards, target) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _report(source: _Source, table: pd.DataFrame, target: Folder, total: Exported) -> ExportReport:
    there = {unit[:2] for unit in target.entries}
    chosen = set(zip(source.chosen["roi_id"], source.chosen["s2_id_gee"], strict=True))
    meaning, codes = source.note.test_meaning, set(table["test"])
    return ExportReport(
        *(len(chosen & there), total.written, total.bytes, total.skipped, total.replaced, total.left_out, meaning),
        ambiguous=meaning == "v1.1" and 1 in codes and 2 not in codes,
    )

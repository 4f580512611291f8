"""One ROI of one product, out of a cube and into the archive's folders: read, divided among files, encoded, put."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cloudsen12_cube import record as records
from cloudsen12_cube.assets import SPELLINGS, files_of
from cloudsen12_cube.chunks import Chunks
from cloudsen12_cube.cog import Planes, as_published, encode, georeference, planes_of
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.export_folder import Folder
from cloudsen12_cube.export_note import LeftOut
from cloudsen12_cube.grid import Grid
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.metadata import LABEL_FOLDERS
from cloudsen12_cube.place import Place, each
from cloudsen12_cube.ranges import open_ranges
from cloudsen12_cube.record import ABSENT, DONE, PatchRecord, ShardRecord
from cloudsen12_cube.tables import STATUS

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

    place: Place
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

    def pixels(self, task: ExportTask, patch: ExportPatch, chunks: Chunks) -> npt.NDArray[np.generic]:
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

    def chunks(self, product: str) -> Chunks:
        """Open a product; the indices of its shards live as long as what this gives."""
        return Chunks(open_ranges(self.place.root, self.place.access), self.layouts[product])

    def has_layer(self, product: str, name: str) -> bool:
        """Tell whether the archive had this file for any patch; from the records, and only if somebody asks."""
        with self._lock:
            if product not in self._stems:
                self._stems[product] = frozenset(self._known(product))
        return name in self._stems[product]

    def _known(self, product: str) -> set[str]:
        every, found = set(files_of(self.layouts[product].product)), set[str]()
        listed = self.place.listed()
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
    return together(_patch(task, patch, record, (shards, chunks, target)) for patch in task.patches)


def _patch(
    task: ExportTask, patch: ExportPatch, record: ShardRecord | None, means: tuple[Shards, Chunks, Folder]
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


def _export_patch(unit: _Unit, shards: Shards, chunks: Chunks, target: Folder) -> Exported:
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


def _belongs(planes: Planes, shards: Shards) -> bool:
    """Tell whether there is a file: not of a manual label that was never given, nor of what no patch has."""
    if not planes.absent.all():
        return True
    asset = planes.assets[0]
    return not asset.manual and shards.has_layer(asset.product, planes.name)


def _files(folder: str, grid: Grid, planes: list[Planes]) -> Iterator[tuple[str, bytes]]:
    where = georeference(grid.epsg, grid.transform)
    for file, pixels in zip(planes, as_published(planes), strict=True):
        yield f"{folder}/{file.name}.tif", encode(pixels, file, where)

"""A cube over an archive that is not copied: the same tree as a conversion gives, read from the files themselves.

The catalogue, the coordinates and the attributes are made as for a cube, in memory; pixels are read from the files.

`VirtualArray` is the array of one product. A file is one request and is decoded whole, since only so its bytes can be
verified: by the checksum that a bucket states, and by segments of exactly the bytes that they must have. The latest
files stay decoded for the next bands. `FileChunks` does for streams what `ChunkReader` does for a cube: a chunk is the
whole file that holds the band; neighbouring bands of a patch share it, and it is decoded once.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cloudsen12_cube.archive import ArchiveRoi, PatchTask, Planes, listed_status, planes_of, read_file
from cloudsen12_cube.conversion import DEFAULTS, ArchivePlan, plan_archive
from cloudsen12_cube.dataset.open import Chunks, check_chunks, prepare_tree, tree_of
from cloudsen12_cube.errors import ArchiveError, PatchError, StoreError
from cloudsen12_cube.format import (
    ABOUT,
    DONE,
    NO_CHUNK,
    ROOT_KEY,
    ChunkReader,
    Contents,
    Fetched,
    Frame,
    Index,
    ProductLayout,
    memory_store,
    metadata_objects,
)
from cloudsen12_cube.schema import files_of
from cloudsen12_cube.storage import Arena, Url, absolute, open_store

_ASKING = 16
"""Files of a bucket that a process asks for at a time."""
_KEPT = 4
"""Files of a product that stay decoded: at most 35 MB in patches of 509 pixels."""


@dataclass(frozen=True)
class _Job:
    """A file to read, and where its bands go."""

    place: tuple[int, int]
    """ROI and date in the array."""
    name: str
    bands: dict[str, list[int]]
    """Band -> where it goes in the result."""
    to: tuple[int, int]
    """ROI and date in the result."""


class VirtualArray(BackendArray):
    """One product, (roi, time, band, y, x). Pickled, it is the list of its files: a worker reads them itself."""

    def __init__(self, layout: ProductLayout, tasks: tuple[ArchiveRoi, ...]) -> None:
        self.layout, self.tasks = layout, tasks
        self.shape = layout.shape(len(tasks))
        self.dtype = np.dtype(layout.dtype)
        self._decoded = lru_cache(maxsize=_KEPT)(self._read_file)

    def __reduce__(self) -> tuple[type[VirtualArray], tuple[ProductLayout, tuple[ArchiveRoi, ...]]]:
        """Leave the decoded files behind."""
        return type(self), (self.layout, self.tasks)

    def status(self) -> npt.NDArray[np.uint8]:
        """Return which patches exist by the listing, shape (roi, time)."""
        found = np.zeros(self.shape[:2], np.uint8)
        for index, task in enumerate(self.tasks):
            for patch in task.patches:
                found[index, patch.time] = listed_status(task, patch)
        return found

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what a key selects."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        parts = [part if isinstance(part, slice) else np.atleast_1d(part) for part in key]
        chosen = [np.arange(size)[part] for size, part in zip(self.shape, parts, strict=True)]
        out = np.full([len(part) for part in chosen], self.layout.fill, self.dtype)

        def fill(job: _Job) -> None:
            planes = self._decoded(*job.place, job.name)
            for band, targets in job.bands.items():
                out[job.to][targets] = planes[band][parts[3]][:, parts[4]]

        jobs = list(self._jobs(*(part.tolist() for part in chosen[:3]))) if out.size else []
        for _ in map(fill, jobs) if len(jobs) < 2 else _pool(os.getpid(), self._readers).map(fill, jobs):
            pass
        whole = tuple(slice(None) if isinstance(part, slice) or np.ndim(part) else 0 for part in key)
        return out[whole]

    @property
    def _readers(self) -> int:
        remote = bool(self.tasks) and self.tasks[0].store.concurrency > 1
        return _ASKING if remote else os.cpu_count() or 1

    def _jobs(self, rois: list[int], times: list[int], bands: list[int]) -> Iterator[_Job]:
        """Yield the files that hold the chosen bands of the chosen patches; what has none stays the fill."""
        names = [self.layout.bands[band] for band in bands]
        for i, roi in enumerate(rois):
            for j, time in enumerate(times):
                for name in self.files(roi, time):
                    own = files_of(self.layout.product)[name]
                    wanted = {band: [n for n, other in enumerate(names) if other == band] for band in own}
                    if any(wanted.values()):
                        yield _Job((roi, time), name, {b: to for b, to in wanted.items() if to}, (i, j))

    def files(self, roi: int, time: int) -> list[str]:
        """Return the names of the files of a patch, if all required ones exist."""
        patches = [patch for patch in self.tasks[roi].patches if patch.time == time]
        if not patches or patches[0].files is None or listed_status(self.tasks[roi], patches[0]) != DONE:
            return []
        return [name for name in files_of(self.layout.product) if name in patches[0].files.names]

    def patch(self, roi: int, time: int) -> tuple[ArchiveRoi, PatchTask]:
        """Return what a file of a patch is read by."""
        task = self.tasks[roi]
        return task, next(patch for patch in task.patches if patch.time == time)

    def _read_file(self, roi: int, time: int, name: str) -> dict[str, Planes]:
        task, patch = self.patch(roi, time)
        try:
            return planes_of(task, patch, name)
        except PatchError as error:
            raise damaged(error, task.roi_id, time) from error


def damaged(error: PatchError, roi: str, time: int) -> StoreError:
    """Return advice on a file that cannot be read."""
    return StoreError(
        f"{error}. Leave out {roi} at time {time}, put the file right and open the archive again, or convert it: that "
        "marks the patch as failed and goes on"
    )


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="virtual")


class FileChunks(ChunkReader):
    """Reader of one product of an archive."""

    def __init__(self, array: VirtualArray) -> None:
        first = array.tasks[0]
        super().__init__(first.store, array.layout)
        self.array = array
        self._file = {band: name for name, bands in files_of(array.layout.product).items() for band in bands}
        self._last = threading.local()

    def __reduce__(self) -> tuple[type[FileChunks], tuple[VirtualArray]]:
        """Pickle the list of files alone: another process decodes them itself."""
        return type(self), (self.array,)

    def index(self, disk: int) -> Index:
        """Return which planes exist, shape (time, band, 2): `NO_CHUNK` where no file holds the band, else 0."""
        found = np.full((self.layout.times, len(self.layout.bands), 2), NO_CHUNK, dtype=np.uint64)
        for time in range(self.layout.times):
            there = self.array.files(disk, time)
            for position, band in enumerate(self.layout.bands):
                if self._file[band] in there:
                    found[time, position] = 0
        return found

    def fetch(self, disk: int, time: int, bands: Sequence[int], arena: Arena | None = None) -> Fetched:
        """Read the files that hold some bands of a patch, each in one request.

        Raises
        ------
        StoreError
            If one is not there any more; it is named.
        """
        del arena  # it is decoded at once or later, from memory of its own
        names = [self._file[self.layout.bands[band]] for band in bands]
        there = self.array.files(disk, time)
        data = {name: memoryview(self._bytes(disk, time, name)) for name in dict.fromkeys(names) if name in there}
        chunks = tuple(data.get(name) for name in names)
        return Fetched(disk, time, tuple(bands), chunks, len(data), sum(map(len, data.values())))

    def _bytes(self, disk: int, time: int, name: str) -> bytes:
        task, patch = self.array.patch(disk, time)
        try:
            return read_file(task, patch, name)
        except PatchError as error:
            raise damaged(error, task.roi_id, time) from error

    def decode(self, fetched: Fetched, position: int, out: npt.NDArray[Any]) -> bool:
        """Copy one band into a plane; return False where there is no file: the plane is all fill then.

        Raises
        ------
        StoreError
            If the file is damaged, or does not fit the others; it is named.
        """
        if fetched.chunks[position] is None:
            out.fill(self.layout.fill)
            return False
        name = self._file[self.layout.bands[fetched.bands[position]]]
        out[...] = self._decoded(fetched, position, name)[self.layout.bands[fetched.bands[position]]]
        return True

    def _decoded(self, fetched: Fetched, position: int, name: str) -> dict[str, Planes]:
        """Decode a file, or give what this thread has just decoded for an earlier band of the patch."""
        last = self._last.__dict__
        if last.get("file") != name or last.get("fetched") is not fetched or last["position"] >= position:
            last["planes"] = self._planes(fetched, name, bytes(fetched.chunks[position] or b""))
        last["file"], last["fetched"], last["position"] = name, fetched, position
        planes: dict[str, Planes] = last["planes"]
        return planes

    def _planes(self, fetched: Fetched, name: str, data: bytes) -> dict[str, Planes]:
        task, patch = self.array.patch(fetched.disk, fetched.time)
        try:
            return planes_of(task, patch, name, data)
        except PatchError as error:
            raise damaged(error, task.roi_id, fetched.time) from error


STATE = "virtual"
"""What ``state`` among the settings says: no store holds these pixels."""


def open_virtual(
    archive: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    chunks: Chunks = None,
    storage_options: Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    scale: int | None = None,
) -> xr.DataTree:
    """Open an archive as if it were a cube, without a copy.

    Parameters
    ----------
    archive : path, URL or `Url`
        Folder or bucket with the files as published. It must not change while the tree is in use.
    products : sequence of str, optional
        Groups to open; by default all that the archive has.
    chunks : None, "roi" or mapping
        As in `open_cube`; but a mapping that does not name ``band`` keeps all bands of a date in one task, since they
        come from one file.
    storage_options : mapping, optional
        fsspec's options for a URL; a `Url` has its own.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high``; all must hold.
    scale : {100, 10000}, optional
        Full scale of CD-FCNN's probabilities. A conversion finds it in all values, which are not read here.

    Returns
    -------
    xarray.DataTree
        Like that of `open_cube`, for the same accessor. The archive is listed, and the headers of up to 60 patches are
        read; no pixel is. ``status`` is what the listing tells: 2 (failed) where a file is missing or empty.

    Raises
    ------
    ArchiveError, SelectionError
        If there is no archive, or nothing of it that one cube could hold.
    RemoteError
        If a bucket does not answer, or does not let you in.
    StoreError
        When pixels are read: the file is damaged, or does not fit the others. It is named; its pixels are never fill.

    Notes
    -----
    Each band that is asked for costs its whole file. Convert what is read more than a few times.
    """
    check_chunks(chunks)
    if scale not in (None, 100, 10_000):
        raise ValueError(f"scale is {scale!r}: give 100, 10000 or None")
    source = archive if storage_options is None else Url(os.fspath(archive), storage_options)
    if open_store(source).size(ROOT_KEY) is not None:
        raise ArchiveError(f"{os.fspath(archive)} is a Zarr store, no archive: open it with open_cube")
    plan = plan_archive(source, products, where, DEFAULTS)
    if not any(key in plan.archive.patches for key in plan.catalogue.keys):
        raise ArchiveError(f"{plan.archive.root} has metadata, but no file of the selected patches")
    _warn(plan)
    arrays = _arrays(plan)
    tree = _with_pixels(
        tree_of(memory_store(metadata_objects(_contents(plan, arrays, scale))), plan.archive.root), arrays
    )
    whole_files = chunks if chunks is None or isinstance(chunks, str) else {"band": -1, **chunks}
    tree = prepare_tree(tree, None, whole_files, plan.archive.root)
    tree.encoding = {"source": plan.archive.root, "store": absolute(plan.archive.store), STATE: arrays}
    return tree


def _warn(plan: ArchivePlan) -> None:
    """Describe what is left out, as the report of a conversion does."""
    faults = plan.faults()
    if faults:
        first = faults[0]
        warnings.warn(
            f"{len(faults)} rows or folders of {plan.archive.root} are left out; the first is {first.roi_id} "
            f"{first.s2_id_gee}: found {first.found}, expected {first.expected}",
            stacklevel=3,
        )


def _arrays(plan: ArchivePlan) -> dict[str, VirtualArray]:
    rois = [plan.rois(roi_id) for roi_id in plan.order]
    return {
        layout.product: VirtualArray(layout, tuple(own[number] for own in rois))
        for number, layout in enumerate(plan.layouts)
    }


def _contents(plan: ArchivePlan, arrays: Mapping[str, VirtualArray], scale: int | None) -> Contents:
    settings = plan.settings | {"state": STATE}
    about = ABOUT | {
        "source": settings["source"],
        "history": f"{settings['created']}: opened in place, nothing copied, by cloudsen12-cube "
        f"{version('cloudsen12-cube')}",
        "date_created": settings["created"],
    }
    frame = Frame(plan.order, plan.layouts[0].times, plan.catalogue.table)
    status = {product: array.status() for product, array in arrays.items()}
    return Contents(frame, plan.layouts, status, settings, about, scale)


def _with_pixels(tree: xr.DataTree, arrays: Mapping[str, VirtualArray]) -> xr.DataTree:
    """Put the files in the place of the shards, which do not exist."""
    nodes: dict[str, xr.Dataset] = {"/": tree.to_dataset()}
    for name, array in arrays.items():
        group = tree.children[name].to_dataset(inherit=False)
        empty = group[name].variable
        later = indexing.LazilyIndexedArray(array)
        encoding = {"fill_value": empty.encoding.get("fill_value"), "dtype": array.dtype, "chunks": array.layout.chunk}
        nodes[name] = group.assign({name: xr.Variable(empty.dims, later, empty.attrs, encoding)})
    return xr.DataTree.from_dict(nodes, name=tree.name)

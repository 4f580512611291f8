"""The pixels of one product over the untouched files of an archive, as xarray's lazy arrays want them.

A file is one request and is decoded whole, since that is how its bytes can be proved: by the checksum that a bucket
states, and by segments of exactly the bytes that they must have. The newest files stay decoded for the next bands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

from cloudsen12_cube.access import is_url
from cloudsen12_cube.assets import files_of
from cloudsen12_cube.errors import PatchError, StoreError
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.patch import Planes
from cloudsen12_cube.plan import PatchTask, ShardTask
from cloudsen12_cube.planes import listed_status, planes_of
from cloudsen12_cube.record import DONE

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

    def __init__(self, layout: ProductLayout, tasks: tuple[ShardTask, ...]) -> None:
        self.layout, self.tasks = layout, tasks
        self.shape = layout.shape(len(tasks))
        self.dtype = np.dtype(layout.dtype)
        self._decoded = lru_cache(maxsize=_KEPT)(self._read_file)

    def __reduce__(self) -> tuple[type[VirtualArray], tuple[ProductLayout, tuple[ShardTask, ...]]]:
        """Leave the decoded files behind."""
        return type(self), (self.layout, self.tasks)

    def status(self) -> npt.NDArray[np.uint8]:
        """Tell from the listing which patches are there, shape (roi, time)."""
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
        remote = bool(self.tasks) and is_url(self.tasks[0].root)
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
        """Name the files of a patch, if all are there that must be."""
        patches = [patch for patch in self.tasks[roi].patches if patch.time == time]
        if not patches or patches[0].files is None or listed_status(self.tasks[roi], patches[0]) != DONE:
            return []
        return [name for name in files_of(self.layout.product) if name in patches[0].files.names]

    def patch(self, roi: int, time: int) -> tuple[ShardTask, PatchTask]:
        """Give what a file of a patch is read by."""
        task = self.tasks[roi]
        return task, next(patch for patch in task.patches if patch.time == time)

    def _read_file(self, roi: int, time: int, name: str) -> dict[str, Planes]:
        task, patch = self.patch(roi, time)
        try:
            return planes_of(task, patch, name)
        except PatchError as error:
            raise damaged(error, task.roi_id, time) from error


def damaged(error: PatchError, roi: str, time: int) -> StoreError:
    """Say what can be done about a file that cannot be read."""
    return StoreError(
        f"{error}. Leave out {roi} at time {time}, put the file right and open the archive again, or convert it: that "
        "marks the patch as failed and goes on"
    )


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="virtual")

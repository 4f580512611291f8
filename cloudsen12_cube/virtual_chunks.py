"""Batches from the untouched files: what `Chunks` is for a cube, for an archive that was opened in place.

A chunk is the whole file that holds the band; neighbouring bands of a patch share it, and it is decoded once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.assets import files_of
from cloudsen12_cube.chunks import Chunks, Fetched, Index
from cloudsen12_cube.errors import PatchError
from cloudsen12_cube.fetch import read_file
from cloudsen12_cube.patch import Planes
from cloudsen12_cube.planes import planes_of
from cloudsen12_cube.ranges import Arena, open_ranges
from cloudsen12_cube.shard import ABSENT
from cloudsen12_cube.virtual_array import VirtualArray, damaged


class FileChunks(Chunks):
    """Reader of one product of an archive."""

    def __init__(self, array: VirtualArray) -> None:
        first = array.tasks[0]
        super().__init__(open_ranges(first.root, first.access), array.layout)
        self.array = array
        self._file = {band: name for name, bands in files_of(array.layout.product).items() for band in bands}
        self._last = threading.local()

    def __reduce__(self) -> tuple[type[FileChunks], tuple[VirtualArray]]:
        """Keep the list of files alone: another process begins anew."""
        return type(self), (self.array,)

    def index(self, disk: int) -> Index:
        """Tell what there is, shape (time, band, 2): `ABSENT` where no file holds the band, else 0."""
        found = np.full((self.layout.times, len(self.layout.bands), 2), ABSENT, dtype=np.uint64)
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
        """Put one band into a plane; False where there is no file: the plane is all fill then.

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

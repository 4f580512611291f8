"""The CPU floor: decode the archive's files with tifffile and encode the same bytes, and nothing else.

The files are in memory before the clock starts; what is encoded is dropped; nothing is checked, hashed or written.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numcodecs import Blosc, blosc

from benchmarks.common import timed

Job = tuple[bytes, str]
_JOBS: list[list[Job]] = []  # by patch; forked workers find them here


def by_threads(archive: str, _: str) -> dict[str, float]:
    _load(Path(archive))
    with ThreadPoolExecutor(2) as pool:
        return timed(lambda: _all(pool))


def by_processes(archive: str, _: str) -> dict[str, float]:
    _load(Path(archive))
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    list(pool.map(_warm, range(4)))
    return timed(lambda: _all(pool))


def _all(pool: Executor) -> None:
    assert sum(pool.map(_patch, range(len(_JOBS)))) > 0
    pool.shutdown()


def _load(archive: Path) -> None:
    """Read every file once, however many names it has."""
    from cloudsen12_cube import plan
    from cloudsen12_cube.schema.assets import files_of

    blosc.use_threads = False
    made = plan(archive)
    held: dict[int, bytes] = {}
    for files in made.archive.patches.values():
        jobs: list[Job] = []
        for layout in made.layouts:
            for name in files_of(layout.product):
                if name in files.names:
                    path = archive / files.folder / files.names[name]
                    inode = os.stat(path).st_ino
                    held.setdefault(inode, path.read_bytes())
                    jobs.append((held[inode], layout.dtype))
        _JOBS.append(jobs)


def _warm(number: int) -> int:
    time.sleep(0.05)
    return number


def _patch(index: int) -> int:
    return sum(_file(*job) for job in _JOBS[index])


def _file(data: bytes, dtype: str) -> int:
    codec: Any = Blosc("zstd", 1, Blosc.SHUFFLE, 512 * 1024)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        pixels = page.asarray(maxworkers=1)
        planes = pixels.reshape(-1, *pixels.shape[-2:]) if page.planarconfig == 2 or pixels.ndim == 2 else None
    if planes is None:
        planes = np.moveaxis(pixels, 2, 0)
    return sum(len(codec.encode(np.ascontiguousarray(plane, dtype))) for plane in planes)

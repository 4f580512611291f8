"""The bytes of the files of a patch: from a disk when they are wanted, from afar before they are.

One request a file, several under way: while one patch is decoded, the files of the next one travel.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

from cloudsen12_cube.access import is_url
from cloudsen12_cube.assets import files_of
from cloudsen12_cube.errors import PatchError
from cloudsen12_cube.form import PatchFiles, Piece
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.patient import open_patient
from cloudsen12_cube.plan import PatchTask, ShardTask

Fetch = Callable[[str], bytes]
"""Name of an asset file, ``labels/fmask``, -> its bytes."""

_LEAST = 16 * 2**20
_REQUESTS = 32
"""Files that a process asks a bucket for at a time."""


def most_bytes(layout: ProductLayout, name: str) -> int:
    """Bytes that a file may have, and its pixels: 64 bits a pixel, or what a little patch and a large tile take.

    A sound file has a quarter of that, overviews included. More is refused before it is read, or decoded.
    """
    return max(_LEAST, 8 * len(files_of(layout.product)[name]) * layout.height * layout.width)


def with_files(task: ShardTask) -> Iterator[tuple[PatchTask, Fetch]]:
    """Yield the patches of a shard, each with what gives the bytes of its files."""
    if not is_url(task.root):
        yield from ((patch, partial(read_file, task, patch)) for patch in task.patches)
        return
    coming = [_sent_for(task, patch) for patch in task.patches[:1]]
    for index, patch in enumerate(task.patches):
        files = coming.pop()
        coming += [_sent_for(task, later) for later in task.patches[index + 1 : index + 2]]
        yield patch, partial(_taken, files)


def _sent_for(task: ShardTask, patch: PatchTask) -> dict[str, Future[bytes]]:
    there = patch.files.names if patch.files else {}
    wanted = [name for name in files_of(task.layout.product) if name in there]
    return {name: _pool(os.getpid()).submit(read_file, task, patch, name) for name in wanted}


def _taken(files: dict[str, Future[bytes]], name: str) -> bytes:
    return files.pop(name).result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="fetch")


def read_file(task: ShardTask, patch: PatchTask, name: str) -> bytes:
    """Read the bytes of one asset of a patch.

    Raises
    ------
    PatchError
        If a file is not there, is none, is too large, or leads out of the archive.
    RemoteError
        If a bucket does not give it: that says nothing of the file.
    """
    files = patch.files or PatchFiles("", "")
    path = task.decoder.path(files, name)
    if name in files.outside:
        raise PatchError(path, "a link that leads out of the archive", "a file inside it")
    limit = most_bytes(task.layout, name)
    if files.sizes[name] > limit:
        raise PatchError(path, f"a file of {files.sizes[name]} bytes", f"at most {limit} bytes")
    pieces = task.decoder.pieces(files, name)
    if is_url(task.root):
        return b"".join(_from_afar(task, piece, files.sizes[name], path) for piece in pieces)
    return b"".join(_from_disk(os.path.join(task.root, piece.path), piece, path, limit) for piece in pieces)


def _from_disk(place: str, piece: Piece, path: str, limit: int) -> bytes:
    try:
        found = os.stat(place)
        if not stat.S_ISREG(found.st_mode):  # to open a pipe is to wait for ever
            raise PatchError(path, "no regular file", "a file")
        if piece.size < 0 and found.st_size > limit:
            raise PatchError(path, f"a file of {found.st_size} bytes", f"at most {limit} bytes")
        with open(place, "rb") as file:
            file.seek(piece.start)
            data = file.read(limit if piece.size < 0 else piece.size)
    except OSError as error:
        raise PatchError(path, f"a file that cannot be read ({error.strerror})", "a readable file") from None
    return _whole(data, piece.size, path)


def _from_afar(task: ShardTask, piece: Piece, listed: int, path: str) -> bytes:
    span = None if piece.size < 0 else (piece.start, piece.start + piece.size)
    data = open_patient(task.root, task.access).get(piece.path, span)
    if data is None:
        raise PatchError(path, "no such file any more", "the file that was listed")
    return _whole(data, listed if piece.size < 0 else piece.size, path)


def _whole(data: bytes, size: int, path: str) -> bytes:
    if size not in (-1, len(data)):
        raise PatchError(path, f"{len(data)} bytes", f"the {size} bytes that were listed")
    return data

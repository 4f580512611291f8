"""What lies under a folder or a URL: one listing, and the bytes of what is listed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cloudsen12_cube.access import NOTHING, Access, access_of, clean, is_url
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.patient import open_patient

SUFFIXES = (".tif", ".csv", ".json", ".dat", ".taco")
"""What any published form is made of; other files are nobody's business."""
_DEPTH = 7  # one level on top, label folder, ROI, patch, labels: deeper lies nothing of ours


@dataclass(frozen=True)
class Entry:
    """One file."""

    path: str
    """Below the root, with slashes."""
    size: int
    """Bytes; -1 where a server does not tell."""
    outside: bool = False
    """Whether it is a link out of the root: known, never followed."""


@dataclass(frozen=True)
class Listing:
    """A root, and how to read below it."""

    root: str
    access: Access = NOTHING
    """How to get there, if it is a URL."""

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return is_url(self.root)

    def read(self, path: str, start: int = 0, size: int = -1) -> bytes:
        """Read a file, whole or a part of it.

        Parameters
        ----------
        path : str
            Below the root.
        start, size : int
            First byte, and how many; all that follow by default. Fewer come where the file ends before.

        Raises
        ------
        OSError
            If it cannot be read, or is no file: who opens a pipe waits for ever.
        RemoteError
            If a bucket does not give it.
        """
        if self.is_remote:
            span = None if start == 0 and size < 0 else (start, None if size < 0 else start + size)
            data = open_patient(self.root, self.access).get(path, span)
            if data is None:
                raise FileNotFoundError(errno.ENOENT, "it is not there any more", f"{self.root}/{path}")
            return data
        place = os.path.join(self.root, path)
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError(errno.EINVAL, "no regular file", place)
        with open(place, "rb") as file:
            file.seek(start)
            return file.read(size)


def listed(root: str | os.PathLike[str]) -> tuple[Listing, Iterator[Entry]]:
    """List a folder, a bucket or a single file; nothing is opened.

    Raises
    ------
    ArchiveError
        If there is no such place.
    """
    access, root = access_of(root), clean(root)
    if root.endswith(".taco") and (is_url(root) or os.path.isfile(root)):
        folder, _, name = root.rpartition("/") if is_url(root) else (os.path.dirname(root) or ".", "", root)
        listing = Listing(folder, access)
        return listing, iter([Entry(os.path.basename(name), _size(listing, os.path.basename(name)))])
    if is_url(root):
        return Listing(root, access), _bucket(root, access)
    if not os.path.isdir(root):
        found = "is a file" if os.path.exists(root) else "does not exist"
        raise ArchiveError(f"{root} {found}: give the folder that holds high/, scribble/ or nolabel/, or .taco files")
    return Listing(root, access), _walk(os.path.realpath(root), "", 0)


def _size(listing: Listing, name: str) -> int:
    if not listing.is_remote:
        return os.path.getsize(os.path.join(listing.root, name))
    size = open_patient(listing.root, listing.access).size(name)
    if size is None:
        raise ArchiveError(f"{listing.root}/{name} does not exist: give the folder of the .taco files, or one of them")
    return size


def _bucket(url: str, access: Access) -> Iterator[Entry]:
    """List a bucket once; nothing is asked of a single file."""
    for path, size in open_patient(url, access).listed():
        if path.endswith(SUFFIXES) and path.count("/") <= _DEPTH:
            yield Entry(path, size)


def _walk(root: str, folder: str, depth: int) -> Iterator[Entry]:
    """List files below a folder, in the order of their names, without following links that lead out of the root."""
    try:
        with os.scandir(os.path.join(root, folder)) as scan:
            entries = sorted(scan, key=lambda e: e.name)
    except PermissionError:
        raise ArchiveError(f"no permission to list {os.path.join(root, folder)}") from None
    for entry in entries:
        path = f"{folder}{entry.name}"
        outside = entry.is_symlink() and _leaves(entry.path, root)
        if not outside and entry.is_dir():
            if depth < _DEPTH:
                yield from _walk(root, f"{path}/", depth + 1)
        elif path.endswith(SUFFIXES):
            size = 0 if outside or not entry.is_file() else entry.stat().st_size
            yield Entry(path, size, outside)


def _leaves(path: str, root: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), root]) != root

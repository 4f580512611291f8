"""Objects as files: an object is whole or not there.

An object is written under a name of its own in ``.partial``, flushed to the disk and renamed into its place: a reader
sees the old one or the new one, and two writers of one object never share a file. What a killed writer has left in
``.partial`` blocks no other writer; the next one that holds the exclusive lock removes it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudsen12_cube.errors import DestinationError, ReadError
from cloudsen12_cube.storage.store import INTERNAL, ObjectInfo, ObjectStore, StoreWrapper, folder

_PARTIAL = INTERNAL[0].rstrip("/")
_TEMPORARY = re.compile("[0-9a-f]{32}")
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_DEEPEST = 32  # levels of folders; a cube or an archive has at most nine
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class LocalStore:
    """A folder on a disk."""

    root: str
    concurrency = 1  # one read after another is as fast as several
    atomic_create = True

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        """Travel as an absolute path: another process may have another working directory."""
        return type(self), (os.path.abspath(self.root),)

    def path(self, key: str) -> str:
        """Path of an object."""
        return os.path.join(self.root, key)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it.

        Raises
        ------
        ReadError
            If there is something that cannot be read, or is no regular file.
        """
        path = self.path(key)
        try:
            # Opening costs some ten microseconds, decoding a chunk some thousand: no handle is kept.
            with open(path, "rb", buffering=0, opener=_open_regular) as file:
                if start < 0:
                    start = max(file.seek(0, os.SEEK_END) + start, 0)
                file.seek(start)
                if into is not None:
                    return into[: file.readinto(into if length is None else into[:length])]
                return file.readall() if length is None else file.read(length)
        except _MISSING:
            return None
        except OSError as error:
            raise ReadError(path, error.strerror or str(error)) from None

    def _own(self, key: str) -> Path:
        """Path of an object that is written or removed.

        Raises
        ------
        DestinationError
            If a link, or the key, leads out of the root.
        """
        path = Path(self.path(key))
        folder = os.path.realpath(path.parent)
        if not Path(folder).is_relative_to(os.path.realpath(self.root)):
            raise DestinationError(f"{path} lies in {folder}, outside of {self.root}: remove the link that leads there")
        return path

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write one object.

        Raises
        ------
        DestinationError
            If the disk is full or the folder cannot be written.
        """
        path, partial = self._own(key), self._own(f"{_PARTIAL}/{uuid.uuid4().hex}")
        renamed = False
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if if_absent:
                try:
                    os.link(partial, path)  # unlike a rename, it fails where there is a file
                except FileExistsError:
                    return False
            else:
                os.replace(partial, path)
                renamed = True
        except OSError as error:
            raise DestinationError(reason(error, self.root)) from None
        finally:
            if not renamed:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
        return True

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None if it does not exist.

        Raises
        ------
        ReadError
            If there is something that cannot be looked at, such as a link to itself.
        """
        path = self.path(key)
        try:
            found = os.stat(path)
        except _MISSING:
            return None
        except OSError as error:
            raise ReadError(path, error.strerror or str(error)) from None
        return None if stat.S_ISDIR(found.st_mode) else found.st_size

    def delete(self, key: str) -> None:
        """Remove one object if it is there."""
        try:
            self._own(key).unlink(missing_ok=True)
        except OSError as error:
            raise DestinationError(reason(error, self.root)) from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the files below a folder by name; links that lead out of the root are listed and not followed.

        Special files and links that lead to nothing have a size of 0. A folder that is reached by two links in a row is
        listed once, and none below 32 levels is: a few links could otherwise make a listing without end.
        """
        return _Walk(os.path.realpath(self.root)).below(folder(prefix), (os.path.realpath(self.path(prefix)),))

    def remove_partial(self) -> None:
        """Remove unfinished files; the caller is the only writer."""
        partial = self._own(f"{_PARTIAL}/x").parent
        try:
            for path in partial.iterdir():
                if _TEMPORARY.fullmatch(path.name):  # other files are not ours
                    path.unlink()
            with suppress(OSError):  # it is not empty
                partial.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DestinationError(reason(error, self.root)) from None


def absolute(store: ObjectStore) -> ObjectStore:
    """Return a local store by its absolute path, for use after the working directory has changed.

    Parameters
    ----------
    store : ObjectStore
        Any other kind is returned as it is.
    """
    return LocalStore(os.path.abspath(store.root)) if isinstance(store, LocalStore) else store


def object_version(store: ObjectStore, key: str) -> tuple[int, int, int] | None:
    """Return what changes when an object is replaced: inode, time and size.

    Parameters
    ----------
    store : ObjectStore
    key : str

    Returns
    -------
    tuple of int or None
        None if there is no such file, and in all stores but local ones, where it would cost a request.
    """
    while isinstance(store, StoreWrapper):
        store = store.store
    if isinstance(store, LocalStore):
        with suppress(OSError):
            found = os.stat(store.path(key))
            return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; opening a pipe without O_NONBLOCK would wait for a writer."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "no regular file", path)


@dataclass(frozen=True)
class _Walk:
    """A listing of all files below a folder."""

    root: str
    """Real path; links that lead out of it are not followed."""
    entered: set[str] = field(default_factory=set)
    """Real paths of folders that a link below another link has led to."""

    def below(self, prefix: str, opened: tuple[str, ...], linked: bool = False) -> Iterator[ObjectInfo]:
        """List files below a folder; ``opened`` are real paths of it and those above, so no link makes a circle."""
        try:
            with os.scandir(opened[-1]) as scan:
                entries = sorted(scan, key=lambda e: e.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ReadError(opened[-1], error.strerror or str(error)) from None
        for entry in entries:
            link = entry.is_symlink()
            real = os.path.realpath(entry.path) if link else entry.path
            outside = link and os.path.commonpath([real, self.root]) != self.root
            found = None if outside else _stat(entry)
            if found is None or not stat.S_ISDIR(found.st_mode):
                size = found.st_size if found and stat.S_ISREG(found.st_mode) else 0
                yield ObjectInfo(f"{prefix}{entry.name}", size, outside)
            elif real not in opened and len(opened) < _DEEPEST and not (linked and link and real in self.entered):
                self.entered.update([real] if linked and link else [])
                yield from self.below(f"{prefix}{entry.name}/", (*opened, real), linked or link)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of what an entry leads to; None for a link to nothing or to itself."""
    try:
        return entry.stat()
    except OSError:
        return None


def reason(error: OSError, root: str) -> str:
    """Return why a folder cannot be written, and what to do."""
    if error.errno in _FULL:
        return f"the disk of {root} is full: free some space and run the same command again, it continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {error.filename or root}: choose another place for the cube or change its rights"
    return f"cannot use {error.filename or root}: {error.strerror}"

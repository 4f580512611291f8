"""Byte ranges of a cube's objects: from a local disk, or from anything that fsspec knows.

A local object is opened for every read: it costs some ten microseconds, the decoding of what is read some thousand. A
remote one is asked for in ranges, by as many threads at a time as the caller has, which hides the time of a request.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import fsspec


class Objects(Protocol):
    """A place with objects."""

    remote: bool
    """Whether a request takes so long that many should be under way."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read a range of an object."""

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object; FileNotFoundError if there is none."""

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""


class LocalObjects:
    """A folder."""

    remote = False

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read a range of an object."""
        handle = os.open(os.path.join(self.root, key), os.O_RDONLY)
        try:
            return os.pread(handle, length, start)
        finally:
            os.close(handle)

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object."""
        with open(os.path.join(self.root, key), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - length, 0))
            return file.read()

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""
        try:
            with open(os.path.join(self.root, key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


class RemoteObjects:
    """A URL that fsspec knows. Each process makes its own connections."""

    remote = True

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url, self.storage_options = url, dict(storage_options or {})
        self._process = os.getpid()

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.url, **self.storage_options)
        return fs, root

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connections behind: they belong to a process."""
        return {"url": self.url, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew in another process."""
        self.__init__(state["url"], state["storage_options"])  # type: ignore[misc]  # the same as when it was made

    def _cat(self, key: str, start: int | None, end: int | None) -> bytes:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.url} was opened before this process was forked, and its connections do not survive that: "
                "start worker processes with multiprocessing_context='spawn', or use no workers"
            )
        fs, root = self._place
        return bytes(fs.cat_file(f"{root}/{key}", start=start, end=end))

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read a range of an object."""
        return self._cat(key, start, start + length)

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object."""
        return self._cat(key, -length, None)

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""
        try:
            return self._cat(key, None, None)
        except FileNotFoundError:
            return None


def open_objects(place: str, storage_options: Mapping[str, Any] | None = None) -> Objects:
    """Open the place of a cube: a path, or a URL that fsspec knows."""
    if "://" not in place:
        return LocalObjects(place)
    if place.startswith(("file://", "local://")):
        return LocalObjects(place.partition("://")[2])
    return RemoteObjects(place, storage_options)

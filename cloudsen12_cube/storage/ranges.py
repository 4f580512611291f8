"""Byte ranges of a cube's objects, for readers that know what they want: from a local disk, or from any URL.

A local object is opened for every read: it costs some ten microseconds, the decoding of what is read some thousand. A
remote one is asked for in ranges, by as many threads at a time as the caller has, which hides the time of a request.
Of the two clients obstore takes a third of the processor time that s3fs takes for a request.
"""

from __future__ import annotations

import os
from collections.abc import Buffer
from typing import Protocol

from cloudsen12_cube.storage.config import StorageConfig, clean, is_url
from cloudsen12_cube.storage.retry import RetryingStore, open_retrying


class Arena:
    """Memory of one thread for what it reads and decodes at once; fresh memory for each read costs a twentieth more."""

    def __init__(self) -> None:
        self._memory, self._used = memoryview(bytearray()), 0

    def take(self, length: int) -> memoryview:
        """Give memory that nobody else is given until `reset`."""
        if self._used + length > len(self._memory):
            self._memory, self._used = memoryview(bytearray(2 * (len(self._memory) + length))), 0
        self._used += length
        return self._memory[self._used - length : self._used]

    def reset(self) -> None:
        """Let all that was given be given again."""
        self._used = 0


class Ranges(Protocol):
    """A place with objects."""

    remote: bool
    """Whether a request takes so long that many should be under way."""

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object; into the arena's memory, if that spares a copy."""

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object; FileNotFoundError if there is none."""

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""


class LocalRanges:
    """A folder."""

    remote = False

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object."""
        data = arena.take(length) if arena else memoryview(bytearray(length))
        handle = os.open(os.path.join(self.root, key), os.O_RDONLY)
        try:
            return data[: os.preadv(handle, [data], start)]
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


class RemoteRanges:
    """A URL. Each process makes its own connections; a range that fails is asked for again, within bounds."""

    remote = True

    def __init__(self, url: str, access: StorageConfig) -> None:
        self.url, self.access = url, access
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[RemoteRanges], tuple[str, StorageConfig]]:
        """Begin anew in another process: connections belong to the one that made them."""
        return type(self), (self.url, self.access)

    def _client(self) -> RetryingStore:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.url} was opened before this process was forked, and its connections do not survive that: "
                "start worker processes with multiprocessing_context='spawn', or use no workers"
            )
        return open_retrying(self.url, self.access)

    def _there(self, key: str, first: int, end: int | None) -> bytes:
        data = self._client().get(key, (first, end))
        if data is None:
            raise FileNotFoundError(f"{self.url}/{key}")
        return data

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object."""
        del arena  # what comes over a network has memory of its own
        return self._there(key, start, start + length)

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object."""
        return self._there(key, -length, None)

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""
        return self._client().get(key)


def open_ranges(place: str, access: StorageConfig) -> Ranges:
    """Open the place of a cube: a path, or a URL."""
    root = clean(place)
    return RemoteRanges(root, access) if is_url(root) else LocalRanges(root)

"""A cube's place in an object store: every object is put whole, and a note in the bucket keeps two writers apart.

Where a cube lies: a folder on a disk or a prefix of a bucket, with the same few verbs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from cloudsen12_cube.storage.config import NOTHING, StorageConfig, clean, is_url, storage_config
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.lock import FOLDER, held
from cloudsen12_cube.storage.retry import RetryingStore, open_retrying


@dataclass(frozen=True)
class BucketStore:
    """A prefix of a bucket, or whatever else a URL leads to. It holds no open client and may be sent anywhere."""

    root: str
    access: StorageConfig = NOTHING
    known: dict[str, int] | None = field(default=None, repr=False, compare=False)
    """Key -> bytes of all objects, where they were listed: nobody is asked for what was not among them."""
    readers: int = 16
    """Requests that are worth having under way at a time."""

    def _client(self) -> RetryingStore:
        return open_retrying(self.root, self.access)

    def portable(self) -> BucketStore:
        """Give what a worker anywhere needs."""
        return replace(self, known=None)

    def put(self, key: str, data: bytes, durable: bool = True) -> None:
        """Write one object; a store has it for good when it says so."""
        del durable
        self._client().put(key, data)

    def get(self, key: str) -> bytes | None:
        """Read one object, or None if there is none."""
        if self.known is not None and key not in self.known:
            return None
        return self._client().get(key)

    def size(self, key: str) -> int | None:
        """Bytes of one object, or None if there is none."""
        return self._client().size(key) if self.known is None else self.known.get(key)

    def delete(self, key: str) -> None:
        """Remove one object if it is there."""
        self._client().delete(key)

    def names(self, prefix: str) -> list[str]:
        """Last parts of the keys directly under a prefix, in order; none where nothing is."""
        start = f"{prefix.rstrip('/')}/"
        found = self.known if self.known is not None else (key for key, _ in self._client().listed(start))
        below = (key[len(start) :] for key in found if key.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def empty(self) -> bool:
        """Tell whether no object is there yet but the notes of writers."""
        return all(key.partition("/")[0] == FOLDER for key, _ in self._client().listed())

    def listed(self) -> BucketStore:
        """List everything once: the one that is given answers from that list what it can."""
        return replace(self, known=dict(self._client().listed()))

    @contextmanager
    def locked(self, shared: bool = False, force: bool = False) -> Iterator[None]:
        """Keep other writers out for as long as this one runs; see `lease`."""
        with held(self._client(), shared, force):
            yield


class ObjectStore(Protocol):
    """A root under which objects are put whole."""

    @property
    def root(self) -> str:
        """Folder or URL, without a slash at its end."""

    @property
    def access(self) -> StorageConfig:
        """How to get there."""

    @property
    def readers(self) -> int:
        """Requests that are worth having under way at a time."""

    def put(self, key: str, data: bytes, durable: bool = True) -> None:
        """Write one object."""

    def get(self, key: str) -> bytes | None:
        """Read one object, or None if there is none."""

    def size(self, key: str) -> int | None:
        """Bytes of one object, or None if there is none."""

    def delete(self, key: str) -> None:
        """Remove one object if it is there."""

    def names(self, prefix: str) -> list[str]:
        """Last parts of the keys directly under a prefix, in order."""

    def empty(self) -> bool:
        """Tell whether no object is there yet."""

    def listed(self) -> ObjectStore:
        """Look at everything once, where asking for each object is dear."""

    def portable(self) -> ObjectStore:
        """Give what a worker anywhere needs."""

    def locked(self, shared: bool = False, force: bool = False) -> AbstractContextManager[None]:
        """Keep other writers out."""


def open_store(cube: str | os.PathLike[str]) -> ObjectStore:
    """Make the place that a path or a URL names."""
    where = clean(cube)
    return BucketStore(where, storage_config(cube)) if is_url(where) else LocalStore(where)


def each[A, B](place: ObjectStore, function: Callable[[A], B], items: Iterable[A], least: int = 1) -> Iterator[B]:
    """Apply a function that asks the place, to several items at a time where that helps; in order.

    Parameters
    ----------
    place : Place
    function : callable
    items : iterable
    least : int
        Threads, if more than the place has use for.
    """
    readers = max(place.readers, least)
    if readers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(readers) as pool:
        yield from pool.map(function, items)

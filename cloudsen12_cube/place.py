"""Where a cube lies: a folder on a disk or a prefix of a bucket, with the same few verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol

from cloudsen12_cube.access import Access, access_of, clean, is_url
from cloudsen12_cube.bucket import Bucket
from cloudsen12_cube.sink import Sink


class Place(Protocol):
    """A root under which objects are put whole."""

    @property
    def root(self) -> str:
        """Folder or URL, without a slash at its end."""

    @property
    def access(self) -> Access:
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

    def listed(self) -> Place:
        """Look at everything once, where asking for each object is dear."""

    def portable(self) -> Place:
        """Give what a worker anywhere needs."""

    def locked(self, shared: bool = False, force: bool = False) -> AbstractContextManager[None]:
        """Keep other writers out."""


def place_of(cube: str | os.PathLike[str]) -> Place:
    """Make the place that a path or a URL names."""
    where = clean(cube)
    return Bucket(where, access_of(cube)) if is_url(where) else Sink(where)


def each[A, B](place: Place, function: Callable[[A], B], items: Iterable[A], least: int = 1) -> Iterator[B]:
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

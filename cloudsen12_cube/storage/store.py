"""The object store protocol: whole objects and byte ranges by key, under one root, whatever holds them.

Clients raise errors of their own. Three outcomes are left of them: there is no such object (None), there is one
already (False from ``put(..., if_absent=True)``), and everything else (`StorageError`, with the client's own words).
"""

from __future__ import annotations

import os
import re
from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from cloudsen12_cube.errors import DestinationError

CONNECT_SECONDS, READ_SECONDS = 5, 20
"""Time to connect, and the longest silence within a reply."""

WAY_OUT = "give the path or the URL of the cube instead"

INTERNAL = (".partial/", ".writers/")
"""Keys that are no part of a cube: unfinished local files, and the lock objects of writers."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    key: str
    """Below the root, with slashes."""
    size: int
    """Bytes; -1 where a web server does not state it."""
    outside: bool = False
    """Whether it is a link that leads out of a local root: listed, never followed."""


class ObjectStore(Protocol):
    """Objects under one root. A pickled store is a description: each process opens its own client from it."""

    @property
    def root(self) -> str:
        """Folder or URL, without a slash at its end."""

    @property
    def concurrency(self) -> int:
        """Requests that are worth having under way at a time: 1 for a disk."""

    @property
    def atomic_create(self) -> bool:
        """Whether ``put(..., if_absent=True)`` is atomic, so that a lock can be built on it."""

    @overload
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None: ...

    @overload
    def get(self, key: str, start: int, length: int | None, into: memoryview | None) -> Buffer | None: ...

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it, in one request.

        Parameters
        ----------
        key : str
            Below the root, with slashes.
        start : int
            First byte; negative for a suffix: the last ``-start`` bytes, or the whole of a shorter object.
        length : int, optional
            Bytes; fewer are returned where the object ends before. By default all that follow.
        into : memoryview, optional
            Writable bytes, at least ``length``, that the range is written to; a view of its beginning is returned.

        Returns
        -------
        bytes, memoryview or None
            None if there is no such object.
        """

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object: readers see the old one or the new one.

        Parameters
        ----------
        key, data
        if_absent : bool
            Write only if there is no such object.
        sync : bool
            Wait until the bytes are on the disk. Other stores are durable when they answer.

        Returns
        -------
        bool
            False if ``if_absent`` found an object.
        """

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None if it does not exist."""

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder, ``a/b`` or ``a/b/``; all objects by default."""


class StorageError(Exception):
    """A client could not do what it was asked for."""

    denied: bool = False
    """Whether the reason is a lack of rights."""


class DeniedError(StorageError):
    """The store answered that the caller has no right to this."""

    denied = True


@dataclass(frozen=True)
class StoreWrapper:
    """A store that passes everything on; what wraps another store overrides what it changes."""

    store: ObjectStore

    @property
    def root(self) -> str:
        """Folder or URL."""
        return self.store.root

    @property
    def concurrency(self) -> int:
        """Requests that are worth having under way at a time."""
        return self.store.concurrency

    @property
    def atomic_create(self) -> bool:
        """Whether an object can be created atomically."""
        return self.store.atomic_create

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        return self.store.get(key, start, length, into)

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        return self.store.put(key, data, if_absent, sync)

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        return self.store.size(key)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.store.delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder."""
        return self.store.list(prefix)


@dataclass(frozen=True)
class ReadOnlyStore(StoreWrapper):
    """A store that is not written here."""

    atomic_create = False

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Refuse."""
        del data, if_absent, sync
        raise DestinationError(f"{self.root} is read-only here ({key} was to be written): {WAY_OUT}")

    def delete(self, key: str) -> None:
        """Refuse."""
        raise DestinationError(f"{self.root} is read-only here ({key} was to be removed): {WAY_OUT}")


@dataclass(frozen=True)
class ListedStore(StoreWrapper):
    """A store that was listed once: which objects exist, and their sizes, are answered without a request."""

    sizes: Mapping[str, int] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the listing behind: it may be megabytes, and another process writes."""
        return _itself, (self.store,)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it, if it was listed."""
        return self.store.get(key, start, length, into) if key in self.sizes else None

    def size(self, key: str) -> int | None:
        """Bytes of an object as listed; asked for where the listing does not state them."""
        size = self.sizes.get(key)
        return self.store.size(key) if size == -1 else size

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield what was listed below a folder."""
        start = folder(prefix)
        return (ObjectInfo(key, size) for key, size in self.sizes.items() if key.startswith(start))


def _itself(store: ObjectStore) -> ObjectStore:
    return store


def list_once(store: ObjectStore) -> ObjectStore:
    """List a store once, so that objects that do not exist cost no request; a local disk is returned as it is.

    Parameters
    ----------
    store : ObjectStore
        What is written to it later is not seen in the listing.
    """
    if store.concurrency == 1:
        return store
    return ListedStore(store, {info.key: info.size for info in store.list()})


def list_names(store: ObjectStore, prefix: str) -> list[str]:
    """Return the names of the objects directly in a folder, sorted.

    Parameters
    ----------
    store : ObjectStore
    prefix : str
        Folder, with or without a slash at its end.
    """
    start = folder(prefix)
    below = (info.key[len(start) :] for info in store.list(start))
    return sorted(name for name in below if "/" not in name)


def is_empty(store: ObjectStore) -> bool:
    """Return whether there is no object but those of interrupted writers.

    Parameters
    ----------
    store : ObjectStore
    """
    return all(info.key.startswith(INTERNAL) for info in store.list())


def each[A, B](store: ObjectStore, function: Callable[[A], B], items: Iterable[A], least: int = 1) -> Iterator[B]:
    """Apply a function that reads a store, to several items at a time where that is faster; in order.

    Parameters
    ----------
    store : ObjectStore
        Its concurrency is the number of threads.
    function : callable
        Takes one item; must be safe to call from several threads.
    items : iterable
        Arguments of the calls.
    least : int
        Threads, if more than the store's concurrency.
    """
    threads = max(store.concurrency, least)
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)


def refuse_fork(root: str, process: int) -> None:
    """Raise if a client is used in a fork of its process: s3fs's thread and obstore's runtime do not exist there."""
    if os.getpid() != process:
        raise RuntimeError(
            f"{root} was opened before this process was forked, and its connections do not survive that: "
            "start worker processes with multiprocessing_context='spawn', or use no workers"
        )


def folder(prefix: str) -> str:
    """Write a prefix with one slash at its end; the empty one stays empty."""
    return f"{prefix.rstrip('/')}/" if prefix else ""


def deliver(data: Buffer, into: memoryview | None) -> Any:
    """Return bytes, or copy them into the memory of the caller."""
    if into is None:
        return data
    view = memoryview(data)
    into[: len(view)] = view
    return into[: len(view)]


_STATUS = re.compile(r"non-2xx status code: (\d{3})\b")  # obstore's listing has no other sign of a refusal


def storage_error(error: BaseException, text: str = "") -> StorageError:
    """Translate a client's error.

    A lack of rights is known by the error's type or status code, never by its text, which may hold any number.
    """
    text = text or " ".join(str(error).split()) or type(error).__name__
    return (DeniedError if _is_denied(error) else StorageError)(text[:300])


def _is_denied(error: BaseException) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return True  # the latter are botocore's
    reply = getattr(error, "response", None)  # botocore's
    meta = reply.get("ResponseMetadata", {}) if isinstance(reply, dict) else {}
    stated = _STATUS.search(str(error))
    codes = [getattr(error, name, None) for name in ("status", "status_code", "code")]  # aiohttp, google, azure
    return bool({401, 403} & {meta.get("HTTPStatusCode"), int(stated[1]) if stated else None, *map(_number, codes)})


def _number(code: object) -> int | None:
    return int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()) else None

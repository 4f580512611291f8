"""The two adapters between zarr's stores and ours: a cube as zarr-python reads it, and a zarr store as an object store.

Every inner chunk, every index of a shard and every chunk of a metadata array ends with its own crc32c. So a byte that
was flipped on the way is seen before anything is decoded, and the range is asked for again; zarr alone would raise.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Literal

import zarr.storage
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from cloudsen12_cube.errors import CubeError, DamagedBytesError
from cloudsen12_cube.storage.config import clean, is_url
from cloudsen12_cube.storage.local import LocalStore, object_version
from cloudsen12_cube.storage.retry import RetryingStore
from cloudsen12_cube.storage.store import ObjectInfo, ObjectStore, ReadOnlyStore, deliver, folder, storage_error

_THREADS = 16
_ATTEMPTS = 5
"""TCP's 16 bits pass one flipped packet in some ten thousand; asking again costs one request."""

_INDEXES = 20_000
"""Shard indexes that a view keeps, about a kilobyte each; the oldest is dropped where there are more."""


Part = Literal["whole", "range", "suffix"]
"""What was read of an object."""

Check = Callable[[str, bytes, Part], str]
"""Check of what was read of a key; it returns what is wrong, or an empty text."""


def zarr_place(place: str | os.PathLike[str]) -> Any:
    """Return what zarr opens to write or read a Zarr store other than a cube: a local store, or the URL as it is.

    Parameters
    ----------
    place : str or os.PathLike
        A local path is never parsed as a URL.
    """
    text = clean(place)
    return text if is_url(text) else zarr.storage.LocalStore(os.path.abspath(text))


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    del process  # threads do not survive a fork
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="cube")


class ZarrView(Store):
    """A cube as zarr sees it: read only, each range checked by its crc32c, each index fetched once.

    Parameters
    ----------
    store : ObjectStore
    check : callable
        Called with the key, the bytes that were read, and whether they are the whole object, a range or its end.
    held : mapping of str to bytes, optional
        Objects that were read before, and are checked.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, store: ObjectStore, check: Check, held: Mapping[str, bytes] | None = None) -> None:
        super().__init__(read_only=True)
        self.store, self._check, self._held = store, check, held or {}
        # Index of a shard and version of its object; zarr calls `get` from one event loop: no lock is needed.
        self._indexes: dict[str, tuple[bytes, object]] = {}

    def __reduce__(self) -> tuple[type[ZarrView], tuple[ObjectStore, Check]]:
        """Leave the indexes and the objects that are held behind."""
        return type(self), (self.store, self._check)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrView) and self.store == other.store

    def __hash__(self) -> int:
        return hash(self.store.root)

    def __str__(self) -> str:
        return self.store.root

    def with_read_only(self, read_only: bool = False) -> ZarrView:
        """Return itself: it is never written."""
        del read_only
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read an object or a range of it."""
        is_index = isinstance(byte_range, SuffixByteRequest)
        version = object_version(self.store, key) if is_index else None
        held = self._indexes.get(key) if is_index else None
        data = held[0] if held and held[1] == version else await self._read(key, byte_range)
        if data is not None and is_index:
            self._indexes[key] = data, version
            if len(self._indexes) > _INDEXES:
                del self._indexes[next(iter(self._indexes))]
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **named: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Read many ranges of one object, neighbours in one request."""
        merged = _UncheckedView(self.store, self._check)
        try:
            async for group in Store.get_ranges(merged, key, byte_ranges, prototype=prototype, **named):
                yield [(i, await self._checked(key, byte_ranges[i], buffer, prototype)) for i, buffer in group]
        except BaseExceptionGroup as group:
            found = group.subgroup(CubeError)
            if found is None:
                raise
            raise found.exceptions[0] from None

    async def _checked(
        self, key: str, wanted: ByteRequest | None, buffer: Buffer | None, prototype: BufferPrototype
    ) -> Buffer | None:
        """Check one of the ranges that were merged into a request; ask for it alone where its checksum is wrong."""
        if buffer is None or not self._check(key, buffer.to_bytes(), _part(wanted)):
            self._check_version(key)
            return buffer
        data = await self._read(key, wanted)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        if wanted is None and key in self._held:
            return self._held[key]
        try:
            data = await _in_thread(self._read_checked, key, wanted)
        except CubeError:
            self._indexes.pop(key, None)  # the shard may have been written again since its index was read
            raise
        if _part(wanted) == "range":
            self._check_version(key)
        return data

    def _read_checked(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        """Read an object or a range of it, again if it arrives damaged."""
        for _ in range(_ATTEMPTS):
            data: bytes | None = self.store.get(key, *_range(wanted))
            wrong = "" if data is None else self._check(key, data, _part(wanted))
            if not wrong:
                return data
        raise DamagedBytesError(
            f"{self}/{key} is damaged ({wrong}): read again, and if that stays, run the same convert with --repair"
        )

    def _check_version(self, key: str) -> None:
        """Refuse a chunk of an object that was replaced since its index was read: another one may lie at its place."""
        held = self._indexes.get(key)
        if held and held[1] != object_version(self.store, key):
            del self._indexes[key]
            raise DamagedBytesError(f"{self}/{key} was written again while it was read: read it again")

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read ranges of several objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await _in_thread(self.store.size, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        del value
        raise PermissionError(f"{self}/{key}: a cube is written by convert, and read here")

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise PermissionError(f"{self}/{key}: a cube is written by convert, and read here")

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys in a folder."""
        for info in await _in_thread(lambda: list(self.store.list(prefix))):
            yield info.key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly in a folder."""
        start = folder(prefix)
        names = [key[len(start) :].partition("/")[0] async for key in self.list_prefix(start)]
        for name in dict.fromkeys(names):
            yield name


class _UncheckedView(ZarrView):
    """The same store, whose ranges are not checked: merged ones end with no checksum."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a range as it comes."""
        data = await _in_thread(self.store.get, key, *_range(byte_range))
        return None if data is None else prototype.buffer.from_bytes(data)


async def _in_thread[T](function: Callable[..., T], *arguments: Any) -> T:
    """Wait for a request without holding up zarr's event loop."""
    return await asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), function, *arguments)


def _part(wanted: ByteRequest | None) -> Part:
    return "whole" if wanted is None else "suffix" if isinstance(wanted, SuffixByteRequest) else "range"


def _range(wanted: ByteRequest | None) -> tuple[int, int | None]:
    """Translate zarr's range to start and length."""
    if isinstance(wanted, SuffixByteRequest):
        return -wanted.suffix, None
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    return (wanted.start, wanted.end - wanted.start) if isinstance(wanted, RangeByteRequest) else (0, None)


def from_zarr(store: Any) -> ObjectStore:
    """Use a zarr store as an object store.

    Those that this package can lock are written, too: ``LocalStore``, ``ObjectStore`` (by obstore) and, within this
    process, ``MemoryStore``. ``set_if_not_exists`` of other stores does not say whether it wrote, so no lock can be
    built on it, and Icechunk refuses the keys of a cube's records.
    """
    found: ObjectStore
    if isinstance(store, zarr.storage.LocalStore):
        found = LocalStore(str(store.root))
    elif isinstance(store, zarr.storage.ObjectStore):
        from cloudsen12_cube.storage.obstore_store import from_obstore  # an optional dependency

        found = from_obstore(store.store)
    elif isinstance(store, zarr.storage.MemoryStore):
        found = ZarrBackedStore(store)
    else:
        return ReadOnlyStore(RetryingStore(ZarrBackedStore(store)))
    return ReadOnlyStore(found) if store.read_only else found


_CREATING = threading.Lock()


class ZarrBackedStore:
    """A zarr store as an object store."""

    def __init__(self, store: Store) -> None:
        self.store, self.root = store, str(store).rstrip("/")
        self.atomic_create = isinstance(store, zarr.storage.MemoryStore)
        self.concurrency = 1 if self.atomic_create else 16

    def __reduce__(self) -> tuple[type[ZarrBackedStore], tuple[Store]]:
        """Refuse to copy memory: what a worker writes to its copy would be lost."""
        if self.atomic_create:
            raise CubeError(f"{self.root} is in the memory of one process: use threads (workers=0), or give a path")
        return type(self), (self.store,)

    def __deepcopy__(self, memo: dict[int, Any]) -> ZarrBackedStore:
        """Return itself, as xarray copies the encoding in which a cube names its store."""
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrBackedStore) and self.store == other.store

    def __hash__(self) -> int:
        return hash(self.root)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        wanted: ByteRequest | None = OffsetByteRequest(start) if start else None
        if start < 0:
            wanted = SuffixByteRequest(-start)
        elif length is not None:
            wanted = RangeByteRequest(start, start + length)
        buffer = self._wait(self.store.get(key, default_buffer_prototype(), wanted))
        return None if buffer is None else deliver(buffer.to_bytes(), into)

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object, of a MemoryStore alone."""
        del sync
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        with _CREATING:
            if if_absent and self._wait(self.store.exists(key)):
                return False
            self._wait(self.store.set(key, buffer))
        return True

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        size: int | None = self._wait(self.store.getsize(key))
        return size

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._wait(self.store.delete(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder; a zarr store does not list sizes."""
        return (ObjectInfo(key, -1) for key in self._wait(_all(self.store.list_prefix(folder(prefix)))) or ())

    @staticmethod
    def _wait(request: Any) -> Any:
        try:
            return sync(request)
        except (FileNotFoundError, KeyError):
            return None
        except Exception as error:  # each store has its own
            raise storage_error(error) from error


async def _all(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]

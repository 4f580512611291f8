"""A cube behind a URL as zarr sees it: read only, each range proved by the crc32c at its end, each index fetched once.

Every inner chunk, every index of a shard and every chunk of a metadata array ends with its own checksum. So a byte that
was flipped on the way is seen before anything is decoded, and the range is asked for again; zarr alone would raise.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import google_crc32c
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from cloudsen12_cube.errors import CubeError, StoreError
from cloudsen12_cube.storage.config import NOTHING, StorageConfig
from cloudsen12_cube.storage.retry import open_retrying
from cloudsen12_cube.storage.store import Span

_THREADS = 16
_ATTEMPTS = 4
_INDEXES = 20_000
"""Shard indexes that a process keeps: about a kilobyte each."""


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="cube")


class IndexCache:
    """The newest shard indexes, by key."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Give one that was kept."""
        with self._lock:
            return self._held.get(key)

    def keep(self, key: str, data: bytes) -> None:
        """Keep one; the oldest goes where there is no room."""
        with self._lock:
            self._held[key] = data
            if len(self._held) > _INDEXES:
                self._held.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget one that does not fit its shard any more."""
        with self._lock:
            self._held.pop(key, None)


class RemoteStore(Store):
    """A cube behind a URL. Pickled, it is the URL and its options: a worker opens its own client."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, root: str, access: StorageConfig = NOTHING) -> None:
        super().__init__(read_only=True)
        self.root, self.access = root, access
        self._indexes = IndexCache()

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str, StorageConfig]]:
        """Leave the indexes where they are."""
        return type(self), (self.root, self.access)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and (self.root, self.access) == (other.root, other.access)

    def __hash__(self) -> int:
        return hash((self.root, self.access))

    def __str__(self) -> str:
        return self.root

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Give itself: it is never written."""
        del read_only
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read an object or a range of it."""
        is_index = isinstance(byte_range, SuffixByteRequest)
        data = self._indexes.get(key) if is_index else None
        if data is None:
            data = await self._read(key, byte_range)
            if data is not None and byte_range is not None:
                data = await self._sound(key, byte_range, data)
            if data is not None and is_index:
                self._indexes.keep(key, data)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **named: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Read many ranges of one object, neighbours in one request."""
        merged = _Plain(self)
        try:
            async for group in Store.get_ranges(merged, key, byte_ranges, prototype=prototype, **named):
                yield [(i, await self._proved(key, byte_ranges[i], buffer, prototype)) for i, buffer in group]
        except BaseExceptionGroup as group:
            found = group.subgroup(CubeError)
            if found is None:
                raise
            raise found.exceptions[0] from None

    async def _proved(
        self, key: str, wanted: ByteRequest | None, buffer: Buffer | None, prototype: BufferPrototype
    ) -> Buffer | None:
        if buffer is None or wanted is None or _is_sound(buffer.to_bytes()):
            return buffer
        data = await self._sound(key, wanted, buffer.to_bytes())
        return None if data is None else prototype.buffer.from_bytes(data)

    async def _sound(self, key: str, wanted: ByteRequest, data: bytes | None) -> bytes | None:
        """Ask again for a range whose checksum is wrong."""
        for _ in range(_ATTEMPTS):
            if data is None or _is_sound(data):
                return data
            data = await self._read(key, wanted)
        if data is None or _is_sound(data):
            return data
        self._indexes.drop(key)
        raise StoreError(
            f"{self.root}/{key} is damaged, or its bytes are on every way: {_told(wanted)} do not have their crc32c; "
            "read again, and if that stays, run the same convert with --repair"
        )

    async def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        call = open_retrying(self.root, self.access).get
        return await asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), call, key, _span(wanted))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read ranges of several objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        call = open_retrying(self.root, self.access).size
        size = await asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), call, key)
        return size is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        del value
        raise PermissionError(f"{self.root}/{key}: a cube is written by convert, and read here")

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise PermissionError(f"{self.root}/{key}: a cube is written by convert, and read here")

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        for key, _ in open_retrying(self.root, self.access).listed(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly under a prefix."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        seen: set[str] = set()
        async for key in self.list_prefix(start):
            name = key[len(start) :].partition("/")[0]
            if name not in seen:
                seen.add(name)
                yield name


class _Plain(RemoteStore):
    """The same store, whose ranges are not looked at: merged ones end with no checksum."""

    def __init__(self, store: RemoteStore) -> None:
        super().__init__(store.root, store.access)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a range as it comes."""
        data = await self._read(key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)


def _span(wanted: ByteRequest | None) -> Span | None:
    if wanted is None:
        return None
    if isinstance(wanted, SuffixByteRequest):
        return -wanted.suffix, None
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    assert isinstance(wanted, RangeByteRequest)  # noqa: S101 (there are no other kinds)
    return wanted.start, wanted.end


def _told(wanted: ByteRequest) -> str:
    start, end = _span(wanted) or (0, None)
    return f"its last {-start} bytes" if start < 0 else f"its bytes {start} to {end}"


def _is_sound(data: bytes) -> bool:
    """Tell whether bytes end with the crc32c of the others."""
    return len(data) > 4 and struct.unpack("<I", data[-4:])[0] == google_crc32c.value(data[:-4])

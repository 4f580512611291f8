"""A store that tries again, within bounds.

Most clients retry what they expect to pass, and one gives up where the reply to a PUT is lost. Here every error of a
client is tried a few times within seconds; then one line says what to do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cloudsen12_cube.errors import RemoteError, without_secrets
from cloudsen12_cube.storage.store import ObjectInfo, StorageError, StoreWrapper

_ATTEMPTS = 5
_FIRST_WAIT = 0.2
_LAST_START = 60.0
"""Seconds after which nothing is tried again: an attempt may itself have waited for a silent server."""
_PERMANENT = (
    *("NoSuchBucket", "bucket does not exist", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
    "CERTIFICATE_VERIFY_FAILED",
)


@dataclass(frozen=True)
class RetryingStore(StoreWrapper):
    """Any store, each of whose requests is tried again; a `RemoteError` says that none succeeded."""

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        return self._retry("read", key, lambda: self.store.get(key, start, length, into))

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        created = self._retry("written", key, lambda: self.store.put(key, data, if_absent, sync))
        # Where the reply to a first attempt was lost, the next one finds its own object: it is known by its bytes.
        return created or self.get(key) == data

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        return self._retry("read", key, lambda: self.store.size(key))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._retry("removed", key, lambda: self.store.delete(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder; only the first page is tried again: the rest would come twice."""
        objects = self._retry("listed", prefix, lambda: _started(self.store.list(prefix)))
        try:
            yield from objects
        except StorageError as error:
            raise self._error("listed", prefix, error) from None

    def _retry[T](self, verb: str, key: str, request: Callable[[], T]) -> T:
        start = time.monotonic()
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except StorageError as error:
                late = attempt == _ATTEMPTS - 1 or time.monotonic() - start > _LAST_START
                if late or any(word in str(error) for word in _PERMANENT):
                    raise self._error(verb, key, error) from None
            time.sleep(_FIRST_WAIT * 2**attempt * random.uniform(0.7, 1.3))  # noqa: S311 (spreads clients, no secret)
        raise AssertionError("the last attempt returns or raises")

    def _error(self, verb: str, key: str, error: StorageError) -> RemoteError:
        if error.denied:
            way = "check the keys and their rights (--storage-option key=... and secret=..., profile=..., or anon=true)"
        else:
            way = "check the address, the bucket and the network, then run the same command again: it continues"
        place = f"{self.root}/{key}".rstrip("/")
        return RemoteError(without_secrets(f"{place} cannot be {verb} ({str(error).rstrip('.')}): {way}"))


def _started(objects: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Request the first page now."""
    return chain([first for first in [next(objects, None)] if first is not None], objects)

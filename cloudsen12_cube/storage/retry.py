"""A client that asks again, within bounds, and believes no bytes that it can check.

Most clients retry what they think may pass; none of them sees a byte that was flipped on the way, and one gives up
where the reply to a PUT is lost. Here every whole object is compared with the MD5 that a store states as its ETag, and
every trouble is tried a few times within seconds; then there is one line that says what to do.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache

from cloudsen12_cube.errors import RemoteError, without_secrets
from cloudsen12_cube.storage.config import StorageConfig, uses_obstore
from cloudsen12_cube.storage.fsspec_store import fsspec_objects
from cloudsen12_cube.storage.store import ExistsError, ObjectClient, Span, StorageError

_MD5 = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 5
_FIRST_WAIT = 0.2
_LAST_START = 60.0
"""Seconds after which nothing is tried again: an attempt may itself have waited for a silent server."""
_HOPELESS = (
    *("NoSuchBucket", "bucket does not exist", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
    "CERTIFICATE_VERIFY_FAILED",
)


class RetryingStore:
    """The objects under one root, as somebody sees them who has patience and doubts."""

    def __init__(self, url: str, access: StorageConfig) -> None:
        self.url, self.checks = url, access.etag_is_md5
        self.objects = open_objects(url, access)

    def get(self, key: str, span: Span | None = None) -> bytes | None:
        """Read an object or a part of it, or None if there is none.

        Raises
        ------
        RemoteError
            If that is not possible, or not with the right bytes.
        """

        def ask() -> bytes | None:
            got = self.objects.get(key, span)
            if got is None:
                return None
            self._check(got.data, got.etag, "came")
            return got.data

        return self._insist("read", key, ask)

    def put(self, key: str, data: bytes) -> None:
        """Write a whole object."""
        self._insist("written", key, lambda: self._check(data, self.objects.put(key, data), "arrived"))

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object; False if there is one with other bytes.

        Where a reply was lost, the next attempt finds its own object: it is known by its bytes.
        """
        with suppress(ExistsError):
            self._insist("written", key, lambda: self.objects.put(key, data, create=True))
        return self.get(key) == data

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None if there is none."""
        return self._insist("read", key, lambda: self.objects.size(key))

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        self._insist("removed", key, lambda: self.objects.delete(key))

    def listed(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield key and bytes of every object below a folder; what fails on its first page is tried again."""
        pages = self._insist("listed", prefix, lambda: _begun(self.objects.listed(prefix)))
        try:
            yield from pages
        except StorageError as error:
            raise RemoteError(self._told("listed", prefix, error)) from None

    def _check(self, data: bytes, etag: str, verb: str) -> None:
        if self.checks and _MD5.fullmatch(etag) and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag:
            raise StorageError(
                f"its {len(data)} bytes {verb} with another MD5 than its ETag states; if the bucket encrypts with keys "
                "of KMS, its ETags are none: add --storage-option etag_is_md5=false"
            )

    def _insist[T](self, what: str, key: str, ask: Callable[[], T]) -> T:
        start = time.monotonic()
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except StorageError as error:
                late = attempt == _ATTEMPTS - 1 or time.monotonic() - start > _LAST_START
                if late or any(word in str(error) for word in _HOPELESS):
                    raise RemoteError(self._told(what, key, error)) from None
            time.sleep(_FIRST_WAIT * 2**attempt * random.uniform(0.7, 1.3))  # noqa: S311 (no secret: who waits how long)
        raise AssertionError("the last attempt returns or raises")

    def _told(self, what: str, key: str, error: StorageError) -> str:
        if error.refused:
            way = "check the keys and their rights (--storage-option key=..., secret=..., or anon=true for none)"
        else:
            way = "check the address, the bucket and the network, then run the same command again: it continues"
        place = f"{self.url}/{key}".rstrip("/")
        return without_secrets(f"{place} cannot be {what} ({str(error).rstrip('.')}): {way}")


def _begun(pages: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Ask for the first entry now."""
    first = next(pages, None)

    def all_of_it() -> Iterator[tuple[str, int]]:
        if first is not None:
            yield first
            yield from pages

    return all_of_it()


def open_objects(url: str, access: StorageConfig) -> ObjectClient:
    """Open the client that serves a place."""
    if uses_obstore(url, access):
        from cloudsen12_cube.storage.obstore_store import ObstoreObjects

        return ObstoreObjects(url, access)
    return fsspec_objects(url, access)


def open_retrying(url: str, access: StorageConfig) -> RetryingStore:
    """Open the objects under a root, once a process: neither s3fs nor obstore survives a fork."""
    who = tuple(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_")))
    return _opened(url, access, (os.getpid(), who))


@lru_cache(maxsize=32)
def _opened(url: str, access: StorageConfig, process: tuple[int, tuple[tuple[str, str], ...]]) -> RetryingStore:
    del process
    return RetryingStore(url, access)

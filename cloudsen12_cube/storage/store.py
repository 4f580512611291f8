"""One object by its key: got, put, listed, deleted, by whichever client; nothing is retried or checked here.

Every client has its own errors. They become three: there is no such object (None), it is there already
(`ExistsError`), and everything else (`StorageError`), with the client's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Span = tuple[int, int | None]
"""First byte and one behind the last; (-n, None) is the last n."""

CONNECT_SECONDS, READ_SECONDS = 5, 20
"""Time to connect, and the longest silence within a reply."""


class ExistsError(Exception):
    """A new object was to be made where there is one."""


class StorageError(Exception):
    """The store did not do what it was asked for."""

    refused: bool = False
    """Whether it said that one may not."""


class RefusedError(StorageError):
    """The store said that this is not allowed."""

    refused = True


@dataclass(frozen=True)
class GetResult:
    """What a store gave."""

    data: bytes
    etag: str = ""
    """Without quotes; empty where the client does not tell."""


class ObjectClient(Protocol):
    """What a client can do with the objects under one root."""

    def get(self, key: str, span: Span | None = None) -> GetResult | None:
        """Read an object or a part of it, in one request."""

    def put(self, key: str, data: bytes, create: bool = False) -> str:
        """Write a whole object, in one request; return its ETag. With ``create`` only if there is none."""

    def size(self, key: str) -> int | None:
        """Bytes of an object."""

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and bytes of every object whose key begins with a prefix; -1 where the store does not tell."""


def trouble(error: BaseException) -> StorageError:
    """Translate a client's error; its first line is kept."""
    text = " ".join(str(error).split()) or type(error).__name__
    refused = isinstance(error, PermissionError) or "403" in text or "AccessDenied" in text or "Forbidden" in text
    return (RefusedError if refused else StorageError)(text[:300])

"""Objects by obstore. The only module that imports it, and only where it is installed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from cloudsen12_cube.errors import CubeError, without_secrets
from cloudsen12_cube.storage.checksum import check_etag
from cloudsen12_cube.storage.config import StorageConfig, obstore_settings
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.retry import RetryingStore
from cloudsen12_cube.storage.store import (
    CONNECT_SECONDS,
    READ_SECONDS,
    DeniedError,
    ObjectInfo,
    ObjectStore,
    StorageError,
    deliver,
    folder,
    refuse_fork,
    storage_error,
)

_RETRIES: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
}


def open_obstore(url: str, config: StorageConfig) -> ObstoreStore:
    """Open the bucket that an ``s3://`` URL names."""
    settings: Any = obstore_settings(config)
    client: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=READ_SECONDS),
        "timeout": timedelta(seconds=10 * READ_SECONDS),  # of a whole shard over a slow line
        "allow_http": str(settings.get("endpoint", "")).startswith("http://"),
    }
    try:
        store = S3Store.from_url(url, config=settings, client_options=client, retry_config=_RETRIES)
    except BaseError as error:
        raise CubeError(without_secrets(f"{url} cannot be opened ({_line(error)})")) from None
    return ObstoreStore(store, without_secrets(url), config.etag_is_md5)


def from_obstore(store: Any) -> ObjectStore:
    """Use a store that was opened by obstore; a folder is used as a path is, with flock and fsync."""
    if isinstance(store, obstore.store.LocalStore) and store.prefix:
        return LocalStore(str(store.prefix))
    bucket = (getattr(store, "config", None) or {}).get("bucket")
    root = f"{bucket or type(store).__name__}/{getattr(store, 'prefix', None) or ''}".rstrip("/")
    return RetryingStore(ObstoreStore(store, f"s3://{root}" if isinstance(store, S3Store) else root))


class ObstoreStore:
    """The objects of an obstore store under its prefix."""

    concurrency = 16
    atomic_create = True

    def __init__(self, client: Any, root: str, etag_is_md5: bool = True) -> None:
        self._client, self.root, self._etag_is_md5 = client, root, etag_is_md5
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[ObstoreStore], tuple[Any, str, bool]]:
        """Pickle what opens the store; another process opens a client of its own."""
        return type(self), (self._client, self.root, self._etag_is_md5)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObstoreStore) and bool(self._client == other._client)

    def __hash__(self) -> int:
        return hash(self.root)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        if start >= 0 and length is not None:
            data = self._call(lambda client: obstore.get_range(client, key, start=start, length=length))
            return None if data is None else deliver(data if into else bytes(data), into)
        options: Any = {"range": {"suffix": -start} if start < 0 else {"offset": start}} if start else None
        found = self._call(lambda client: _read(obstore.get(client, key, options=options)))
        if found is None:
            return None
        whole, etag = found
        if self._etag_is_md5 and not start:
            check_etag(whole, etag, "came")
        return deliver(whole, into)

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        del sync
        mode: Any = "create" if if_absent else "overwrite"
        try:
            reply = self._call(lambda client: obstore.put(client, key, data, mode=mode, use_multipart=False))
        except AlreadyExistsError:
            return False
        if reply and self._etag_is_md5:
            check_etag(data, reply.get("e_tag") or "", "arrived")
        return True

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        found = self._call(lambda client: obstore.head(client, key))
        return None if found is None else int(found["size"])

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        self._call(lambda client: obstore.delete(client, key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder."""
        batches = self._call(lambda client: iter(obstore.list(client, prefix=prefix or None)))
        while batches is not None and (batch := self._call(lambda _: next(batches, None))):
            strange = next((row["path"] for row in batch if not row["path"].startswith(folder(prefix))), None)
            if strange is not None:  # a listing has no checksum: a byte of it was flipped on the way
                raise StorageError(f"the listing of {prefix} has the key {strange}")
            yield from (ObjectInfo(row["path"], int(row["size"])) for row in batch)

    def _call[T](self, request: Callable[[Any], T]) -> T | None:
        """Send a request; None if the object does not exist."""
        refuse_fork(self.root, self._process)
        try:
            return request(self._client)
        except FileNotFoundError:
            return None
        except AlreadyExistsError:
            raise
        except Exception as error:
            raise _storage_error(error) from error


def _read(reply: Any) -> tuple[bytes, str]:
    return bytes(reply.bytes()), reply.meta.get("e_tag") or ""


_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
"""Codes of S3 that come with the status 400, as those of damaged requests do."""


def _storage_error(error: Exception) -> StorageError:
    line = _line(error)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or line.partition(":")[0] in _EXPIRED:
        return DeniedError(line)
    return storage_error(error, line)


def _line(error: BaseException) -> str:
    """Return the server's own words, else the client's, without what it tells a programmer."""
    text = " ".join(str(error).partition("Debug source:")[0].split())
    found = re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)(?:</Message>|$))?", text)
    if found:
        return f"{found[1]}: {found[2] or ''}".rstrip(": ")
    return text.rpartition(" - ")[2]

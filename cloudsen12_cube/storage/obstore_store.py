"""S3 by obstore. The only file that imports it, and only where it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.storage.config import StorageConfig, obstore_settings
from cloudsen12_cube.storage.store import (
    CONNECT_SECONDS,
    READ_SECONDS,
    ExistsError,
    GetResult,
    RefusedError,
    Span,
    StorageError,
    trouble,
)

_PATIENCE: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
}
_REFUSED = (PermissionDeniedError, UnauthenticatedError)


class ObstoreObjects:
    """The objects of a bucket under a prefix."""

    def __init__(self, url: str, access: StorageConfig) -> None:
        settings: Any = obstore_settings(access)
        client: Any = {
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=READ_SECONDS),
            "timeout": timedelta(seconds=10 * READ_SECONDS),  # of a whole shard over a slow line
            "allow_http": str(settings.get("endpoint", "")).startswith("http://"),
        }
        try:
            self.store = S3Store.from_url(url, config=settings, client_options=client, retry_config=_PATIENCE)
        except BaseError as error:
            raise CubeError(f"{url} cannot be opened ({_line(error)})") from None

    def get(self, key: str, span: Span | None = None) -> GetResult | None:
        """Read an object or a part of it."""
        try:
            if span and span[0] >= 0 and span[1] is not None:
                return GetResult(bytes(obstore.get_range(self.store, key, start=span[0], end=span[1])))
            options: Any = {"range": {"suffix": -span[0]} if span[0] < 0 else {"offset": span[0]}} if span else None
            reply = obstore.get(self.store, key, options=options)
            etag = "" if span else (reply.meta.get("e_tag") or "")
            return GetResult(bytes(reply.bytes()), etag.strip('"'))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _trouble(error) from error

    def put(self, key: str, data: bytes, create: bool = False) -> str:
        """Write a whole object."""
        mode: Any = "create" if create else "overwrite"
        try:
            reply = obstore.put(self.store, key, data, mode=mode, use_multipart=False)
        except AlreadyExistsError:
            raise ExistsError(key) from None
        except Exception as error:
            raise _trouble(error) from error
        return (reply.get("e_tag") or "").strip('"')

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        try:
            return int(obstore.head(self.store, key)["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _trouble(error) from error

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        try:
            obstore.delete(self.store, key)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _trouble(error) from error

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and bytes of every object below a folder."""
        try:
            for batch in obstore.list(self.store, prefix=prefix or None):
                yield from ((row["path"], int(row["size"])) for row in batch)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _trouble(error) from error


def _trouble(error: Exception) -> StorageError:
    return RefusedError(_line(error)) if isinstance(error, _REFUSED) else trouble(Exception(_line(error)))


def _line(error: BaseException) -> str:
    """Give the server's own words, else the client's, without what it tells a programmer."""
    text = " ".join(str(error).partition("Debug source:")[0].split())
    found = re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)(?:</Message>|$))?", text)
    if found:
        return f"{found[1]}: {found[2] or ''}".rstrip(": ")
    return text.rpartition(" - ")[2]

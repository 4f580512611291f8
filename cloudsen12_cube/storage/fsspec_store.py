"""Objects by fsspec: every file system that it knows, and S3 by s3fs with the ETags that fsspec would drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from inspect import signature
from typing import Any

from cloudsen12_cube.errors import CubeError, without_secrets
from cloudsen12_cube.storage.checksum import check_etag
from cloudsen12_cube.storage.config import StorageConfig, s3_options, scheme_of
from cloudsen12_cube.storage.store import CONNECT_SECONDS, READ_SECONDS, ObjectInfo, deliver, storage_error

_FURTHER = (
    "profile",
    "region",
    "region_name",
    "skip_instance_cache",
    "use_listings_cache",
    "listings_expiry_time",
    "max_paths",
)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def open_fsspec(url: str, config: StorageConfig) -> FsspecStore:
    """Open the file system that a URL names."""
    import fsspec  # takes as long to import as half of the package

    scheme = scheme_of(url)
    try:
        if scheme == "s3":
            _check_options(config)
            files = fsspec.filesystem("s3", skip_instance_cache=True, **_for_s3fs(config))
            files.retries = 2  # of its own; `RetryingStore` does the rest
            return S3fsStore(files, url, config.etag_is_md5)
        # The host of some schemes is an option, which fsspec reads from the URL.
        files, _ = fsspec.core.url_to_fs(url, **{"use_listings_cache": False} | config.options)
        return FsspecStore(files, url)
    except (ImportError, OSError, TypeError, ValueError) as error:  # TypeError: an option is missing or unknown
        raise CubeError(
            without_secrets(f"{url} cannot be opened ({error}): check the address and the storage options")
        ) from None


def _check_options(config: StorageConfig) -> None:
    """Refuse an option that s3fs would take and never use, such as ``anno=true``."""
    from s3fs import S3FileSystem

    known = [*signature(S3FileSystem.__init__).parameters, *_FURTHER]
    for name in config.options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise CubeError(f"no storage option {name!r} for s3://{f'; did you mean {near[0]!r}?' if near else ''}")


def _for_s3fs(config: StorageConfig) -> dict[str, Any]:
    """Options for s3fs: bounded waiting, and a file in one request instead of a HEAD and several."""
    options = s3_options(config)
    client = {"region_name": name} if (name := options.pop("region_name", options.pop("region", None))) else {}
    timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 1}}
    botocore = {**timeouts, **(options.pop("config_kwargs", None) or {})}
    common = {"max_concurrency": 1, "use_listings_cache": False, "config_kwargs": botocore}
    return {**common, "client_kwargs": client, **options}


class FsspecStore:
    """Any file system that fsspec knows. It holds an open client and stays in its process."""

    concurrency = 16

    def __init__(self, files: Any, url: str) -> None:
        self.files, self.root, self._base = files, without_secrets(url), files._strip_protocol(url)
        self._web = scheme_of(url) in ("http", "https")
        self.atomic_create = not self._web

    def path(self, key: str) -> str:
        """Return a key as the file system writes it."""
        return f"{self._base}/{key}" if key else str(self._base)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        part = (start, None if length is None else start + length) if start or length is not None else (None, None)
        data = _call(lambda: self.files.cat_file(self.path(key), start=part[0], end=part[1]))
        return None if data is None else deliver(_cut(data, start, length), into)

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        del sync
        try:
            self.files.pipe_file(self.path(key), data, mode="create" if if_absent else "overwrite")
        except FileExistsError:
            return False
        except NotImplementedError:
            raise CubeError(f"{self.path(key)}: nothing can be written there, it is read only") from None
        except Exception as error:
            raise storage_error(error) from error
        return True

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        found = _call(lambda: self.files.info(self.path(key))) or {"type": ""}
        return int(found["size"]) if found["type"] == "file" and found["size"] is not None else None

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        _call(lambda: self.files.rm_file(self.path(key)))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder."""
        loud = {"on_error": "raise"} if self._web else {}  # by default a server that does not answer lists nothing
        found = _call(lambda: self.files.find(self.path(prefix.rstrip("/")), detail=True, **loud)) or {}
        for path, about in found.items():
            size = about.get("size")
            if not path.endswith("/") and path != self._base:
                yield ObjectInfo(path[len(self._base) :].lstrip("/"), -1 if size is None else int(size))


class S3fsStore(FsspecStore):
    """S3 by s3fs. Its own calls are used where fsspec's would drop the ETag."""

    def __init__(self, files: Any, url: str, etag_is_md5: bool = True) -> None:
        super().__init__(files, url)
        self._etag_is_md5 = etag_is_md5

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        header = _range_header(start, length)
        found = _call(lambda: self._sync(self._get, self.path(key), header))
        if found is None:
            return None
        data, etag = found
        if self._etag_is_md5 and not header:
            check_etag(data, etag, "came")
        return deliver(data, into)

    async def _get(self, path: str, header: str) -> tuple[bytes, str]:
        bucket, key, _ = self.files.split_path(path)
        limits = {"Range": header} if header else {}
        reply = await self.files._call_s3("get_object", Bucket=bucket, Key=key, **limits)
        async with reply["Body"] as body:
            return await body.read(), reply.get("ETag", "")

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        del sync
        bucket, name, _ = self.files.split_path(self.path(key))
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            reply = self._sync(self.files._call_s3, "put_object", Bucket=bucket, Key=name, Body=data, **condition)
        except FileExistsError:
            return False
        except Exception as error:
            if "PreconditionFailed" in str(error) or "At least one of the pre-conditions" in str(error):
                return False
            raise storage_error(error) from error
        if self._etag_is_md5:
            check_etag(data, str(reply.get("ETag", "")), "arrived")
        return True

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, by one HEAD; for a missing object fsspec would list the bucket."""
        bucket, name, _ = self.files.split_path(self.path(key))
        reply = _call(lambda: self._sync(self.files._call_s3, "head_object", Bucket=bucket, Key=name))
        return None if reply is None else int(reply["ContentLength"])

    def _sync(self, function: Any, *args: Any, **named: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.files.loop, function, *args, **named)


def _call[T](request: Callable[[], T]) -> T | None:
    """Send a request; None if the object does not exist."""
    try:
        return request()
    except _MISSING:
        return None
    except Exception as error:
        raise storage_error(error) from error


def _range_header(start: int, length: int | None) -> str:
    if start < 0:
        return f"bytes={start}"
    if length is None:
        return f"bytes={start}-" if start else ""
    return f"bytes={start}-{start + length - 1}"


def _cut(data: bytes, start: int, length: int | None) -> bytes:
    """Cut the range out of a whole object: some web servers do not support ranges."""
    if start < 0:
        return data[start:]
    if length is None:
        return data
    return data if len(data) <= length else data[start : start + length]

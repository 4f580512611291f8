"""Objects by fsspec: every file system that it knows, and S3 by s3fs with the ETags that fsspec would drop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.storage.config import StorageConfig, s3_options, scheme_of
from cloudsen12_cube.storage.store import CONNECT_SECONDS, READ_SECONDS, ExistsError, GetResult, Span, trouble

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def fsspec_objects(url: str, access: StorageConfig) -> FsspecObjects:
    """Open the file system that a URL names."""
    import fsspec  # takes as long to import as half of the package

    scheme = scheme_of(url)
    try:
        if scheme == "s3":
            files = fsspec.filesystem("s3", skip_instance_cache=True, **_for_s3fs(access))
            files.retries = 2  # of its own; the rest is ours
            return S3fsObjects(files, url)
        return FsspecObjects(fsspec.filesystem(scheme, use_listings_cache=False, **access.options), url)
    except (ImportError, ValueError) as error:
        raise CubeError(f"{url} cannot be opened ({error})") from None


def _for_s3fs(access: StorageConfig) -> dict[str, Any]:
    """Options for s3fs: patience has its bounds, and a file is one request, not a HEAD and several."""
    options = s3_options(access)
    client = {"region_name": name} if (name := options.pop("region_name", options.pop("region", None))) else {}
    timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 1}}
    config = {**timeouts, **(options.pop("config_kwargs", None) or {})}
    common = {"max_concurrency": 1, "use_listings_cache": False, "config_kwargs": config}
    return {**common, "client_kwargs": client, **options}


class FsspecObjects:
    """Any file system that fsspec knows."""

    def __init__(self, files: Any, url: str) -> None:
        self.files, self.root = files, files._strip_protocol(url)
        self._loud = {"on_error": "raise"} if scheme_of(url) in ("http", "https") else {}  # or no host is an empty one

    def path(self, key: str) -> str:
        """Give a key as the file system writes it."""
        return f"{self.root}/{key}" if key else str(self.root)

    def get(self, key: str, span: Span | None = None) -> GetResult | None:
        """Read an object or a part of it."""
        start, end = span or (None, None)
        try:
            data: bytes = self.files.cat_file(self.path(key), start=start, end=end)
        except _MISSING:
            return None
        except Exception as error:
            raise trouble(error) from error
        return GetResult(_cut(data, span))

    def put(self, key: str, data: bytes, create: bool = False) -> str:
        """Write a whole object."""
        try:
            self.files.pipe_file(self.path(key), data, mode="create" if create else "overwrite")
        except FileExistsError:
            raise ExistsError(key) from None
        except NotImplementedError:
            raise CubeError(f"{self.path(key)}: nothing can be written there, it is read only") from None
        except Exception as error:
            raise trouble(error) from error
        return ""

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        try:
            found = self.files.info(self.path(key))
        except _MISSING:
            return None
        except Exception as error:
            raise trouble(error) from error
        return int(found["size"]) if found["type"] == "file" and found["size"] is not None else None

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        try:
            self.files.rm_file(self.path(key))
        except _MISSING:
            return
        except Exception as error:
            raise trouble(error) from error

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and bytes of every object below a folder."""
        try:
            found = self.files.find(self.path(prefix.rstrip("/")), detail=True, **self._loud)
        except _MISSING:
            return
        except Exception as error:
            raise trouble(error) from error
        for path, about in found.items():
            size = about.get("size")
            if not path.endswith("/") and path != self.root:
                yield path[len(self.root) :].lstrip("/"), -1 if size is None else int(size)


class S3fsObjects(FsspecObjects):
    """S3 by s3fs. Its own calls are used where fsspec's would drop the ETag."""

    def get(self, key: str, span: Span | None = None) -> GetResult | None:
        """Read an object or a part of it."""
        try:
            got: GetResult = self._sync(self._get, self.path(key), span)
            return got
        except _MISSING:
            return None
        except Exception as error:
            raise trouble(error) from error

    async def _get(self, path: str, span: Span | None) -> GetResult:
        bucket, key, _ = self.files.split_path(path)
        limits = {"Range": _header(span)} if span else {}
        reply = await self.files._call_s3("get_object", BucketStore=bucket, Key=key, **limits)
        async with reply["Body"] as body:
            return GetResult(await body.read(), "" if span else reply.get("ETag", "").strip('"'))

    def put(self, key: str, data: bytes, create: bool = False) -> str:
        """Write a whole object."""
        try:
            reply = self._sync(self._put, self.path(key), data, create)
        except FileExistsError:
            raise ExistsError(key) from None
        except Exception as error:
            if "PreconditionFailed" in str(error) or "At least one of the pre-conditions" in str(error):
                raise ExistsError(key) from None
            raise trouble(error) from error
        return str(reply.get("ETag", "")).strip('"')

    async def _put(self, path: str, data: bytes, create: bool) -> Any:
        bucket, key, _ = self.files.split_path(path)
        condition = {"IfNoneMatch": "*"} if create else {}
        return await self.files._call_s3("put_object", BucketStore=bucket, Key=key, Body=data, **condition)

    def size(self, key: str) -> int | None:
        """Bytes of an object: one HEAD, where fsspec would list when there is none."""
        try:
            bucket, name, _ = self.files.split_path(self.path(key))
            return int(self._sync(self.files._call_s3, "head_object", BucketStore=bucket, Key=name)["ContentLength"])
        except _MISSING:
            return None
        except Exception as error:
            raise trouble(error) from error

    def _sync(self, function: Any, *args: Any, **named: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.files.loop, function, *args, **named)


def _header(span: Span) -> str:
    start, end = span
    return f"bytes={start}" if start < 0 else f"bytes={start}-{'' if end is None else end - 1}"


def _cut(data: bytes, span: Span | None) -> bytes:
    """Take the part out of a whole object: some web servers know no ranges."""
    if span is None:
        return data
    start, end = span
    wanted = -start if start < 0 else len(data) if end is None else end - start
    return data if len(data) <= wanted else data[start:end]

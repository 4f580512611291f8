"""Byte ranges of a cube's objects: from a local disk, from S3, or from anything else that fsspec knows.

A local object is opened for every read: it costs some ten microseconds, the decoding of what is read some thousand. A
remote one is asked for in ranges, by as many threads at a time as the caller has, which hides the time of a request.
S3 goes through obstore where that is installed: a request costs a third of the processor time that s3fs takes for it.
"""

from __future__ import annotations

import os
from collections.abc import Buffer, Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import fsspec


class Arena:
    """Memory of one thread for what it reads and decodes at once; fresh memory for each read costs a twentieth more."""

    def __init__(self) -> None:
        self._memory, self._used = memoryview(bytearray()), 0

    def take(self, length: int) -> memoryview:
        """Give memory that nobody else is given until `reset`."""
        if self._used + length > len(self._memory):
            self._memory, self._used = memoryview(bytearray(2 * (len(self._memory) + length))), 0
        self._used += length
        return self._memory[self._used - length : self._used]

    def reset(self) -> None:
        """Let all that was given be given again."""
        self._used = 0


class Objects(Protocol):
    """A place with objects."""

    remote: bool
    """Whether a request takes so long that many should be under way."""

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object; into the arena's memory, if that spares a copy."""

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object; FileNotFoundError if there is none."""

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""


class LocalObjects:
    """A folder."""

    remote = False

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object."""
        data = arena.take(length) if arena else memoryview(bytearray(length))
        handle = os.open(os.path.join(self.root, key), os.O_RDONLY)
        try:
            return data[: os.preadv(handle, [data], start)]
        finally:
            os.close(handle)

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object."""
        with open(os.path.join(self.root, key), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - length, 0))
            return file.read()

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""
        try:
            with open(os.path.join(self.root, key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


class RemoteObjects:
    """A URL that fsspec knows. Each process makes its own connections."""

    remote = True

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url, self.storage_options = url, dict(storage_options or {})
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connections behind: they belong to a process."""
        return {"url": self.url, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew in another process."""
        self.__dict__ = state | {"_process": os.getpid()}

    def _same_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.url} was opened before this process was forked, and its connections do not survive that: "
                "start worker processes with multiprocessing_context='spawn', or use no workers"
            )

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.url, **self.storage_options)
        return fs, root

    def _cat(self, key: str, start: int | None, end: int | None) -> Buffer:
        """Read a range; its end (a negative start, no end); or, with neither, the whole."""
        self._same_process()
        fs, root = self._place
        data: bytes = fs.cat_file(f"{root}/{key}", start=start, end=end)
        return data

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        """Read a range of an object."""
        del arena  # what comes over a network has memory of its own
        return self._cat(key, start, start + length)

    def tail(self, key: str, length: int) -> bytes:
        """Read the end of an object."""
        return bytes(self._cat(key, -length, None))

    def get(self, key: str) -> bytes | None:
        """Read a whole object, or None if there is none."""
        try:
            return bytes(self._cat(key, None, None))
        except FileNotFoundError:
            return None


class S3Objects(RemoteObjects):
    """A bucket, through obstore; the options are those of s3fs."""

    @cached_property
    def _store(self) -> Any:
        import obstore.store

        return obstore.store.from_url(self.url, **s3_settings(self.storage_options))

    def _cat(self, key: str, start: int | None, end: int | None) -> Buffer:
        import obstore

        self._same_process()
        if start is not None and end is not None:
            part: Buffer = obstore.get_range(self._store, key, start=start, end=end)
            return part
        options = {} if start is None else {"range": {"suffix": -start}}
        found: Buffer = obstore.get(self._store, key, options=options).bytes()
        return found


_S3_OPTIONS = {"key", "secret", "token", "anon", "endpoint_url", "client_kwargs"}


def s3_settings(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Say in obstore's words what the options of s3fs say."""
    given = {**storage_options.get("client_kwargs", {}), **storage_options}
    endpoint = given.get("endpoint_url")
    settings = {
        "access_key_id": given.get("key"),
        "secret_access_key": given.get("secret"),
        "session_token": given.get("token"),
        "endpoint": endpoint,
        "region": given.get("region_name") or os.environ.get("AWS_REGION", "us-east-1"),
        "skip_signature": True if given.get("anon") else None,
        "client_options": {"allow_http": True} if str(endpoint).startswith("http://") else None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _obstore_can(storage_options: Mapping[str, Any]) -> bool:
    """Whether obstore is there and understands the options; keys in a profile's file only s3fs finds."""
    known = storage_options.keys() <= _S3_OPTIONS
    allowed = storage_options.get("anon") or "key" in storage_options or "AWS_ACCESS_KEY_ID" in os.environ
    return bool(known and allowed and find_spec("obstore"))


def open_objects(place: str, storage_options: Mapping[str, Any] | None = None) -> Objects:
    """Open the place of a cube: a path, or a URL that fsspec knows."""
    if "://" not in place:
        return LocalObjects(place)
    if place.startswith(("file://", "local://")):
        return LocalObjects(place.partition("://")[2])
    if place.startswith("s3://") and _obstore_can(storage_options or {}):
        return S3Objects(place, storage_options)
    return RemoteObjects(place, storage_options)

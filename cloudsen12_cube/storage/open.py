"""One function that turns every way to name a location into an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from cloudsen12_cube.errors import without_secrets
from cloudsen12_cube.storage.config import NOTHING, StorageConfig, Url, clean, is_url, storage_config, uses_obstore
from cloudsen12_cube.storage.fsspec_store import open_fsspec
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.retry import RetryingStore
from cloudsen12_cube.storage.store import ObjectInfo, ObjectStore, StoreWrapper, refuse_fork

_METHODS = ("get", "put", "size", "delete", "list", "atomic_create")
_ALLOWED = (
    "a path, a URL, a cloudsen12_cube.Url, a UPath, a zarr store, an obstore store or the store of an Icechunk session"
)


@dataclass(frozen=True)
class UrlStore:
    """A URL with its options. It holds no open client: each process opens its own, and retries what fails."""

    url: str
    config: StorageConfig = NOTHING
    _process: int = field(default_factory=lambda: os.getpid(), init=False, compare=False)
    concurrency = 16

    def __reduce__(self) -> tuple[type[UrlStore], tuple[str, StorageConfig]]:
        """Pickle the address and its options; another process opens a store of its own."""
        return type(self), (self.url, self.config)

    def __repr__(self) -> str:
        return f"UrlStore({self.root!r})"

    @cached_property  # it is read at each request
    def root(self) -> str:
        """The URL without user information and query: what messages and trees show."""
        return without_secrets(self.url)

    @property
    def atomic_create(self) -> bool:
        """Whether an object can be created atomically: not by http."""
        return self._client().atomic_create

    def _client(self) -> ObjectStore:
        refuse_fork(self.root, self._process)
        # Keys in the environment belong to the client: a test, or a notebook, may change them.
        keys = tuple(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_")))
        return _open_client(self.url, self.config, self._process, keys)

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        """Read an object or a range of it."""
        return self._client().get(key, start, length, into)

    def put(self, key: str, data: bytes, if_absent: bool = False, sync: bool = True) -> bool:
        """Write a whole object."""
        return self._client().put(key, data, if_absent, sync)

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        return self._client().size(key)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._client().delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a folder."""
        return self._client().list(prefix)


@lru_cache(maxsize=32)
def _open_client(url: str, config: StorageConfig, process: int, keys: tuple[tuple[str, str], ...]) -> ObjectStore:
    del process, keys  # a forked process, or other keys, need another client
    if uses_obstore(url, config):
        from cloudsen12_cube.storage.obstore_store import open_obstore  # obstore is an optional dependency

        return RetryingStore(open_obstore(url, config))
    return RetryingStore(open_fsspec(url, config))


def parent_store(store: ObjectStore) -> tuple[ObjectStore, str] | None:
    """Return the store of the folder in which the root of a store lies, and the name of the root in it.

    Parameters
    ----------
    store : ObjectStore
        Of a path or a URL.

    Returns
    -------
    (ObjectStore, str) or None
        None for a store that the caller opened: what is above its root cannot be reached.
    """
    if not isinstance(store, LocalStore | UrlStore):
        return None
    place = store.url if isinstance(store, UrlStore) else store.root.replace(os.sep, "/")
    above, _, name = place.rstrip("/").rpartition("/")
    return _open_text(above or ("/" if place.startswith("/") else "."), getattr(store, "config", NOTHING)), name


def root_of(place: Any) -> str:
    """Write a location as text: a path, or a URL without its options.

    Parameters
    ----------
    place : object
        Any location that `open_store` takes.
    """
    return open_store(place).root


def open_store(place: Any) -> ObjectStore:
    """Turn a location into an object store; nothing is read.

    Parameters
    ----------
    place : str, os.PathLike, Url, UPath, zarr.abc.store.Store, obstore store or ObjectStore
        A path (``~`` is the home directory), ``file://`` or another URL, alone or with its options, or an opened store.
        The store of an Icechunk session (``session.store``) is a zarr store. An ObjectStore is returned as it is.

    Returns
    -------
    ObjectStore

    Raises
    ------
    TypeError
        If it is anything else.
    """
    if isinstance(place, StoreWrapper) or all(hasattr(place, name) for name in _METHODS):
        return place  # type: ignore[no-any-return]  # an ObjectStore
    if isinstance(place, (str, Url)):
        return _open_text(clean(place), storage_config(place))
    modules = {cls.__module__.partition(".")[0] for cls in type(place).__mro__}
    if "zarr" in modules:
        from cloudsen12_cube.storage.zarr_store import from_zarr  # half a second: not for those who give a path

        return from_zarr(place)
    if "obstore" in modules:
        from cloudsen12_cube.storage.obstore_store import from_obstore  # an optional dependency

        return from_obstore(place)
    if "upath" in modules:
        options = dict(place.storage_options)
        return _open_text(clean(str(place)), StorageConfig.of(options) if options else NOTHING)
    if isinstance(place, os.PathLike):
        return _open_text(clean(place), NOTHING)
    found = repr(place).partition("\n")[0]  # that of a DataTree, which is opened from a location, is long
    raise TypeError(f"{found} is no location ({type(place).__name__}): give {_ALLOWED}")


def _open_text(place: str, config: StorageConfig) -> ObjectStore:
    return UrlStore(place, config) if is_url(place) else LocalStore(place)

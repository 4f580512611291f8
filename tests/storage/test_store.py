"""One protocol over every store: a disk, file systems of fsspec, obstore, zarr stores, and real S3 by both clients."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import numpy as np
import obstore.store
import pytest
import zarr.storage
from botocore.exceptions import ClientError
from buckets import private
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import GenericError, PermissionDeniedError
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError, DestinationError, ReadError, RemoteError, StoreError
from cloudsen12_cube.storage import LocalStore, ObjectStore, is_empty, list_names, list_once, open_store, write_lock
from cloudsen12_cube.storage import retry as retrying
from cloudsen12_cube.storage.lock import LockNote
from cloudsen12_cube.storage.obstore_store import ObstoreStore
from cloudsen12_cube.storage.open import UrlStore, parent_store
from cloudsen12_cube.storage.retry import RetryingStore
from cloudsen12_cube.storage.store import StorageError, StoreWrapper, storage_error
from cloudsen12_cube.storage.zarr_store import ZarrBackedStore, ZarrView

WRITABLE = (
    *("path", "file URL", "memory URL", "s3 by obstore", "s3 by fsspec"),
    *("obstore memory", "obstore folder", "zarr LocalStore", "zarr ObjectStore", "zarr MemoryStore"),
)
READABLE = ("zarr ZipStore", "zarr FsspecStore", "zarr LoggingStore", "read-only MemoryStore")
OBJECTS = {"zarr.json": b"{}", "a/b/c": bytes(range(200)), "a/b/d": b"d", "a/bb": b"bb", "empty": b""}


def place_of(kind: str, folder: Path, endpoint: str) -> Any:
    """Name a new location of a kind, in the way in which users name it."""
    name = uuid4().hex
    folder = folder / name
    if kind.startswith("s3"):
        return private(name, endpoint, "obstore" if kind.endswith("obstore") else "fsspec")
    if kind == "obstore folder":
        folder.mkdir()
    return {
        "path": lambda: folder,
        "file URL": lambda: f"file://{folder}",
        "memory URL": lambda: f"memory://{name}",
        "obstore memory": obstore.store.MemoryStore,
        "obstore folder": lambda: obstore.store.LocalStore(prefix=folder),
        "zarr LocalStore": lambda: zarr.storage.LocalStore(folder),
        "zarr ObjectStore": lambda: zarr.storage.ObjectStore(obstore.store.MemoryStore()),
        "zarr MemoryStore": zarr.storage.MemoryStore,
    }[kind]()


@pytest.fixture(scope="module", params=WRITABLE)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def endpoint(kind: str, request: pytest.FixtureRequest) -> str:
    """The S3 server, started only where a store is in it."""
    return str(request.getfixturevalue("s3")) if kind.startswith("s3") else ""


@pytest.fixture
def store(kind: str, endpoint: str, tmp_path: Path) -> ObjectStore:
    return open_store(place_of(kind, tmp_path, endpoint))


@pytest.fixture(scope="module")
def filled(kind: str, endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    made = open_store(place_of(kind, tmp_path_factory.mktemp("filled"), endpoint))
    for key, data in OBJECTS.items():
        made.put(key, data)
    return made


def test_what_is_put_is_got_and_listed(filled: ObjectStore) -> None:
    assert {key: filled.get(key) for key in OBJECTS} == OBJECTS
    assert {key: filled.size(key) for key in OBJECTS} == {key: len(data) for key, data in OBJECTS.items()}
    assert sorted(info.key for info in filled.list()) == sorted(OBJECTS)
    assert all(info.size in (-1, len(OBJECTS[info.key])) and not info.outside for info in filled.list())
    for prefix in ("a/b", "a/b/"):
        assert sorted(info.key for info in filled.list(prefix)) == ["a/b/c", "a/b/d"]
        assert list_names(filled, prefix) == ["c", "d"]
    assert list_names(filled, "a") == ["bb"]
    assert list(filled.list("no")) == []


def test_what_is_not_there_is_none(filled: ObjectStore) -> None:
    for key in ("no", "a/b", "a/b/c/d", "zarr.json/x"):
        assert filled.get(key) is None
        assert filled.get(key, -5) is None
        assert filled.get(key, 2, 3) is None
    assert filled.size("no") is None
    filled.delete("no")


@settings(max_examples=25)
@given(start=st.integers(-250, 199), length=st.none() | st.integers(1, 250), into=st.booleans())
def test_ranges(filled: ObjectStore, start: int, length: int | None, into: bool) -> None:
    data = OBJECTS["a/b/c"]
    length = None if start < 0 else length  # a suffix ends with the object
    first = max(len(data) + start, 0) if start < 0 else start
    expected = data[first:] if length is None else data[first : first + length]
    memory = memoryview(bytearray(300)) if into else None
    found = filled.get("a/b/c", start, length, memory)
    assert found is not None
    assert bytes(found) == expected
    if memory is not None:
        assert bytes(memory[: len(expected)]) == expected  # where the caller wants it
        assert bytes(memory[len(expected) :]) == bytes(300 - len(expected))


def test_objects_are_replaced_created_once_and_deleted(store: ObjectStore) -> None:
    assert is_empty(store)
    assert store.put("a/b", b"old")
    assert store.put("a/b", b"new!", sync=False)
    assert store.get("a/b") == b"new!"
    assert not store.put("a/b", b"other", if_absent=True)
    assert store.put("a/c", b"first", if_absent=True)
    assert (store.get("a/b"), store.get("a/c")) == (b"new!", b"first")
    store.delete("a/b")
    store.delete("a/b")
    assert (store.get("a/b"), store.size("a/b")) == (None, None)
    assert not is_empty(store)
    store.delete("a/c")
    assert is_empty(store)


def test_one_of_many_creates(store: ObjectStore) -> None:
    barrier, won = threading.Barrier(8), []

    def create(number: int) -> None:
        barrier.wait()
        if store.put("lock", b"%d" % number, if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("lock") == b"%d" % won[0]
    assert len(won) == 1


def test_a_listed_store_asks_for_nothing_that_is_not_there(filled: ObjectStore) -> None:
    listed = list_once(filled)
    assert {key: (listed.get(key), listed.size(key)) for key in OBJECTS} == {k: (v, len(v)) for k, v in OBJECTS.items()}
    assert (listed.get("no"), listed.size("no")) == (None, None)
    assert sorted(info.key for info in listed.list("a/b")) == ["a/b/c", "a/b/d"]
    assert listed.get("a/b/c", -3) == OBJECTS["a/b/c"][-3:]


def test_the_lock_of_writers(store: ObjectStore) -> None:
    with write_lock(store), pytest.raises(DestinationError, match="is writing"), write_lock(store):
        pass
    first, second = write_lock(store, shared=True), write_lock(store, shared=True)
    with first, second, pytest.raises(DestinationError, match="is writing"), write_lock(store):
        pass
    assert list(store.list()) == []


def test_what_travels_is_a_description(kind: str, store: ObjectStore) -> None:
    if kind == "zarr MemoryStore":
        with pytest.raises(CubeError, match="is in the memory of one process"):
            pickle.dumps(store)
        return
    if kind in ("obstore memory", "zarr ObjectStore"):
        return  # obstore says itself that its memory does not travel
    store.put("a", b"1")
    sent = pickle.dumps(store)
    assert pickle.loads(sent).get("a") == b"1"  # noqa: S301 (our own)
    assert pickle.loads(pickle.dumps(list_once(store))) == store  # noqa: S301 (without the listing)


def test_a_relative_path_travels_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(open_store("c.zarr"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).root == str(tmp_path / "c.zarr")  # noqa: S301 (our own)


# ---- every way to name a location


@dataclass(frozen=True)
class FakeUPath:
    """What a UPath has; universal_pathlib itself is not needed to take one."""

    text: str
    storage_options: dict[str, Any]

    def __str__(self) -> str:
        return self.text


FakeUPath.__module__ = "upath.implementations.cloud"


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("a/b") == LocalStore("a/b")
    for home in ("~/c.zarr", Path("~/c.zarr"), PurePosixPath("~/c.zarr"), f"file://{tmp_path}/c.zarr"):
        assert open_store(home) == LocalStore(str(tmp_path / "c.zarr"))
    assert open_store("s3://b/c.zarr/") == UrlStore("s3://b/c.zarr")
    named = open_store(c12.Url("s3://b/c.zarr", {"anon": True}, "fsspec"))
    assert isinstance(named, UrlStore)
    assert (named.config.options, named.config.client) == ({"anon": True}, "fsspec")
    upath = open_store(FakeUPath("s3://b/c.zarr", {"anon": True}))
    assert isinstance(upath, UrlStore)
    assert upath.config.options == {"anon": True}
    assert open_store(zarr.storage.LocalStore(tmp_path)) == LocalStore(str(tmp_path))
    inner = open_store(obstore.store.S3Store("b", prefix="p", region="eu-west-1"))
    assert inner.root == "s3://b/p"
    for again in (named, inner, LocalStore("a"), list_once(open_store(zarr.storage.MemoryStore()))):
        assert open_store(again) is again


@pytest.mark.parametrize("strange", [3, None, b"c.zarr", ["c.zarr"], {"url": "c.zarr"}, object()])
def test_what_is_no_location_is_refused(strange: object) -> None:
    with pytest.raises(TypeError, match=r"give a path, a URL, .* a zarr store, .* Icechunk"):
        open_store(strange)


def test_the_folder_above() -> None:
    assert parent_store(LocalStore("/a/b.zarr")) == (LocalStore("/a"), "b.zarr")
    assert parent_store(LocalStore("/b.zarr")) == (LocalStore("/"), "b.zarr")
    assert parent_store(LocalStore("b.zarr")) == (LocalStore("."), "b.zarr")
    assert parent_store(UrlStore("s3://b/c")) == (UrlStore("s3://b"), "c")
    assert parent_store(open_store(zarr.storage.MemoryStore())) is None


# ---- stores that are read


def read_only(kind: str, folder: Path) -> Any:
    """Put the objects into a zarr store that is only read here."""
    files = zarr.storage.LocalStore(folder / "files")
    for key, data in OBJECTS.items():
        open_store(files).put(key, data)
    if kind == "zarr ZipStore":
        import zipfile

        with zipfile.ZipFile(folder / "c.zip", "w") as zipped:
            for key, data in OBJECTS.items():
                zipped.writestr(key, data)
        return zarr.storage.ZipStore(folder / "c.zip", mode="r")
    if kind == "zarr FsspecStore":
        return zarr.storage.FsspecStore.from_url(f"file://{folder / 'files'}")
    if kind == "zarr LoggingStore":
        return zarr.storage.LoggingStore(files)
    return files.with_read_only(True)


@pytest.mark.parametrize("kind", READABLE)
def test_other_zarr_stores_are_read(kind: str, tmp_path: Path) -> None:
    store = open_store(read_only(kind, tmp_path))
    assert sorted(info.key for info in store.list()) == sorted(OBJECTS)
    assert {key: store.get(key) for key in OBJECTS} == OBJECTS
    assert {key: list_once(store).size(key) for key in OBJECTS} == {key: len(data) for key, data in OBJECTS.items()}
    assert store.get("a/b/c", -3) == OBJECTS["a/b/c"][-3:]
    assert store.get("a/b/c", 5, 3) == OBJECTS["a/b/c"][5:8]
    assert store.get("no") is None
    for write in (lambda: store.put("x", b""), lambda: store.delete("empty"), lambda: write_lock(store).__enter__()):
        with pytest.raises(DestinationError, match=r"read-only here.* give the path or the URL of the cube"):
            write()


def test_a_cube_in_a_zarr_store_is_converted_and_opened(archive: Path, cube: Path) -> None:
    memory = zarr.storage.MemoryStore()
    assert c12.convert(archive, memory, ["s1"], options=c12.Options(workers=0)).exit_code == 0
    again = c12.convert(archive, memory, ["s1"], options=c12.Options(workers=0))
    assert (again.written, again.skipped) == (0, 4)
    pixels = zarr.open_group(memory, mode="r")["s1/s1"][...]
    np.testing.assert_array_equal(pixels, c12.open_cube(cube)["s1"]["s1"].values)


# ---- what goes wrong


class _Failing(StoreWrapper):
    """Fails a number of times, then passes on."""

    left = 2

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        if self.left:
            object.__setattr__(self, "left", self.left - 1)
            raise StorageError("busy")
        return super().get(key, start, length, into)


def test_any_store_can_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_WAIT", 0.001)
    LocalStore(str(tmp_path)).put("a", b"1")
    assert RetryingStore(_Failing(LocalStore(str(tmp_path)))).get("a") == b"1"
    failing = _Failing(LocalStore(str(tmp_path)))
    object.__setattr__(failing, "left", 9)
    with pytest.raises(RemoteError, match=r"a cannot be read \(busy\): check the address"):
        RetryingStore(failing).get("a")


class _Flipping(StoreWrapper):
    """Flips a byte of every range but the third."""

    asked = 0

    def get(self, key: str, start: int = 0, length: int | None = None, into: memoryview | None = None) -> Any:
        del into
        object.__setattr__(self, "asked", self.asked + 1)
        data = bytearray(super().get(key, start, length))
        data[0] ^= self.asked != 3
        return bytes(data)


def test_what_does_not_pass_the_check_is_read_again(tmp_path: Path) -> None:
    local = LocalStore(str(tmp_path))
    local.put("a", b"before0123456789")

    def check(key: str, data: bytes, part: str) -> str:
        return "" if key == "a" and data.endswith(b"0123456789") else f"as a {part}"

    def read(store: Any, wanted: Any) -> bytes:
        return asyncio.run(ZarrView(store, check).get("a", default_buffer_prototype(), wanted)).to_bytes()  # type: ignore[union-attr]

    for wanted in (SuffixByteRequest(10), RangeByteRequest(6, 16), OffsetByteRequest(6)):
        assert read(_Flipping(local), wanted) == b"0123456789"
    with pytest.raises(
        StoreError,
        match=r"a is damaged \(as a range\): read again, and if that stays, run the same convert with --repair",
    ):
        read(local, RangeByteRequest(0, 7))


def test_a_lock_of_tomorrow_has_no_negative_age() -> None:
    """The clock has gone back since, or is another machine's."""
    note = LockNote("run", "host", "boot", 1, (datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert str(note).endswith(", 0 min ago")


def client_error(status: int, code: str) -> ClientError:
    reply: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, "GetObject")


class _StatusError(Exception):
    def __init__(self, **codes: object) -> None:
        super().__init__("s3://b/ROI_0403/403.tif")
        self.__dict__ |= codes


LISTING = "Generic S3 error: Error performing list request: ... Server returned non-2xx status code: {}: "


@pytest.mark.parametrize(
    ("error", "denied"),
    [
        (TimeoutError("reading s3://b/high/ROI_0403/S1.tif timed out"), False),
        (OSError(errno.EIO, "Forbidden planet, AccessDenied.tif, 403"), False),
        (GenericError("Generic S3 error: connection reset by s3://b/ROI_0403"), False),
        (GenericError(LISTING.format("503 Service Unavailable") + "ROI_0403"), False),
        (_StatusError(status=503), False),
        (client_error(503, "SlowDown"), False),
        (PermissionError("no"), True),
        (PermissionDeniedError("no"), True),
        (client_error(403, "AccessDenied"), True),
        (GenericError(LISTING.format("403 Forbidden")), True),
        (_StatusError(status=403), True),
        (_StatusError(status_code=401), True),
        (_StatusError(code="403"), True),
    ],
)
def test_a_lack_of_rights_is_known_by_type_or_status(error: Exception, denied: bool) -> None:
    from cloudsen12_cube.storage.obstore_store import _storage_error

    assert storage_error(error).denied is (denied and not isinstance(error, PermissionDeniedError))
    assert _storage_error(error).denied is denied


def test_a_time_out_that_names_403_is_no_lack_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end: nobody listens at the endpoint, and the key holds the digits."""
    monkeypatch.setattr(retrying, "_ATTEMPTS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = open_store(c12.Url("s3://b/ROI_0403", {"anon": True, "endpoint_url": nobody}, "fsspec"))
        with pytest.raises(RemoteError, match="check the address"):
            store.get("403/AccessDenied.tif")


def test_local_files_that_cannot_be_read(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match=r"pipe cannot be read \(no regular file\)"):
        store.get("pipe")
    error = pickle.loads(pickle.dumps(ReadError("/x", "it is broken")))  # noqa: S301 (our own)
    assert (str(error), error.reason, error.strerror) == (str(ReadError("/x", "it is broken")), *["it is broken"] * 2)
    assert isinstance(error, OSError)


def test_links_are_followed_inside_the_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"1")
    (root / "inside").symlink_to("a")
    (root / "a" / "circle").symlink_to("..")
    (tmp_path / "secret").write_bytes(b"2")
    (root / "outside").symlink_to(tmp_path / "secret")
    found = {info.key: (info.size, info.outside) for info in LocalStore(str(root)).list()}
    assert found == {"a/x": (1, False), "inside/x": (1, False), "outside": (0, True)}


def test_clients_are_not_used_in_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObstoreStore(obstore.store.LocalStore(prefix=tmp_path), "x")  # of all that travel, needs no server
    store.put("a", b"1")
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="multiprocessing_context='spawn'"):
        store.get("a")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"  # noqa: S301 (as a spawned worker gets it)


# ---- Windows


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import cloudsen12_cube as c12
from cloudsen12_cube.storage import open_store, write_lock
cube, archive, out = sys.argv[1:]
tree = c12.open_cube(cube)
tree.cloudsen12.query(split="train")
tree.cloudsen12.classes("manual_hq").load()
next(iter(tree.cloudsen12.stream({"s1": None}, batch_size=2)))
assert c12.convert(archive, out, ["s1"], options=c12.Options(workers=0)).exit_code == 0
with write_lock(open_store(out)):
    try:
        c12.convert(archive, out, ["s1"], options=c12.Options(workers=0))
    except Exception as error:
        print(error)
print([info.key for info in open_store(out).list(".writers")])
"""


def test_without_fcntl(archive: Path, cube: Path, tmp_path: Path) -> None:
    """As on Windows: all that reads works, and writers are kept apart by lock objects."""
    command = [sys.executable, "-c", WITHOUT_FCNTL, str(cube), str(archive), str(tmp_path / "c.zarr")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "another run is writing" in result.stdout
    assert result.stdout.endswith("[]\n")
    assert c12.verify(tmp_path / "c.zarr", archive).exit_code == 0


def test_the_protocol_is_what_the_stores_are() -> None:
    """The type checker sees it in the package; here for the stores that are made in functions."""
    stores: list[ObjectStore] = [LocalStore("a"), UrlStore("s3://b"), ZarrBackedStore(zarr.storage.MemoryStore())]
    assert [store.concurrency for store in stores] == [1, 16, 1]

"""What writers leave in a cube for each other is gone after a failure, also one of the same process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from buckets import private
from s3server import KEYS, PRIVATE, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.conversion import jobs, writer
from cloudsen12_cube.errors import CubeError, DestinationError, RemoteError
from cloudsen12_cube.storage import ObjectStore, open_store, write_lock
from cloudsen12_cube.storage import retry as retrying
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ONE = c12.Options(workers=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("source"), rois=1, seed=2, options=ArchiveOptions(size=16, times=1))


def fail(*_: Any, **__: Any) -> Any:
    raise CubeError("a failure of the test")


@pytest.mark.parametrize("where", ["write_shard", "survey"])
@pytest.mark.parametrize("remote", [False, True])
def test_after_a_failure(
    source: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch, where: str, remote: bool
) -> None:
    place: Any = private(f"notes-{where}.zarr", s3) if remote else tmp_path / "cube.zarr"
    with monkeypatch.context() as broken:
        if where == "survey":
            broken.setattr(writer.CubeWriter, "survey", fail)
        else:
            broken.setattr(jobs, "write_shard", fail)
        with pytest.raises(CubeError, match="a failure of the test"):
            c12.convert(source, place, options=ONE)
    assert list(open_store(place).list()) == []
    assert remote or not list(Path(place).iterdir())
    assert c12.convert(source, place, ["s1"], options=ONE).exit_code == 0  # another conversion than the one that failed


def test_what_is_made_stays_and_is_continued(source: Path, tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise CubeError("a failure of the test")

    place = tmp_path / "cube.zarr"
    with pytest.raises(CubeError, match="a failure of the test"):
        c12.convert(source, place, options=ONE, progress=stop)
    assert not (place / ".partial").exists()
    again = c12.convert(source, place, options=ONE)
    assert again.exit_code == 0
    assert again.skipped > 0


def test_a_lock_that_could_not_be_removed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server went away as the run ended: the next run of the process removes the lock object of the last."""
    monkeypatch.setattr(retrying, "_FIRST_WAIT", 0.01)
    with proxy(s3) as (endpoint, faults):
        store: ObjectStore = open_store(c12.Url(f"s3://{PRIVATE}/away.zarr", {**KEYS, "endpoint_url": endpoint}))
        with pytest.raises(RemoteError), write_lock(store):
            faults.kind, faults.every, faults.methods = "503", 1, ("GET", "PUT", "DELETE", "POST")
        faults.kind = ""
        assert [info.key for info in store.list()] == [".writers/whole.json"]
        with write_lock(store), pytest.raises(DestinationError, match="another run is writing"), write_lock(store):
            pass
        assert not list(store.list())


@pytest.mark.parametrize("client", ["obstore", "fsspec"])
def test_an_expired_token_is_a_matter_of_keys(s3: str, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    monkeypatch.setattr(retrying, "_FIRST_WAIT", 0.01)
    with proxy(s3) as (endpoint, faults):
        store = open_store(c12.Url(f"s3://{PRIVATE}/expired.zarr", {**KEYS, "endpoint_url": endpoint}, client))
        faults.kind, faults.every = "400", 1
        for request in (lambda: list(store.list()), lambda: store.get("a"), lambda: store.put("a", b"x")):
            with pytest.raises(RemoteError, match="check the keys and their rights"):
                request()

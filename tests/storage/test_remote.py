"""Archive and cube in buckets: the same bytes as on a disk, few requests, one writer at a time, one line on failure."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from buckets import anonymous, files_of, objects, private
from command_line import failed, run
from crashes import ONE, PRODUCTS, SMALL
from s3server import KEYS, PRIVATE, PUBLIC, Faults, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.conversion import runner as cluster
from cloudsen12_cube.errors import CubeError, DestinationError, RemoteError
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.storage import retry as patient
from cloudsen12_cube.storage.config import ClientName, StorageConfig, parse_options, storage_config, uses_obstore
from cloudsen12_cube.storage.lock import write_lock
from cloudsen12_cube.storage.open import open_store
from cloudsen12_cube.testing import make_archive

CLIENTS: list[ClientName] = ["obstore", "fsspec"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=2, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("local") / "c.zarr"
    assert c12.convert(source, place, options=ONE).exit_code == 0
    return place


@pytest.fixture(scope="module")
def public(s3: str, source: Path) -> str:
    """The archive in the bucket that everybody may read."""
    files_of(s3).put(f"{source}/", f"{PUBLIC}/archive", recursive=True)
    return f"s3://{PUBLIC}/archive"


@pytest.fixture
def counted(s3: str) -> Iterator[tuple[str, Faults]]:
    with proxy(s3) as both:
        yield both


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A plain web server, which lists folders and knows no ranges."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.mark.parametrize("client", CLIENTS)
def test_bucket_to_bucket_is_as_disk_to_disk(s3: str, public: str, local: Path, client: ClientName) -> None:
    cube = private(f"whole-{client}.zarr", s3, client)
    assert c12.convert(anonymous(public, s3, client), cube).exit_code == 0
    assert objects(cube) == objects(local)
    again = c12.convert(anonymous(public, s3, client), cube)
    assert (again.written, again.skipped) == (0, 10)
    checked = c12.verify(cube, anonymous(public, s3, client))
    assert (checked.exit_code, checked.shards, checked.values > 100) == (0, 10, True)
    assert c12.status(cube, anonymous(public, s3, client), checksum=True).exit_code == 0
    assert info(cube).products == info(local).products


@pytest.mark.parametrize("client", CLIENTS)
def test_an_open_cube_reads_from_a_bucket(s3: str, public: str, local: Path, client: ClientName) -> None:
    cube = private(f"open-{client}.zarr", s3, client)
    c12.convert(anonymous(public, s3), cube, products=PRODUCTS)
    truth = c12.open_cube(local, products=PRODUCTS)
    for chunks in (None, "roi"):
        tree = c12.open_cube(cube, chunks=chunks)
        for name in PRODUCTS:
            np.testing.assert_array_equal(tree[name][name].values, truth[name][name].values)
            xr.testing.assert_equal(tree[name].to_dataset()["status"], truth[name].to_dataset()["status"])
    assert c12.open_cube(str(cube.url), storage_options=cube.storage_options)["s1"].sizes == truth["s1"].sizes
    sent = pickle.dumps(c12.open_cube(cube, chunks="roi")["s1"]["s1"])
    np.testing.assert_array_equal(pickle.loads(sent).compute(), truth["s1"]["s1"])  # noqa: S301 (our own)


def test_each_file_is_fetched_once(counted: tuple[str, Faults], public: str) -> None:
    endpoint, seen = counted
    plan = c12.plan(anonymous(public, endpoint), products=["labels", "s1"])
    assert seen.paths[f"GET /{PUBLIC}"] == 1  # one listing
    files = [f"{p.folder}/{p.names[n]}" for p in plan.archive.patches.values() for n in p.names]
    wanted = [f for f in files if "/labels/" in f or f.endswith("S1.tif")]
    seen.clear()
    c12.convert(anonymous(public, endpoint), private("each-file-once.zarr", endpoint), products=["labels", "s1"])
    headers = 1  # of the plan: with so few patches, all of them are its sample
    assert {seen.paths[f"GET /{PUBLIC}/archive/{f}"] for f in wanted} == {1 + headers}
    assert not [path for path in seen.paths if path.startswith("HEAD") and "/archive/" in path]
    assert sum(seen.paths[f"GET /{PUBLIC}/archive/{f}"] for f in files if f not in wanted) == 0


def test_a_patch_is_two_requests_and_then_one(counted: tuple[str, Faults], public: str, s3: str) -> None:
    cube = private("requests.zarr", s3)
    c12.convert(anonymous(public, s3), cube, products=["s2l1c", "labels"])
    endpoint, seen = counted
    tree = c12.open_cube(private("requests.zarr", endpoint))
    assert sum(seen.seen.values()) <= 30
    costs = {cost.what: cost for cost in info(cube).costs}
    image, label = tree["s2l1c"]["s2l1c"], tree["labels"]["labels"]
    reads = {
        "patch": lambda: image.isel(roi=0, time=0).values,
        "second patch of an ROI": lambda: image.isel(roi=0, time=1).values,
        "RGB patch": lambda: image.isel(roi=1, time=0).sel(band=["B4", "B3", "B2"]).values,
        "label": lambda: label.isel(roi=0, time=0).sel(band="manual_hq").values,
        "ROI": lambda: image.isel(roi=0).values,
    }
    for what, read in reads.items():
        seen.clear()
        read()
        assert sum(seen.seen.values()) == costs[what].requests, what
        assert seen.bytes == pytest.approx(costs[what].bytes, rel=0.5), what


def test_two_writers_are_kept_apart(s3: str, source: Path) -> None:
    for client in CLIENTS:
        cube = private(f"lock-{client}.zarr", s3, client)
        place = open_store(cube)
        with write_lock(place), pytest.raises(DestinationError, match=r"another run is writing .* add --break-lock"):
            c12.convert(source, cube, products=["s1"], options=ONE)
        part = c12.Options(workers=0, part=c12.Part(1, 2))
        with write_lock(place, shared=True):
            assert c12.convert(source, cube, products=["s1"], options=part).written == 1
            with pytest.raises(DestinationError, match="another run is"):
                c12.convert(source, cube, products=["s1"], options=ONE)
        with write_lock(place), pytest.raises(DestinationError, match="another run is"):
            c12.convert(source, cube, products=["s1"], options=part)
        stale = {"run": "1", "host": "elsewhere", "boot": "", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
        place.put(".writers/whole.json", json.dumps(stale).encode())
        with pytest.raises(DestinationError, match=r"process 1 on elsewhere, begun 2026-01-01.* add --break-lock"):
            c12.convert(source, cube, products=["s1"], options=ONE)
        assert c12.convert(source, cube, ["s1"], options=c12.Options(workers=0, break_lock=True)).written == 1
        assert c12.finalise(cube).exit_code == 0


def test_a_writer_that_died_here_blocks_nobody(s3: str, source: Path) -> None:
    """Killed for good in the middle; the same command goes on without a word."""
    from crashes import converting

    cube = private("killed.zarr", s3)
    place = open_store(cube)
    process = converting(source, cube, c12.Options(workers=1))
    while not place.get(".writers/whole.json") and process.is_alive():
        pass
    process.kill()
    process.join()
    report = c12.convert(source, cube, PRODUCTS, options=ONE)
    assert report.shards == 4
    assert c12.verify(cube, source).exit_code == 0


@pytest.mark.parametrize("scheme", ["memory", "https"])
def test_other_file_systems(scheme: str, source: Path, local: Path) -> None:
    if scheme == "memory":
        files = fsspec.filesystem("memory")
        files.put(f"{source}/", "/remote/archive", recursive=True)
        try:
            assert c12.convert("memory://remote/archive", "memory://remote/c.zarr").exit_code == 0
            assert c12.verify("memory://remote/c.zarr", "memory://remote/archive").exit_code == 0
            assert objects(c12.Url("memory://remote/c.zarr")) == objects(local)
        finally:
            files.rm("/remote", recursive=True)
        return
    with web(source.parent) as url:
        place = source.parent / "c.zarr"
        assert c12.convert(f"{url}/{source.name}", place, products=["s1"]).exit_code == 0
        truth = c12.open_cube(local)["s1"]["s1"]
        np.testing.assert_array_equal(c12.open_cube(f"{url}/c.zarr")["s1"]["s1"].values, truth.values)
        assert c12.status(place, f"{url}/{source.name}").exit_code == 0
        with pytest.raises(CubeError, match=r"read only|cannot be"):
            c12.convert(source, f"{url}/new.zarr")


def test_errors_are_one_line(
    s3: str,
    public: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = ["-o", f"key={KEYS['key']}", "-o", f"secret={KEYS['secret']}", "-o", f"endpoint_url={s3}"]
    open_to_all = ["-o", "anon=true", "-o", f"endpoint_url={s3}"]
    monkeypatch.setattr(patient, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    new = tmp_path / "c.zarr"

    def told(*arguments: object) -> str:
        assert main([str(word) for word in arguments]) == 2
        line: str = capsys.readouterr().err
        assert len(line.strip().splitlines()) == 1
        return line

    assert "NoSuchBucket" in failed(run("convert", "s3://no-such-bucket/a", new, *keys))
    assert "check the keys" in told("convert", f"s3://{PRIVATE}/archive", new, *open_to_all)
    assert "check the keys" in told("convert", source, f"s3://{PUBLIC}/new.zarr", *open_to_all)
    wrong = [*keys[:2], "-o", "secret=nonsense", *keys[4:]]
    line = told("convert", f"s3://{PRIVATE}/archive", new, *wrong)
    assert "SignatureDoesNotMatch" in line
    assert "nonsense" not in line
    nobody = ["-o", "anon=true", "-o", "endpoint_url=http://127.0.0.1:9"]
    assert "check the address" in told("convert", public, new, *nobody)
    assert "no CloudSEN12 archive" in told("convert", f"s3://{PUBLIC}/nothing", new, *open_to_all)
    assert "no cube" in told("info", f"s3://{PUBLIC}/nothing", *open_to_all)
    assert "no dask scheduler answers" in told("convert", source, new, "--scheduler", "tcp://127.0.0.1:9")
    assert "storage option 'anon'" in told("info", f"s3://{PUBLIC}/nothing", "-o", "anon")


def test_the_command_line_goes_from_bucket_to_bucket(s3: str, public: str) -> None:
    options = ["-o", f"key={KEYS['key']}", "-o", f"secret={KEYS['secret']}", "-o", f"endpoint_url={s3}"]
    cube = f"s3://{PRIVATE}/cli.zarr"
    done = run("convert", public, cube, "--products", "s2l1c", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 shards written" in done.stdout
    assert run("verify", cube, "--source", public, *options).returncode == 0
    told = run("info", cube, *options, columns=100)
    assert re.search(r"ROI +1 +", told.stdout)


def test_options_of_a_command_line() -> None:
    pairs = ["anon=true", "key=007", "client_kwargs.region_name=eu-west-1", "endpoint_url=http://x:1/?a=b"]
    assert parse_options(pairs) == {
        "anon": True,
        "key": "007",
        "client_kwargs": {"region_name": "eu-west-1"},
        "endpoint_url": "http://x:1/?a=b",
    }


def test_secrets_are_neither_shown_nor_stored(s3: str, public: str) -> None:
    cube = private("secrets.zarr", s3)
    place = open_store(cube)
    assert KEYS["secret"] not in repr((cube, place, place.config))
    c12.convert(anonymous(public, s3), cube, products=["s1"])
    assert not [key for key, data in objects(cube).items() if KEYS["secret"].encode() in data]
    with pytest.raises(RemoteError) as caught:
        c12.open_cube(c12.Url(cube.url, {**KEYS, "secret": "wrong-one", "endpoint_url": s3}))
    assert "wrong-one" not in str(caught.value)


def test_the_environment_says_who_one_is(s3: str, public: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for obstore; a profile for s3fs, since botocore reads it; and nobody at all."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    with monkeypatch.context() as keys:
        keys.setenv("AWS_ACCESS_KEY_ID", KEYS["key"])
        keys.setenv("AWS_SECRET_ACCESS_KEY", KEYS["secret"])
        assert uses_obstore(public, StorageConfig())
        assert c12.convert(public, f"s3://{PRIVATE}/environment.zarr", products=["s1"]).exit_code == 0
    (tmp_path / "credentials").write_text(
        f"[me]\naws_access_key_id = {KEYS['key']}\naws_secret_access_key = {KEYS['secret']}\n"
    )
    with monkeypatch.context() as profile:
        profile.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        named = c12.Url(f"s3://{PRIVATE}/environment.zarr", {"profile": "me"})
        assert not uses_obstore(named.url, storage_config(named))
        assert c12.verify(named, c12.Url(public, {"profile": "me"})).exit_code == 0
        with pytest.raises(CubeError, match=r"obstore cannot serve .* it does not know the option 'profile'"):
            c12.open_cube(c12.Url(named.url, {"profile": "me"}, "obstore"))
    with monkeypatch.context() as nobody:
        nobody.setenv("AWS_NO_SIGN_REQUEST", "YES")
        assert uses_obstore(public, StorageConfig())
        assert len(c12.plan(public).archive.patches) == 4
        nobody.setattr(patient, "_FIRST_WAIT", 0.01)
        with pytest.raises(RemoteError, match="check the keys"):
            c12.open_cube(f"s3://{PRIVATE}/environment.zarr")

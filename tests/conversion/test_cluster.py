"""Conversion on a real dask cluster: a scheduler and workers as processes of their own, which come, go and die."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from crashes import ONE, contents
from distributed import Client

import cloudsen12_cube as c12
from cloudsen12_cube.conversion.options import Step
from cloudsen12_cube.conversion.writer import write_shard
from cloudsen12_cube.errors import ClusterError
from cloudsen12_cube.storage.open import open_store
from cloudsen12_cube.testing import ArchiveOptions, make_archive

TINY = ArchiveOptions(size=16, times=2)
DASK = [sys.executable, "-m", "dask"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=6, seed=3, options=TINY)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(source, place, options=ONE)
    return place


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as file:
        started = subprocess.Popen(
            [*DASK, *arguments], stdout=file, stderr=file, env=os.environ | {"PYTHONWARNINGS": ""}
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@contextmanager
def scheduling(log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with process("scheduler", *options, log=log) as scheduler:
        yield f"tcp://127.0.0.1:{port}", scheduler


def working(address: str, folder: Path) -> subprocess.Popen[bytes]:
    """One worker without a nanny, so that its end is its end."""
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    return process("worker", address, *options, "--local-directory", str(folder), log=folder / "worker.log")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dask")
    with scheduling(folder / "log") as (address, _), working(address, folder), working(address, folder):
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


def test_a_cluster_makes_the_same_cube(running: str, source: Path, whole: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    place = tmp_path / "c.zarr"
    report = c12.convert(source, place, options=c12.Options(scheduler=running), progress=steps.append)
    assert (report.exit_code, report.written, len(steps)) == (0, 30, 30)
    assert contents(place) == contents(whole)
    with Client(running, set_as_default=False) as client:
        again = c12.convert(source, tmp_path / "d.zarr", products=["s1"], executor=client.get_executor())
        assert (again.exit_code, again.written) == (0, 6)


def test_what_travels_is_small(source: Path, tmp_path: Path) -> None:
    tasks = list(c12.plan(source).tasks())
    sent = len(pickle.dumps((write_shard, tasks[0], open_store(tmp_path / "c.zarr"))))
    record = write_shard(tasks[0], open_store(tmp_path / "c.zarr"))
    assert sent < 10_000
    assert len(pickle.dumps(record)) < 10_000


def test_paths_are_those_of_the_caller(
    running: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has another working directory."""
    monkeypatch.chdir(tmp_path)
    os.symlink(source, "archive")
    assert c12.convert("archive", "c.zarr", ["s1"], options=c12.Options(scheduler=running)).exit_code == 0
    assert c12.verify(tmp_path / "c.zarr", source).exit_code == 0


def at_step(number: int, action: Callable[[], object]) -> Callable[[Step], None]:
    """Do something once, when so many shards are done."""
    count = [0]

    def progress(_: Step) -> None:
        count[0] += 1
        if count[0] == number:
            action()

    return progress


def test_a_worker_dies_and_another_joins_late(source: Path, whole: Path, tmp_path: Path) -> None:
    with scheduling(tmp_path / "log") as (address, _), working(address, tmp_path) as first:
        late: list[object] = []

        def change() -> None:
            first.kill()
            late.append(joining.__enter__())

        joining = working(address, tmp_path)
        try:
            options = c12.Options(scheduler=address)
            report = c12.convert(source, tmp_path / "c.zarr", options=options, progress=at_step(3, change))
        finally:
            if late:
                joining.__exit__(None, None, None)
        assert (report.exit_code, report.written) == (0, 30)
        assert contents(tmp_path / "c.zarr") == contents(whole)


def test_a_scheduler_dies_and_the_run_is_continued(source: Path, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    with scheduling(tmp_path / "log") as (address, scheduler), working(address, tmp_path):
        options = c12.Options(scheduler=address)
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=r"is gone .* run the same command again, it continues"):
            c12.convert(source, place, options=options, progress=at_step(3, scheduler.kill))
        assert time.monotonic() - begun < 60  # it ends; how soon is not the point
    rest = c12.convert(source, place, options=ONE)
    assert rest.exit_code == 0
    assert rest.skipped >= 3
    assert contents(place) == contents(whole)


def test_no_scheduler(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no dask scheduler answers at nonsense"):
        c12.convert(source, tmp_path / "c.zarr", options=c12.Options(scheduler="nonsense://x"))


def test_an_open_cube_on_a_cluster(running: str, whole: Path) -> None:
    array = c12.open_cube(whole, chunks="roi")["s2l1c"]["s2l1c"]
    with Client(running, set_as_default=False) as client:
        mean = client.compute(array.mean(("roi", "time", "y", "x"))).result(timeout=60)
    np.testing.assert_allclose(mean.values, array.values.mean((0, 1, 3, 4)))

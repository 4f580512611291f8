"""Whatever step a run dies at: readers see whole patches or none, and the same command again ends in the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import (
    EVERY_STEP,
    KILLS,
    ONE,
    PRODUCTS,
    SMALL,
    Killed,
    Pixels,
    assert_true,
    committed,
    contents,
    converting,
    crash_steps,
    dying,
    shown,
)

import cloudsen12_cube as c12
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.testing import make_archive

Change = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=3, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(source, place, products=PRODUCTS, options=ONE)
    return place


@pytest.fixture(scope="module")
def truth(whole: Path) -> Pixels:
    return shown(whole)


def test_what_a_reader_is_shown(whole: Path, truth: Pixels) -> None:
    assert len(truth) == 3 * 2 * 2
    assert len(committed(whole)) == 6


def nothing(archive: Path, place: Path) -> None:
    """A new cube."""


def append(archive: Path, place: Path) -> None:
    """A cube with the second ROI alone grows in front and behind."""
    roi = str(c12.plan(archive).order[1])
    c12.convert(archive, place, PRODUCTS, options=c12.Options(workers=0, rois=(roi,)))


def retry(archive: Path, place: Path) -> None:
    """A patch failed and is mended; its neighbour in the shard, which is done, has lost its file meanwhile."""
    first, second = sorted(sorted(archive.glob("*/ROI_*"))[0].glob("*/S1.tif"))
    data = first.read_bytes()
    first.write_bytes(b"")
    c12.convert(archive, place, PRODUCTS, options=ONE)
    first.write_bytes(data)
    second.write_bytes(b"")


def repair(archive: Path, place: Path) -> None:
    """A shard rots, and a file of another one has changed."""
    c12.convert(archive, place, PRODUCTS, options=ONE)
    shard = place / "s1/s1/c/1/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)


def options_of(start: Change) -> c12.Options:
    return c12.Options(workers=0, repair=start is repair)


@EVERY_STEP
@pytest.mark.parametrize("start", [nothing, append, retry, repair])
def test_each_write_step_in_turn(source: Path, truth: Pixels, start: Change, every: bool, tmp_path: Path) -> None:
    archive, before = tmp_path / "archive", tmp_path / "before.zarr"
    shutil.copytree(source, archive)
    start(archive, before)
    options = options_of(start)

    def run(place: Path) -> None:
        c12.convert(archive, place, PRODUCTS, options=options)

    def copied(name: str) -> Path:
        place = tmp_path / name
        shutil.rmtree(place, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, place)
        return place

    undisturbed = copied("undisturbed.zarr")
    with dying(10**9) as count:
        run(undisturbed)
    expected, steps = contents(undisturbed), count[0]
    assert steps >= 6
    seen = set()
    for step in crash_steps(steps, every):
        place = copied("c.zarr")
        with dying(step, torn=step % 2 == 1), pytest.raises(Killed):
            run(place)
        if start is not repair:  # there, what has rotted raises until it is mended
            seen.add(assert_true(place, truth))
        kept = committed(place) if start in (nothing, append) else {}
        run(place)
        assert contents(place) == expected, f"step {step} of {steps}"
        assert committed(place).items() >= kept.items(), "a committed shard was written again"
    assert start is repair or len(seen) > 1, "every step looked the same to a reader"


@KILLS
def test_real_kills_at_random_moments(source: Path, whole: Path, truth: Pixels, kills: int, tmp_path: Path) -> None:
    moments = np.random.default_rng(7)
    place, expected, killed = tmp_path / "c.zarr", contents(whole), 0
    for _ in range(kills):
        kept = committed(place)
        process = converting(source, place, c12.Options(workers=2))
        process.join(moments.uniform(0, 0.6))
        killed += process.is_alive()
        process.kill()
        process.join()
        assert_true(place, truth)
        assert committed(place).items() >= kept.items()
        if process.exitcode == 0:
            assert contents(place) == expected
            shutil.rmtree(place)
    assert killed >= kills // 4
    c12.convert(source, place, PRODUCTS)
    assert contents(place) == expected


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("step", ["mkdir", "open", "fsync", "replace"])
def test_a_step_of_a_write_that_fails(step: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = LocalStore(str(tmp_path / "c"))
    sink.put("a/b", b"old")
    key, before = ("c/d", None) if step == "mkdir" else ("a/b", b"old")

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if step == "open" else f"os.{step}", failing)
        with pytest.raises(DestinationError):
            sink.put(key, b"new")
    assert sink.get(key) == before
    assert [p.name for p in (tmp_path / "c").rglob("*") if p.is_file()] == ["b"]
    sink.put(key, b"new")
    assert sink.get(key) == b"new"


def test_a_death_before_the_first_object_blocks_nobody(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    with dying(0, torn=True), pytest.raises(Killed):
        c12.convert(source, place, PRODUCTS, options=ONE)
    assert list(place.iterdir()) == [place / ".partial"]
    assert c12.convert(source, place, PRODUCTS, options=ONE).written == 6
    assert not (place / ".partial").exists()


def test_readers_while_a_run_goes_on(source: Path, truth: Pixels, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    c12.convert(source, place, PRODUCTS, options=c12.Options(workers=0, rois=(c12.plan(source).order[2],)))
    process = converting(source, place, c12.Options(workers=1))
    looked = 0
    while process.is_alive():
        assert_true(place, truth)
        looked += 1
        time.sleep(0.01)
    process.join()
    assert process.exitcode == 0
    assert looked
    assert assert_true(place, truth) == len(truth)

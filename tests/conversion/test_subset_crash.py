"""Whatever step a subset dies at: nothing wrong is shown, and the same command again ends in the same bytes."""

from __future__ import annotations

import json
import shutil
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from crashes import (
    _PROCESSES,
    EVERY_STEP,
    ONE,
    PRODUCTS,
    SMALL,
    Killed,
    Pixels,
    assert_true,
    committed,
    contents,
    crash_steps,
    dying,
    shown,
)

import cloudsen12_cube as c12
from cloudsen12_cube.conversion.readers import CubeReader, ShardRoi, ShardTask
from cloudsen12_cube.conversion.writer import write_shard
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.format import record as records
from cloudsen12_cube.format.layout import ProductLayout
from cloudsen12_cube.format.record import ShardRecord
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.lock import write_lock
from cloudsen12_cube.testing import make_archive

WHERE = ["cloud_coverage!=cloud-free"]
INLINE = c12.SubsetOptions(workers=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=3, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def cube(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(source, place, products=PRODUCTS, options=ONE)
    return place


def objects(place: Path) -> dict[str, str]:
    """Digest of every object but the root, and the root without the day on which the subset was begun."""
    document = json.loads((place / "zarr.json").read_text())
    attributes = document["attributes"]
    step = attributes["cloudsen12"]["subsets"][-1]
    attributes["history"] = attributes["history"].replace(f"{step['created']}: subset", ": subset")
    attributes["date_created"] = step["created"] = ""
    return contents(place) | {"zarr.json": json.dumps(document)}


@EVERY_STEP
@pytest.mark.parametrize("where", [[], WHERE])
@pytest.mark.parametrize("grows", [False, True])
def test_each_write_step_in_turn(
    source: Path, cube: Path, where: list[str], grows: bool, every: bool, tmp_path: Path
) -> None:
    """A new subset; and one of a cube that has got more ROIs, one of them in front, and a shard anew."""
    before, undisturbed, place = tmp_path / "before.zarr", tmp_path / "undisturbed.zarr", tmp_path / "out.zarr"
    if grows:
        young = tmp_path / "young.zarr"
        document = json.loads((cube / "zarr.json").read_text())
        dates = c12.plan(source, where=where).catalogue.table.groupby("roi_id", sort=False).size()
        rois = (dates.index[dates == dates.max()][-1],)
        c12.convert(source, young, PRODUCTS, options=c12.Options(workers=0, rois=rois))
        mine = json.loads((young / "zarr.json").read_text())  # the cube of one day, as it was and as it is
        mine["attributes"]["cloudsen12"]["created"] = document["attributes"]["cloudsen12"]["created"]
        (young / "zarr.json").write_text(json.dumps(mine))
        c12.subset(young, before, where=where, options=INLINE)
        next(before.glob("s1/s1/records/*.json")).unlink()

    def fresh(target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        if grows:
            shutil.copytree(before, target)
        return target

    with dying(10**9) as count:
        report = c12.subset(cube, fresh(undisturbed), where=where, options=INLINE)
    assert report.exit_code == 0
    expected, truth, steps = objects(undisturbed), shown(undisturbed), count[0]
    assert steps >= 6
    assert c12.verify(undisturbed, source).exit_code == 0
    seen = set()
    for step in crash_steps(steps, every):
        fresh(place)
        with dying(step, torn=step % 2 == 1), pytest.raises(Killed):
            c12.subset(cube, place, where=where, options=INLINE)
        seen.add(assert_true(place, truth))
        kept = {} if grows else committed(place)
        c12.subset(cube, place, where=where, options=INLINE)
        assert objects(place) == expected, f"step {step} of {steps}"
        assert committed(place).items() >= kept.items(), "a committed shard was written again"
    assert len(seen) > 1, "every step looked the same to a reader"


def _subset(cube: Path, place: Path) -> None:
    warnings.simplefilter("error")
    c12.subset(cube, place, where=WHERE, options=c12.SubsetOptions(workers=2))


def test_real_kills_while_shards_are_copied(tmp_path: Path) -> None:
    """A process is killed when so many records lie on disk; the next run leaves those alone."""
    archive = make_archive(tmp_path / "archive", rois=12, seed=3, options=SMALL)
    cube, place, whole = (tmp_path / f"{name}.zarr" for name in ("cube", "out", "whole"))
    c12.convert(archive, cube, PRODUCTS)
    c12.subset(cube, whole, where=WHERE)
    truth, expected, killed = shown(whole), objects(whole), 0
    for records_wanted in (1, 5, 10, 16):
        kept = committed(place)
        process: Any = _PROCESSES.Process(target=_subset, args=(cube, place))
        process.start()
        while process.is_alive() and len(list(place.glob("*/*/records/*.json"))) < records_wanted:
            time.sleep(0.001)
        killed += process.is_alive()
        process.kill()
        process.join()
        assert_true(place, truth)
        assert committed(place).items() >= kept.items()
    assert killed >= 3
    assert c12.subset(cube, place, where=WHERE).skipped > 0
    assert objects(place) == expected


def test_one_writer_at_a_time(cube: Path, tmp_path: Path) -> None:
    with (
        write_lock(LocalStore(str(tmp_path / "out.zarr"))),
        pytest.raises(DestinationError, match="another process is writing"),
    ):
        c12.subset(cube, tmp_path / "out.zarr")


def test_a_shard_that_is_made_again_meanwhile_is_read_again(cube: Path, tmp_path: Path) -> None:
    """The record is of before, the shard of after: that is no damage."""
    layout = ProductLayout("s1", "float32", 2, 16, 16)
    roi = next(cube.glob("s1/s1/records/*.json")).stem
    true = records.load(LocalStore(str(cube)), layout, roi)
    assert true
    stale = ShardRecord("s1", roi, true.index, 7, "0" * 64, true.patches)
    patches = tuple((p.time, p.s2_id_gee) for p in true.patches)

    class Changing(LocalStore):
        def get(self, key: str) -> bytes | None:
            if key.endswith(".json") and not asked:
                asked.append(key)
                return stale.as_bytes()
            return super().get(key)

    asked: list[str] = []
    reader = CubeReader(Changing(str(cube)), layout, true.index)
    task = ShardTask(layout, (ShardRoi(roi, 0, patches, reader),), "remove")
    assert write_shard(task, LocalStore(str(tmp_path))).lost == ()
    assert asked
    assert (tmp_path / "s1/s1/c/0/0/0/0/0").read_bytes() == (cube / f"s1/s1/c/{true.index}/0/0/0/0").read_bytes()


def test_threads_hold_a_shard_each_and_no_more(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards there are, as many are read ahead as there are threads."""
    held, most, lock = 0, 0, threading.Lock()
    get, put = LocalStore.get, LocalStore.put

    def reading(self: LocalStore, key: str, *part: Any) -> Any:
        nonlocal held, most
        if "/c/" in key and self.root == str(cube) and key.count("/") == 7:
            with lock:
                held, most = held + 1, max(most, held + 1)
            time.sleep(0.02)
        return get(self, key, *part)

    def writing(self: LocalStore, key: str, data: bytes, **how: bool) -> bool:
        nonlocal held
        written = put(self, key, data, **how)
        if "/c/" in key and key.count("/") == 7:
            with lock:
                held -= 1
        return written

    monkeypatch.setattr(LocalStore, "get", reading)
    monkeypatch.setattr(LocalStore, "put", writing)
    c12.subset(cube, tmp_path / "out.zarr", options=c12.SubsetOptions(workers=2))
    assert most == 2
    assert held == 0


def test_readers_while_a_subset_is_made(cube: Path, tmp_path: Path) -> None:
    place, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    c12.subset(cube, whole, where=WHERE)
    truth: Pixels = shown(whole)
    process: Any = _PROCESSES.Process(target=_subset, args=(cube, place))
    process.start()
    while process.is_alive():
        assert_true(place, truth)
        time.sleep(0.005)
    process.join()
    assert process.exitcode == 0
    assert assert_true(place, truth) == len(truth)

"""A cube from a cube: bit for bit, whatever was killed or damaged on the way, and never more than the source has."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from buckets import files_of, objects, private
from command_line import failed, run
from crashes import EVERY_STEP, KILLS, ONE, SMALL, Killed, assert_true, contents, crash_steps, dying, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, resharded
from s3server import PRIVATE, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.conversion.cube_plan import CubePlan
from cloudsen12_cube.conversion.options import Step, StrictError
from cloudsen12_cube.conversion.readers import CubeReader, ShardRoi, ShardTask
from cloudsen12_cube.conversion.writer import write_shard
from cloudsen12_cube.errors import CubeError, DestinationError, SelectionError, StoreError
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.format.layout import ProductLayout, array_path, record_key
from cloudsen12_cube.format.metadata import read_table, reference_codec
from cloudsen12_cube.format.record import DONE, FAILED, PatchRecord, ShardRecord
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.schema.assets import ProductName
from cloudsen12_cube.storage.open import open_store
from cloudsen12_cube.testing import make_archive

TWO = c12.Options(workers=0, layout=c12.Layout("lz4", rois_per_shard=2))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=3, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products of three ROIs; a test that changes it takes a copy."""
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    assert c12.convert(source, place, ["s1", "labels"], options=ONE).exit_code == 0
    return place


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "source.zarr"))


def without_root(place: Path) -> dict[str, str]:
    return {key: digest for key, digest in contents(place).items() if key != "zarr.json"}


def settings_in(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "zarr.json").read_bytes())["attributes"]["cloudsen12"]
    return found


def flipped(path: Path) -> bytes:
    """Flip a bit of an object; give what it was."""
    data = path.read_bytes()
    path.write_bytes(bytes([*data[:20], data[20] ^ 8, *data[21:]]))
    return data


FORMS = st.builds(
    c12.Layout,
    codec=st.sampled_from(["zstd", "lz4", "none"]),
    chunk=st.sampled_from(["band", "bands"]),
    rois_per_shard=st.integers(1, 4),
)


def stored_by_zarr(place: Path, layout: ProductLayout, pixels: Any) -> None:
    """Write an array as its layout says, by zarr-python alone."""
    array = zarr.create_array(
        str(place),
        name=array_path(layout.product),
        shape=pixels.shape,
        chunks=layout.shard,
        dtype=layout.dtype,
        fill_value=layout.fill,
        serializer=reference_codec(layout),
        compressors=None,
        filters=None,
    )
    array[...] = pixels


@settings(max_examples=60, deadline=None)
@given(
    what=st.sampled_from(
        [("s2l1c", "int16"), ("s2l1c", "uint16"), ("s1", "float32"), ("labels", "uint16"), ("extra", "int32")]
    ),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    before=FORMS,
    after=FORMS,
    seed=st.integers(0, 999),
)
def test_shards_equal_zarr_pythons_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    what: tuple[ProductName, str],
    sizes: tuple[int, int, int, int],
    before: c12.Layout,
    after: c12.Layout,
    seed: int,
) -> None:
    """zarr-python writes the source and, apart, what must come out: of any layout, with patches and bands that lack."""
    folder, random = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    (product, dtype), (rois, times, height, width) = what, sizes
    origin = ProductLayout(product, dtype, times, height, width, before)
    target = ProductLayout(product, dtype, times, height, width, after)
    pixels = random.integers(0, 300, origin.shape(rois)).astype(dtype)
    pixels[random.random(pixels.shape[:3]) < 0.2] = origin.fill
    failed = random.random((rois, times)) < 0.2
    pixels[failed] = origin.fill
    stored_by_zarr(folder / "source", origin, pixels)
    place, sink = open_store(folder / "source"), open_store(folder / "out")
    order = random.permutation(rois).tolist()  # ROI of the source that comes first, second ...
    for roi in range(rois):
        data = place.get(origin.place(roi)[0]) or b""
        rows = tuple(PatchRecord(t, f"i{t}", FAILED if failed[roi, t] else DONE) for t in range(times))
        digest = hashlib.sha256(data).hexdigest()
        place.put(
            record_key(product, f"ROI_{roi}"),
            ShardRecord(product, f"ROI_{roi}", roi, len(data), digest, rows).as_bytes(),
        )
    dates = [random.permutation(times).tolist() for _ in range(rois)]
    members = [
        ShardRoi(
            f"ROI_{roi}", index, tuple((t, f"i{s}") for t, s in enumerate(dates[roi])), CubeReader(place, origin, roi)
        )
        for index, roi in enumerate(order)
    ]
    shared = after.rois_per_shard
    for first in range(0, rois, shared):
        made = write_shard(ShardTask(target, tuple(members[first : first + shared]), "keep"), sink)
        assert not made.lost
    expected = np.stack([pixels[roi][dates[roi]] for roi in order])
    stored_by_zarr(folder / "expected", target, expected)
    objects = {str(p.relative_to(folder / "expected")) for p in (folder / "expected").rglob("c/*/0/0/0/0")}
    for key in objects | {str(p.relative_to(folder / "out")) for p in (folder / "out").rglob("c/*/0/0/0/0")}:
        assert (folder / "out" / key).read_bytes() == (folder / "expected" / key).read_bytes()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["zstd:3", "lz4", "none, bands", "bands"])
def test_it_is_what_the_archive_would_have_given(source: Path, whole: Path, name: str, tmp_path: Path) -> None:
    direct = c12.Options(workers=1, layout=LAYOUTS[name])
    c12.convert(source, tmp_path / "direct.zarr", ["s1", "labels"], options=direct)
    assert resharded(whole, tmp_path / "c.zarr", name).exit_code == 0
    assert without_root(tmp_path / "c.zarr") == without_root(tmp_path / "direct.zarr")
    checked = c12.verify(tmp_path / "c.zarr", source)
    assert (checked.exit_code, checked.shards, checked.values > 100) == (0, 6, True)
    assert c12.status(tmp_path / "c.zarr", source, checksum=True).exit_code == 0


@pytest.mark.parametrize("name", ["3 ROIs", "lz4, bands, 3 ROIs"])
def test_there_and_back(source: Path, whole: Path, name: str, tmp_path: Path) -> None:
    there, back = tmp_path / "there.zarr", tmp_path / "back.zarr"
    assert resharded(whole, there, name).written == 2
    assert c12.verify(there, source).exit_code == 0
    assert c12.status(there, source).exit_code == 0
    assert c12.convert(there, back).written == 6
    assert without_root(back) == without_root(whole)
    again = resharded(whole, there, name)
    assert (again.written, again.skipped, again.exit_code) == (0, 2, 0)
    told = settings_in(back)["resharded_from"]
    assert (told["cube"], told["layout_version"]) == (there.name, 2)
    assert told["products"] == settings_in(there)["products"]
    history = json.loads((back / "zarr.json").read_bytes())["attributes"]["history"].splitlines()
    assert [line.split(": ", 1)[1].split(" ")[0] for line in history] == ["converted", "re-sharded", "re-sharded"]
    assert settings_in(back)["source"] == settings_in(whole)["source"]


def test_a_shard_of_the_source_is_read_once(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there.zarr"
    resharded(whole, there, "3 ROIs")
    seen: list[str] = []
    kind = type(open_store(there))
    real = kind.get

    def counted(self: Any, key: str, *part: Any) -> Any:
        seen.append(f"{self.root}/{key}")
        return real(self, key, *part)

    monkeypatch.setattr(kind, "get", counted)
    for workers, place in ((0, "a"), (3, "b")):
        seen.clear()
        c12.convert(there, tmp_path / f"{place}.zarr", options=c12.Options(workers=workers))
        read = [key for key in seen if key.startswith(str(there)) and "/c/0/0/0/0/0" in key and key.count("/c/") == 1]
        shards = [key for key in read if f"{there}/s1/s1/c" in key or f"{there}/labels/labels/c" in key]
        assert len(shards) == len(set(shards)) == 2


@pytest.fixture(scope="module")
def gappy(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive and its cube, with an absent and a failed patch, one of them accepted, ROIs in order of arrival."""
    folder = tmp_path_factory.mktemp("gappy")
    archive = Path(shutil.copytree(source, folder / "archive"))
    patches = sorted(archive.glob("*/*/*"))
    shutil.rmtree(patches[0])
    (patches[3] / "S1.tif").write_bytes(b"no picture")
    place = folder / "c.zarr"
    for roi in reversed(c12.plan(archive).order):
        c12.convert(archive, place, ["s1", "labels"], options=c12.Options(workers=0, rois=(roi,)))
    c12.convert(archive, place, ["s1", "labels"], options=ONE)
    rows = json.loads(Path(f"{place}.failures.json").read_text())["failures"]
    choice = folder / "choice.json"
    choice.write_text(json.dumps([row for row in rows if row["asset"]]))
    c12.convert(archive, place, ["s1", "labels"], options=c12.Options(workers=0, accept=choice))
    return archive, place


@pytest.mark.parametrize("name", ["lz4", "bands", "3 ROIs"])
def test_gaps_stay_what_they_are(gappy: tuple[Path, Path], name: str, tmp_path: Path) -> None:
    archive, cube = gappy
    place = tmp_path / "c.zarr"
    before = c12.convert(archive, cube, ["s1", "labels"], options=ONE)
    for _ in range(2):
        report = resharded(cube, place, name)
        assert (report.exit_code, report.accepted) == (1, 1)
        assert report.faults == before.faults
        assert Path(f"{place}.failures.json").read_text() == Path(f"{cube}.failures.json").read_text()
    assert report.written == 0
    assert settings_in(place)["accepted"] == settings_in(cube)["accepted"]
    left, right = (c12.open_cube(p) for p in (cube, place))
    for product in ("s1", "labels"):
        assert left[product]["status"].equals(right[product]["status"])
        assert left[product][product].equals(right[product][product])
    assert set(np.unique(right["s1"]["status"].values)) == {0, 1, 2}
    states = [c12.status(p, archive) for p in (cube, place)]
    assert [row.accepted for row in states[1].products] == [row.accepted for row in states[0].products]
    assert (states[1].failures, states[1].changes) == (states[0].failures, states[0].changes)
    found, expected = c12.verify(place, archive), c12.verify(cube, archive)
    assert replace(found, shard_bytes=0) == replace(expected, shard_bytes=0)


def test_what_was_mended_in_the_source_is_taken_over(gappy: tuple[Path, Path], source: Path, tmp_path: Path) -> None:
    archive, cube, place = tmp_path / "archive", tmp_path / "source.zarr", tmp_path / "c.zarr"
    shutil.copytree(gappy[1], cube)
    assert resharded(cube, place, "3 ROIs").exit_code == 1
    shutil.copytree(source, archive)
    assert c12.convert(archive, cube, ["s1", "labels"], options=ONE).exit_code == 0
    # The gap that was accepted counts as done, until a repair looks at all of the source.
    assert (resharded(cube, place, "3 ROIs").written, resharded(cube, place, "3 ROIs", repair=True).exit_code) == (2, 0)
    assert c12.verify(place, source).exit_code == 0


@pytest.mark.parametrize("name", ["lz4", "3 ROIs"])
def test_a_damaged_shard_is_named_and_not_passed_on(
    whole: Path, source: Path, copy: Path, name: str, tmp_path: Path
) -> None:
    place, key = tmp_path / "c.zarr", "s1/s1/c/1/0/0/0/0"
    was = flipped(copy / key)
    report = resharded(copy, place, name)
    assert report.exit_code == 1
    assert [(f.product, f.path) for f in report.faults] == [("s1", f"{copy}/{key}")]
    assert "sha256" in report.faults[0].found
    state = c12.status(place)
    assert (state.exit_code, state.state) == (1, "converting")
    assert [row.done for row in state.products] == [4, 6]
    tree, truth = c12.open_cube(place), c12.open_cube(whole)
    assert tree["s1"]["status"].values.tolist() == [[1, 1], [0, 0], [1, 1]]
    np.testing.assert_array_equal(tree["s1"]["s1"].values[[0, 2]], truth["s1"]["s1"].values[[0, 2]])
    assert np.isnan(tree["s1"]["s1"].values[1]).all()
    (copy / key).write_bytes(was)
    mended = resharded(copy, place, name)
    assert (mended.exit_code, mended.written) == (0, 1)
    undisturbed = tmp_path / "undisturbed.zarr"
    resharded(copy, undisturbed, name)
    assert contents(place) == contents(undisturbed)
    assert c12.verify(place, source).exit_code == 0


def test_a_lost_record_and_a_lost_object_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "s1/s1/c/0/0/0/0/0").unlink()
    roi = c12.open_cube(copy)["roi"].values[1]
    (copy / record_key("labels", str(roi))).write_text("{")
    faults = resharded(copy, tmp_path / "c.zarr", "bands").faults
    assert {(f.product, f.found) for f in faults} == {("s1", "no such object"), ("labels", "no whole record")}
    with pytest.raises(StrictError):
        resharded(copy, tmp_path / "d.zarr", "bands", strict=True)


def test_what_is_right_already_survives_a_source_that_rots(copy: Path, source: Path, tmp_path: Path) -> None:
    """The last shard is written again since an ROI came; one of its old ROIs is no longer whole in the source."""
    some, place = tmp_path / "some.zarr", tmp_path / "c.zarr"
    rois = tuple(str(roi) for roi in c12.open_cube(copy)["roi"].values)
    c12.convert(source, some, ["s1", "labels"], options=c12.Options(workers=0, rois=rois[:1]))
    c12.convert(some, place, options=TWO)
    flipped(copy / "s1/s1/c/0/0/0/0/0")
    assert c12.convert(copy, place, options=TWO).exit_code == 1
    assert c12.verify(place, source).exit_code == 0


def test_a_source_that_grew(whole: Path, source: Path, tmp_path: Path) -> None:
    some, place, at_once = (tmp_path / f"{name}.zarr" for name in ("some", "c", "at-once"))
    rois = [str(roi) for roi in c12.open_cube(whole)["roi"].values]
    for end in (1, 2, 3):
        c12.convert(source, some, ["s1", "labels"], options=c12.Options(workers=0, rois=tuple(rois[:end])))
        report = c12.convert(some, place, options=TWO)
        assert report.exit_code == 0
        assert report.written == 2, "the last shard of each product, and no other"
        assert c12.verify(place).exit_code == 0
    c12.convert(some, at_once, options=TWO)
    assert without_root(place) == without_root(at_once)
    only = tmp_path / "only.zarr"
    c12.convert(source, only, ["s1", "labels"], options=c12.Options(workers=0, rois=(rois[1],)))
    fresh = tmp_path / "fresh.zarr"
    first = c12.Options(workers=0, rois=(rois[0],), layout=TWO.layout)
    c12.convert(whole, fresh, options=first)
    with pytest.raises(DestinationError, match=f"{rois[0]} shares a shard .* give a source that has both"):
        c12.convert(only, fresh, options=TWO)
    assert c12.verify(fresh).exit_code == 0


@EVERY_STEP
@pytest.mark.parametrize("begun", [False, True])
def test_each_write_step_in_turn(whole: Path, begun: bool, every: bool, tmp_path: Path) -> None:
    truth, before = shown(whole), tmp_path / "before.zarr"
    if begun:
        c12.convert(whole, before, options=c12.Options(workers=0, rois=(c12.plan(whole).order[0],), layout=TWO.layout))

    def copied(name: str) -> Path:
        place = tmp_path / name
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(before, place)) if begun else place

    undisturbed = copied("undisturbed.zarr")
    with dying(10**9) as count:
        c12.convert(whole, undisturbed, options=TWO)
    expected, steps = contents(undisturbed), count[0]
    seen = set()
    for step in crash_steps(steps, every):
        place = copied("c.zarr")
        with dying(step, torn=step % 2 == 1), pytest.raises(Killed):
            c12.convert(whole, place, options=TWO)
        seen.add(assert_true(place, truth))
        c12.convert(whole, place, options=TWO)
        assert contents(place) == expected, f"step {step} of {steps}"
    assert len(seen) > 1


def converting(source: Path, place: Path) -> None:
    c12.convert(source, place, ["s1", "extra"], options=c12.Options(workers=2, layout=TWO.layout))


@KILLS
def test_real_kills_at_random_moments(cube: Path, kills: int, tmp_path: Path) -> None:
    place, undisturbed, killed = tmp_path / "c.zarr", tmp_path / "undisturbed.zarr", 0
    start = time.perf_counter()
    converting(cube, undisturbed)
    lasts = time.perf_counter() - start
    truth, expected = shown(cube), contents(undisturbed)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["cloudsen12_cube", "test_reshard"])
    for moment in np.random.default_rng(5).uniform(0.1, 0.9, kills) * lasts:
        process = processes.Process(target=converting, args=(cube, place))
        process.start()
        process.join(moment)
        killed += process.is_alive()
        process.kill()
        process.join()
        assert_true(place, truth)
        if process.exitcode == 0:
            shutil.rmtree(place)
    assert killed >= kills // 4
    converting(cube, place)
    assert contents(place) == expected


def test_records_that_disagree_are_no_shard(whole: Path, tmp_path: Path) -> None:
    """Two writers, or a hand: an ROI's record of another object makes the whole shard be made again."""
    place = tmp_path / "c.zarr"
    c12.convert(whole, place, options=TWO)
    record = next(place.glob("s1/s1/records/*.json"))
    document = json.loads(record.read_text())
    record.write_text(json.dumps(document | {"sha256": "0" * 64}))
    assert len(c12.status(place).missing) == 2
    assert c12.verify(place).exit_code == 1
    assert c12.convert(whole, place, options=TWO).written == 1
    assert c12.status(place).exit_code == c12.verify(place).exit_code == 0


def test_repair_finds_what_rotted(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    c12.convert(whole, place, options=TWO)
    expected = contents(place)
    flipped(place / "s1/s1/c/0/0/0/0/0")
    found = c12.verify(place)
    assert len(found.differences) == 2, "both ROIs of the shard are named"
    assert c12.convert(whole, place, options=TWO).written == 0
    mended = c12.convert(whole, place, options=c12.Options(workers=2, repair=True, layout=TWO.layout))
    assert mended.written == 1
    assert contents(place) == expected


def test_a_part_of_a_cube(archive: Path, cube: Path, tmp_path: Path) -> None:
    """The same selection of the archive and of its cube gives the same cube; times are counted anew."""
    where, bands = ["label_type=high", "difficulty>=2"], c12.Options(layout=LAYOUTS["bands"], workers=1)
    c12.convert(archive, tmp_path / "a.zarr", ["labels"], where, options=bands)
    c12.convert(cube, tmp_path / "b.zarr", ["labels"], where, options=bands)
    left, right = (c12.open_cube(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert left.to_dataset().identical(right.to_dataset().assign_attrs(left.attrs))
    assert left["labels"]["labels"].equals(right["labels"]["labels"])
    assert left["labels"].sizes["time"] < 5
    assert c12.verify(tmp_path / "b.zarr", archive).exit_code == 0
    assert c12.status(tmp_path / "b.zarr", archive).new_rois == ()
    roi = str(left["roi"].values[0])
    c12.convert(tmp_path / "b.zarr", tmp_path / "d.zarr", options=c12.Options(rois=(roi,), bbox=(-180, -90, 180, 90)))
    asked = settings_in(tmp_path / "d.zarr")["selection"]
    assert asked == {"where": where, "bbox": [-180, -90, 180, 90], "rois": [roi]}
    assert c12.status(tmp_path / "d.zarr", archive).new_rois == ()


def test_a_scale_that_the_part_alone_would_not_tell(source: Path, tmp_path: Path) -> None:
    cube, layers = tmp_path / "source.zarr", "labels/labels/zarr.json"
    c12.convert(source, cube, ["labels"], options=ONE)
    for path in (cube / "labels/labels/records").glob("*.json"):
        document = json.loads(path.read_text())
        for number, patch in enumerate(document["patches"]):
            patch["maxima"] = {"CD-FCNN-RGBI": 1 if "0" in path.stem[:6] else 100 * number}
        path.write_text(json.dumps(document, indent=1))

    def scale(place: Path) -> Any:
        return json.loads((place / layers).read_text())["attributes"]["layers"]["CD-FCNN-RGBI"].get("valid_max")

    known = scale(cube)
    c12.convert(cube, tmp_path / "c.zarr", options=c12.Options(workers=0, rois=(c12.plan(cube).order[0],)))
    assert known is not None
    assert scale(tmp_path / "c.zarr") == known
    c12.finalise(tmp_path / "c.zarr")
    assert scale(tmp_path / "c.zarr") == known


def test_parts_processes_and_progress(cube: Path, tmp_path: Path) -> None:
    place, undisturbed, steps = tmp_path / "c.zarr", tmp_path / "u.zarr", list[Step]()
    layout = c12.Layout(rois_per_shard=3)
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        c12.convert(cube, undisturbed, executor=pool, options=c12.Options(layout=layout), progress=steps.append)
    assert len(steps) == 10
    assert {step.shards for step in steps} == {10}
    assert sum(len(step.record.patches) for step in steps) == 5 * 20
    for number in (2, 1):
        report = c12.convert(cube, place, options=c12.Options(workers=1, part=c12.Part(number, 2), layout=layout))
        assert (report.shards, report.written) == (5, 5)
    assert c12.finalise(place).exit_code == 0
    assert without_root(place) == without_root(undisturbed)


def test_the_plan_says_what_it_takes(cube: Path) -> None:
    one, four = (c12.plan(cube, options=c12.Options(layout=c12.Layout(rois_per_shard=n))) for n in (1, 4))
    assert isinstance(four, CubePlan)
    totals = four.totals(2)
    assert (totals["shards"], totals["objects"], totals["rois"], totals["patches"]) == (5, 5 + 20, 4, 20)
    assert totals["source_bytes"] == sum(p.stat().st_size for p in cube.glob("*/*/c/*/0/0/0/0"))
    largest = max(layout.roi_bytes for layout in four.layouts)
    assert four.memory_need(2) - one.memory_need(2) >= 2 * 2 * 3 * largest
    lines = json.loads(four.as_json(2))["shards"]
    assert [len(line["rois"]) for line in lines] == [4] * 5
    assert len(lines[0]["from"]) == 4


def test_what_cannot_be_done(source: Path, whole: Path, copy: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    with pytest.raises(SelectionError, match=r"several ROIs a shard are made from a cube.* rois_per_shard=2"):
        c12.convert(source, place, options=TWO)
    with pytest.raises(DestinationError, match="cannot be made from itself"):
        c12.convert(copy, copy.parent / "." / copy.name, options=ONE)
    with pytest.raises(SelectionError, match=r"no product 's2l1c' .* it has s1, labels"):
        c12.convert(whole, place, ["s2l1c"])
    with pytest.raises(SelectionError, match="accept it in"):
        c12.convert(whole, place, options=c12.Options(accept=tmp_path / "f.json"))
    with pytest.raises(SelectionError, match="leave the meaning of it to the cube"):
        c12.convert(whole, place, options=c12.Options(test_meaning="v1.0"))
    with pytest.raises(SelectionError, match="the selection is empty"):
        c12.convert(whole, place, where=["difficulty>5"])
    assert not place.exists()
    c12.convert(whole, place, options=TWO)
    for options in (ONE, c12.Options(layout=c12.Layout("lz4", rois_per_shard=3))):
        with pytest.raises(DestinationError, match=r"was made with another layout .*shard|codec"):
            c12.convert(whole, place, options=options)
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["cloudsen12"]["state"] = "converting"
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="is not finished: end its conversion first"):
        c12.convert(copy, tmp_path / "d.zarr")
    with pytest.raises(CubeError, match="no CloudSEN12 archive"):
        c12.convert(copy / "s1/s1/c", tmp_path / "d.zarr")


def test_transforms_keep_every_bit(copy: Path, tmp_path: Path) -> None:
    """A catalogue that is read back out of a cube and written again has the same numbers."""
    array = zarr.open_array(copy, path="proj_transform", mode="r+")
    array[...] = array[...] + np.array([0.1 + 0.2, 0, 1 / 3, 0, -1e-9, 2 / 3])
    resharded(copy, tmp_path / "c.zarr", "lz4")
    left, right = (zarr.open_array(p, path="proj_transform", mode="r")[...] for p in (copy, tmp_path / "c.zarr"))
    assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    assert list(read_table(open_stored_cube(copy))[1]["proj_transform"]) == list(
        read_table(open_stored_cube(tmp_path / "c.zarr"))[1]["proj_transform"]
    )


def test_bucket_to_bucket_is_as_disk_to_disk(s3: str, whole: Path, tmp_path: Path) -> None:
    """And what `info` says of requests is what is asked for."""
    source, place = private("reshard-source.zarr", s3), private("resharded.zarr", s3)
    files_of(s3).put(f"{whole}/", f"{PRIVATE}/reshard-source.zarr", recursive=True)
    assert c12.convert(source, place, options=c12.Options(layout=TWO.layout)).exit_code == 0
    c12.convert(whole, tmp_path / "c.zarr", options=TWO)
    left, right = objects(place), objects(tmp_path / "c.zarr")
    assert {**left, "zarr.json": b""} == {**right, "zarr.json": b""}
    assert c12.convert(source, place, options=c12.Options(layout=TWO.layout)).written == 0
    assert c12.convert(place, tmp_path / "back.zarr").exit_code == 0
    assert without_root(tmp_path / "back.zarr") == without_root(whole)
    assert c12.verify(place).exit_code == c12.status(place).exit_code == 0


@pytest.mark.parametrize("name", ["none", "bands", "3 ROIs", "lz4, bands, 3 ROIs"])
def test_requests_are_those_of_the_sheet(s3: str, cube: Path, name: str) -> None:
    place = f"requests-{list(LAYOUTS).index(name)}.zarr"
    options = c12.Options(layout=LAYOUTS[name])
    assert c12.convert(cube, private(place, s3), ["s2l1c", "labels"], options=options).exit_code == 0
    costs = {cost.what: cost for cost in info(private(place, s3)).costs}
    with proxy(s3) as (endpoint, seen):
        tree = c12.open_cube(private(place, endpoint))
        image, label = tree["s2l1c"]["s2l1c"], tree["labels"]["labels"]
        reads = {
            "patch": image.isel(roi=0, time=0),
            "second patch of an ROI": image.isel(roi=0, time=1),
            "label": label.isel(roi=0, time=0).sel(band="manual_hq"),
            "ROI": image.isel(roi=3),
        }
        for what, array in reads.items():
            seen.clear()
            array.values  # noqa: B018 (reads)
            assert sum(seen.seen.values()) == costs[what].requests, what
            if what != "label":  # these differ too much from each other: most layers of some patches are empty
                assert seen.bytes == pytest.approx(costs[what].bytes, rel=0.5), what


def test_the_command_line(cube: Path, archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    asked = ["--codec", "lz4:3", "--chunk", "bands", "--rois-per-shard", "3"]
    planned = run("plan", cube, place, *asked, "--json", tmp_path / "plan.json", columns=60)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert max(map(len, planned.stdout.splitlines())) <= 60
    assert json.loads((tmp_path / "plan.json").read_text())["totals"]["shards"] == 10
    assert not place.exists()
    done = run("convert", cube, place, *asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 of 10 shards written" in done.stdout
    assert settings_in(place)["products"]["s1"]["codec"] == ["blosc-lz4-shuffle", 3, 256 * 1024]
    assert "0 of 10 shards written" in run("convert", cube, place, *asked).stdout
    assert run("verify", place, "--source", archive).returncode == 0
    assert "was made with another layout" in failed(run("convert", cube, place))
    assert "several ROIs a shard are made from a cube" in failed(run("convert", archive, tmp_path / "d.zarr", *asked))
    for wrong in (["--codec", "zip"], ["--chunk", "roi"], ["--rois-per-shard", "0"], ["--codec", "lz4:11"]):
        told = run("convert", cube, tmp_path / "d.zarr", *wrong)
        assert told.returncode == 2
        assert "Traceback" not in told.stderr
    flipped(place / "s1/s1/c/0/0/0/0/0")
    told = run("convert", place, tmp_path / "e.zarr", "--products", "s1")
    assert told.returncode == 1
    assert len(told.stderr.strip().splitlines()) == 1
    assert "sha256" in told.stderr

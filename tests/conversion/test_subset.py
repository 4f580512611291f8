"""A part of a cube is what the conversion of that part would have been, object by object, and nothing is decoded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from crashes import ONE, PRODUCTS, SMALL, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError, DestinationError, SelectionError, StoreError
from cloudsen12_cube.format import codec
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.testing import ArchiveOptions, make_archive

INLINE = c12.SubsetOptions(workers=0)


def objects(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def root(place: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / "zarr.json").read_bytes())
    return document


def assert_converted(place: Path, oracle: Path) -> None:
    """Check that two cubes differ in nothing but what the root says of their history."""
    found, expected = objects(place), objects(oracle)
    assert found.keys() == expected.keys()
    assert [key for key in found if found[key] != expected[key]] == ["zarr.json"]
    one, other = root(place), root(oracle)
    assert one["consolidated_metadata"] == other["consolidated_metadata"]
    told = {key for key in one["attributes"] if one["attributes"][key] != other["attributes"].get(key)}
    assert told <= {"history", "date_created", "cloudsen12"}
    mine, theirs = one["attributes"]["cloudsen12"], other["attributes"]["cloudsen12"]
    new = {key for key in mine if mine[key] != theirs.get(key)}
    assert new <= {"created", "subsets", "full_scale"}


@pytest.mark.parametrize(
    ("where", "products", "whole"),
    [
        ([], None, 20),
        (["label_type=high"], ["s1", "labels"], 4),
        (["label_type=high|scribble", "split=train"], ["labels"], None),
        (["difficulty<=3"], ["extra", "labels"], 0),
        (["cloud_coverage=cloudy"], ["s1", "labels"], 0),
        (["cloud_coverage!=cloudy", "roi_id!=ROI_0827"], ["s2l1c"], 0),
    ],
)
def test_it_is_what_convert_would_have_made(
    archive: Path, cube: Path, where: list[str], products: list[str] | None, whole: int | None, tmp_path: Path
) -> None:
    out, oracle = tmp_path / "out.zarr", tmp_path / "oracle.zarr"
    c12.convert(archive, oracle, products, where)
    report = c12.subset(cube, out, products, where)
    assert_converted(out, oracle)
    assert (report.exit_code, report.skipped, report.whole + report.cut) == (0, 0, report.shards)
    assert whole is None or report.whole == whole
    assert report.size == sum(len(data) for key, data in objects(out).items() if "/c/" in key and key.count("/") == 7)
    assert c12.verify(out).exit_code == 0
    checked = c12.verify(out, archive)
    assert (checked.exit_code, checked.shards) == (0, report.shards)
    assert c12.status(out, archive, checksum=True).exit_code == 0
    assert info(out).products == info(oracle).products
    before = objects(out)
    again = c12.subset(cube, out, products, where)
    assert (again.whole, again.cut, again.skipped) == (0, 0, report.shards)
    assert objects(out) == before


_CONDITIONS = st.sampled_from(
    [
        *("label_type=high", "label_type!=nolabel", "cloud_coverage=cloudy|cloud-free", "cloud_coverage!=mid-cloudy"),
        *("difficulty<=3", "difficulty>1", "split=train", "datetime>=2019-06-01", "s2_view_sun_elevation>40"),
    ]
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.lists(_CONDITIONS, max_size=3, unique=True),
    rois=st.sets(st.integers(0, 3), max_size=3),
    box=st.sampled_from([None, (-180.0, -90.0, 180.0, 90.0), (-180.0, 0.0, 180.0, 90.0), (170.0, -90.0, 20.0, 90.0)]),
    products=st.sampled_from([["s1"], ["labels", "s1"], ["labels"]]),
)
def test_any_selection_is_what_convert_would_have_made(
    archive: Path,
    cube: Path,
    tmp_path: Path,
    where: list[str],
    rois: set[int],
    box: tuple[float, float, float, float] | None,
    products: list[str],
) -> None:
    for name in ("out.zarr", "oracle.zarr"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    names = tuple(c12.plan(archive).order[i] for i in sorted(rois))
    out, oracle = tmp_path / "out.zarr", tmp_path / "oracle.zarr"
    try:
        c12.convert(archive, oracle, products, where, options=c12.Options(box, names, 0))
    except SelectionError:
        with pytest.raises(SelectionError, match="selection is empty"):
            c12.subset(cube, out, products, where, c12.SubsetOptions(box, names, 0))
        assert not out.exists()
        return
    c12.subset(cube, out, products, where, c12.SubsetOptions(box, names, 0))
    assert_converted(out, oracle)


@pytest.fixture(scope="module")
def broken(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a damaged file, a patch without a folder, one that lacks a file, and a row for nothing."""
    place = tmp_path_factory.mktemp("broken") / "archive"
    shutil.copytree(archive, place)
    patches = sorted(path.parent for path in place.glob("*/ROI_*/*/S1.tif"))
    (patches[0] / "S1.tif").write_bytes(b"")
    shutil.rmtree(patches[6])
    (patches[12] / "labels" / "fmask.tif").unlink()
    return place


@pytest.mark.parametrize("where", [[], ["difficulty<=4"], ["cloud_coverage!=cloudy"]])
def test_what_failed_or_is_absent_stays_so_with_its_faults(broken: Path, where: list[str], tmp_path: Path) -> None:
    cube, out, oracle = (tmp_path / f"{name}.zarr" for name in ("cube", "out", "oracle"))
    assert c12.convert(broken, cube, PRODUCTS).exit_code == 1
    expected = c12.convert(broken, oracle, PRODUCTS, where)
    report = c12.subset(cube, out, where=where)
    assert_converted(out, oracle)
    assert set(report.faults) == set(expected.faults)
    assert report.exit_code == expected.exit_code
    assert c12.status(out).failures == c12.status(oracle).failures
    beside = tmp_path / "out.zarr.failures.json"
    assert beside.exists() == bool(report.faults)
    again = c12.subset(cube, out, where=where)
    assert (again.skipped, again.faults) == (report.shards, report.faults)


def test_accepted_gaps_go_along_with_their_patches(broken: Path, tmp_path: Path) -> None:
    cube, out, rest = (tmp_path / f"{name}.zarr" for name in ("cube", "out", "rest"))
    some = [*PRODUCTS, "s2l2a"]
    failed = c12.convert(broken, cube, some)
    c12.convert(broken, cube, some, options=c12.Options(accept=tmp_path / "cube.zarr.failures.json"))
    roi = failed.faults[0].roi_id
    report = c12.subset(cube, out, options=c12.SubsetOptions(rois=(roi,)))
    own = [fault for fault in failed.faults if fault.roi_id == roi]
    assert (report.exit_code, report.accepted) == (0, len(own))
    assert c12.status(out, broken).exit_code == 0
    assert c12.verify(out, broken).exit_code == 0
    other = c12.subset(cube, rest, ["s2l2a"], [f"roi_id!={fault.roi_id}" for fault in failed.faults])
    assert (other.exit_code, other.accepted) == (0, 0)
    assert "accepted" not in root(rest)["attributes"]["cloudsen12"]


def test_no_pixel_is_decoded_and_none_encoded(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a chunk was decoded or encoded")

    lz4 = c12.Layout("lz4")
    with monkeypatch.context() as patch:
        patch.setattr(codec.blosc, "decompress", forbidden)
        patch.setattr(codec, "Blosc", forbidden)
        patch.setattr("zarr.codecs.BloscCodec._decode_single", forbidden)
        report = c12.subset(cube, tmp_path / "out.zarr", where=["difficulty<=3"])
        for decode_or_encode in (
            lambda: c12.open_cube(cube)["s1"]["s1"].values,
            lambda: list(c12.open_cube(cube).cloudsen12.stream({"s1": None})),
            lambda: c12.convert(cube, tmp_path / "o.zarr", ["s1"], options=c12.Options(workers=0, layout=lz4)),
        ):
            with pytest.raises(AssertionError, match="was decoded or encoded"):
                decode_or_encode()
    assert report.cut
    assert c12.verify(tmp_path / "out.zarr").exit_code == 0


def test_chunks_that_no_codec_reads_are_copied_too(cube: Path, tmp_path: Path) -> None:
    """Random bytes under the right sha256: who decodes fails."""
    source = tmp_path / "cube.zarr"
    shutil.copytree(cube, source)
    key = source / "s1/s1/c/0/0/0/0/0"
    size = 16 * 5 * 3 + 4
    data = os.urandom(key.stat().st_size - size) + key.read_bytes()[-size:]
    key.write_bytes(data)
    path = next(p for p in source.glob("s1/s1/records/*.json") if json.loads(p.read_text())["index"] == 0)
    record = json.loads(path.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(record))
    for name, where in (("whole", []), ("cut", ["cloud_coverage!=cloudy"])):
        assert c12.subset(source, tmp_path / name, ["s1"], where).exit_code == 0
        stored = (tmp_path / name / "s1/s1/c/0/0/0/0/0").read_bytes()
        assert stored == data if name == "whole" else stored[:64] in data


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flipped, "sha256"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "sha256"),
        (lambda path: path.unlink(), "no such object"),
        (lambda path: path.write_bytes(b""), "sha256"),
    ],
)
@pytest.mark.parametrize("where", [[], ["difficulty<=3"]])
def test_a_damaged_shard_is_named_and_never_copied(
    cube: Path, damage: Callable[[Path], None], told: str, where: list[str], tmp_path: Path
) -> None:
    source, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    shutil.copytree(cube, source)
    roi = next(p for p in source.glob("s1/s1/records/*.json") if json.loads(p.read_text())["index"] == 0).stem
    damage(source / "s1/s1/c/0/0/0/0/0")
    report = c12.subset(source, out, PRODUCTS, where)
    assert report.exit_code == 1
    (fault,) = report.faults
    assert (fault.roi_id, fault.product) == (roi, "s1")
    assert fault.path.endswith("cube.zarr/s1/s1/c/0/0/0/0/0")
    assert told in fault.found
    assert not (out / f"s1/s1/records/{roi}.json").exists()
    state = c12.status(out)
    assert (state.state, state.missing) == ("converting", (("s1", roi),))
    assert c12.verify(out).exit_code == 1
    assert (c12.open_cube(out)["s1"]["status"].sel(roi=roi) == 0).all()
    shutil.copyfile(cube / "s1/s1/c/0/0/0/0/0", source / "s1/s1/c/0/0/0/0/0")
    mended = c12.subset(source, out, PRODUCTS, where)
    assert (mended.exit_code, mended.whole + mended.cut) == (0, 1)
    assert c12.verify(out).exit_code == 0
    assert c12.status(out).state == "final"


def test_an_index_that_leads_nowhere_is_named(cube: Path, tmp_path: Path) -> None:
    """Under the right sha256, as a writer with a defect would leave it."""
    source = tmp_path / "cube.zarr"
    shutil.copytree(cube, source)
    key = source / "s1/s1/c/0/0/0/0/0"
    data = key.read_bytes()[:-4] + b"\0\0\0\0"
    key.write_bytes(data)
    path = next(p for p in source.glob("s1/s1/records/*.json") if json.loads(p.read_text())["index"] == 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}))
    (fault,) = c12.subset(source, tmp_path / "out.zarr", ["s1"], ["difficulty<=3"]).faults
    assert "its index is damaged" in fault.found


def test_a_cube_that_is_not_done_yet_and_grows(archive: Path, tmp_path: Path) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    c12.convert(archive, cube, PRODUCTS, options=c12.Options(part=c12.Part(1, 2)))
    report = c12.subset(cube, out)
    assert (report.whole, len(report.faults)) == (4, 4)
    assert "never converted" in report.faults[0].expected
    assert c12.status(out).state == "converting"
    c12.convert(archive, cube, PRODUCTS, options=c12.Options(part=c12.Part(2, 2)))
    again = c12.subset(cube, out)
    assert (again.exit_code, again.whole, again.skipped) == (0, 4, 4)
    c12.finalise(cube)
    assert c12.verify(out, archive).exit_code == 0


def test_new_rois_of_the_cube_go_behind_the_others(archive: Path, tmp_path: Path) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    rois = tuple(c12.plan(archive).order)
    c12.convert(archive, cube, PRODUCTS, options=c12.Options(rois=rois[2:]))
    c12.subset(cube, out, where=["difficulty<=4"])
    c12.convert(archive, cube, PRODUCTS)
    report = c12.subset(cube, out, where=["difficulty<=4"])
    assert report.skipped
    assert report.cut
    assert c12.verify(out, archive).exit_code == 0
    oracle = tmp_path / "oracle.zarr"
    c12.convert(archive, oracle, PRODUCTS, ["difficulty<=4"])
    for name in PRODUCTS:
        xr.testing.assert_identical(c12.open_cube(out)[name].to_dataset(), c12.open_cube(oracle)[name].to_dataset())


def test_a_subset_of_a_subset_and_its_history(archive: Path, cube: Path, tmp_path: Path) -> None:
    first, second, oracle = (tmp_path / f"{name}.zarr" for name in ("first", "second", "oracle"))
    c12.subset(cube, first, PRODUCTS, ["cloud_coverage!=cloudy"])
    c12.subset(first, second, ["labels"], ["difficulty<=3"], c12.SubsetOptions(bbox=(-180, -90, 180, 90)))
    box = c12.Options((-180, -90, 180, 90))
    c12.convert(archive, oracle, ["labels"], ["cloud_coverage!=cloudy", "difficulty<=3"], options=box)
    assert_converted(second, oracle)
    steps = root(second)["attributes"]["cloudsen12"]["subsets"]
    assert [step["cube"] for step in steps] == [cube.name, first.name]
    assert [step["selection"]["where"] for step in steps] == [["cloud_coverage!=cloudy"], ["difficulty<=3"]]
    lines = root(second)["attributes"]["history"].splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == ["converted", "subset", "subset"]
    assert c12.status(second, archive).exit_code == 0


def test_two_boxes_become_a_list_of_rois(archive: Path, tmp_path: Path) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    c12.convert(archive, cube, ["s1"], options=c12.Options((-180, -60, 180, 90)))
    c12.subset(cube, out, options=c12.SubsetOptions((-180, -90, 180, 80)))
    asked = root(out)["attributes"]["cloudsen12"]["selection"]
    assert asked["rois"] == [str(roi) for roi in c12.open_cube(out)["roi"].values]
    assert c12.status(out, archive).new_rois == ()


def test_a_cube_that_has_got_more_dates_than_the_subset_has_room_for(archive: Path, tmp_path: Path) -> None:
    cube, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    roi, image = c12.plan(archive, ["s1"]).catalogue.keys[0]
    where = [f"s2_id_gee!={image}"]
    c12.convert(archive, cube, ["s1"], options=c12.Options(rois=(roi,)))
    c12.subset(cube, out, where=where)
    c12.convert(archive, cube, ["s1"])
    with pytest.raises(DestinationError, match=r"other layout of s1 \(shard \[1, 4, 3, 48, 48\], now shard \[1, 5"):
        c12.subset(cube, out, where=where)


def test_convert_continues_a_subset_and_keeps_its_history(archive: Path, cube: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    c12.subset(cube, out, PRODUCTS, ["label_type=high"])
    assert c12.convert(archive, out, PRODUCTS, ["label_type=high"]).written == 0
    assert "subset of" in root(out)["attributes"]["history"]
    c12.convert(archive, out, PRODUCTS)
    assert c12.verify(out, archive).exit_code == 0
    with pytest.raises(DestinationError, match="not in the selection"):
        c12.subset(cube, out, PRODUCTS, ["label_type=high"])


def test_the_scale_of_probabilities_is_the_whole_cubes(cube: Path, tmp_path: Path) -> None:
    """One ROI tells that CD-FCNN counts in hundredths of a per cent; a subset without it must not forget that."""
    source, out = tmp_path / "cube.zarr", tmp_path / "out.zarr"
    shutil.copytree(cube, source)
    paths = sorted(source.glob("labels/labels/records/*.json"))
    record = json.loads(paths[0].read_text())
    record["patches"][0]["maxima"] = dict.fromkeys(record["patches"][0]["maxima"], 9000)
    paths[0].write_text(json.dumps(record, indent=1))
    c12.finalise(source)
    options = c12.SubsetOptions(rois=(paths[1].stem,))
    c12.subset(source, out, ["labels"], options=options)

    def scale(place: Path) -> int:
        return int(json.loads(c12.open_cube(place)["labels"]["labels"].attrs["layers"])["CD-FCNN-RGBI"]["valid_max"])

    assert [scale(cube), scale(source), scale(out)] == [100, 10_000, 10_000]
    c12.finalise(out)
    assert scale(out) == 10_000
    c12.subset(out, tmp_path / "next.zarr")
    assert scale(tmp_path / "next.zarr") == 10_000


def test_everything_works_on_a_subset(tmp_path: Path) -> None:
    options = ArchiveOptions(size=32, times=3, label_types=("high",))
    archive = make_archive(tmp_path / "archive", rois=12, options=options)
    cube, out, oracle = (tmp_path / f"{name}.zarr" for name in ("cube", "out", "oracle"))
    c12.convert(archive, cube, ["s2l1c", "labels"])
    c12.stats(cube)
    c12.convert(archive, oracle, ["s2l1c", "labels"], ["cloud_coverage!=cloud-free"])
    c12.subset(cube, out, where=["cloud_coverage!=cloud-free"])
    assert not list(out.rglob("statistics.json"))
    one, other = (c12.open_cube(place).cloudsen12 for place in (out, oracle))
    for split in ("test", "train"):
        left, right = one.evaluate(split=split), other.evaluate(split=split)
        assert left.equals(right)
    batches = [list(c.stream({"s2l1c": None}, "manual_hq", split="train", batch_size=4, seed=3)) for c in (one, other)]
    assert len(batches[0]) == len(batches[1]) > 0
    for mine, theirs in zip(*batches, strict=True):
        np.testing.assert_array_equal(mine["pixels"], theirs["pixels"])
        np.testing.assert_array_equal(mine["target"], theirs["target"])
    ours, theirs = c12.stats(out), c12.stats(oracle)
    assert replace(ours, origin=replace(ours.origin, computed=theirs.origin.computed)) == theirs  # but for the second


def test_wrong_selections(cube: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    for told, products, where, options in (
        ("no property 'x'", None, ["x=1"], INLINE),
        ("selection is empty", None, ["difficulty>5"], INLINE),
        ("no product 's9'", ["s9"], [], INLINE),
        ("no ROI 'ROI_9'", None, [], c12.SubsetOptions(rois=("ROI_9",))),
        ("is not west, south", None, [], c12.SubsetOptions(bbox=(1, 2, 3, -4))),
    ):
        with pytest.raises(SelectionError, match=told):
            c12.subset(cube, out, products, where, options)
    c12.subset(cube, tmp_path / "s1.zarr", ["s1"])
    with pytest.raises(SelectionError, match=r"no product 'labels' in .*; it has s1"):
        c12.subset(tmp_path / "s1.zarr", out, ["labels"])
    assert not out.exists()


def test_places_that_cannot_be(cube: Path, archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "deep" / "cube.zarr"
    shutil.copytree(cube, source)
    (tmp_path / "link").symlink_to(source)
    for out in (source, f"{source}/", tmp_path / "link", f"file://{source}", tmp_path / "deep" / "." / "cube.zarr"):
        with pytest.raises(DestinationError, match="is the cube itself"):
            c12.subset(source, out)
    with pytest.raises(DestinationError, match="inside the cube"):
        c12.subset(source, source / "part.zarr")
    with pytest.raises(DestinationError, match="holds the cube itself"):
        c12.subset(source, tmp_path / "deep")
    with pytest.raises(DestinationError, match="something else"):
        c12.subset(source, archive)
    with pytest.raises(StoreError, match="no cube"):
        c12.subset(archive, tmp_path / "out.zarr")
    assert contents(source) == contents(cube)
    assert not (tmp_path / "out.zarr").exists()


def test_another_cube_at_the_place_is_refused_and_left_alone(archive: Path, cube: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.zarr", tmp_path / "out.zarr"
    c12.convert(archive, other, ["s1"])
    before = objects(other)
    with pytest.raises(DestinationError, match="is no subset"):
        c12.subset(cube, other, ["s1"])
    assert objects(other) == before
    c12.subset(cube, out, ["s1"], ["label_type=high"])
    before = objects(out)
    for products, where in ((["s1"], ["label_type=scribble"]), (["s1"], []), (["labels"], ["label_type=high"])):
        with pytest.raises(DestinationError, match="other conditions"):
            c12.subset(cube, out, products, where)
    second = tmp_path / "second.zarr"
    c12.convert(archive, second, ["s1"], options=c12.Options(test_meaning="v1.1"))
    document = root(second)
    document["attributes"]["cloudsen12"]["created"] = "2020-01-01T00:00:00Z"
    (second / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DestinationError, match="other origin"):
        c12.subset(second, out, ["s1"], ["label_type=high"])
    assert objects(out) == before


def test_a_layout_that_cannot_be_taken_apart(cube: Path, tmp_path: Path) -> None:
    source = tmp_path / "cube.zarr"
    shutil.copytree(cube, source)
    document = root(source)
    layout = document["attributes"]["cloudsen12"]["products"]["s1"]
    for change in ({"shard": [4, 5, 3, 48, 48]}, {"codec": ["blosc-lz4-shuffle", 5, 17]}):
        document["attributes"]["cloudsen12"]["products"]["s1"] = layout | change
        (source / "zarr.json").write_text(json.dumps(document))
        with pytest.raises(StoreError, match=r"without decoding.*give convert the same conditions"):
            c12.subset(source, tmp_path / "out.zarr")
    assert c12.subset(source, tmp_path / "out.zarr", ["labels"]).exit_code == 0


def test_a_cube_that_is_being_created_is_none_yet(tmp_path: Path) -> None:
    source = make_archive(tmp_path / "archive", rois=1, options=SMALL)
    c12.convert(source, tmp_path / "cube.zarr", PRODUCTS, options=ONE)
    document = root(tmp_path / "cube.zarr")
    document["attributes"]["cloudsen12"]["state"] = "creating"
    (tmp_path / "cube.zarr" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(CubeError, match="being created"):
        c12.subset(tmp_path / "cube.zarr", tmp_path / "out.zarr")

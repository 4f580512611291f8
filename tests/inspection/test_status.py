"""How far a cube is, what has changed since, and what somebody decided to live with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from crashes import ONE, PRODUCTS, SMALL, Killed, contents, dying, shown

import cloudsen12_cube as c12
from cloudsen12_cube.cli import main
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.testing import make_archive


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=3, seed=3, options=SMALL)


@pytest.fixture
def source(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture(scope="module")
def whole(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(pristine, place, products=PRODUCTS, options=ONE)
    return place


def convert(source: Path, place: Path, **more: object) -> c12.Report:
    return c12.convert(source, place, PRODUCTS, options=c12.Options(workers=0, **more))  # type: ignore[arg-type]


def failures(place: Path) -> list[dict[str, str]]:
    path = place.with_name(place.name + ".failures.json")
    return json.loads(path.read_text())["failures"] if path.exists() else []


def counts(found: c12.Status) -> dict[str, tuple[int, int, int, int]]:
    return {row.product: (row.done, row.missing, row.failed, row.accepted) for row in found.products}


def test_of_a_whole_cube(whole: Path) -> None:
    found = c12.status(whole)
    assert (found.exit_code, found.state, found.missing, found.failures) == (0, "final", (), ())
    assert counts(found) == {"s1": (6, 0, 0, 0), "labels": (6, 0, 0, 0)}
    stored = sum(p.stat().st_size for p in whole.rglob("c/*/0/0/0/0"))
    assert sum(row.bytes for row in found.products) == stored


def test_while_a_cube_is_made_and_after_it_died(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    with pytest.raises(StoreError, match="is no cube"):
        c12.status(place)
    with dying(5), pytest.raises(Killed):  # the mark, two shards with their records, and no metadata yet
        convert(source, place)
    found = c12.status(place)
    assert (found.exit_code, found.state) == (1, "creating")
    assert counts(found) == {"s1": (2, 4, 0, 0), "labels": (0, 6, 0, 0)}
    with dying(10**9) as count:
        convert(source, tmp_path / "counted.zarr")
    with dying(count[0] - 10), pytest.raises(Killed):
        convert(source, tmp_path / "d.zarr")
    found = c12.status(tmp_path / "d.zarr")
    assert (found.exit_code, found.state) == (1, "converting")
    assert 0 < len(found.missing) < 6


def test_missing_shards_are_named(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(whole, place)
    victim = sorted(place.glob("labels/labels/records/*"))[1]
    victim.unlink()
    (place / "s1/s1/c/0/0/0/0/0").write_bytes(b"torn")
    found = c12.status(place)
    assert ("labels", victim.stem) in found.missing
    assert counts(found) == {"s1": (4, 2, 0, 0), "labels": (4, 2, 0, 0)}
    assert found.exit_code == 1


def test_changed_sources(whole: Path, source: Path) -> None:
    assert c12.status(whole, source).exit_code == 0
    assert c12.status(whole, source, checksum=True).exit_code == 0
    grown, same, gone = sorted(source.glob("*/ROI_*/*/S1.tif"))[:3]
    grown.write_bytes(grown.read_bytes() + b"\0")
    data = bytearray(same.read_bytes())
    data[-1] ^= 1
    same.write_bytes(data)
    gone.unlink()
    found = c12.status(whole, source)
    assert {change.path for change in found.changes} == {str(p.relative_to(source)) for p in (grown, gone)}
    assert {change.found for change in found.changes} == {f"{grown.stat().st_size} bytes", "gone"}
    assert found.exit_code == 1
    paths = {change.path for change in c12.status(whole, source, checksum=True).changes}
    assert paths == {str(p.relative_to(source)) for p in (grown, same, gone)}
    with pytest.raises(c12.CubeError, match="give a source"):
        c12.status(whole, checksum=True)


def test_a_change_of_equal_size_and_time(
    whole: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says that it has compared sizes alone; the checksums find the change."""
    moved = Path(shutil.copytree(source, tmp_path / "moved"))
    tif = min(moved.glob("*/ROI_*/*/S1.tif"))
    data, times = bytearray(tif.read_bytes()), tif.stat()
    data[-1] ^= 1
    tif.write_bytes(data)
    os.utime(tif, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(["status", str(whole), "--source", str(moved)]) == 0
    assert "--checksum finds changes" in " ".join(capsys.readouterr().out.split())
    assert main(["status", str(whole), "--source", str(moved), "--checksum"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "sha256" in out
    assert "--checksum finds changes" not in out


def test_a_roi_that_went(source: Path, tmp_path: Path) -> None:
    place, roi = tmp_path / "c.zarr", c12.plan(source).order[0]
    convert(source, place, rois=(roi,))
    shutil.rmtree(next(source.glob(f"*/{roi}")))
    table = source / "cloudsen12_metadata.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if roi not in line))
    found = c12.status(place, source)
    assert {change.found for change in found.changes} == {"gone"}
    assert found.new_rois == ()


def test_nothing_is_accepted_before_there_is_a_cube(source: Path, tmp_path: Path) -> None:
    choice = tmp_path / "choice.json"
    choice.write_text('[{"roi_id": "ROI_9", "s2_id_gee": "x", "asset": "S1", "path": "p"}]')
    with pytest.raises(SelectionError, match="is no cube yet"):
        convert(source, tmp_path / "c.zarr", accept=choice)
    assert not (tmp_path / "c.zarr").exists()


def test_a_file_that_came(whole: Path, source: Path) -> None:
    folder = next(source.glob("nolabel/ROI_*/*/labels"))
    kept = folder / "manual_sc.tif"
    shutil.copy(folder / "sen2cor.tif", kept)
    found = c12.status(whole, source)
    assert [(c.path, c.expected) for c in found.changes] == [(str(kept.relative_to(source)), "none")]


def test_new_rois_by_the_cubes_own_conditions(source: Path, tmp_path: Path) -> None:
    place, rois = tmp_path / "c.zarr", c12.plan(source).order
    convert(source, place, rois=(rois[0],))
    assert c12.status(place, source).new_rois == ()
    other = tmp_path / "other.zarr"
    table = source / "cloudsen12_metadata.csv"
    text = table.read_text()
    table.write_text("".join(line for line in text.splitlines(keepends=True) if rois[2] not in line))
    convert(source, other)
    table.write_text(text)
    found = c12.status(other, source)
    assert (found.new_rois, found.exit_code) == ((rois[2],), 1)
    convert(source, other)
    assert c12.status(other, source).exit_code == 0


def test_repair_makes_again_what_is_not_right_and_nothing_else(whole: Path, source: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(whole, place)
    shard = place / "labels/labels/c/1/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    assert convert(source, place).written == 0, "without --repair, shards are not read"
    assert len(c12.verify(place).differences) == 1
    assert convert(source, place, repair=True).written == 1
    assert contents(place) == contents(whole)
    assert convert(source, place, repair=True).written == 0


def test_repair_brings_in_a_changed_file_but_keeps_pixels_whose_file_went(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    convert(source, place)
    first, second = sorted(source.glob("*/ROI_*"))[:2]
    changed, gone = next(first.glob("*/S1.tif")), next(second.glob("*/S1.tif"))
    changed.write_bytes(next(second.glob("*/S1.tif")).read_bytes())
    gone.unlink()
    before = shown(place)
    report = convert(source, place, repair=True)
    assert report.written in (0, 1)  # both files may have one size
    assert shown(place).keys() >= {key for key in before if key[1] == second.name}


@pytest.mark.parametrize("name", ["roi/c/0", "label_type/c/0", "s1/split/c/0", "s1/status/c/0/0"])
def test_repair_of_the_catalogue(whole: Path, source: Path, name: str, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(whole, place)
    path = place / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if name.startswith("s1/"):
        assert [text.split(":")[0] for text in c12.verify(place).differences] == [name.split("/c/")[0]]
    else:
        for look in (c12.status, c12.verify):
            with pytest.raises(StoreError, match=r"is damaged .*--repair"):
                look(place)
    assert convert(source, place, repair=True).exit_code == 0
    assert contents(place) == contents(whole)


def test_a_gap_that_is_accepted(source: Path, tmp_path: Path) -> None:
    place, choice = tmp_path / "c.zarr", tmp_path / "mine.json"
    first, second = sorted(sorted(source.glob("*/ROI_*"))[0].glob("*/S1.tif"))  # in one shard
    whole = first.read_bytes()
    first.write_bytes(b"")
    second.write_bytes(b"no tif")
    assert convert(source, place).exit_code == 1
    choice.write_text(json.dumps([f for f in failures(place) if f["path"] == str(second.relative_to(source))]))
    report = convert(source, place, accept=choice)
    assert (report.written, report.exit_code, report.accepted) == (1, 1, 1)
    assert [f["path"] for f in failures(place)] == [str(first.relative_to(source))]
    assert counts(c12.status(place, source)) == {"s1": (4, 0, 1, 1), "labels": (6, 0, 0, 0)}
    first.write_bytes(whole)
    assert (convert(source, place).written, failures(place)) == (1, [])
    assert convert(source, place, accept=choice).written == 0
    found = c12.status(place, source)
    assert (found.exit_code, counts(found)["s1"]) == (0, (5, 0, 0, 1))
    assert c12.verify(place, source=source).exit_code == 0
    images = c12.open_cube(place)["s1"].to_dataset()
    assert int((images["status"] == 2).sum()) == 1
    assert np.isnan(images["s1"].values[images["status"].values == 2]).all()
    assert (convert(source, place, repair=True).written, convert(source, place).written) == (1, 0)
    second.write_bytes(b"something else")
    assert "a gap that was accepted" in c12.status(place, source).changes[0].expected
    report = convert(source, place)
    assert (report.written, report.exit_code) == (1, 1)


def failures_file(place: Path) -> Path:
    return place.with_name(place.name + ".failures.json")


def test_a_row_without_folder_and_a_folder_without_row_can_be_accepted(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    table = source / "cloudsen12_metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines[:2], *lines[3:], lines[4]]))
    shutil.rmtree(next(source.glob(f"*/{lines[5].split(',')[1]}/{lines[5].split(',')[2]}")))
    assert convert(source, place).exit_code == 1
    assert len(failures(place)) == 3
    assert convert(source, place, accept=failures_file(place)).exit_code == 0
    assert convert(source, place).exit_code == 0
    assert counts(c12.status(place))["s1"] == (4, 0, 0, 1)
    assert c12.status(place).exit_code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("{}", "no list of failures"),
        ('{"failures": 3}', "no list of failures"),
        ("[3]", "is no failure; each has"),
        ('[{"roi_id": "ROI_0001"}]', "is no failure; each has"),
        (
            '[{"roi_id": "ROI_9", "s2_id_gee": "x", "asset": "S1", "path": "p"}]',
            "no such failure to accept: ROI_9 x S1",
        ),
    ],
)
def test_what_cannot_be_accepted(whole: Path, source: Path, text: str | None, told: str, tmp_path: Path) -> None:
    place, choice = tmp_path / "c.zarr", tmp_path / "choice.json"
    shutil.copytree(whole, place)
    if text is not None:
        choice.write_text(text)
    with pytest.raises(SelectionError, match=told):
        convert(source, place, accept=choice)
    assert contents(place) == contents(whole)


@pytest.mark.parametrize(
    ("version", "way"), [(0, "open it with the release that made it"), (3, "install a newer release")]
)
def test_another_layout_version_says_how_to_go_on(
    whole: Path, source: Path, version: int, way: str, tmp_path: Path
) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(whole, place)
    root = json.loads((place / "zarr.json").read_text())
    root["attributes"]["cloudsen12"]["layout_version"] = version
    (place / "zarr.json").write_text(json.dumps(root))
    for look in (c12.open_cube, c12.status, c12.verify, c12.finalise, lambda p: convert(source, p)):
        with pytest.raises(c12.CubeError, match=way):
            look(place)

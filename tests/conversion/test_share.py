"""Parts of a conversion: who makes what, in any order and at the same time, and how it ends."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from crashes import ONE, PRODUCTS, SMALL, Killed, assert_true, contents, converting, dying, shown
from hypothesis import given
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.conversion.options import Part, parse_part
from cloudsen12_cube.errors import DestinationError, SelectionError, StoreError
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.lock import write_lock
from cloudsen12_cube.testing import make_archive


@pytest.mark.parametrize(
    ("rois", "count", "shares"),
    [
        ("abcdef", 1, ["abcdef"]),
        ("abcdef", 3, ["ad", "be", "cf"]),
        ("abcd", 3, ["ad", "b", "c"]),
        ("a", 3, ["a", "", ""]),
        ("", 2, ["", ""]),
    ],
)
def test_shares(rois: str, count: int, shares: list[str]) -> None:
    assert [Part(i + 1, count).of(rois) for i in range(count)] == [frozenset(share) for share in shares]


@given(st.lists(st.text(), unique=True), st.integers(1, 9))
def test_each_roi_is_in_one_share(rois: list[str], count: int) -> None:
    shares = [Part(i + 1, count).of(rois) for i in range(count)]
    assert sorted(itertools.chain(*shares)) == sorted(rois)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "-1/3", "1/0", "1/3/5", "1.0/3", "1/3000000000"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(SelectionError, match="is not a part"):
        parse_part(text)


def test_a_part_is_read_as_it_is_written() -> None:
    assert parse_part(" 2/3 ") == Part(2, 3)
    assert str(Part(2, 3)) == "2/3"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=4, seed=3, options=SMALL)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(source, place, products=PRODUCTS, options=ONE)
    return place


def convert(source: Path, place: Path, number: int, count: int = 3) -> c12.Report:
    return c12.convert(source, place, PRODUCTS, options=c12.Options(workers=0, part=Part(number, count)))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 3, 1, 3)])
def test_any_order_gives_the_bytes_of_one_run(
    source: Path, whole: Path, order: tuple[int, ...], tmp_path: Path
) -> None:
    place, truth = tmp_path / "c.zarr", shown(whole)
    for index, number in enumerate(order):
        report = convert(source, place, number)
        assert report.written == (0 if number in order[:index] else 4 if number == 1 else 2)
        assert report.shards == (4 if number == 1 else 2)
        assert c12.status(place).state == "converting"
        assert_true(place, truth)
    found = c12.finalise(place)
    assert (found.exit_code, found.missing, found.state) == (0, (), "final")
    assert contents(place) == contents(whole)
    assert c12.finalise(place) == found
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}
    assert convert(source, place, 2).written == 0
    assert c12.convert(source, place, PRODUCTS).written == 0
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()} == before


def test_parts_at_the_same_time_even_twice_the_same(source: Path, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    parts = [Part(1, 2), Part(2, 2), Part(2, 2), Part(1, 3)]
    running = [converting(source, place, c12.Options(workers=1, part=part)) for part in parts]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    assert c12.finalise(place).exit_code == 0
    assert contents(place) == contents(whole)


def test_finalise_names_what_is_missing(source: Path, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    rois = c12.plan(source).order
    convert(source, place, 1)
    with dying(6), pytest.raises(Killed):
        convert(source, place, 2)
    found = c12.finalise(place)
    assert found.exit_code == 1
    assert found.state == "converting"
    assert ("s1", rois[2]) in found.missing
    assert {roi for _, roi in found.missing} <= {rois[1], rois[2]}
    assert {roi for _, roi, _ in shown(place)} >= {rois[0], rois[3]}
    for number in (2, 3):
        convert(source, place, number)
    assert c12.finalise(place).exit_code == 0
    assert contents(place) == contents(whole)


def test_finalise_where_there_is_no_cube(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StoreError, match="is no cube"):
        c12.finalise(tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    with dying(1), pytest.raises(Killed):
        convert(source, tmp_path / "c.zarr", 1)
    with pytest.raises(StoreError, match="cut short: run any of its parts again"):
        c12.finalise(tmp_path / "c.zarr")


def test_parts_let_each_other_in_and_nobody_else(source: Path, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(whole, place)
    with write_lock(LocalStore(str(place)), shared=True):
        assert convert(source, place, 1).exit_code == 0
        with pytest.raises(DestinationError, match="another process is writing"):
            c12.convert(source, place, PRODUCTS)
        with pytest.raises(DestinationError, match="another process is writing"):
            c12.finalise(place)
    with write_lock(LocalStore(str(place))), pytest.raises(DestinationError, match="another process is writing"):
        convert(source, place, 1)


def test_parts_report_beside_each_other(source: Path, tmp_path: Path) -> None:
    archive, place = tmp_path / "archive", tmp_path / "c.zarr"
    shutil.copytree(source, archive)
    for roi in c12.plan(source).order[:2]:
        next(archive.glob(f"*/{roi}/*/S1.tif")).write_bytes(b"")
    assert [convert(archive, place, n).exit_code for n in (1, 2, 3)] == [1, 1, 0]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [
        "c.zarr.part-1-of-3.failures.json",
        "c.zarr.part-2-of-3.failures.json",
    ]
    found = c12.finalise(place)
    assert (found.exit_code, found.state, len(found.failures)) == (1, "final", 2)
    assert (tmp_path / "c.zarr.failures.json").exists()


def test_a_part_neither_repairs_nor_accepts(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="repair concerns the whole cube"):
        c12.Options(part=Part(1, 2), repair=True)
    with pytest.raises(SelectionError, match="accept concerns the whole cube"):
        c12.Options(part=Part(1, 2), accept=tmp_path)

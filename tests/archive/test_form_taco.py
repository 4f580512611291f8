"""CloudSEN12+ as TACO files: the patches of the COGs, wherever the padding lies, and no other bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
from command_line import failed, run
from conftest import SHARED, SIZE, needs_shared
from hypothesis import given
from hypothesis import strategies as st
from other_forms import Padding, Row, rows_of, write_taco
from s3server import KEYS, PRIVATE

import cloudsen12_cube as c12
from cloudsen12_cube.archive.taco import OffsetBounds, corners, offset_bounds
from cloudsen12_cube.conversion.options import Options
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.inspection.completeness import status
from cloudsen12_cube.inspection.verification import verify
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ONE = Options(workers=0)
SIDE = SIZE + 16
LEFT_BOTTOM = Padding(SIDE, (0, 16))


@pytest.fixture(scope="module")
def rows(archive: Path) -> list[Row]:
    return rows_of(archive)


@pytest.fixture(scope="module")
def taco(archive: Path, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All patches in three part files."""
    root = tmp_path_factory.mktemp("taco")
    for part in range(3):
        write_taco(archive, rows[part::3], root / f"plus.{part:04}.part.taco", lambda _: LEFT_BOTTOM)
    return root


def _equal(place: Path | str, cube: Path, **options: Any) -> None:
    """Compare with the cube of the COGs, patch by patch."""
    ours, theirs = c12.open_cube(place, **options), c12.open_cube(cube)
    root, other = ours.to_dataset(), theirs.to_dataset()
    at = {(str(other["roi"].values[i]), str(other["s2_id_gee"].values[i, j])): (i, j) for i, j in np.ndindex(4, 5)}
    seen = 0
    for i, j in np.ndindex(root["s2_id_gee"].shape):
        key = (str(root["old_roi_id"].values[i, j]), str(root["s2_id_gee"].values[i, j]))
        if not key[1]:
            continue
        seen += 1
        k, m = at[key]
        kind = str(root["label_type"].values[i])
        assert np.array_equal(ours["s2l1c/s2l1c"].values[i, j], theirs["s2l1c/s2l1c"].values[k, m])
        if kind != "nolabel":
            band = "manual_hq" if kind == "high" else "manual_sc"
            mine, cog = (t["labels/labels"].sel(band=band).values for t in (ours, theirs))
            assert np.array_equal(mine[i, j], cog[k, m])
        for name in ("proj_transform", "proj_epsg", "datetime", "longitude", "latitude", "proj_shape", "s2_id"):
            assert np.array_equal(root[name].values[i, j], other[name].values[k, m]), name
        assert root["split"].values[i] == other["split"].values[k]
        assert root["label_type"].values[i] == other["label_type"].values[k]
    assert seen


def test_the_patches_of_the_cogs(taco: Path, cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    assert c12.convert(taco, place).exit_code == 0
    _equal(place, cube)
    found = verify(place, taco)
    assert (found.exit_code, found.differences) == (0, ())
    assert status(place, taco, checksum=True).exit_code == 0
    assert c12.convert(taco, place).written == 0
    tree = c12.open_cube(place)
    assert all(len(roi) == len("ROI_00827") for roi in tree["roi"].values)
    clear = tree.cloudsen12.classes("manual_hq").isel(roi=[t == "high" for t in tree["label_type"].values])
    share = tree["clear_percentage"].isel(roi=[t == "high" for t in tree["label_type"].values])
    np.testing.assert_allclose((clear == 0).mean(("y", "x")) * 100, share)
    assert tree.cloudsen12.query(clear_percentage=(101, None)).sizes["roi"] == 0


@needs_shared
def test_the_shared_sample(tmp_path: Path) -> None:
    c12.convert(SHARED / "taco_a", tmp_path / "plus.zarr")
    c12.convert(SHARED / "archive_a", tmp_path / "cogs.zarr", ["s2l1c", "labels"])
    ours, theirs = c12.open_cube(tmp_path / "plus.zarr"), c12.open_cube(tmp_path / "cogs.zarr")
    names = [str(name) for name in theirs["roi"].values]
    for i, j in zip(*np.nonzero(ours["s2_id_gee"].values != ""), strict=True):
        k = names.index(str(ours["old_roi_id"].values[i, j]))
        (m,) = np.flatnonzero(theirs["s2_id_gee"].values[k] == ours["s2_id_gee"].values[i, j])
        assert np.array_equal(ours["s2l1c/s2l1c"].values[i, j], theirs["s2l1c/s2l1c"].values[k, m])
        assert np.array_equal(ours["proj_transform"].values[i, j], theirs["proj_transform"].values[k, m])
        assert ours["split"].values[i] == theirs["split"].values[k]
    assert verify(tmp_path / "plus.zarr", SHARED / "taco_a").exit_code == 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 16), (16, 0), (16, 16), (1, 1), (8, 3)])
def test_padding_on_any_side(
    archive: Path, rows: list[Row], cube: Path, tmp_path: Path, corner: tuple[int, int]
) -> None:
    write_taco(archive, rows[:5], tmp_path / "a.taco", lambda _: Padding(SIDE, corner))
    assert c12.convert(tmp_path / "a.taco", tmp_path / "c.zarr", options=ONE).exit_code == 0
    _equal(tmp_path / "c.zarr", cube)


def test_no_padding(archive: Path, rows: list[Row], cube: Path, tmp_path: Path) -> None:
    write_taco(archive, rows[:5], tmp_path / "a.taco", lambda _: Padding(SIZE, (0, 0)))
    assert c12.convert(tmp_path, tmp_path / "c.zarr", options=ONE).exit_code == 0
    _equal(tmp_path / "c.zarr", cube)


def test_patches_that_are_padded_in_different_ways(archive: Path, rows: list[Row], cube: Path, tmp_path: Path) -> None:
    write_taco(archive, rows[:5], tmp_path / "a.taco", lambda i: Padding(SIDE, (0, 16) if i % 2 else (16, 0)))
    assert c12.convert(tmp_path, tmp_path / "c.zarr", options=ONE).exit_code == 0
    _equal(tmp_path / "c.zarr", cube)


def test_dark_edges_do_not_move_a_patch(archive: Path, rows: list[Row], tmp_path: Path) -> None:
    """A swath edge is zero, too: the other images of the file decide."""

    def dark(index: int, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        pixels = pixels.copy()
        if index == 1:
            pixels[:, :, -20:] = 0
        return pixels

    write_taco(archive, rows[:5], tmp_path / "a.taco", lambda _: Padding(SIDE, (16, 0)), change=dark)
    assert c12.convert(tmp_path, tmp_path / "c.zarr", options=ONE).exit_code == 0
    tree = c12.open_cube(tmp_path / "c.zarr")
    images = [str(name) for name in tree["s2_id_gee"].values.ravel()]
    transform = tree["proj_transform"].values.reshape(-1, 6)[images.index(rows[1]["s2_id_gee"])]
    assert ", ".join(f"{v:.15g}" for v in transform) == rows[1]["proj_transform"]


def test_a_patch_that_contradicts_the_others_is_refused(archive: Path, rows: list[Row], tmp_path: Path) -> None:
    """Not all images are looked at beforehand; each is when its padding is cut off."""
    assert len(rows) == 20
    other = next(i for i in range(20) if i not in set(np.linspace(0, 19, 8).astype(int)))
    write_taco(archive, rows, tmp_path / "a.taco", lambda i: Padding(SIDE, (16, 16) if i == other else (0, 16)))
    report = c12.convert(tmp_path, tmp_path / "c.zarr", ["s2l1c"], options=ONE)
    assert report.exit_code == 1
    assert [fault.s2_id_gee for fault in report.faults] == [rows[other]["s2_id_gee"]]
    assert "pixels outside rows 0:48 and columns 16:64" in report.faults[0].found


def test_an_image_that_tells_nothing_lies_where_the_card_says(archive: Path, rows: list[Row], tmp_path: Path) -> None:
    one = [row for row in rows if row["label_type"] == "high"][:1]
    blank: Callable[[int, npt.NDArray[Any]], npt.NDArray[Any]] = lambda _, pixels: np.zeros_like(pixels)  # noqa: E731
    write_taco(archive, one, tmp_path / "a.taco", lambda _: LEFT_BOTTOM, change=blank)
    c12.convert(tmp_path, tmp_path / "c.zarr", options=ONE)
    transform = c12.open_cube(tmp_path / "c.zarr")["proj_transform"].values[0, 0]
    assert ", ".join(f"{v:.15g}" for v in transform) == one[0]["proj_transform"]


def test_two_sizes_are_two_cubes(archive: Path, rows: list[Row], cube: Path, tmp_path: Path) -> None:
    """CloudSEN12+ has patches of 509 and of 2000 pixels in one archive."""
    plus, others = tmp_path / "plus", tmp_path / "others"
    large = make_archive(others, rois=4, seed=7, options=ArchiveOptions(size=80, label_types=("high",)))
    mine = [row for row in rows_of(large) if row["roi_id"] not in {row["roi_id"] for row in rows[:5]}]
    write_taco(archive, rows[:5], plus / "a.taco", lambda _: LEFT_BOTTOM)
    write_taco(large, mine, plus / "b.taco", lambda _: Padding(96, (16, 0)))
    with pytest.raises(SelectionError, match=r"patches of 48 and 80 pixels do not fit one cube.*--where proj_shape=48"):
        c12.plan(plus)
    assert c12.convert(plus, tmp_path / "48.zarr", where=["proj_shape=48"], options=ONE).exit_code == 0
    _equal(tmp_path / "48.zarr", cube)
    assert c12.convert(plus, tmp_path / "80.zarr", where=["proj_shape=80"], options=ONE).exit_code == 0
    assert c12.open_cube(tmp_path / "80.zarr")["s2l1c"].sizes["y"] == 80
    assert verify(tmp_path / "80.zarr", plus).exit_code == 0


def test_two_collections_are_one_archive(archive: Path, rows: list[Row], cube: Path, tmp_path: Path) -> None:
    write_taco(archive, rows, tmp_path / "plus" / "l1c.taco", lambda _: LEFT_BOTTOM)
    write_taco(archive, rows, tmp_path / "plus" / "l2a.taco", lambda _: LEFT_BOTTOM, image="S2L2A")
    assert c12.convert(tmp_path / "plus", tmp_path / "c.zarr").exit_code == 0
    _equal(tmp_path / "c.zarr", cube)
    assert set(c12.open_cube(tmp_path / "c.zarr").children) == {"s2l1c", "s2l2a", "labels"}
    shutil.copy(tmp_path / "plus" / "l1c.taco", tmp_path / "plus" / "again.taco")
    with pytest.raises(ArchiveError, match=r"has its s2l1c twice, in again\.taco and l1c\.taco"):
        c12.plan(tmp_path / "plus")


def test_in_a_bucket_by_ranges(taco: Path, cube: Path, s3: str, tmp_path: Path) -> None:
    options = {**KEYS, "endpoint_url": s3}
    files = fsspec.filesystem("s3", **options, use_listings_cache=False)
    files.put(f"{taco}/", f"{PRIVATE}/plus", recursive=True)
    assert c12.convert(c12.Url(f"s3://{PRIVATE}/plus", options), tmp_path / "c.zarr").exit_code == 0
    _equal(tmp_path / "c.zarr", cube)
    assert verify(tmp_path / "c.zarr", c12.Url(f"s3://{PRIVATE}/plus", options)).exit_code == 0
    one = sorted(path.name for path in taco.iterdir())[0]
    single = c12.plan(c12.Url(f"s3://{PRIVATE}/plus/{one}", options))
    assert single.archive.patches == {
        k: f for k, f in c12.plan(taco).archive.patches.items() if one in f.names.values()
    }


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-2000], "its table ends at byte"),
        (lambda data: b"PK" + data[2:], "begins with b'PK'"),
        (lambda data: data[:10], "10 bytes are left"),
        (lambda data: data[:10] + b"\xff" * 8 + data[18:], "its table ends at byte|arquet"),
    ],
)
def test_a_file_that_is_not_whole(taco: Path, tmp_path: Path, damage: Callable[[bytes], bytes], text: str) -> None:
    copy = shutil.copytree(taco, tmp_path / "plus")
    part = sorted(copy.iterdir())[1]
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(ArchiveError, match=rf"0001.part.taco is no whole TACO file of version 1: .*({text})"):
        c12.plan(copy)
    failed(run("convert", copy, tmp_path / "c.zarr"))


def test_a_damaged_sample_fails_alone(taco: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(taco, tmp_path / "plus")
    files = c12.plan(copy).archive.patches
    key, victim = next((k, f) for k, f in files.items() if f.label_type == "high")
    path = copy / victim.names["S2L1C"]
    data = bytearray(path.read_bytes())
    header = victim.starts["S2L1C"] - 50
    data[header : header + 10] = b"\0" * 10
    path.write_bytes(bytes(data))
    report = c12.convert(copy, tmp_path / "c.zarr", options=ONE)
    assert report.exit_code == 1
    assert {(fault.roi_id, fault.s2_id_gee) for fault in report.faults} == {key}
    assert {fault.product for fault in report.faults} == {"s2l1c", "labels"}  # a label is not taken for missing


def test_damaged_pixels_fail_alone(taco: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(taco, tmp_path / "plus")
    key, victim = next(iter(c12.plan(copy).archive.patches.items()))
    path = copy / victim.names["S2L1C"]
    data = bytearray(path.read_bytes())
    middle = victim.starts["S2L1C"] + victim.sizes["S2L1C"] // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(data))
    report = c12.convert(copy, tmp_path / "c.zarr", ["s2l1c"], options=ONE)
    assert [(fault.roi_id, fault.s2_id_gee) for fault in report.faults] == [key]


def test_forms_do_not_mix(taco: Path, archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "both")
    shutil.copy(next(taco.iterdir()), tmp_path / "both")
    with pytest.raises(ArchiveError, match="holds COGs and TACO files: give the folder of one of them"):
        c12.plan(tmp_path / "both")


@given(
    pad=st.integers(0, 6),
    corner=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    seen=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
)
def test_the_room_is_what_trying_every_place_finds(
    pad: int, corner: tuple[int, int], seen: list[tuple[int, int]]
) -> None:
    corner = min(corner[0], pad), min(corner[1], pad)
    image = np.zeros((2, 4 + pad, 4 + pad), np.int16)
    for row, column in seen:
        image[row % 2, corner[0] + row, corner[1] + column] = 1
    fits = set()
    for row, column in np.ndindex(pad + 1, pad + 1):
        around = np.ones(image.shape[1:], bool)
        around[row : row + 4, column : column + 4] = False
        if not image[:, around].any():
            fits.add((row, column))
    room = offset_bounds(image, 4)
    assert fits == {place for place in np.ndindex(pad + 1, pad + 1) if room.holds(place)}
    assert corner in fits


def test_where_an_image_cannot_be_read_the_others_decide() -> None:
    one, unsure = OffsetBounds((3, 3), (0, 0)), OffsetBounds((0, 3), (0, 3))
    assert corners([lambda: None, lambda: one, lambda: unsure], 3) == [(3, 0)] * 3
    assert corners([lambda: None], 3) == [(0, 3)]  # what the card says
    assert corners([lambda: replace(unsure, columns=(0, 2))], 3) == [None]
    assert corners([lambda: one, lambda: OffsetBounds((0, 0), (3, 3)), lambda: one, lambda: unsure], 3) == [
        *[(3, 0), (0, 3), (3, 0)],
        (3, 0),
    ]

"""The way back: a cube as an archive again, equal to the one that it came from, and convertible into an equal cube."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import zarr
from buckets import files_of as bucket_files
from conftest import CSV_COLUMNS, SHARED, needs_shared
from crashes import SMALL
from exported import contents, tifs
from hypothesis import given, settings
from hypothesis import strategies as st
from rio_cogeo.cogeo import cog_validate
from s3server import KEYS, PRIVATE

import cloudsen12_cube as c12
from cloudsen12_cube.archive.catalogue import build
from cloudsen12_cube.archive.geotiff import NOTE_NAME
from cloudsen12_cube.archive.metadata import COLUMNS, TABLE_NAME, from_csv, to_csv
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError, StoreError
from cloudsen12_cube.exporters.folder import JOURNAL
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.format.metadata import read_table
from cloudsen12_cube.schema.assets import PRODUCTS
from cloudsen12_cube.schema.properties import PROPERTIES, UNKNOWN
from cloudsen12_cube.testing import ArchiveOptions, make_archive

OWN = {TABLE_NAME, NOTE_NAME, JOURNAL}


def essence(cube: Path) -> dict[str, bytes]:
    """Every object that says what is in a cube: pixels, catalogue, status; not what it was made from."""
    found = {str(p.relative_to(cube)): p.read_bytes() for p in cube.rglob("*") if p.is_file() and "/c/" in str(p)}
    root = json.loads((cube / "zarr.json").read_text())
    root["attributes"] = {
        name: root["attributes"]["cloudsen12"][name] for name in ("products", "test_meaning", "layout_version")
    }
    return found | {"zarr.json": json.dumps(root, sort_keys=True).encode()}


def assert_the_way_back(cube: Path, tmp_path: Path) -> c12.ExportReport:
    """Export all of a cube, convert the folder, and compare the two cubes byte by byte."""
    report = c12.export(cube, tmp_path / "out")
    assert (report.exit_code, report.skipped, report.replaced) == (0, 0, ())
    assert report.files == len(tifs(tmp_path / "out"))
    assert report.bytes == sum(path.stat().st_size for path in tifs(tmp_path / "out").values())
    assert c12.convert(tmp_path / "out", tmp_path / "again.zarr").exit_code == 0
    assert essence(tmp_path / "again.zarr") == essence(cube)
    return report


def assert_same_pixels(folder: Path, archive: Path) -> None:
    """Hold every file against the archive's by rasterio: the same files, pixels, places, names and types."""
    ours, theirs = tifs(folder), tifs(archive)
    assert set(ours) == {name for name in theirs if not name.endswith("thumbnail.tif")}
    for name, path in ours.items():
        with rasterio.open(path) as one, rasterio.open(theirs[name]) as other:
            np.testing.assert_array_equal(one.read(), other.read(), err_msg=name)
            for what in ("dtypes", "crs", "transform", "descriptions", "nodata", "shape"):
                assert getattr(one, what) == getattr(other, what), (name, what)


def test_the_archive_again(cube: Path, archive: Path, tmp_path: Path) -> None:
    """With ids of four and five digits, two images of one instant, and an image id that two ROIs share."""
    report = assert_the_way_back(cube, tmp_path)
    assert (report.patches, report.test_meaning, report.ambiguous) == (20, "v1.1", False)
    assert_same_pixels(tmp_path / "out", archive)
    assert c12.verify(cube, tmp_path / "out").exit_code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"high", "scribble", "nolabel", *OWN}
    ours, theirs = (rows_of(place) for place in (tmp_path / "out", archive))
    assert [list(row) for row in ours] == [CSV_COLUMNS] * 20
    assert sorted(map(as_numbers, ours), key=str) == sorted(map(as_numbers, theirs), key=str)
    assert list(COLUMNS) == CSV_COLUMNS


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / TABLE_NAME).read_text().splitlines()))


def as_numbers(row: dict[str, str]) -> dict[str, str | float]:
    """A row in which 1.03000000 and 1.03 are the same."""
    return {k: float(v) if v.replace(".", "", 1).isdigit() else v for k, v in row.items()}


def test_every_file_is_a_valid_cog(cube: Path, tmp_path: Path) -> None:
    c12.export(cube, tmp_path / "out", options=c12.ExportOptions(rois=("ROI_0012",)))
    for path in tifs(tmp_path / "out").values():
        assert cog_validate(path, strict=True, quiet=True) == (True, [], []), path


@needs_shared
def test_real_patches(tmp_path: Path) -> None:
    archive = SHARED / "archive_a"
    assert c12.convert(archive, tmp_path / "cube.zarr").exit_code == 0
    assert_the_way_back(tmp_path / "cube.zarr", tmp_path)
    expected = json.loads((SHARED / "expected_a.json").read_text())
    found = tifs(tmp_path / "out")
    assert set(found) == {name for name in expected if not name.endswith("thumbnail.tif")}
    for name, path in found.items():
        with rasterio.open(path) as file:
            pixels = file.read()
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected[name]["sha256"], name
            assert (file.dtypes[0], list(pixels.shape)) == (expected[name]["dtype"], expected[name]["shape"]), name
            assert file.crs.to_epsg() == expected[name]["epsg"]
            assert list(file.transform)[:6] == expected[name]["transform"]
        assert cog_validate(path, strict=True, quiet=True) == (True, [], []), name
    table, published = ((p / TABLE_NAME).read_text().splitlines() for p in (tmp_path / "out", archive))
    assert (table[0], sorted(table)) == (published[0], sorted(published))


def rewritten(path: Path, change: Callable[[Any], Any], **profile: Any) -> None:
    """Write a tif anew with other pixels or another type, as copies of the dataset have them."""
    with rasterio.open(path) as file:
        pixels, known, names = change(file.read()), file.profile, file.descriptions
    path.unlink()
    with rasterio.open(path, "w", **{**known, "dtype": pixels.dtype, **profile}) as file:
        file.write(pixels)
        file.descriptions = names


@pytest.mark.parametrize(
    "options",
    [
        ArchiveOptions(16, 2, dtype="uint16", descriptions=False, nolabel_folder="no-label"),
        ArchiveOptions(16, 3, striped_labels=True, occurrence=True, top="copy", metadata="stac"),
        ArchiveOptions(16, 2, metadata="none"),
        ArchiveOptions(16, 1, test_meaning="v1.0", label_types=("scribble",)),
    ],
)
def test_copies_of_the_archive(tmp_path: Path, options: ArchiveOptions) -> None:
    archive = make_archive(tmp_path / "archive", 3, 2, options)
    assert c12.convert(archive, tmp_path / "cube.zarr").exit_code == 0
    assert_the_way_back(tmp_path / "cube.zarr", tmp_path)
    with rasterio.open(next((tmp_path / "out").rglob("S2L1C.tif"))) as file:
        assert file.dtypes[0] == options.dtype
        assert file.descriptions[:2] == ("B1", "B2")


def with_nodata(value: float) -> Callable[[Any], Any]:
    def change(pixels: Any) -> Any:
        pixels = pixels.astype(np.float32)
        pixels[:, :5] = value
        return pixels

    return change


CHANGES: dict[str, tuple[str, Callable[[Any], Any], dict[str, Any]]] = {
    "float labels with nodata": ("labels/kappamask_L1C", with_nodata(-3.4e38), {"nodata": -3.4e38, "predictor": 3}),
    "float labels, all nodata": (
        *("labels/kappamask_L2A", lambda pixels: np.full(pixels.shape, -3.4e38, np.float32)),
        {"nodata": -3.4e38, "predictor": 3},
    ),
    "labels with a sign": ("labels/fmask", lambda pixels: pixels.astype(np.int16), {}),
    "QA60 with a sign": ("labels/qa60", lambda pixels: pixels.astype(np.int16), {}),
    "hundredths of a per cent": ("labels/CD-FCNN-RGBI", lambda pixels: pixels.astype(np.uint16) * 100, {}),
    "land cover that is not there": ("extra/LC100", lambda pixels: np.full(pixels.shape, -99, np.int16), {}),
    "wide elevation": ("extra/elevation", lambda pixels: pixels.astype(np.int32) + 40_000, {}),
    "wide radar": ("S1", lambda pixels: pixels.astype(np.float64) + 1e-9, {"predictor": 3}),
    "reflectance above 32,767": ("S2L2A", lambda pixels: pixels.astype(np.uint16) + 40_000, {}),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("every", [True, False])
def test_odd_types(tmp_path: Path, name: str, every: bool) -> None:
    """Of all patches or of one alone: then the cube is wider than what most files need."""
    archive = make_archive(tmp_path / "archive", 2, 4, ArchiveOptions(16, 2))
    asset, change, profile = CHANGES[name]
    for path in sorted(archive.rglob(f"{asset}.tif"))[: None if every else 1]:
        rewritten(path, change, **profile)
    product = asset.lower() if asset.startswith("S") else asset.partition("/")[0]
    assert c12.convert(archive, tmp_path / "cube.zarr", [product]).exit_code == 0
    assert_the_way_back(tmp_path / "cube.zarr", tmp_path)
    checked = c12.verify(tmp_path / "again.zarr", archive)
    assert (checked.differences, checked.shards) == ((), 2)


def test_a_layer_that_nobody_has(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive", 2, 4, ArchiveOptions(16, 2))
    for name in ("labels/qa60", "extra/CDI"):
        for path in archive.rglob(f"{name}.tif"):
            path.unlink()
    assert c12.convert(archive, tmp_path / "cube.zarr").exit_code == 0
    assert_the_way_back(tmp_path / "cube.zarr", tmp_path)
    assert_same_pixels(tmp_path / "out", archive)


@pytest.fixture
def broken(archive: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An archive with one file cut short and one patch gone, and its cube."""
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy)
    path = sorted(copy.glob("high/ROI_0012/*/S2L1C.tif"))[0]
    path.write_bytes(path.read_bytes()[:2000])
    shutil.rmtree(sorted(copy.glob("*/ROI_8641/*"))[0])
    assert c12.convert(copy, tmp_path / "cube.zarr").exit_code == 1
    return copy, tmp_path / "cube.zarr"


def test_what_is_not_done_is_named_and_not_written(broken: tuple[Path, Path], tmp_path: Path) -> None:
    archive, cube = broken
    report = c12.export(cube, tmp_path / "out")
    assert report.exit_code == 1
    failed, *absent = report.left_out
    assert (failed.roi_id, failed.product) == ("ROI_0012", "s2l1c")
    assert failed.reason.startswith("failed in the cube (high/ROI_0012/")
    assert [(row.roi_id, row.product) for row in absent] == [("ROI_8641", name) for name in sorted(PRODUCTS)]
    assert all(row.reason.startswith("absent in the cube") for row in absent)
    assert report.patches == 19
    damaged = sorted(archive.glob("high/ROI_0012/*/S2L1C.tif"))[0]
    damaged.unlink()
    assert_same_pixels(tmp_path / "out", archive)
    note = json.loads((tmp_path / "out" / NOTE_NAME).read_text())
    assert [row["product"] for row in note["left_out"]] == [row.product for row in report.left_out]
    assert c12.convert(tmp_path / "out", tmp_path / "again.zarr").exit_code == 1
    assert essence(tmp_path / "again.zarr") == essence(cube)  # status included: failed and absent


@pytest.fixture(scope="module")
def whole(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the cube; a test that changes it makes its own."""
    place = tmp_path_factory.mktemp("whole") / "out"
    c12.export(cube, place)
    return place


@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "unrecorded", "of another length"])
def test_a_damaged_shard_is_named_and_nothing_else_is_lost(cube: Path, whole: Path, tmp_path: Path, how: str) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    shard, record = copy / "s1/s1/c/0/0/0/0/0", copy / "s1/s1/records/ROI_0012.json"
    data = bytearray(shard.read_bytes())
    if how == "gone":
        shard.unlink()
    elif how == "unrecorded":
        record.unlink()
    elif how == "of another length":
        record.write_text(record.read_text().replace(f'"size": {len(data)}', '"size": 3'))
    else:
        data[100] ^= 1
        shard.write_bytes(data[:-50] if how == "cut" else data)
    report = c12.export(copy, tmp_path / "out", ["s1", "labels"])
    assert report.exit_code == 1
    assert {(row.roi_id, row.product) for row in report.left_out} == {("ROI_0012", "s1")}
    assert len(report.left_out) == (1 if how == "flipped" else 5)
    assert all("s1/s1/c/0/0/0/0/0" in row.reason for row in report.left_out)
    expected = [name for name in tifs(whole) if name.endswith("/S1.tif") or "/labels/" in name]
    assert len(tifs(tmp_path / "out")) == len(expected) - len(report.left_out)


def test_again_writes_nothing(cube: Path, tmp_path: Path) -> None:
    some = ["s1", "extra"]
    first = c12.export(cube, tmp_path / "out", some)
    before = {name: os.stat(path).st_mtime_ns for name, path in tifs(tmp_path / "out").items()}
    again = c12.export(cube, tmp_path / "out", some, options=c12.ExportOptions(workers=0))
    assert (again.files, again.bytes, again.skipped, again.patches) == (0, 0, first.files, 20)
    assert {name: os.stat(path).st_mtime_ns for name, path in tifs(tmp_path / "out").items()} == before


def test_what_is_not_whole_is_written_again_and_said(cube: Path, tmp_path: Path) -> None:
    c12.export(cube, tmp_path / "out", products=["labels", "s1"])
    before = contents(tmp_path / "out")
    one, two, three = sorted(tifs(tmp_path / "out"))[:3]
    (tmp_path / "out" / one).write_bytes(before[one][:-1])
    (tmp_path / "out" / two).unlink()
    (tmp_path / "out" / TABLE_NAME).write_text("mine")
    again = c12.export(cube, tmp_path / "out", products=["labels", "s1"])
    assert TABLE_NAME in again.replaced
    assert one in again.replaced
    assert two not in again.replaced  # it was not there
    assert three in again.replaced  # of the same patch
    assert contents(tmp_path / "out") == before


def test_a_strangers_file_stays(cube: Path, tmp_path: Path) -> None:
    roi = c12.ExportOptions(rois=("ROI_0012",))
    two = ["s1", "labels"]
    c12.export(cube, tmp_path / "out", ["s1"], options=roi)
    folder = sorted((tmp_path / "out").glob("high/ROI_0012/*"))[0]
    (folder / "labels").mkdir()
    (folder / "labels" / "fmask.tif").write_text("mine")
    report = c12.export(cube, tmp_path / "out", two, options=roi)
    (left,) = report.left_out
    assert (left.roi_id, left.s2_id_gee, left.product) == ("ROI_0012", folder.name, "labels")
    assert "labels/fmask.tif is there and not from this export: move it away" in left.reason
    assert (folder / "labels" / "fmask.tif").read_text() == "mine"
    assert not (folder / "labels" / "sen2cor.tif").exists()
    (folder / "labels" / "fmask.tif").unlink()
    assert c12.export(cube, tmp_path / "out", two, options=roi).exit_code == 0


def test_files_that_the_journal_missed_are_ours_by_their_bytes(cube: Path, tmp_path: Path) -> None:
    c12.export(cube, tmp_path / "out", products=["s1"])
    before = contents(tmp_path / "out")
    journal = tmp_path / "out" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-30])  # died while it wrote the line
    again = c12.export(cube, tmp_path / "out", products=["s1"])
    assert (again.exit_code, again.files, again.skipped) == (0, 1, 19)
    assert contents(tmp_path / "out") == before
    assert c12.export(cube, tmp_path / "out", products=["s1"]).skipped == 20


def test_a_cube_that_has_changed(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy)
    for path in copy.rglob("thumbnail.tif"):
        path.unlink()
    c12.convert(copy, tmp_path / "cube.zarr", products=["labels"])
    c12.export(tmp_path / "cube.zarr", tmp_path / "out")
    patch = sorted(copy.glob("high/ROI_0012/*"))[0]
    rewritten(patch / "labels" / "fmask.tif", lambda pixels: np.full_like(pixels, 4))
    (patch / "labels" / "manual_sc.tif").unlink()
    c12.convert(copy, tmp_path / "cube.zarr", products=["labels"], options=c12.Options(repair=True))
    again = c12.export(tmp_path / "cube.zarr", tmp_path / "out")
    assert str(patch.relative_to(copy) / "labels" / "fmask.tif") in again.replaced
    for product in ("S2L1C", "S2L2A", "S1", "extra/*"):
        for path in copy.rglob(f"{product}.tif"):
            path.unlink()
    assert_same_pixels(tmp_path / "out", copy)  # the scribbles are gone here, too


def test_a_subset_keeps_its_splits(cube: Path, whole: Path, tmp_path: Path) -> None:
    """Codes 0 and 1 alone would be read as v1.0: validation would become test."""
    report = c12.export(cube, tmp_path / "out", ["labels"], ["split=train|validation", "cloud_coverage!=cloudy"])
    assert report.ambiguous
    assert c12.convert(tmp_path / "out", tmp_path / "again.zarr").exit_code == 0
    again, table = (read_table(open_stored_cube(place))[1] for place in (tmp_path / "again.zarr", cube))
    kept = table[table["split"].isin(["train", "validation"]) & (table["cloud_coverage"] != "cloudy")]
    columns = ["roi_id", *(row.name for row in PROPERTIES)]
    assert set(again["split"]) == {"train", "validation"}
    pd.testing.assert_frame_equal(again[columns], kept[columns].reset_index(drop=True))
    assert len(tifs(tmp_path / "out")) == len([n for n in tifs(whole) if "/labels/" in n and in_(n, kept)])
    (tmp_path / "out" / NOTE_NAME).write_text("{}")
    with pytest.raises(ArchiveError, match="does not say what the codes of `test` mean"):
        c12.plan(tmp_path / "out")
    (tmp_path / "out" / NOTE_NAME).unlink()
    assert c12.plan(tmp_path / "out").catalogue.test_meaning == "v1.0"  # what a folder without the note must look like


def in_(name: str, table: pd.DataFrame) -> bool:
    return tuple(name.split("/")[1:3]) in set(zip(table["roi_id"], table["s2_id_gee"], strict=True))


def test_a_folder_grows(cube: Path, whole: Path, tmp_path: Path) -> None:
    c12.export(cube, tmp_path / "out", ["labels"], options=c12.ExportOptions(rois=("ROI_0012",)))
    c12.export(cube, tmp_path / "out", ["s1"], "label_type=scribble")
    assert {row["label_type"] for row in rows_of(tmp_path / "out")} == {"high", "scribble"}
    names = set(tifs(tmp_path / "out"))
    assert {name.split("/")[0] for name in names} == {"high", "scribble"}
    c12.export(cube, tmp_path / "out")
    assert {**contents(tmp_path / "out"), NOTE_NAME: b""} == {**contents(whole), NOTE_NAME: b""}


def test_by_place(cube: Path, tmp_path: Path) -> None:
    table = read_table(open_stored_cube(cube))[1].iloc[0]
    box = (table["longitude"] - 0.01, table["latitude"] - 0.01, table["longitude"] + 0.01, table["latitude"] + 0.01)
    report = c12.export(cube, tmp_path / "out", ["s1"], options=c12.ExportOptions(bbox=box))
    assert report.patches == report.files == 5


def test_where_nothing_may_be_written(cube: Path, archive: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("x")
    with pytest.raises(DestinationError, match=r"holds something else \(notes.txt\) and no earlier export"):
        c12.export(cube, mine)
    with pytest.raises(DestinationError, match="no earlier export"):
        c12.export(cube, archive)
    with pytest.raises(DestinationError, match="is a file"):
        c12.export(cube, mine / "notes.txt")
    with pytest.raises(DestinationError, match="is a URL: export writes to a local folder"):
        c12.export(cube, "s3://bucket/out")
    for inside, relation in ((cube, "is the cube itself"), (cube / "out", "lies inside the cube")):
        with pytest.raises(DestinationError, match=relation):
            c12.export(cube, inside)
    with pytest.raises(SelectionError, match=r"no product 's9' in .*; it has s2l1c"):
        c12.export(cube, tmp_path / "out", ["s9"])
    with pytest.raises(SelectionError, match="selection is empty"):
        c12.export(cube, tmp_path / "out", where=["difficulty>5"])
    with pytest.raises(StoreError, match="no cube"):
        c12.export(archive, tmp_path / "out")
    assert contents(mine) == {"notes.txt": b"x"}
    assert not (tmp_path / "out").exists()


def test_the_export_of_another_cube(cube: Path, tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", 1, 7, SMALL)
    c12.convert(tmp_path / "archive", tmp_path / "other.zarr", ["s1"])
    c12.export(cube, tmp_path / "out", ["s1"])
    before = contents(tmp_path / "out")
    with pytest.raises(DestinationError, match="holds the export of another cube"):
        c12.export(tmp_path / "other.zarr", tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / NOTE_NAME).write_text("[]")
    with pytest.raises(DestinationError, match=r"damaged cloudsen12_export\.json"):
        c12.export(cube, tmp_path / "out")


def test_an_id_that_is_a_path_leads_nowhere(cube: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    images = zarr.open_array(str(copy / "s2_id_gee"), mode="r+")
    images[0, 0] = "../../../stranger"
    report = c12.export(copy, tmp_path / "out" / "folder", ["s1"])
    assert report.left_out == (c12.LeftOut("ROI_0012", "../../../stranger", "", report.left_out[0].reason),)
    assert "illegal id" in report.left_out[0].reason
    assert {p.name for p in tmp_path.iterdir()} == {"cube.zarr", "out"}
    assert report.files == 19


def test_a_disk_that_may_not_be_written(cube: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(DestinationError, match="no permission"):
        c12.export(cube, tmp_path / "out", ["s1"])


def test_from_a_bucket(cube: Path, s3: str, tmp_path: Path) -> None:
    bucket_files(s3).put(f"{cube}/", f"{PRIVATE}/exported.zarr", recursive=True)
    place = c12.Url(f"s3://{PRIVATE}/exported.zarr", {**KEYS, "endpoint_url": s3})
    some = (["s1", "labels"], ["label_type=high"])
    there = c12.export(place, tmp_path / "out", *some)
    assert there.exit_code == 0
    c12.export(cube, tmp_path / "local", *some)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_progress_tells_of_every_shard(cube: Path, tmp_path: Path) -> None:
    steps: list[Any] = []
    report = c12.export(cube, tmp_path / "out", ["s1", "labels"], progress=steps.append)
    assert len(steps) == steps[0].shards == 8
    assert sum(step.done.written for step in steps) == report.files


NUMBERS = st.one_of(st.just(float("nan")), st.floats(allow_nan=False, allow_infinity=False, width=64))
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9).map(str.strip)
TEXTS = TEXTS.map(lambda text: "" if text in UNKNOWN else text)  # a cube holds one text for an unknown value
MOMENTS = st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2100-01-01"))


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXTS, NUMBERS, st.one_of(st.none(), MOMENTS), st.integers(-1, 1)), min_size=1, max_size=4))
def test_the_table_is_read_back_as_it_was(rows: list[Any]) -> None:
    texts = pd.DataFrame({"roi_id": [f"ROI_{i}" for i in range(len(rows))], "s2_id_gee": "image"}, dtype=object)
    table = build(texts).table
    table["annotator_name"] = pd.Series([row[0] for row in rows], dtype=object)
    table["difficulty"] = table["s2_view_sun_azimuth"] = [row[1] for row in rows]
    table["s1_datetime"] = pd.Series([row[2] for row in rows], dtype="datetime64[ns]")
    table["test"] = table["test_sr"] = [row[3] for row in rows]
    table["split"] = pd.Series([{-1: "", 0: "train", 1: "test"}[row[3]] for row in rows], dtype=object)
    again = build(from_csv(to_csv(table).decode(), "x"), "v1.0").table
    pd.testing.assert_frame_equal(again, table)

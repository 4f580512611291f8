"""Archives with every oddity of the published set become cubes, bit for bit; the oracle is rasterio."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import SHARED, needs_shared
from crashes import contents

import cloudsen12_cube as c12
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError
from cloudsen12_cube.schema.assets import PRODUCTS, ProductName, files_of
from cloudsen12_cube.testing import ArchiveOptions, make_archive


def with_columns_loaded(cube: xr.DataTree, product: ProductName) -> xr.Dataset:
    """Read all of a product but its pixels, which else are looked up in the store file by file."""
    images = cube[product].to_dataset()
    return images.drop_vars(product).load().assign({product: images[product].variable})


def assert_equals_archive(cube: xr.DataTree, root: Path) -> int:
    """Compare every tif of an archive with the cube, found by (roi_id, s2_id_gee); return how many there were."""
    count = 0
    loaded = {product: with_columns_loaded(cube, product) for product in PRODUCTS}
    for path in sorted(root.rglob("ROI_*/*/**/*.tif")):
        folder = path.parent if path.parent.name not in ("extra", "labels") else path.parent.parent
        stem = str(path.relative_to(folder))[:-4].replace("occurrence", "ocurrence")
        product = next((p for p in PRODUCTS if stem in files_of(p)), None)
        if product is None:
            continue
        images = loaded[product].sel(roi=folder.parent.name)
        time = list(images["s2_id_gee"].values).index(folder.name)
        stored = images[product].isel(time=time).sel(band=list(files_of(product)[stem])).values
        with rasterio.open(path) as file:
            assert int(images["proj_epsg"].values[time]) == file.crs.to_epsg()
            assert tuple(images["proj_transform"].values[time]) == tuple(file.transform)[:6]
            np.testing.assert_array_equal(stored, file.read())
        assert int(images["status"].values[time]) == 1
        count += 1
    return count


@pytest.mark.parametrize(
    "options",
    [
        ArchiveOptions(),
        ArchiveOptions(dtype="uint16"),
        ArchiveOptions(metadata="stac"),
        ArchiveOptions(metadata="none"),
        ArchiveOptions(test_meaning="v1.0"),
        ArchiveOptions(nolabel_folder="no-label"),
        ArchiveOptions(nolabel_folder="no_label"),
        ArchiveOptions(striped_labels=True),
        ArchiveOptions(top="CloudSEN12"),
        ArchiveOptions(occurrence=True),
        ArchiveOptions(descriptions=False),
        ArchiveOptions(times=2),
    ],
    ids=repr,
)
def test_every_oddity_bit_for_bit(options: ArchiveOptions, tmp_path: Path) -> None:
    times = 3 if options.times == 5 else options.times
    options = dataclasses.replace(options, size=options.size if options.size != 509 else 48, times=times)
    archive, place = make_archive(tmp_path / "archive", rois=3, seed=2, options=options), tmp_path / "cube.zarr"
    report = c12.convert(archive, place)
    assert report.exit_code == 0
    assert report.written == 15
    cube = c12.open_cube(place)
    count = assert_equals_archive(cube, archive)
    assert count == len(list(archive.rglob("*.tif"))) - len(list(archive.rglob("thumbnail.tif")))
    result = c12.verify(place, source=archive)
    assert result.differences == ()
    assert result.pixels == 3 * options.times * 49 * 48 * 48
    assert result.values > 0


def test_a_cube_of_patches_of_another_size(tmp_path: Path) -> None:
    options = ArchiveOptions(size=1000, times=1, label_types=("high",))
    archive = make_archive(tmp_path / "archive", rois=1, options=options)
    assert c12.convert(archive, tmp_path / "c.zarr", products=["labels", "extra"]).exit_code == 0
    cube = c12.open_cube(tmp_path / "c.zarr")
    assert cube["labels"]["labels"].shape == (1, 1, 10, 1000, 1000)
    assert c12.verify(tmp_path / "c.zarr", source=archive).exit_code == 0


def test_patches_of_two_sizes_are_not_put_into_one_cube(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16))
    path = archive / "cloudsen12_metadata.csv"
    path.write_text(path.read_text().replace(",16,POINT", ",32,POINT", 1))
    with pytest.raises(SelectionError, match="16 and 32 pixels do not fit one cube"):
        c12.convert(archive, tmp_path / "c.zarr")


def test_one_roi_may_span_two_zones_and_repeat_an_instant(cube: Path) -> None:
    root = c12.open_cube(cube).to_dataset()
    zones = [len(set(row)) for row in root["proj_epsg"].values]
    assert max(zones) == 2
    assert any(len(set(row)) < 5 for row in root["datetime"].values)
    ids = [i for row in root["s2_id_gee"].values for i in row]
    assert len(set(ids)) == len(ids) - 1


def test_products_and_conditions_choose_a_part(archive: Path, tmp_path: Path) -> None:
    where = ["label_type=high", "cloud_coverage=cloudy|mid-cloudy"]
    report = c12.convert(archive, tmp_path / "c.zarr", products=["s1", "labels"], where=where)
    cube = c12.open_cube(tmp_path / "c.zarr")
    assert report.shards == 4
    assert list(cube.children) == ["s1", "labels"]
    assert cube["s1"]["s1"].shape[:3] == (2, 2, 3)
    assert {str(c) for c in cube["cloud_coverage"].values.flat} == {"cloudy", "mid-cloudy"}  # type: ignore[union-attr]
    assert c12.verify(tmp_path / "c.zarr", source=archive).exit_code == 0


def test_bands_go_by_their_descriptions(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16))
    path = next(archive.rglob("S2L1C.tif"))
    with rasterio.open(path) as file:
        pixels, names, profile = file.read(), list(file.descriptions), file.profile
    names[3], names[7] = names[7], names[3]
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.descriptions = [f"B0{n[1:]}" if len(n) == 2 and n[1:].isdigit() else n for n in names]
    assert c12.convert(archive, tmp_path / "c.zarr", products=["s2l1c"]).exit_code == 0
    images = c12.open_cube(tmp_path / "c.zarr")["s2l1c"].to_dataset().isel(roi=0)
    time = list(images["s2_id_gee"].values).index(path.parent.name)
    np.testing.assert_array_equal(images["s2l1c"].isel(time=time).sel(band="B4"), pixels[7])
    np.testing.assert_array_equal(images["s2l1c"].isel(time=time).sel(band="B8"), pixels[3])


def test_running_again_does_nothing_twice(archive: Path, cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(cube, place)
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}
    report = c12.convert(archive, place)
    assert (report.written, report.skipped) == (0, 20)
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()} == before


def test_a_cube_that_was_cut_short_ends_with_the_same_bytes(archive: Path, cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(cube, place)
    for path in [*place.glob("s2l1c/s2l1c/c/[12]"), place / "s1/s1/c/0", place / "labels/labels/c/3"]:
        shutil.rmtree(path)
    for path in [*place.glob("extra/extra/records/*"), place / "labels/labels/zarr.json"]:
        path.unlink()
    victim = next(place.glob("s2l2a/s2l2a/records/*"))
    victim.write_bytes(victim.read_bytes()[:100])
    assert c12.convert(archive, place).written == 2 + 1 + 1 + 4 + 1
    assert contents(place) == contents(cube)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_changes_nothing(archive: Path, cube: Path, tmp_path: Path, workers: int) -> None:
    c12.convert(archive, tmp_path / "c.zarr", options=c12.Options(workers=workers))
    assert contents(tmp_path / "c.zarr") == contents(cube)


def test_an_executor_of_ones_own(archive: Path, cube: Path, tmp_path: Path) -> None:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        c12.convert(archive, tmp_path / "c.zarr", executor=pool)
    assert contents(tmp_path / "c.zarr") == contents(cube)


def test_new_rois_go_in_behind_and_are_read_in_order(archive: Path, cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    rois = [str(r) for r in c12.open_cube(cube).to_dataset()["roi"].values]
    c12.convert(archive, place, options=c12.Options(rois=(rois[1], rois[3])))
    report = c12.convert(archive, place)
    assert (report.written, report.skipped) == (10, 10)
    grown = c12.open_cube(place)
    assert [str(r) for r in grown.to_dataset()["roi"].values] == rois
    for product in PRODUCTS:
        xr.testing.assert_equal(grown[product].to_dataset(), c12.open_cube(cube)[product].to_dataset())
    assert c12.verify(place, source=archive).exit_code == 0


def test_a_cube_keeps_its_settings(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    c12.convert(archive, place, products=["s1"])
    with pytest.raises(DestinationError, match=r"other products \(s1, now s1, labels\)"):
        c12.convert(archive, place, products=["s1", "labels"])
    with pytest.raises(DestinationError, match="use the conditions that made the cube"):
        c12.convert(archive, place, products=["s1"], where=["cloud_coverage!=cloudy"])
    other = make_archive(tmp_path / "other", rois=1, options=ArchiveOptions(size=32))
    with pytest.raises(DestinationError, match="s1 shard"):
        c12.convert(other, place, products=["s1"])


def test_a_place_that_holds_something_else(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DestinationError, match="holds something else"):
        c12.convert(archive, tmp_path)
    with pytest.raises(DestinationError):
        c12.convert(archive, tmp_path / "note.txt")
    xr.Dataset({"a": ("x", [1])}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    with pytest.raises(DestinationError, match="no CloudSEN12 cube"):
        c12.convert(archive, tmp_path / "other.zarr")


def test_a_second_writer_is_kept_out(archive: Path, tmp_path: Path) -> None:
    from cloudsen12_cube.storage.local import LocalStore
    from cloudsen12_cube.storage.lock import write_lock

    with (
        write_lock(LocalStore(str(tmp_path / "c.zarr"))),
        pytest.raises(DestinationError, match="another process is writing"),
    ):
        c12.convert(archive, tmp_path / "c.zarr")


def test_metadata_without_files_is_nothing_to_convert(tmp_path: Path) -> None:
    root = c12.testing.make_catalogue(tmp_path / "a", rois=5)
    with pytest.raises(ArchiveError, match="no file of the selected patches"):
        c12.convert(root, tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    assert c12.plan(root).totals(2)["shards"] == 25


def test_plans_are_equal_and_readable(archive: Path) -> None:
    first, second = (c12.plan(archive).as_json(workers=2) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["plan_version"] == 1
    assert len(document["shards"]) == document["totals"]["shards"] == 20
    line = document["shards"][0]
    files = next(iter(line["patches"].values()))
    assert (archive / files["folder"] / "S2L1C.tif").stat().st_size == files["files"]["S2L1C.tif"]
    with pytest.raises(SelectionError, match="unknown product 'xyz'"):
        c12.plan(archive, products=["xyz"])


def test_memory_decides_how_many_workers(archive: Path) -> None:
    from cloudsen12_cube.conversion.runner import worker_count

    made = c12.plan(archive)
    assert worker_count(made, 4, None) == 4
    assert worker_count(made, 400, 300 * 2**20) < 400
    with pytest.raises(c12.CubeError, match="one worker needs"):
        worker_count(made, None, 2**20)


@needs_shared
def test_the_real_archive(tmp_path: Path) -> None:
    archive, place = SHARED / "archive_a", tmp_path / "cube.zarr"
    assert c12.convert(archive, place).exit_code == 0
    cube = c12.open_cube(place)
    assert [str(r) for r in cube.to_dataset()["roi"].values] == ["ROI_0530", "ROI_0827", "ROI_10972"]
    expected: dict[str, Any] = json.loads((SHARED / "expected_a.json").read_text())
    compared = 0
    loaded = {product: with_columns_loaded(cube, product) for product in PRODUCTS}
    for path, facts in expected.items():
        _, roi, image, stem = path[:-4].split("/", 3)
        product = next((p for p in PRODUCTS if stem in files_of(p)), None)
        if product is None:
            continue
        images = loaded[product].sel(roi=roi)
        time = list(images["s2_id_gee"].values).index(image)
        pixels = images[product].isel(time=time).sel(band=list(files_of(product)[stem])).values.astype(facts["dtype"])
        assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == facts["sha256"], path
        assert list(images["proj_transform"].values[time]) == facts["transform"]
        assert int(images["proj_epsg"].values[time]) == facts["epsg"]
        counts = next((facts[k] for k in ("counts", "values", "pixels") if k in facts), None)
        if counts:
            values, numbers = np.unique(pixels, return_counts=True)
            assert dict(zip(map(str, values), map(int, numbers), strict=True)) == counts, path
        compared += 1
    assert compared == len(list(archive.rglob("*.tif"))) - 15
    with open(archive / "cloudsen12_metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    root = cube.to_dataset().load()
    for row in rows:
        patch = root.sel(roi=row["roi_id"])
        time = list(patch["s2_id_gee"].values).index(row["s2_id_gee"])
        assert str(patch["s1_id"].values[time]) == row["s1_id"]
        assert float(patch["s2_view_sun_azimuth"].values[time]) == float(row["s2_view_sun_azimuth"])
        assert str(patch["datetime"].values[time])[:19] + "Z" == row["s2_date"]
    assert c12.verify(place, source=archive).exit_code == 0
    raw = sum(cube[name][name].nbytes for name in PRODUCTS)
    stored = sum(p.stat().st_size for p in place.rglob("c/*/0/0/0/0"))
    assert stored < 0.5 * raw
    assert stored < sum(os.path.getsize(archive / p) for p in expected if "thumbnail" not in p)


def test_a_layer_that_no_patch_has_is_told_and_one_that_some_lack_is_a_fault(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16))
    for path in archive.rglob("labels/fmask.tif"):
        path.unlink()
    assert c12.plan(archive).lacking() == ["labels/fmask"]
    next(archive.rglob("labels/qa60.tif")).unlink()
    report = c12.convert(archive, tmp_path / "c.zarr", products=["labels"])
    assert [(f.asset, f.found) for f in report.faults] == [("labels/qa60", "no such file")]
    labels = c12.open_cube(tmp_path / "c.zarr")["labels"].to_dataset()
    assert (labels["labels"].sel(band="fmask") == 65535).all()
    assert sorted(labels["status"].values[0]) == [1, 1, 1, 1, 2]

"""A verification finds what was planted, and says what it compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

import cloudsen12_cube as c12
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.inspection.verification import Level


@pytest.fixture
def copy(cube: Path, tmp_path: Path) -> Path:
    shutil.copytree(cube, tmp_path / "c.zarr")
    return tmp_path / "c.zarr"


@pytest.fixture
def source(archive: Path, tmp_path: Path) -> Path:
    shutil.copytree(archive, tmp_path / "archive")
    return tmp_path / "archive"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_alone_it_hashes_every_shard(copy: Path) -> None:
    result = c12.verify(copy)
    assert (result.exit_code, result.shards, result.pixels) == (0, 20, 0)
    assert result.shard_bytes == sum(p.stat().st_size for p in copy.rglob("c/*/0/0/0/0"))
    flip(copy / "labels/labels/c/2/0/0/0/0")
    found = c12.verify(copy)
    assert found.exit_code == 1
    assert len(found.differences) == 1
    assert "labels of " in found.differences[0]
    assert "is damaged" in found.differences[0]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda c: (c / "s1/s1/c/0/0/0/0/0").unlink(), "has 0 bytes, its record says"),
        (lambda c: next(c.glob("s1/s1/records/*")).unlink(), "never converted"),
        (lambda c: next(c.glob("s1/s1/records/*")).write_text("{"), "never converted, or its record is damaged"),
    ],
)
@pytest.mark.parametrize("level", ["index", "full"])
def test_missing_objects_are_named(copy: Path, level: Level, damage: Callable[[Path], None], told: str) -> None:
    damage(copy)
    result = c12.verify(copy, level=level)
    assert result.exit_code == 1
    assert told in result.differences[0]


def test_levels(copy: Path) -> None:
    assert c12.verify(copy, level="index").shard_bytes == 0
    assert c12.verify(copy, level="sample").shards == 5
    with pytest.raises(c12.CubeError, match="index, sample, full"):
        c12.verify(copy, level="deep")  # type: ignore[arg-type]


def test_one_changed_pixel_of_the_archive_is_found(copy: Path, source: Path) -> None:
    path = sorted(source.rglob("labels/fmask.tif"))[7]
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[0, 5, 5] ^= 1
        file.write(pixels)
    result = c12.verify(copy, source=source)
    assert result.exit_code == 1
    assert len(result.differences) == 1
    assert "fmask differs from" in result.differences[0]
    assert "in 1 pixels" in result.differences[0]


def test_a_band_more_or_a_file_less_is_found(copy: Path, source: Path) -> None:
    next(source.rglob("labels/qa60.tif")).unlink()
    path = next(source.rglob("S1.tif"))
    path.write_bytes(path.read_bytes()[:200])
    result = c12.verify(copy, source=source)
    assert sorted(d.split(":")[1].split()[0] for d in result.differences) == sorted(
        ["qa60", str(path.relative_to(source))]
    )


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        (",N02.11,", ",N02.14,", "s2_sen2cor_version"),
        ("T10:09:47Z", "T10:09:48Z", "datetime"),
        ("10, 0, ", "10, 0, 1", "proj_transform"),
        ("POINT (-", "POINT (-1", "proj_centroid"),
        (",cloudy,", ",cloud-free,", "cloud_coverage"),
    ],
)
def test_one_changed_value_of_the_metadata_is_found(copy: Path, source: Path, old: str, new: str, name: str) -> None:
    path = source / "cloudsen12_metadata.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    result = c12.verify(copy, source=source)
    assert {d.split(": ")[1].split()[0] for d in result.differences} >= {name}


def test_a_failed_patch_must_be_nothing_but_fill(source: Path, tmp_path: Path) -> None:
    path = sorted(source.rglob("S2L1C.tif"))[3]
    path.write_bytes(b"")
    place = tmp_path / "d.zarr"
    report = c12.convert(source, place)
    assert report.exit_code == 1
    result = c12.verify(place, source=source)
    assert (result.differences, result.unfinished, result.exit_code) == ((), 1, 1)
    failures = json.loads((tmp_path / "d.zarr.failures.json").read_text())["failures"]
    assert [f["path"] for f in failures] == [str(path.relative_to(source))]
    images = c12.open_cube(place)["s2l1c"].to_dataset().sel(roi=path.parent.parent.name)
    time = list(images["s2_id_gee"].values).index(path.parent.name)
    assert list(images["status"].values) == [2 if t == time else 1 for t in range(5)]
    assert (images["s2l1c"].isel(time=time) == np.iinfo("int16").min).all()
    state = {p.product: (p.done, p.failed, p.missing) for p in info(place).products}
    assert state["s2l1c"] == (19, 1, 0)
    assert state["labels"] == (20, 0, 0)


def test_a_mended_file_is_retried_and_nothing_else(archive: Path, source: Path, tmp_path: Path) -> None:
    path = sorted(source.rglob("S1.tif"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    place = tmp_path / "d.zarr"
    assert c12.convert(source, place).failed == 1
    path.write_bytes(whole)
    report = c12.convert(source, place)
    assert (report.written, report.exit_code) == (1, 0)
    assert not (tmp_path / "d.zarr.failures.json").exists()
    assert c12.verify(place, source=archive).exit_code == 0

"""The ways between the forms: any of them opened in place; cubes of any layout cut, exported and laid out again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import SIZE
from other_forms import Padding, rows_of, write_dats, write_taco

import cloudsen12_cube as c12
from cloudsen12_cube.errors import ArchiveError, StoreError
from cloudsen12_cube.inspection.completeness import status
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ONE = c12.Options(workers=0)
SOME = ["s2l1c", "labels"]
WHERE = ["cloud_coverage!=cloud-free"]


@pytest.fixture(scope="module")
def taco(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taco")
    write_taco(archive, rows_of(archive), root / "a.taco", lambda _: Padding(SIZE + 16, (0, 16)))
    return root


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    options = ArchiveOptions(size=509, times=1, label_types=("high",))
    cogs = make_archive(root / "cogs", rois=1, seed=4, options=options)
    write_dats(cogs, rows_of(cogs), root / "maps" / "train")
    return root / "maps"


@pytest.mark.parametrize("form", ["taco", "maps"])
def test_any_form_is_opened_in_place(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue(form)
    c12.convert(source, tmp_path / "c.zarr", SOME, options=ONE)
    ours, theirs = c12.open_virtual(source, SOME), c12.open_cube(tmp_path / "c.zarr")
    for group in theirs.groups:
        xr.testing.assert_equal(ours[group].to_dataset(), theirs[group].to_dataset())
    mine, cube = (tree.cloudsen12.classes("manual_hq") for tree in (ours, theirs))
    xr.testing.assert_equal(mine, cube)
    batches = [next(iter(t.cloudsen12.stream({"s2l1c": ["B4"]}, None, None, 1, seed=1))) for t in (ours, theirs)]
    assert np.array_equal(batches[0]["pixels"], batches[1]["pixels"])


@pytest.mark.parametrize("layout", [c12.Layout("lz4"), c12.Layout("none", chunk="bands"), c12.Layout(chunk="bands")])
@pytest.mark.parametrize("where", [[], WHERE])
def test_a_subset_keeps_the_layout(archive: Path, tmp_path: Path, layout: c12.Layout, where: list[str]) -> None:
    """Cut out of the whole, or made with the same conditions: the same objects but for the root."""
    options = c12.Options(workers=0, layout=layout)
    c12.convert(archive, tmp_path / "whole.zarr", SOME, options=options)
    assert c12.subset(tmp_path / "whole.zarr", tmp_path / "part.zarr", where=where).exit_code == 0
    c12.convert(archive, tmp_path / "made.zarr", SOME, where, options=options)
    mine, made = (_objects(tmp_path / name) for name in ("part.zarr", "made.zarr"))
    assert mine == made
    assert c12.verify(tmp_path / "part.zarr", archive).exit_code == 0


def _objects(place: Path) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_bytes() for path in files if path != place / "zarr.json"}


def test_shared_shards_are_exported_and_not_cut(archive: Path, cube: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.zarr"
    layout = c12.Layout("lz4", chunk="bands", rois_per_shard=3)
    assert c12.convert(cube, shared, options=c12.Options(layout=layout)).exit_code == 0
    with pytest.raises(StoreError, match=r"cannot be taken apart without decoding.*give convert the same conditions"):
        c12.subset(shared, tmp_path / "part.zarr")
    assert c12.export(shared, tmp_path / "tifs").exit_code == 0
    c12.convert(tmp_path / "tifs", tmp_path / "again.zarr")
    ours, theirs = c12.open_cube(tmp_path / "again.zarr"), c12.open_cube(cube)
    for group in theirs.groups:
        xr.testing.assert_equal(ours[group].to_dataset(), theirs[group].to_dataset())
    assert c12.verify(tmp_path / "again.zarr", archive).exit_code == 0


@pytest.mark.parametrize("layout", [c12.Layout(), c12.Layout("lz4", chunk="bands", rois_per_shard=2)])
def test_a_cube_is_verified_against_the_cube_that_it_was_made_from(
    cube: Path, tmp_path: Path, layout: c12.Layout
) -> None:
    place = tmp_path / "part.zarr"
    c12.convert(cube, place, SOME, WHERE, options=c12.Options(layout=layout))
    found = c12.verify(place, cube)
    assert (found.exit_code, found.differences, found.shards) == (0, (), c12.verify(place).shards)
    patches = int((c12.open_cube(place)["s2l1c"]["status"] == 1).sum())
    assert found.pixels == patches * 23 * SIZE * SIZE
    assert found.values > 30 * patches
    index = c12.verify(place, cube, "index")
    assert (index.exit_code, index.pixels, index.values) == (0, 0, found.values)


def test_a_cube_that_differs_from_its_cube(archive: Path, cube: Path, tmp_path: Path) -> None:
    """Other pixels, other properties and patches that the other has not are each named."""
    changed = shutil.copytree(archive, tmp_path / "archive")
    table = changed / "cloudsen12_metadata.csv"
    row = rows_of(changed)[0]
    table.write_text(table.read_text().replace(row["s2_id"], "ANOTHER"))
    other = next(r for r in rows_of(changed) if r["roi_id"] != row["roi_id"])
    path = changed / other["label_type"] / other["roi_id"] / other["s2_id_gee"] / "S2L1C.tif"
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[3, 5, 7] += 1
        file.write(pixels)
    c12.convert(changed, tmp_path / "c.zarr", ["s2l1c"])
    assert sorted(c12.verify(tmp_path / "c.zarr", cube).differences) == [
        f"metadata of {row['roi_id']}/{row['s2_id_gee']}: s2_id is 'ANOTHER', {cube} says {row['s2_id']!r}",
        f"s2l1c of {other['roi_id']}/{other['s2_id_gee']}: differs from {cube}",
    ]
    c12.convert(cube, tmp_path / "small.zarr", ["s2l1c"], [f"roi_id={row['roi_id']}"])
    told = c12.verify(tmp_path / "c.zarr", tmp_path / "small.zarr").differences
    assert sum("in the cube, but not in" in text for text in told) == len(rows_of(changed)) - 5
    c12.convert(archive, tmp_path / "labels.zarr", ["labels"])
    told = c12.verify(tmp_path / "labels.zarr", tmp_path / "small.zarr").differences
    assert sum(text.startswith("labels of") for text in told) == 4


def test_where_an_archive_is_asked_for_a_cube_is_refused(cube: Path) -> None:
    with pytest.raises(ArchiveError, match="is a Zarr store, and an archive is asked for here"):
        status(cube, cube)


def test_cloudsen12_plus_goes_all_the_ways(taco: Path, tmp_path: Path) -> None:
    """Its own properties come along wherever a cube goes."""
    c12.convert(taco, tmp_path / "c.zarr", options=ONE)
    c12.subset(tmp_path / "c.zarr", tmp_path / "part.zarr", where=["label_type=high"])
    c12.convert(tmp_path / "part.zarr", tmp_path / "lz4.zarr", options=c12.Options(layout=c12.Layout("lz4")))
    c12.subset(tmp_path / "lz4.zarr", tmp_path / "end.zarr", where=["clear_percentage<=100"])
    whole, end = c12.open_cube(tmp_path / "c.zarr"), c12.open_cube(tmp_path / "end.zarr")
    kept = whole.cloudsen12.query(label_type="high")
    assert set(end.variables) == set(kept.variables)
    for name in ("old_roi_id", "equi_zone", "thick_percentage"):
        xr.testing.assert_equal(end[name], kept[name])
    xr.testing.assert_equal(end["s2l1c/s2l1c"], kept["s2l1c/s2l1c"])
    assert c12.verify(tmp_path / "end.zarr", taco).exit_code == 0
    steps = ["converted by", "subset of", "re-sharded from", "subset of"]
    assert [step in line for step, line in zip(steps, end.attrs["history"].splitlines(), strict=True)] == [True] * 4


def test_an_export_of_cloudsen12_plus_converts_again(taco: Path, tmp_path: Path) -> None:
    c12.convert(taco, tmp_path / "c.zarr", options=ONE)
    assert c12.export(tmp_path / "c.zarr", tmp_path / "tifs").exit_code == 0
    names = {path.name for path in (tmp_path / "tifs").rglob("*.tif")}
    assert names == {"S2L1C.tif", "manual_hq.tif", "manual_sc.tif"}  # no layer that nobody has
    c12.convert(tmp_path / "tifs", tmp_path / "again.zarr", options=ONE)
    ours, theirs = c12.open_cube(tmp_path / "again.zarr"), c12.open_cube(tmp_path / "c.zarr")
    for name in SOME:
        assert np.array_equal(ours[f"{name}/{name}"].values, theirs[f"{name}/{name}"].values)
    assert list(ours["split"].values) == list(theirs["split"].values)

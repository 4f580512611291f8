"""Cubes that were made before: they open, verify, stream and go on, and no shard of theirs is written again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import old_cubes
import pytest
import xarray as xr
from golden import unpack
from old_cubes import OLD, PLAIN, TWO

import cloudsen12_cube as c12
from cloudsen12_cube.schema import assets_of

EXPECTED = json.loads((old_cubes.FOLDER / "expected.json").read_text())
WHOLE = [name for name, old in OLD.items() if not old.missing]
PARTIAL = [name for name, old in OLD.items() if old.missing]


@dataclass(frozen=True)
class Object:
    data: bytes
    inode: int
    changed: int
    """Written again, an object would have another inode or time."""


def shards(cube: Path) -> dict[str, Object]:
    """Objects that hold pixels, by key."""
    found = {}
    for path in cube.rglob("*"):
        parts = path.relative_to(cube).parts
        if path.is_file() and len(parts) > 3 and parts[0] == parts[1] and parts[2] == "c":
            about = path.stat()
            found["/".join(parts)] = Object(path.read_bytes(), about.st_ino, about.st_mtime_ns)
    return found


def records(cube: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cube)): path.read_bytes() for path in cube.glob("*/*/records/*.json")}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archives and all cubes; nothing is changed in it."""
    folder = tmp_path_factory.mktemp("old")
    old_cubes.sources(folder)
    for name in OLD:
        unpack(f"cubes/{name}", folder)
    return folder


@pytest.fixture
def here(stored: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with links to all that, which is the current one: sources are named by relative paths."""
    for path in stored.iterdir():
        (tmp_path / path.name).symlink_to(path)
    with chdir(tmp_path):
        yield tmp_path


def own(here: Path, name: str) -> Path:
    """Put a copy, which may be changed, in the place of a link; times are those of the original."""
    place = here / name
    original = place.resolve()
    place.unlink()
    shutil.copytree(original, place)
    return place


def test_there_is_an_old_cube_of_each_kind(stored: Path) -> None:
    assert set(EXPECTED) == set(OLD) == {path.stem for path in old_cubes.FOLDER.glob("*.zip")}
    found = {name: json.loads((stored / name / "zarr.json").read_text())["attributes"]["cloudsen12"] for name in OLD}
    assert {name for name in OLD if found[name]["layout_version"] == 1} == {"default", "subset", "cut", "unfinished"}
    assert {name for name in OLD if found[name]["state"] != "final"} == {"unfinished", "part"}
    assert {name for name in OLD if found[name].get("accepted")} == {"accepted", "failed"}
    assert {name for name in OLD if found[name].get("subsets")} == {"subset", "cut"}
    assert {found["resharded"]["products"][product]["shard"][0] for product in TWO} == {2}
    assert sum(path.stat().st_size for path in old_cubes.FOLDER.iterdir()) < 2**20


@pytest.mark.parametrize("name", OLD)
def test_it_opens_and_streams(stored: Path, name: str) -> None:
    """Pixels, coordinates and batches are what they were."""
    assert old_cubes.described(stored / name) == EXPECTED[name]["before"]


def test_it_opens_by_its_engine(stored: Path) -> None:
    xr.testing.assert_identical(
        xr.open_datatree(stored / "default", engine="cloudsen12").load(), c12.open_cube(stored / "default").load()
    )


@pytest.mark.parametrize("name", OLD)
def test_it_is_verified(stored: Path, name: str) -> None:
    found = c12.verify(stored / name)
    assert (found.exit_code, bool(found.unfinished)) == (OLD[name].exit_code, bool(OLD[name].missing))
    gone = 0 if name == "failed" else OLD[name].missing  # a shard that has failed in part is there
    assert len(found.differences) == gone
    seen = c12.status(stored / name)
    assert (seen.exit_code, len(seen.missing)) == (OLD[name].exit_code, gone)


@pytest.mark.parametrize("name", WHOLE)
def test_it_goes_on_without_a_shard_written(here: Path, name: str) -> None:
    cube = own(here, name)
    before, noted = shards(cube), records(cube)
    report = OLD[name].go_on(name)
    assert report.exit_code == 0
    if isinstance(report, c12.SubsetReport):
        assert (report.whole, report.cut, report.skipped) == (0, 0, report.shards)
    else:
        assert (report.written, report.skipped) == (0, report.shards)
    assert (shards(cube), records(cube)) == (before, noted)
    assert_described(cube, EXPECTED[name]["before"])
    assert c12.verify(name, OLD[name].source).exit_code == 0


def assert_described(cube: Path, expected: dict[str, Any]) -> None:
    """Compare all that is in a cube; its metadata are written again, so the nodata of bands is that of this release."""
    tree, found = c12.open_cube(cube), old_cubes.described(cube)
    for product in tree.children:
        row = [np.nan if asset.nodata is None else asset.nodata for asset in assets_of(product)]
        np.testing.assert_array_equal(tree[product]["nodata"], row)
    values = [{k: v for k, v in d["values"].items() if not k.endswith("/nodata")} for d in (found, expected)]
    assert {**found, "values": values[0]} == {**expected, "values": values[1]}


@pytest.mark.parametrize("name", PARTIAL)
def test_what_is_missing_is_made_and_no_more(here: Path, name: str) -> None:
    """Shards are those of a new conversion then; if compressed, only the new ones: a codec differs by its release."""
    old, cube = OLD[name], own(here, name)
    before, noted = shards(cube), records(cube)
    report = old.go_on(name)
    assert (report.written, report.exit_code) == (old.missing, old.after)
    after = shards(cube)
    tried = [key for key in before if after[key] != before[key]]
    assert len(tried) == (1 if name == "failed" else 0)
    assert len(after) == len(before) + old.missing - len(tried)
    assert {key: data for key, data in records(cube).items() if key in noted} == noted
    assert old_cubes.described(cube) == EXPECTED[name]["after"]
    found = c12.verify(name, old.source)
    assert (found.exit_code, found.differences) == (old.after, ())

    c12.convert(old.source, "fresh", TWO, options=c12.Options(workers=0) if name == "unfinished" else PLAIN)
    kept = before.keys() if name == "unfinished" else set()
    fresh = {key: one.data for key, one in shards(here / "fresh").items()}
    assert {key: one.data for key, one in after.items() if key not in kept} == {
        key: data for key, data in fresh.items() if key not in kept
    }
    if name != "unfinished":
        assert records(cube) == records(here / "fresh")


@pytest.mark.usefixtures("here")
def test_it_can_be_taken_from() -> None:
    """An old cube gives subsets, cubes of another layout and folders, all verified against it."""
    report = c12.subset("default", "part.zarr", options=c12.SubsetOptions(rois=old_cubes.ROIS, workers=0))
    assert report.whole == report.shards == 10
    assert c12.verify("part.zarr", "default").exit_code == 0
    assert c12.convert("resharded", "back.zarr", options=c12.Options(workers=0)).written == 6
    assert c12.verify("back.zarr", "default").exit_code == 0
    assert c12.export("cut", "folder", ["s1"], options=c12.ExportOptions(workers=0)).exit_code == 0

"""Hugging Face's memory maps: the same cube as from the COGs of the same patches, and nothing taken on trust."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from command_line import failed, run
from conftest import SHARED, needs_shared
from other_forms import SINGLE, Row, rows_of, write_dats

import cloudsen12_cube as c12
from cloudsen12_cube.conversion.options import Options
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.inspection.completeness import status
from cloudsen12_cube.inspection.verification import verify
from cloudsen12_cube.testing import ArchiveOptions, make_archive

SOME = ["s1", "labels"]
ONE = Options(workers=0)


@pytest.fixture(scope="module")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ArchiveOptions(size=509, times=2)
    return make_archive(tmp_path_factory.mktemp("cogs"), rois=3, seed=2, options=options)


@pytest.fixture(scope="module")
def labelled(cogs: Path) -> list[Row]:
    return [row for row in rows_of(cogs) if row["label_type"] == "high"]


@pytest.fixture(scope="module")
def maps(cogs: Path, labelled: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both splits that the rows may have, in the folders that say so."""
    root = tmp_path_factory.mktemp("maps")
    write_dats(cogs, labelled, root / "high" / _folder(labelled[0]))
    return root


def _folder(row: Row) -> str:
    return {"0": "train", "1": "val", "2": "test"}[row["test"]]


def _same(a: Path, b: Path) -> None:
    ours, theirs = c12.open_cube(a), c12.open_cube(b)
    assert ours.groups == theirs.groups
    for group in ours.groups:
        one, other = ours[group].to_dataset(), theirs[group].to_dataset()
        assert set(one.variables) == set(other.variables)
        for name in one.variables:
            assert one[name].variable.identical(other[name].variable), (group, name)


def test_the_same_cube_as_from_the_cogs(cogs: Path, maps: Path, tmp_path: Path) -> None:
    assert c12.convert(maps, tmp_path / "maps.zarr").exit_code == 0
    assert c12.convert(cogs, tmp_path / "cogs.zarr", where=["label_type=high"]).exit_code == 0
    _same(tmp_path / "maps.zarr", tmp_path / "cogs.zarr")
    for source in (maps, cogs):
        found = verify(tmp_path / "maps.zarr", source)
        assert not found.differences
        assert found.pixels > 49 * 509 * 509
    assert status(tmp_path / "maps.zarr", maps, checksum=True).exit_code == 0
    assert c12.convert(maps, tmp_path / "maps.zarr").written == 0  # it knows what it has


@needs_shared
def test_the_shared_archive_in_both_forms(tmp_path: Path) -> None:
    maker = [sys.executable, str(SHARED / "make_hf_dat.py"), str(SHARED / "archive_a"), str(tmp_path / "maps")]
    subprocess.run(maker, check=True)
    c12.convert(tmp_path / "maps", tmp_path / "maps.zarr")
    c12.convert(SHARED / "archive_a", tmp_path / "cogs.zarr", where=["label_type=high"])
    _same(tmp_path / "maps.zarr", tmp_path / "cogs.zarr")


def test_the_folder_tells_the_split(cogs: Path, labelled: list[Row], tmp_path: Path) -> None:
    rows = [row | {"test": "1"} for row in labelled]
    for folder, split in (("val", "validation"), ("test", "test"), ("train", "train")):
        write_dats(cogs, rows, tmp_path / folder)
        c12.convert(tmp_path / folder, tmp_path / f"{folder}.zarr", ["extra"], options=ONE)
        assert set(c12.open_cube(tmp_path / f"{folder}.zarr")["split"].values) == {split}


def test_folders_are_one_archive_in_the_order_of_rois(cogs: Path, tmp_path: Path) -> None:
    rows = sorted(rows_of(cogs), key=lambda row: row["label_type"])
    for kind in ("high", "scribble"):
        mine = [row for row in rows if row["label_type"] == kind]
        if mine:
            write_dats(cogs, mine[::-1], tmp_path / "maps" / kind / "train")
    kinds = {row["label_type"] for row in rows} & {"high", "scribble"}
    c12.convert(tmp_path / "maps", tmp_path / "maps.zarr", SOME)
    c12.convert(cogs, tmp_path / "cogs.zarr", SOME, where=["label_type=" + "|".join(sorted(kinds))])
    ours, theirs = c12.open_cube(tmp_path / "maps.zarr"), c12.open_cube(tmp_path / "cogs.zarr")
    assert list(ours["roi"].values) == list(theirs["roi"].values)
    xr.testing.assert_equal(ours["s1/s1"].drop_vars("split"), theirs["s1/s1"].drop_vars("split"))


Damage = Callable[[Path], object]


def _cut(folder: Path) -> None:
    data = (folder / "L1C_B4.dat").read_bytes()
    (folder / "L1C_B4.dat").write_bytes(data[:-1])


def _row_less(folder: Path) -> None:
    text = (folder / "metadata.csv").read_text().splitlines(keepends=True)
    (folder / "metadata.csv").write_text("".join(text[:-1]))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_cut, r"L1C_B4.dat has [\d,]+ bytes; 2 patches"),
        (_row_less, r"has [\d,]+ bytes; 1 patches"),
        (lambda folder: (folder / "metadata.csv").unlink(), "no high/.*metadata.csv"),
        (lambda folder: shutil.copytree(folder, folder.parent / "other"), "is there twice"),
        (lambda folder: (folder / "a.taco").write_bytes(b"WX"), "a.taco is no whole TACO file|memory maps and TACO"),
    ],
)
def test_what_is_wrong_with_the_whole_is_said_first(maps: Path, tmp_path: Path, damage: Damage, text: str) -> None:
    copy = shutil.copytree(maps, tmp_path / "maps")
    damage(next((copy / "high").iterdir()))
    with pytest.raises(ArchiveError, match=text):
        c12.plan(copy)
    failed(run("convert", copy, tmp_path / "c.zarr"))


def _frame(folder: Path) -> None:
    plane = np.memmap(folder / "LABEL_fmask.dat", "u1", "r+")
    plane[512 * 512 + 511] = 7  # second patch, last column of its first row


@pytest.mark.parametrize(
    ("damage", "asset", "text", "patches"),
    [
        (lambda folder: (folder / "S1_VH.dat").unlink(), "S1", "no such file", 2),
        (_frame, "labels/fmask", "not 0 around the patch", 1),
    ],
)
def test_what_is_wrong_with_a_patch_is_reported(
    maps: Path, tmp_path: Path, damage: Damage, asset: str, text: str, patches: int
) -> None:
    copy = shutil.copytree(maps, tmp_path / "maps")
    damage(next((copy / "high").iterdir()))
    report = c12.convert(copy, tmp_path / "c.zarr", SOME, options=ONE)
    assert report.exit_code == 1
    assert [(fault.asset, text in fault.found) for fault in report.faults] == [(asset, True)] * patches
    cube = c12.open_cube(tmp_path / "c.zarr")
    product = "s1" if asset == "S1" else "labels"
    assert int((cube[product]["status"] == 2).sum()) == patches


def test_what_has_no_place_in_a_cube_is_named(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cloudsen12_cube.cli.commands import main

    copy = shutil.copytree(maps, tmp_path / "maps")
    folder = next((copy / "high").iterdir())
    shutil.copy(folder / "LABEL_fmask.dat", folder / "LABEL_my_own.dat")
    assert main(["plan", str(copy), str(tmp_path / "c.zarr")]) == 0
    assert "the archive has LABEL_my_own, which is not converted" in capsys.readouterr().out


def test_every_layer_is_read(maps: Path) -> None:
    plan = c12.plan(maps)
    assert {name for files in plan.archive.patches.values() for name in files.names} >= {n for n, _ in SINGLE.values()}

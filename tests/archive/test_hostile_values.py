"""Metadata with odd values: read as they stand, or refused in a line; never taken for something else."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.inspection import verify
from cloudsen12_cube.testing import ArchiveOptions, make_archive

TABLE = "cloudsen12_metadata.csv"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=1, seed=3, options=ArchiveOptions(size=16, times=2))


def changed(source: Path, archive: Path, **values: str) -> Path:
    """Copy an archive, with other values in the second row of its table."""
    shutil.copytree(source, archive, copy_function=os.link)
    with open(archive / TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[1] |= values
    (archive / TABLE).unlink()
    with open(archive / TABLE, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return archive


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("s2_date", "now", "column datetime of the metadata holds no time: it says now or today, expected ISO 8601"),
        ("s1_date", "today", "column s1_datetime of the metadata holds no time"),
        ("s2_date", "9999-12-31T23:59:59Z", "Out of bounds nanosecond timestamp"),
        ("s2_date", "0000-00-00", "is not ISO8601"),
        ("s2_date", "2019-01-01T00:00:00+99:99", "is not ISO8601"),
        ("s2_date", "\x1b[31m2019", "is not ISO8601"),
        ("proj_epsg", "2147483648", "column proj_epsg of the metadata holds 2147483648.0"),
        ("proj_epsg", "9" * 5000, "column proj_epsg of the metadata holds no int"),
        ("proj_epsg", "inf", "column proj_epsg of the metadata holds inf"),
        ("proj_epsg", "32633.5", "32633.5, no integer"),
        ("proj_epsg", "<b>x</b>", "holds no int"),
    ],
)
def test_what_is_no_value_is_refused(source: Path, tmp_path: Path, column: str, value: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        c12.plan(changed(source, tmp_path / "a", **{column: value}))


@pytest.mark.parametrize("transform", ["10,0,1", "nan,nan,nan,nan,nan,nan", "1e400,0,0,0,-10,0", "a,b,c,d,e,f"])
def test_a_transform_without_six_numbers_is_one_line(
    source: Path, tmp_path: Path, transform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = changed(source, tmp_path / "a", proj_transform=transform)
    assert main(["convert", str(archive), str(tmp_path / "c.zarr"), "--quiet"]) == 2
    assert capsys.readouterr().err == (
        f"cloudsen12-cube: proj_transform '{transform}' is not six numbers such as 10, 0, 440030, 0, -10, 4573910\n"
    )


@pytest.mark.parametrize(
    "values", [{"proj_transform": ""}, {"proj_epsg": "nan"}, {"proj_epsg": "", "proj_centroid": ""}]
)
def test_a_grid_from_the_files_keeps_what_the_table_states(
    source: Path, tmp_path: Path, values: dict[str, str]
) -> None:
    """The centre that follows from a file differs from the published one in the last digits."""
    archive, cube = changed(source, tmp_path / "a", **values), tmp_path / "c.zarr"
    assert c12.convert(archive, cube, ["labels"]).exit_code == 0
    assert verify(cube, archive).differences == ()
    root = c12.open_cube(cube).to_dataset()
    assert (root["proj_epsg"].values > 0).all()
    assert root["longitude"].notnull().all()
    if "proj_centroid" not in values:
        assert root["proj_centroid"].values[0, 1] == root["proj_centroid"].values[0, 0]

"""Metadata are a pure function of catalogue, records and settings, by whichever way a cube is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.format.metadata import Frame, contents_of, metadata_objects, properties, rebuild_metadata
from cloudsen12_cube.schema import parse_transform, transform_text


def _metadata(cube: Path) -> dict[str, bytes]:
    """Every object but shards and records; the times of creation are those of a fixed day."""
    found = {}
    for path in cube.rglob("*"):
        key = path.relative_to(cube).as_posix()
        if path.is_file() and not (key.count("/") > 2 and key.split("/")[0] == key.split("/")[1]):
            found[key] = path.read_bytes()
    root = json.loads(found["zarr.json"])
    created = root["attributes"]["cloudsen12"]["created"].encode()
    found["zarr.json"] = found["zarr.json"].replace(created, b"2026-01-01T00:00:00Z")
    return found


def test_parts_and_finalise_give_the_bytes_of_a_whole_run(archive: Path, tmp_path: Path) -> None:
    products = ["s1", "labels"]
    c12.convert(archive, tmp_path / "whole.zarr", products, options=c12.Options(workers=0))
    for number in (1, 2):
        options = c12.Options(workers=0, part=c12.Part(number, 2))
        c12.convert(archive, tmp_path / "parts.zarr", products, options=options)
    c12.finalise(tmp_path / "parts.zarr")
    assert _metadata(tmp_path / "parts.zarr") == _metadata(tmp_path / "whole.zarr")


def test_the_contents_of_a_cube_give_its_objects(cube: Path) -> None:
    contents = contents_of(open_stored_cube(cube), "final")
    made = metadata_objects(contents)
    assert list(made)[-1] == "zarr.json"
    for key, data in made.items():
        assert (cube / key).read_bytes() == data, key
    assert rebuild_metadata(made, contents) == made


@pytest.mark.parametrize(
    "numbers", [(10.0, 0.0, 440030.0, 0.0, -10.0, 4573910.0), (1 / 3, 0.1 + 0.2, -1e-17, 5e-324, 1e300, 2**53 + 1.0)]
)
def test_a_transform_loses_no_digit(numbers: tuple[float, ...]) -> None:
    assert parse_transform(transform_text(numbers)) == numbers
    assert parse_transform(transform_text(np.array(numbers))) == numbers


def test_a_transform_is_read_back_from_a_column(cube: Path) -> None:
    stored = open_stored_cube(cube)
    table = stored.table.copy()
    table["proj_transform"] = transform_text((1 / 3, 0, 0.1 + 0.2, 0, -1 / 3, 4573910.123456789))
    table.loc[0, "proj_transform"] = ""
    columns: dict[str, Any] = {c.name: c.values for c in properties(Frame(stored.order, 5, table))}
    grid = columns["proj_transform"]
    assert grid.shape == (*columns["s2_id_gee"].shape, 6)
    assert np.isnan(grid[0, 0]).all()
    assert grid[0, 1].tolist() == [1 / 3, 0, 0.1 + 0.2, 0, -1 / 3, 4573910.123456789]

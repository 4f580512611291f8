"""Documents of strangers: what does not fit its dataclass is named, and never becomes an object."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.cube import CubeSettings, open_stored_cube
from cloudsen12_cube.format.document import load_json, parse
from cloudsen12_cube.format.record import PatchRecord, ShardRecord
from cloudsen12_cube.format.statistics import BandStatistics, read_bands, read_counts
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.schema import Selection
from cloudsen12_cube.storage import open_store

DIGEST = "0" * 64
RECORD: dict[str, Any] = {
    "product": "s1",
    "roi_id": "ROI_0001",
    "index": 3,
    "size": 10,
    "sha256": DIGEST,
    "patches": [
        {
            "time": 0,
            "s2_id_gee": "x",
            "status": 1,
            "sources": [{"path": "p", "size": 1, "sha256": DIGEST}],
            "faults": [],
            "maxima": {"s2cloudless": 7},
        }
    ],
}


def test_a_record_is_read_as_it_was_written() -> None:
    record = parse(ShardRecord, RECORD)
    assert json.loads(record.as_bytes()) == RECORD
    assert isinstance(record.patches[0], PatchRecord)
    assert record.patches[0].maxima == {"s2cloudless": 7}
    assert parse(ShardRecord, {name: value for name, value in RECORD.items() if name != "patches"}).patches == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": -1}, "index is -1, expected 0 to"),
        ({"index": True}, "index is True, expected a whole number"),
        ({"index": 1.0}, "index is 1.0, expected a whole number"),
        ({"size": "10"}, "size is '10', expected a whole number"),
        ({"sha256": "../x"}, "sha256 is '../x', expected a text like"),
        ({"roi_id": None}, "roi_id is None, expected a text"),
        ({"patches": {}}, "patches is {}, expected a list"),
        ({"patches": [5]}, "patches.0 is 5, expected an object"),
        ({"patches": [RECORD["patches"][0] | {"status": 3}]}, "patches.0.status is 3, expected 0 to 2"),
        ({"patches": [RECORD["patches"][0] | {"maxima": {"x": "y"}}]}, "patches.0.maxima.x is 'y'"),
        ({"patches": [RECORD["patches"][0] | {"sources": [{"path": "p"}]}]}, "patches.0.sources.0.sha256 is not there"),
        ({"more": 1}, "more is unknown"),
    ],
)
def test_what_is_no_record(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        parse(ShardRecord, RECORD | change)


def test_scalars_and_unions() -> None:
    assert parse(Selection, {"where": [], "bbox": [1, 2, 3, 4.5], "rois": ["a"]}) == Selection(
        (), (1, 2, 3, 4.5), ("a",)
    )
    assert parse(Selection, {"bbox": None}) == Selection()
    with pytest.raises(ValueError, match=r"bbox is \[1\], expected a list of 4"):
        parse(Selection, {"bbox": [1]})
    assert parse(BandStatistics, {"band": "VV", "pixels": 0, "mean": 1, "std": 2, "percentiles": {}}).mean == 1.0


def test_json_without_an_end_is_no_crash() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        load_json(b"[" * 200_000)


@pytest.fixture
def copy(cube: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cube, tmp_path / "c.zarr"))


def _change_settings(cube: Path, **change: object) -> None:
    root = json.loads((cube / "zarr.json").read_text())
    root["attributes"]["cloudsen12"] |= change
    (cube / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": None}, "products is None, expected an object"),
        ({"products": {}}, "products is empty"),
        ({"products": {"s3": {}}}, "products is 's3', expected one of s2l1c"),
        ({"products": {"s1": {}}}, "the layout of s1 is damaged: chunk is not there"),
        ({"state": "done"}, "state is 'done', expected one of creating, converting, final"),
        ({"selection": {"where": 1}}, "selection.where is 1, expected a list"),
        ({"test_meaning": "v2"}, "test_meaning is 'v2'"),
    ],
)
def test_damaged_settings_are_one_line(copy: Path, change: dict[str, Any], message: str) -> None:
    _change_settings(copy, **change)
    for look in (info, c12.status, c12.verify):
        with pytest.raises(StoreError, match=message) as caught:
            look(copy)
        assert "\n" not in str(caught.value)


def test_settings_of_a_newer_release_are_kept(copy: Path) -> None:
    _change_settings(copy, resolution=10)
    cube = open_stored_cube(copy, "final")
    assert cube.settings["resolution"] == 10
    assert isinstance(cube.stated, CubeSettings)


@pytest.mark.parametrize("change", [{"product": "../../x"}, {"roi_id": "../../../../x"}, {"index": 1}])
def test_a_record_of_another_shard_is_none(copy: Path, change: dict[str, Any]) -> None:
    path = sorted(copy.glob("s1/s1/records/*"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert ("s1", path.stem) in c12.status(copy).missing


@pytest.mark.parametrize("data", [b"null", b'{"bands": [], "from": {}}', b"[" * 100_000, b'{"bands": 3}'])
def test_damaged_statistics_are_one_line(copy: Path, data: bytes) -> None:
    (copy / "s1/s1/statistics.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"s1/s1/statistics.json is damaged .*: run `stats` again"):
        read_bands(open_store(copy), "s1")


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x05\x06" + bytes(18)])
def test_damaged_counts_are_one_line(copy: Path, data: bytes) -> None:
    (copy / "labels/labels/class_counts.npz").write_bytes(data)
    with pytest.raises(StoreError, match=r"class_counts.npz is damaged .*: run `stats` again"):
        read_counts(open_store(copy))

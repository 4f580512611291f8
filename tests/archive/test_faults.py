"""Each way in which an input can be damaged, odd or hostile: it is named, its patch is absent, nothing else is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken_archive import FAULTS, PLANTED, Broken

import cloudsen12_cube as c12
from cloudsen12_cube.errors import without_secrets
from cloudsen12_cube.schema.assets import PRODUCTS, files_of
from cloudsen12_cube.testing import ArchiveOptions, make_archive


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    return Broken(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize(("plant", "asset", "found"), FAULTS)
def test_a_fault_is_named_and_its_patch_is_fill(
    broken: Broken, plant: Callable[[Path], None], asset: str, found: str
) -> None:
    if plant.__name__ not in broken.paths:
        pytest.skip("root may read everything")
    lines = [line for line in broken.failures if line["path"] == broken.paths[plant.__name__]]
    assert len(lines) == 1
    patch = broken.hit[plant.__name__]
    assert (lines[0]["roi_id"], lines[0]["s2_id_gee"], lines[0]["asset"]) == (*patch, asset)
    assert found in lines[0]["found"]
    assert lines[0]["expected"]
    product = next(p for p in PRODUCTS if asset in files_of(p))
    assert {p: broken.status(p, patch) for p in PRODUCTS} == {p: 2 if p == product else 1 for p in PRODUCTS}
    pixels, fill = broken.pixels(product, patch), broken.cube[product][product].encoding["fill_value"]
    assert np.isnan(pixels).all() if np.isnan(fill) else (pixels == fill).all()
    assert product != "labels" or not (pixels == 0).any(), "0 is clear"


def test_faults_of_the_metadata_are_named(broken: Broken) -> None:
    told = {(line["roi_id"], line["s2_id_gee"]): line["found"] for line in broken.failures}
    assert told[broken.no_folder] == "no folder of this patch"
    assert told[broken.no_row] == "a folder that no row of the metadata names"
    assert told[broken.twice] == "a second row of this patch"
    for roi in ("../../evil", "/etc/evil", "file:///evil"):
        assert told[roi, broken.twice[1]] == "an illegal id"
    assert told[broken.twice[0], "../../evil"] == "an illegal id"
    assert [broken.status(p, broken.no_folder) for p in PRODUCTS] == [0] * 5


def test_all_else_is_converted(broken: Broken) -> None:
    assert broken.report.exit_code == 1
    assert len(broken.failures) == len(PLANTED) + 7
    touched = {*broken.hit.values(), broken.no_folder, broken.no_row}
    assert len(touched) < len(broken.patches)
    for patch in set(broken.patches) - touched:
        assert [broken.status(product, patch) for product in PRODUCTS] == [1] * 5
    assert c12.verify(broken.place).differences == ()


def test_nothing_outside_is_touched(broken: Broken, tmp_path: Path) -> None:
    """Every file that a conversion opens, as Python itself reports it."""
    script = f"""
import sys
seen = set()
sys.addaudithook(lambda event, args: seen.add((event, str(args[0]))) if event in ("open", "os.mkdir") else None)
import cloudsen12_cube as c12
c12.convert({str(broken.source)!r}, {str(tmp_path / "c.zarr")!r})
print(chr(10).join(path for event, path in seen))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    base = os.path.commonpath([broken.source, tmp_path])
    opened = {path for path in done.stdout.splitlines() if path.startswith(base)}
    places = (str(broken.source), str(tmp_path / "c.zarr"))
    assert {path for path in opened if not path.startswith(places)} == set()
    assert len(opened) > 100
    assert not any("evil" in path or path.endswith("outside.tif") for path in done.stdout.splitlines())
    assert {p.name for p in broken.place.parent.iterdir()} == {"a", "c.zarr", "c.zarr.failures.json"}
    assert {p.name for p in broken.source.parent.parent.glob("**/*evil*")} == set()


def test_a_hostile_item_of_stac(tmp_path: Path) -> None:
    """What an item links to is never followed: files are found by listing the archive."""
    source = make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16, metadata="stac", times=1))
    path = next(source.rglob("*.json"))
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset["href"] = "file:///etc/passwd"
    item["links"] = [{"rel": "self", "href": "https://user:secret@example.org/item.json"}]
    path.write_text(json.dumps(item))
    evil = json.loads(json.dumps(item))
    evil["properties"]["roi_id"] = "../../evil"
    path.with_name("evil.json").write_text(json.dumps(evil))
    report = c12.convert(source, tmp_path / "c.zarr", products=["s1"])
    assert (report.done, [fault.found for fault in report.faults]) == (1, ["an illegal id"])
    assert not any(b"secret" in p.read_bytes() for p in tmp_path.rglob("c.zarr*/**/*") if p.is_file())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://user:secret@example.org/a/b?X-Amz-Signature=secret#secret", "https://example.org/a/b"),
        ("s3://key:secret@bucket/path: no such thing", "s3://bucket/path: no such thing"),
        ("open 'https://h/p?sig=secret' and 'ftp://u:secret@h/q'", "open 'https://h/p' and 'ftp://h/q'"),
        ("https://u:p/a@ss", "https://ss"),
        ("/home/me/archive?x", "/home/me/archive?x"),
        ("a@b.org", "a@b.org"),
        ("", ""),
    ],
)
def test_secrets_of_urls(text: str, told: str) -> None:
    assert without_secrets(text) == told


def test_an_error_tells_no_secret(tmp_path: Path) -> None:
    url = "https://user:secret@nowhere.invalid/archive?sig=secret"
    command = [sys.executable, "-m", "cloudsen12_cube", "convert", url, str(tmp_path / "c.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "https://nowhere.invalid/archive/zarr.json cannot be read" in done.stderr
    assert "secret" not in done.stderr + done.stdout

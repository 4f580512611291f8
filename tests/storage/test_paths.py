"""A local path names what it names, whatever characters it has: none is parsed as a URL, nowhere."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import geopandas
import numpy as np
import obstore.store
import pandas as pd
import pytest
import rasterio
import xarray as xr
import zarr.storage
from hypothesis import given, settings
from hypothesis import strategies as st
from other_forms import Padding, rows_of, write_taco

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.dataset.predictions import write_layer
from cloudsen12_cube.storage import open_store
from cloudsen12_cube.testing import ArchiveOptions, make_archive

NAMES = ["run#2", "run?v=3", " a%20b", "\u00fc\r\n", "file:[bold]a*"]
"""What ends a URL, what is decoded or removed in one, what GDAL takes for a scheme, and markup of a terminal."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives and cubes in folders of these names; ``run`` is what two of them would be as URLs."""
    root = tmp_path_factory.mktemp("paths")
    for seed, name in enumerate(["run", *NAMES]):
        make_archive(root / name / "archive", rois=1, seed=seed, options=ArchiveOptions(size=16))
        options = c12.Options(workers=0)
        assert (
            c12.convert(root / name / "archive", root / name / "c.zarr", ["s2l1c", "labels"], options=options).written
            == 2
        )
    return root


def pixels_of(folder: Path) -> np.ndarray:
    with open(sorted(folder.glob("*/ROI_*/*/S2L1C.tif"))[0], "rb") as stream, rasterio.open(stream) as file:
        return file.read()


@pytest.mark.parametrize(("name", "relative"), [(name, i % 2 == 0) for i, name in enumerate(NAMES)])
def test_each_folder_is_itself(archives: Path, name: str, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archives)
    place = os.path.join(name, "c.zarr") if relative else str(archives / name / "c.zarr")
    source, true = os.path.join(name, "archive"), pixels_of(archives / name / "archive")
    for cube in (c12.open_cube(place), xr.open_datatree(place, engine="cloudsen12"), c12.open_virtual(source)):
        assert (cube["s2l1c"]["s2l1c"].isel(roi=0, time=0).values == true).all()
    cube = c12.open_cube(place)
    batch = next(iter(cube.cloudsen12.stream({"s2l1c": None}, "manual_hq", split=None, batch_size=1)))
    stored = cube["s2l1c"]["s2l1c"].sel(roi=str(batch["roi"][0]), time=int(batch["time"][0]))
    assert (batch["pixels"][0] == stored.values).all()
    assert c12.verify(place, source=source).exit_code == 0
    assert c12.convert(source, place, ["s2l1c", "labels"]).written == 0
    assert c12.status(place, source=source).exit_code == 0
    assert not {"run#2", "run?v=3"} & set(os.listdir(archives / name)), "nothing is written beside its place"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_lies_there(archives: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, place = Path(name), str(archives / name / "c.zarr")
    assert c12.subset(place, out / "subset.zarr").exit_code == 0
    assert c12.export(place, out / "export").exit_code == 0
    assert (pixels_of(out / "export") == pixels_of(archives / name / "archive")).all()
    cube = c12.open_cube(os.path.join(name, "subset.zarr"))
    labels = cube["labels"].to_dataset()
    roi = str(cube["roi"].values[0])
    codes = np.ones((labels.sizes["y"], labels.sizes["x"]), dtype=np.uint8)
    assert write_layer(cube, str(out / "layer.zarr"), "model", [([roi], [0], codes[None])]) == 1
    assert (cube.cloudsen12.with_layer(str(out / "layer.zarr")).cloudsen12.classes("model")[0, 0] == 1).all()
    patch = cube.cloudsen12.patch(roi, 0)
    assert all(path.exists() for path in patch.cloudsen12.to_cog(out / "patch"))
    assert sorted(os.listdir(tmp_path)) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_commands(
    archives: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = os.path.join(name, "c.zarr")
    for command in (
        ["convert", str(archives / name / "archive"), place, "--quiet", "--products", "labels"],
        ["verify", place, "--source", str(archives / name / "archive")],
        ["info", place],
        ["stats", place, "--split", "all"],
        ["evaluate", place, "--split", "all", "--per-patch", os.path.join(name, "patches.parquet")],
        ["browse", place, "--out", os.path.join(name, "page.html"), "--pictures", "1"],
        ["stac", place],
        ["stac", place, "--out", os.path.join(name, "stac#2")],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert sorted(os.listdir(tmp_path)) == [name]
    assert len(pd.read_parquet(io.BytesIO(Path(name, "patches.parquet").read_bytes()))) > 0
    for folder in ("c.zarr.stac", "stac#2"):
        check_links(tmp_path / name / folder, tmp_path / name / "c.zarr")
    assert main(["info", os.path.join(name, "none.zarr")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1, "an error is a line, whatever the name"


def check_links(folder: Path, cube: Path) -> None:
    """Follow every link as a browser does."""
    document = json.loads((folder / "collection.json").read_text())
    items = geopandas.read_parquet(io.BytesIO((folder / "items.parquet").read_bytes()))
    hrefs = {name: asset["href"] for name, asset in document["assets"].items() if name != "items"}
    found = [asset["href"] for row in items["assets"] for asset in row.values() if asset]
    for href in [*hrefs.values(), *found]:
        url = urlsplit(urljoin((folder / "collection.json").as_uri(), href))
        assert (url.query, url.fragment) == ("", "")
        assert Path(unquote(url.path)).is_relative_to(cube)
        assert Path(unquote(url.path), "zarr.json").is_file()
    assert {Path(unquote(href)).name for href in hrefs.values()} == {"c.zarr", "labels"}


@pytest.mark.parametrize("name", NAMES)
def test_taco_files(archives: Path, name: str, tmp_path: Path) -> None:
    source = archives / "run" / "archive"
    path = write_taco(source, rows_of(source), tmp_path / name / f"{name}.taco", lambda _: Padding(16, (0, 0)))
    made = c12.convert(path, tmp_path / "c.zarr", ["s2l1c"])
    assert made.exit_code == 0
    assert c12.verify(tmp_path / "c.zarr", source=path).exit_code == 0
    assert c12.verify(tmp_path / "c.zarr", source=path.parent).exit_code == 0


@pytest.mark.parametrize("name", NAMES)
def test_opened_stores(archives: Path, name: str) -> None:
    place = archives / name / "c.zarr"
    true = pixels_of(archives / name / "archive")
    for opened in (zarr.storage.LocalStore(place), obstore.store.LocalStore(str(place)), f"file://{place}"):
        assert (c12.open_cube(opened)["s2l1c"]["s2l1c"].isel(roi=0, time=0).values == true).all()


def test_a_cube_opened_by_a_relative_path_is_read_from_another_folder(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archives)
    cube = c12.open_cube("run#2/c.zarr")
    monkeypatch.chdir("/")
    assert (cube["s2l1c"]["s2l1c"].isel(roi=0, time=0).values == pixels_of(archives / "run#2" / "archive")).all()


@settings(max_examples=200)
@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_name_is_a_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if name in (".", "..") or name.startswith("~") or len(name.encode()) > 200:
        return
    folder = tmp_path_factory.getbasetemp() / "any" / name
    store = open_store(str(folder))
    assert store.put("a", b"1")
    assert (folder / "a").read_bytes() == b"1"
    assert zarr.storage.LocalStore(folder).root == folder

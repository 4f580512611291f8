"""A cube in STAC: documents that pystac and stac-geoparquet take, and that say what is in the cube."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet
import pyproj
import pystac
import pytest
import stac_geoparquet.arrow
import xarray as xr
from conftest import SIZE
from pystac.stac_object import STACObjectType
from pystac.validation import validate_dict

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.exporters.stac import collection, items_table, write


@pytest.fixture(scope="module")
def written(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stac") / "out"
    assert write(c12.open_cube(cube), str(cube), folder) == 20
    return folder


@pytest.fixture(scope="module")
def document(written: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((written / "collection.json").read_text())
    return told


def read_items(folder: Path) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(folder / "items.parquet")
    return [json.loads(json.dumps(item, default=str)) for item in stac_geoparquet.arrow.stac_table_to_items(table)]


# pystac brings the schemas of STAC; those of the extensions lie in the network: their fields are checked one by one.


def test_the_collection_is_valid(document: dict[str, Any]) -> None:
    assert validate_dict(document, STACObjectType.COLLECTION, "1.1.0", extensions=[])
    read = pystac.Collection.from_dict(document)
    assert read.id == "CloudSEN12"
    assert set(read.assets) == {"cube", "s2l1c", "s2l2a", "s1", "extra", "labels", "items"}


def test_its_places_are_relative_and_right(document: dict[str, Any], written: Path, cube: Path) -> None:
    (store,) = (link for link in document["links"] if link["rel"] == "store")
    assert (written / store["href"]).resolve() == cube.resolve()
    for name, asset in document["assets"].items():
        place = written / asset["href"]
        assert place.is_file() if name == "items" else (place / "zarr.json").is_file()


def test_extent_and_summaries_are_the_catalogues(document: dict[str, Any], cube: Path) -> None:
    tree = c12.open_cube(cube)
    root, places = tree.to_dataset(), tree.cloudsen12.footprints()
    np.testing.assert_allclose(document["extent"]["spatial"]["bbox"][0], places.total_bounds, atol=1e-6)
    times = np.sort(root["datetime"].values.ravel())
    interval = [np.datetime64(text.removesuffix("Z")) for text in document["extent"]["temporal"]["interval"][0]]
    assert interval == [times[0].astype("M8[s]"), times[-1].astype("M8[s]")]
    summaries = document["summaries"]
    assert summaries["label_type"] == sorted(set(root["label_type"].values.tolist()))
    assert summaries["proj:code"] == [f"EPSG:{code}" for code in np.unique(root["proj_epsg"].values)]
    assert summaries["difficulty"]["maximum"] == np.nanmax(root["difficulty"].values)


def test_datacube_dimensions_fit_the_arrays(document: dict[str, Any], cube: Path) -> None:
    tree = c12.open_cube(cube)
    dimensions = document["cube:dimensions"]
    assert dimensions["roi"]["values"] == tree["roi"].values.tolist()
    assert {name: row["type"] for name, row in dimensions.items()} == {
        "roi": "roi",
        "time": "temporal",
        "band": "bands",
        "y": "spatial",
        "x": "spatial",
    }
    assert pyproj.CRS(dimensions["y"]["reference_system"]).is_engineering
    for product, row in document["cube:variables"].items():
        array = tree[product].to_dataset()[product]
        assert tuple(row["dimensions"]) == array.dims
        assert row["data_type"] == array.dtype
        assert dimensions["x"]["extent"] == [0, array.sizes["x"]]
        np.testing.assert_equal(np.float64(row["nodata"]), np.float64(array.encoding["fill_value"]))


def test_every_band_can_be_opened_by_its_name(document: dict[str, Any], cube: Path) -> None:
    tree = c12.open_cube(cube)
    names = [(band, name) for name, asset in document["assets"].items() for band in asset.get("bands", [])]
    assert len(names) == 49
    for band, product in names:
        match = re.fullmatch(r"(\w+)\[band=([\w-]+)\]", band["name"])
        assert match is not None
        assert match[1] == product
        chosen = tree[product].to_dataset().sel(band=match[2])
        assert band.get("raster:scale", 1) == float(chosen["scale"])
        assert band.get("unit", "1") == chosen["units"].item()
        if "common_name" in chosen:
            assert band.get("eo:common_name", "") == chosen["common_name"].item()
        else:
            assert "eo:common_name" not in band


def test_codes_of_labels_are_those_of_the_store(document: dict[str, Any], cube: Path) -> None:
    labels = document["assets"]["labels"]
    assert labels["label:classes"][0]["name"] is None  # as the extension wants it of a raster
    assert labels["label:properties"] is None
    layers = json.loads(c12.open_cube(cube)["labels"].to_dataset()["labels"].attrs["layers"])
    for band in labels["bands"]:
        flags = layers[band["name"].split("=")[1][:-1]]
        told = {row["value"]: row["name"] for row in band.get("classification:classes", [])}
        if "flag_values" in flags:
            stored = dict(zip(flags["flag_values"], flags["flag_meanings"].split(), strict=True))
            assert told == stored | {65535: "not_there"}
        clear = [row for row in band.get("classification:classes", []) if row["value"] == 255]
        assert all(row["nodata"] for row in clear)


def test_items_are_valid(written: Path) -> None:
    items = read_items(written)
    assert len({item["id"] for item in items}) == 20
    for item in items:
        assert validate_dict(item, STACObjectType.ITEM, "1.1.0", extensions=[])
        assert pystac.Item.from_dict(item).get_datetime() is not None
        assert item["properties"]["proj:shape"] == [SIZE, SIZE]


def test_items_say_what_the_catalogue_says(written: Path, cube: Path) -> None:
    root = c12.open_cube(cube).to_dataset()
    for item in read_items(written):
        told = item["properties"]
        row = root.sel(roi=told["roi_id"], time=told["time"])
        assert item["id"] == f"{told['roi_id']}__{row['s2_id_gee'].item()}"
        for name in ("label_type", "split", "cloud_coverage", "s2_id", "land_cover"):
            assert told[name] == row[name].item()
        assert (told["difficulty"] is None) == bool(np.isnan(row["difficulty"]))
        assert told["proj:code"] == f"EPSG:{int(row['proj_epsg'])}"
        assert told["proj:transform"] == row["proj_transform"].values.tolist()
        assert told["proj:centroid"] == {"lat": float(row["latitude"]), "lon": float(row["longitude"])}
        assert told["view:sun_elevation"] == float(row["s2_view_sun_elevation"])
        assert told["datetime"][:19] == str(row["datetime"].values.astype("M8[s]"))
        west, south, east, north = item["bbox"]
        assert west < float(row["longitude"]) < east
        assert south < float(row["latitude"]) < north


def test_the_table_reads_as_geoparquet_and_explains_itself(written: Path, cube: Path) -> None:
    table = geopandas.read_parquet(written / "items.parquet")
    made = items_table(c12.open_cube(cube), "somewhere")
    assert table.crs == made.crs
    assert table.geometry.geom_equals_exact(made.geometry, 0).all()
    assert str(table["datetime"].dtype).endswith("UTC]")
    metadata = pyarrow.parquet.read_schema(written / "items.parquet").metadata
    told = json.loads(metadata[b"stac-geoparquet"])
    assert told["version"] == "1.1.0"
    assert validate_dict(told["collections"]["CloudSEN12"], STACObjectType.COLLECTION, "1.1.0", extensions=[])
    box = json.loads(metadata[b"geo"])["columns"]["geometry"]["covering"]["bbox"]
    assert box["xmin"] == ["bbox", "xmin"]


def test_a_patch_without_pixels_has_no_asset(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    victim = sorted(source.rglob("S2L1C.tif"))[0]
    victim.write_text("no tif")
    assert c12.convert(source, tmp_path / "c.zarr", products=["s2l1c", "labels"]).exit_code == 1
    write(c12.open_cube(tmp_path / "c.zarr"), str(tmp_path / "c.zarr"), tmp_path / "out")
    lacking = [item["id"] for item in read_items(tmp_path / "out") if "s2l1c" not in item["assets"]]
    assert lacking == [f"{victim.parents[1].name}__{victim.parent.name}"]
    assert all("labels" in item["assets"] for item in read_items(tmp_path / "out"))


def test_what_is_unknown_is_null_and_the_rest_stays(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    root = tree.to_dataset().load()
    root["proj_transform"][0, 0] = np.nan
    root["land_cover"][0, 0] = -1
    root["datetime"][0, 0] = np.datetime64("NaT", "ns")
    nodes = {"/": root, **{name: tree[name].to_dataset(inherit=False) for name in tree.children}}
    write(xr.DataTree.from_dict(nodes), "s3://name:secret@bucket/cube.zarr?token=secret", tmp_path)
    table = geopandas.read_parquet(tmp_path / "items.parquet")
    assert table.geometry.isna().tolist() == [True] + [False] * 19
    for name in ("proj:transform", "land_cover", "datetime"):
        assert table[name].isna().tolist() == [True] + [False] * 19
    assert table["assets"][0]["s2l1c"]["href"] == "s3://bucket/cube.zarr/s2l1c"
    assert b"secret" not in (tmp_path / "collection.json").read_bytes() + (tmp_path / "items.parquet").read_bytes()


def test_a_selection_is_described_as_such(cube: Path) -> None:
    chosen = c12.open_cube(cube).cloudsen12.query(label_type="high")
    told = collection(chosen, "c.zarr")
    assert told["summaries"]["label_type"] == ["high"]
    assert len(items_table(chosen, "c.zarr")) == 10


def test_the_command(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "c.zarr"
    place.symlink_to(cube)
    assert main(["stac", str(place)]) == 0
    told = capsys.readouterr().out
    assert told == f"{place}.stac: collection.json, and items.parquet with 20 patches\n"
    assert main(["stac", str(place), "--out", str(tmp_path / "there")]) == 0
    first, second = (tmp_path / name / "items.parquet" for name in ("c.zarr.stac", "there"))
    assert first.read_bytes() == second.read_bytes()
    assert main(["stac", str(tmp_path / "nothing")]) == 2


def test_without_pyarrow_the_way_out_is_named(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CubeError, match=r"pip install 'cloudsen12-cube\[stac\]'"):
        write(c12.open_cube(cube), str(cube), tmp_path / "out")
    assert not (tmp_path / "out").exists()

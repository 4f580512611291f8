"""Opening: lazy, complete, in xarray's own ways; and other readers of the same store."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr

import cloudsen12_cube as c12
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.schema.assets import PRODUCTS, bands_of
from cloudsen12_cube.schema.properties import PROPERTIES

COORDINATES = [
    "s2_id_gee",
    "datetime",
    "s1_datetime",
    "label_type",
    "split",
    "cloud_coverage",
    "difficulty",
    "longitude",
    "latitude",
    "proj_epsg",
    "proj_transform",
    "status",
    "scale",
    "units",
]


def test_a_tree_with_a_group_a_product(cube: Path) -> None:
    tree = c12.open_cube(cube)
    assert list(tree.children) == list(PRODUCTS)
    for name in PRODUCTS:
        array = tree[name][name]
        assert array.dims == ("roi", "time", "band", "y", "x")
        assert list(array["band"].values) == list(bands_of(name))
        assert set(COORDINATES) <= set(tree[name].coords)
        assert set(COORDINATES) - {"proj_transform"} <= set(array.coords)  # it has a dim that the pixels have not
    root = tree.to_dataset()
    assert {p.name for p in PROPERTIES} <= set(root.variables)
    assert root["datetime"].dtype.kind == "M"


def test_no_pixel_is_read_and_no_dask_made(cube: Path) -> None:
    tree = c12.open_cube(cube)
    for name in PRODUCTS:
        assert tree[name][name].chunks is None
        assert not tree[name][name].variable._in_memory
        assert all(c.chunks is None for c in tree[name].coords.values())


def test_the_engine_gives_the_same(cube: Path) -> None:
    tree = c12.open_cube(cube)
    other = xr.open_datatree(cube, engine="cloudsen12")
    one = xr.open_dataset(cube, engine="cloudsen12", group="s2l1c")
    xr.testing.assert_identical(one, tree["s2l1c"].to_dataset())
    for name in PRODUCTS:
        xr.testing.assert_identical(other[name].to_dataset(), tree[name].to_dataset())
    with pytest.raises(KeyError, match="it has s2l1c"):
        xr.open_dataset(cube, engine="cloudsen12", group="nothing")
    groups = xr.open_groups(cube, engine="cloudsen12")
    assert set(groups) == {"/", *(f"/{p}" for p in PRODUCTS)}


def test_plain_xarray_needs_no_package(cube: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's own, of consolidated metadata
        plain = xr.open_zarr(cube, group="s2l1c")
    assert set(COORDINATES) <= set(plain.coords)
    assert plain["s2l1c"].dtype == np.int16  # no fill turned into NaN
    assert plain["status"].values.min() == 1
    np.testing.assert_array_equal(plain["s2l1c"], c12.open_cube(cube)["s2l1c"]["s2l1c"])


def test_a_chunk_an_roi_with_dask(cube: Path) -> None:
    tree = c12.open_cube(cube, chunks="roi")
    array = tree["s2l1c"]["s2l1c"]
    assert array.data.chunksize == (1, *array.shape[1:])
    assert all(c.chunks is None for c in tree["s2l1c"].coords.values())
    eager = c12.open_cube(cube)["s2l1c"]["s2l1c"]
    np.testing.assert_array_equal(array.compute(), eager)
    fine = c12.open_cube(cube, chunks={})["s2l1c"]["s2l1c"]
    assert fine.data.chunksize == (1, 1, 1, *array.shape[3:])
    with pytest.raises(ValueError, match="give None, 'roi' or a mapping"):
        c12.open_cube(cube, chunks="auto")  # type: ignore[arg-type]


def test_products_are_chosen(cube: Path) -> None:
    assert list(c12.open_cube(cube, products=["labels", "s1"]).children) == ["s1", "labels"]
    with pytest.raises(KeyError, match="no product 's3'"):
        c12.open_cube(cube, products=["s3"])


def test_places_without_a_cube(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        c12.open_cube(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no finished cube"):
        c12.open_cube(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({"a": ("x", [1])}).to_zarr(tmp_path / "other.zarr", consolidated=True)
    with pytest.raises(StoreError, match="lacks the attribute"):
        c12.open_cube(tmp_path / "other.zarr")


def test_tensorstore_reads_every_pixel(cube: Path) -> None:
    tree = c12.open_cube(cube)
    for name in PRODUCTS:
        kvstore = {"driver": "file", "path": str(cube / name / name)}
        theirs = ts.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
        np.testing.assert_array_equal(theirs, tree[name][name])


def test_the_store_obeys_its_conventions(cube: Path) -> None:
    root = json.loads((cube / "zarr.json").read_text())
    attributes = root["attributes"]
    assert {c["name"] for c in attributes["zarr_conventions"]} == {"license", "proj", "spatial"}
    assert attributes["license"] == {"spdx": "CC-BY-4.0"}
    assert attributes["proj:code"] == "EPSG:4326"
    west, south, east, north = attributes["spatial:bbox"]
    assert west < east
    assert south < north
    assert {"tool", "created", "source", "selection", "products", "layout_version"} <= attributes["cloudsen12"].keys()
    nodes = root["consolidated_metadata"]["metadata"]
    assert root["consolidated_metadata"]["must_understand"] is False
    for path, node in nodes.items():
        assert json.loads((cube / path / "zarr.json").read_text())["attributes"] == node["attributes"]
        if node["node_type"] == "array":
            assert all(node["dimension_names"])
            _is_checked(node)
    labels = nodes["labels/labels"]
    assert labels["fill_value"] == 65535
    assert labels["attributes"]["layers"]["fmask"]["flag_values"] == [0, 1, 2, 3, 4, 255]
    assert nodes["s1/status"]["attributes"]["flag_meanings"] == "absent done failed"
    assert nodes["s2_id"]["data_type"] == "string"


def _is_checked(node: dict[str, Any]) -> None:
    """Every chunk carries a checksum."""
    codecs = node["codecs"]
    inner = codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs
    assert inner[-1]["name"] == "crc32c"


def test_a_flipped_bit_is_an_error_not_a_pixel(cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(cube, place)
    shard = place / "s2l1c/s2l1c/c/0/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    with pytest.raises(Exception, match=r"[Cc]hecksum|crc|CRC"):
        zarr.open_array(place / "s2l1c/s2l1c")[0]


class _Counting(BaseHTTPRequestHandler):
    """Serves a folder with ranges, and notes what was asked for."""

    root: Path
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        path = self.root / self.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        span = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = span.partition("-")
        part = data[int(first or 0) : int(last) + 1 if last else None] if first or not span else data[-int(last) :]
        self.send_response(404 if not path.is_file() else 206 if span else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes */{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, *_: Any) -> None:
        pass


def test_opening_over_http_takes_few_requests(cube: Path) -> None:
    _Counting.seen, _Counting.root = [], cube.parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Counting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        tree = c12.open_cube(f"http://127.0.0.1:{server.server_address[1]}/{cube.name}")
        assert len(_Counting.seen) <= 30
        np.testing.assert_array_equal(
            tree["labels"]["labels"][1, 2, 3], c12.open_cube(cube)["labels"]["labels"][1, 2, 3]
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_tests_of_a_split_by_query(cube: Path) -> None:
    images = c12.open_cube(cube)["s2l1c"].to_dataset()
    chosen = images.isel(roi=images["split"].values == "test")
    assert set(map(str, chosen["split"].values)) == {"test"}

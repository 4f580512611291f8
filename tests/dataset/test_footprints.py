"""Footprints: where the pixels lie, with every property; and which patches a geometry holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import shapely
import xarray as xr
from conftest import SHARED, SIZE, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform_bounds

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.geometry import footprints, inside
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema.properties import PROPERTIES

_METRE = 1e-5  # degrees, roughly


def made_cube(places: list[tuple[int, float, float]], size: int = 509) -> xr.DataTree:
    """Make a tree as `open_cube` gives it, with one patch an ROI at (EPSG code, west, north), and no pixels."""
    dims = ("roi", "time")
    ids = np.array([[f"image_{i}"] for i in range(len(places))], dtype=object)
    columns: dict[str, Any] = {}
    for row in PROPERTIES:
        blank = {"text": "", "float": np.nan, "int": row.missing, "time": np.datetime64("NaT", "ns")}[row.kind]
        columns[row.name] = (dims, np.full(ids.shape, blank, dtype=object if row.kind == "text" else None))
    columns["s2_id_gee"] = (dims, ids)
    columns["proj_epsg"] = (dims, np.array([[epsg] for epsg, _, _ in places]))
    transforms = [[(10.0, 0.0, west, 0.0, -10.0, north)] for _, west, north in places]
    columns["proj_transform"] = ((*dims, "affine"), np.array(transforms))
    names = np.array([f"ROI_{i:04d}" for i in range(len(places))], dtype=object)
    root = xr.Dataset(columns, {"roi": names, "time": [0]})
    product = xr.Dataset(
        {"s1": ((*dims, "band", "y", "x"), np.broadcast_to(np.float32(0), (*ids.shape, 1, size, size)))}
    )
    return xr.DataTree.from_dict({"/": root, "s1": product})


def test_a_row_a_patch_with_every_property(cube: Path) -> None:
    tree = c12.open_cube(cube)
    table = footprints(tree)
    assert list(table.columns) == ["roi_id", "time", *(row.name for row in PROPERTIES), "geometry"]
    assert len(table) == 20
    assert table.crs == "EPSG:4326"
    root = tree.to_dataset()
    for _, row in table.iterrows():
        patch = root.sel(roi=row["roi_id"], time=row["time"])
        for name in (p.name for p in PROPERTIES if p.name != "proj_transform"):
            found = row[name].to_datetime64() if isinstance(row[name], pd.Timestamp) else row[name]
            np.testing.assert_equal(found, patch[name].values[()], err_msg=name)
        assert [float(v) for v in row["proj_transform"].split(",")] == list(patch["proj_transform"].values)
        assert row.geometry.is_valid
        assert row.geometry.exterior.is_ccw  # as GeoJSON asks
    assert table["datetime"].dtype.kind == "M"
    assert table["difficulty"].dtype == np.float64


def test_where_the_files_lie(cube: Path, archive: Path) -> None:
    table = footprints(c12.open_cube(cube))
    for path in archive.rglob("S2L1C.tif"):
        row = table[(table["roi_id"] == path.parents[1].name) & (table["s2_id_gee"] == path.parent.name)].iloc[0]
        with rasterio.open(path) as file:
            expected = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        np.testing.assert_allclose(row.geometry.bounds, expected, atol=1e-7, rtol=0)
        assert row.geometry.contains(shapely.Point(row["longitude"], row["latitude"]))


@needs_shared
def test_where_real_patches_lie(tmp_path: Path) -> None:
    c12.convert(SHARED / "archive_a", tmp_path / "cube.zarr", products=["s1"])
    table = footprints(c12.open_cube(tmp_path / "cube.zarr"))
    assert len(table) == 15
    stated = {}
    for path in (SHARED / "archive_a" / "stac").glob("ROI_*.json"):
        item = json.loads(path.read_text())
        stated[item["properties"]["roi_id"], item["properties"]["s2_id_gee"]] = item
    for _, row in table.iterrows():
        item = stated[row["roi_id"], row["s2_id_gee"]]
        own = shapely.geometry.shape(item["properties"]["proj:geometry"])
        crs = f"EPSG:{item['properties']['proj:epsg']}"
        expected = geopandas.GeoSeries([own], crs=crs).to_crs("EPSG:4326").iloc[0]
        assert row.geometry.symmetric_difference(expected).area < 1e-6 * expected.area


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.sampled_from([32600, 32700]),
    st.integers(16_000, 83_000),
    st.integers(100_000, 900_000),
    st.sampled_from([16, 509, 2000]),
)
def test_any_place_on_earth(zone: int, hemisphere: int, west: int, north: int, size: int) -> None:
    row = footprints(made_cube([(hemisphere + zone, west * 10, north * 10)], size)).iloc[0]
    edge = 10 * size
    to_degrees = pyproj.Transformer.from_crs(hemisphere + zone, 4326, always_xy=True).transform
    corners = [to_degrees(west * 10 + i * edge, north * 10 - j * edge) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
    east = [x % 360 for x, _ in corners]  # where no patch of the zones at the antimeridian is torn
    parts = shapely.get_parts(row.geometry)
    area = shapely.Polygon([(x % 360, y) for x, y in corners]).area if np.ptp(east) < 180 else None
    assert all(part.is_valid and part.bounds[0] >= -180 and part.bounds[2] <= 180 for part in parts)
    assert all(part.bounds[2] - part.bounds[0] < 4 for part in parts)  # 20 km, 80 degrees north
    assert area is None or sum(part.area for part in parts) == pytest.approx(area, rel=1e-6)
    for x, y in corners:
        assert min(part.distance(shapely.Point(x, y)) for part in parts) < 1e-9


def test_the_antimeridian_splits_a_patch() -> None:
    table = footprints(made_cube([(32660, 831_000, 2_000), (32601, 163_500, 2_000), (32659, 831_000, 2_000)]))
    for split in table.geometry[:2]:
        west, east = sorted(shapely.get_parts(split), key=lambda part: part.bounds[0])
        assert (west.bounds[0], east.bounds[2]) == (-180, 180)
        assert (west.bounds[2], east.bounds[0]) == pytest.approx((-179.98, 179.97), abs=0.02)
        assert west.area + east.area == pytest.approx(table.geometry[2].area, rel=1e-3)
    assert table.geometry[2].geom_type == "Polygon"


def test_places_that_nobody_stated() -> None:
    table = footprints(made_cube([(0, 500_000, 0), (32633, np.nan, 0), (32633, 500_000, 0)]))
    assert list(table.geometry.isna()) == [True, True, False]
    assert list(table["proj_transform"]) == ["10, 0, 500000, 0, -10, 0", "", "10, 0, 500000, 0, -10, 0"]
    assert "leaflet" in table.explore().get_root().render()


def test_places_on_the_grid_without_a_patch(cube: Path) -> None:
    tree = c12.open_cube(cube)
    root = tree.to_dataset()
    root["s2_id_gee"] = root["s2_id_gee"].astype(object).where(root["time"] != 2, "")
    table = footprints(xr.DataTree.from_dict({"/": root, "s1": tree["s1"].to_dataset()}))
    assert sorted(set(table["time"])) == [0, 1, 3, 4]
    assert len(table) == 16
    with pytest.raises(SelectionError, match="at least one product"):
        footprints(xr.DataTree.from_dict({"/": root}))


def test_after_a_selection(cube: Path) -> None:
    tree = c12.open_cube(cube)
    some = footprints(tree.sel(roi=["ROI_8641", "ROI_0012"], time=[1, 3]))
    assert list(zip(some["roi_id"], some["time"], strict=True)) == [
        ("ROI_8641", 1), ("ROI_8641", 3), ("ROI_0012", 1), ("ROI_0012", 3),
    ]  # fmt: skip
    whole = footprints(tree).set_index(["roi_id", "time"])
    assert all(row.geometry == whole.loc[(row["roi_id"], row["time"])].geometry for _, row in some.iterrows())


@pytest.mark.parametrize("column", [None, "label_type", "datetime", "difficulty"])
def test_explore_draws_a_map(cube: Path, column: str | None) -> None:
    page = footprints(c12.open_cube(cube)).explore(column=column).get_root().render()
    assert page.count("20190101T100000_20190101T100000_T21XAQ") >= 2  # in the tables of two patches
    assert "2019-01-01 10:09:47" in page


def test_a_table_that_geojson_can_hold(cube: Path) -> None:
    table = footprints(c12.open_cube(cube))
    collection = json.loads(table.to_json(default=str))
    assert len(collection["features"]) == 20
    assert collection["features"][0]["properties"]["roi_id"] == "ROI_0012"


def test_inside_against_every_centre(cube: Path) -> None:
    tree = c12.open_cube(cube)
    longitude, latitude = tree["longitude"].values, tree["latitude"].values
    x, y = float(longitude[2, 0]), float(latitude[2, 0])
    for shape in (
        shapely.box(x - 1, y - 1, x + 1, y + 1),
        shapely.Point(0, 0).buffer(60),
        shapely.Point(x, y).buffer(9),
    ):
        expected = [
            [shape.covers(shapely.Point(p)) for p in zip(*row, strict=True)]
            for row in zip(longitude, latitude, strict=True)
        ]
        found = inside(tree, shape)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, expected)
    assert inside(tree, shapely.box(x, y, x + 1, y + 1))[2].all()  # on the edge
    assert inside(tree, shapely.box(-180, -90, 180, 90)).all()


def test_inside_of_whatever_has_a_geometry(cube: Path) -> None:
    tree = c12.open_cube(cube)
    table = footprints(tree)
    expected = inside(tree, table.geometry.iloc[0])
    assert expected.any()
    assert not expected.all()
    first = table.iloc[:1]
    feature = json.loads(first.to_json(default=str))["features"][0]
    collection = {"type": "FeatureCollection", "features": [feature]}
    own = first.to_crs(int(first["proj_epsg"].iloc[0]))
    for geometry in (first, own, own.geometry, feature, collection, feature["geometry"], Stated(feature["geometry"])):
        np.testing.assert_array_equal(inside(tree, geometry), expected)


class Stated:
    def __init__(self, mapping: dict[str, Any]) -> None:
        self.__geo_interface__ = mapping


def test_inside_across_the_antimeridian(cube: Path) -> None:
    tree = c12.open_cube(cube)
    root = tree.to_dataset().load()
    root["longitude"].values[:] = [[179.5, -179.5, 170, -170, np.nan]] * 4
    root["latitude"].values[:] = 0.0
    tree = xr.DataTree.from_dict({"/": root})
    for box in (shapely.box(179, -1, 181, 1), shapely.box(-181, -1, -179, 1)):
        np.testing.assert_array_equal(inside(tree, box)[0], [True, True, False, False, False])


@pytest.mark.parametrize(
    ("geometry", "told"),
    [
        (shapely.box(440_000, 4_000_000, 450_000, 4_100_000), "reaches from 440000, 4e.06.*longitudes and latitudes"),
        (shapely.Polygon(), "is empty"),
        ("POLYGON ((0 0))", "no geometry: 'POLYGON"),
        ({"type": "Nothing", "coordinates": []}, "no geometry"),
        ({"coordinates": [0, 0]}, "no geometry"),
        ({"type": "Feature", "geometry": None}, "no geometry"),
        ({"type": "FeatureCollection", "features": []}, "is empty"),
        ((0, 0, 1, 1), "no geometry"),
    ],
)
def test_what_is_no_geometry_in_degrees(cube: Path, geometry: Any, told: str) -> None:
    with pytest.raises(SelectionError, match=told):
        inside(c12.open_cube(cube), geometry)


def test_nothing_changes_the_tree(cube: Path) -> None:
    tree = c12.open_cube(cube)
    before = tree.copy(deep=True)
    footprints(tree)["difficulty"] = 0
    inside(tree, shapely.box(0, 0, 1, 1))
    assert not any(tree[name][name].variable._in_memory for name in tree.children)
    xr.testing.assert_identical(tree, before)
    assert tree["s1"].sizes["y"] == SIZE

"""Boxes across the antimeridian: west > east where patches are on both sides (RFC 7946), and queries that cross it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet
import pyproj
import pytest
import rasterio
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.evaluation.split import rois_of
from cloudsen12_cube.exporters.stac import write
from cloudsen12_cube.schema import enclosing_box
from cloudsen12_cube.schema.catalogue import in_box
from cloudsen12_cube.testing import ArchiveOptions

LONGITUDES = st.floats(-180, 180, width=32) | st.sampled_from([-180.0, -179.5, 0.0, 179.5, 180.0])
QUARTERS = st.integers(-720, 720).map(lambda quarters: quarters / 4)  # 360 is added to them without rounding
LATITUDES = st.floats(-60, 60, width=32)


def as_shape(west: float, south: float, east: float, north: float) -> shapely.Geometry:
    """Write a box as GeoJSON does: two polygons where it crosses the antimeridian."""
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


@given(st.lists(st.tuples(LONGITUDES, LATITUDES), min_size=1, max_size=6))
def test_the_box_encloses_and_goes_around_the_earth_only_where_points_do(points: list[tuple[float, float]]) -> None:
    lon, lat = np.array(points, dtype=float).T
    box = enclosing_box(np.stack([lon, lat, lon, lat], axis=1))
    assert box
    assert shapely.covers(as_shape(*box), shapely.points(lon, lat)).all()
    assert in_box(lon, lat, (box[0], box[1], box[2], box[3])).all()
    width = (box[2] - box[0]) % 360 if box[0] > box[2] else box[2] - box[0]
    assert (box[0] > box[2]) == (width < 180 and np.ptp(lon) > 180)
    assert width <= np.ptp(lon)


def test_boxes_that_are_unknown_or_absent() -> None:
    assert enclosing_box(np.empty((0, 4))) is None
    assert enclosing_box(np.full((2, 4), np.nan)) is None
    assert enclosing_box(np.array([[np.nan] * 4, [1, 2, 3, 4]])) == [1, 2, 3, 4]
    assert enclosing_box(np.array([[179, 0, 180, 1], [-180, 2, -179, 3], [170, 0, 179.5, 1]])) == [170, 0, -179, 3]


@given(st.lists(QUARTERS, min_size=1, max_size=6), QUARTERS, QUARTERS, st.sampled_from([0, 360]))
def test_points_in_a_box(longitudes: list[float], west: float, east: float, beyond: int) -> None:
    lon, lat = np.array(longitudes), np.zeros(len(longitudes))
    shape = as_shape(west, -1, east, 1)
    expected = [any(shape.covers(shapely.Point(x + t, 0)) for t in (-360, 0, 360)) for x in longitudes]
    end = east + beyond if west > east else east  # 170 to 190 is 170 to -170
    assert in_box(lon, lat, (west, -1, end, 1)).tolist() == expected


CENTRES = [(32760, 179.9999, -16.8), (32701, -179.5, -17.0)]


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a cube with a patch on the antimeridian, and one east of it."""
    root = tmp_path_factory.mktemp("across")
    archive = c12.testing.make_archive(root / "archive", rois=2, options=ArchiveOptions(size=16, times=1))
    rows = list(csv.DictReader((archive / "cloudsen12_metadata.csv").read_text().splitlines()))
    for row, (epsg, lon, lat) in zip(rows, CENTRES, strict=True):
        x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        x, y = round(x / 10) * 10 - 80, round(y / 10) * 10 + 80
        row |= {"proj_epsg": str(epsg), "proj_transform": f"10, 0, {x}, 0, -10, {y}", "proj_geometry": ""}
        row["proj_centroid"] = f"POINT ({lon} {lat})"
        for path in archive.glob(f"*/{row['roi_id']}/**/*.tif"):
            with rasterio.open(path, "r+") as file:
                file.crs, file.transform = rasterio.crs.CRS.from_epsg(epsg), rasterio.Affine(10, 0, x, 0, -10, y)
    with (archive / "cloudsen12_metadata.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert c12.convert(archive, root / "c.zarr", ["labels"]).done == 2
    write(c12.open_cube(root / "c.zarr"), str(root / "c.zarr"), root / "stac")
    return root


def test_the_root_of_a_cube(across: Path) -> None:
    assert c12.open_cube(across / "c.zarr").attrs["spatial:bbox"] == [179.9999, -17.0, -179.5, -16.8]


def test_stac(across: Path) -> None:
    document = json.loads((across / "stac" / "collection.json").read_text())
    west, south, east, north = document["extent"]["spatial"]["bbox"][0]
    assert 179.99 < west < 180
    assert -179.5 < east < -179.49
    assert south < -17 < -16.8 < north
    table = pyarrow.parquet.read_table(across / "stac" / "items.parquet")
    first, second = table.column("bbox").to_pylist()
    assert first["xmin"] > 179.99
    assert first["xmax"] < -179.99
    assert second["xmin"] < -179.5 < second["xmax"]
    geo = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]
    np.testing.assert_allclose(geo["bbox"], [west, south, east, north], atol=1e-6)
    items = geopandas.read_parquet(across / "stac" / "items.parquet")
    assert [shape.geom_type for shape in items.geometry] == ["MultiPolygon", "Polygon"]
    for shape, box in zip(items.geometry, (first, second), strict=True):
        assert as_shape(box["xmin"], box["ymin"], box["xmax"], box["ymax"]).buffer(1e-9).covers(shape)


@pytest.mark.parametrize(
    ("box", "count"),
    [
        ((179, -18, -179, -16), 2),
        ((179, -18, 181, -16), 2),
        ((-181, -18, -179, -16), 2),
        ((179, -18, 180, -16), 1),
        ((-180, -18, -179, -16), 1),
        ((179, -18, -179.9, -16), 1),
        ((-179, -18, 179, -16), 0),
    ],
)
def test_queries(across: Path, box: tuple[float, float, float, float], count: int) -> None:
    cube = c12.open_cube(across / "c.zarr").cloudsen12
    assert cube.query(bbox=box).to_dataset().sizes["roi"] == count
    if count:
        assert (
            c12.subset(across / "c.zarr", across / f"{box}.zarr", options=c12.SubsetOptions(bbox=box)).patches == count
        )
    assert cube.query(geometry=as_shape(*box)).to_dataset().sizes["roi"] == count


def test_the_mean_longitude_of_an_roi(across: Path) -> None:
    root = c12.open_cube(across / "c.zarr").to_dataset().load().isel(time=[0, 0])
    root["longitude"] = ("roi", "time"), [[179.9, -179.7], [-179.0, -178.0]]
    np.testing.assert_allclose(rois_of(xr.DataTree(root))["longitude"], [-179.9, -178.5])

"""One patch as a raster: in its own place, lazy, with a fill that never says clear; and the flat view."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from conftest import SHARED, SIZE, needs_shared

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.patch import flatten, select_patch
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format.layout import fill_value
from cloudsen12_cube.schema.assets import PRODUCTS, bands_of, files_of
from cloudsen12_cube.schema.properties import PROPERTIES

SHARED_ID = "20190101T100000_20190101T100000_T21XAQ"  # of ROI_0012 and of ROI_10133


def source_of(archive: Path, patch: xr.Dataset) -> Path:
    return next(archive.glob(f"*/{patch['roi'].item()}/{patch['s2_id_gee'].item()}"))


def assert_is_source(patch: xr.Dataset, archive: Path) -> int:
    """Compare every file of a patch with what rioxarray reads of it."""
    count = 0
    for product in PRODUCTS:
        if product not in patch:
            continue
        for name, bands in files_of(product).items():
            path = source_of(archive, patch) / f"{name}.tif"
            if not path.exists():
                assert (patch[product].sel({f"band_{product}": list(bands)}) == patch[product].rio.nodata).all()
                continue
            with rioxarray.open_rasterio(path) as source:
                ours = patch[product].sel({f"band_{product}": list(bands)})
                assert ours.rio.crs == source.rio.crs
                assert ours.rio.transform() == source.rio.transform()
                assert ours.rio.bounds() == source.rio.bounds()
                np.testing.assert_array_equal(ours["x"], source["x"])
                np.testing.assert_array_equal(ours["y"], source["y"])
                np.testing.assert_array_equal(ours.values, source.values)
            count += 1
    return count


def test_every_file_of_every_patch(cube: Path, archive: Path) -> None:
    tree = c12.open_cube(cube)
    for roi in ("ROI_0012", "ROI_8641"):  # one in two UTM zones, and one that nobody labelled
        count = sum(assert_is_source(select_patch(tree, roi, time), archive) for time in range(5))
        there = list(archive.glob(f"*/{roi}/**/*.tif"))
        assert count == len([path for path in there if path.stem != "thumbnail"])


@needs_shared
def test_real_patches(tmp_path: Path) -> None:
    options = c12.Options(rois=("ROI_0827",))
    c12.convert(SHARED / "archive_a", tmp_path / "cube.zarr", products=["s2l1c", "labels"], options=options)
    tree = c12.open_cube(tmp_path / "cube.zarr")
    assert assert_is_source(select_patch(tree, "ROI_0827", 0), SHARED / "archive_a") == 11
    image = select_patch(tree, "20200716T095029_20200716T100507_T32PMU")
    assert image["time"] == 4
    assert assert_is_source(image, SHARED / "archive_a") == 11


def test_dims_coordinates_and_attributes(cube: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 1)
    assert list(patch.data_vars) == list(PRODUCTS)
    for product in PRODUCTS:
        assert patch[product].dims == (f"band_{product}", "y", "x")
        assert list(patch[f"band_{product}"].values) == list(bands_of(product))
        assert patch[f"scale_{product}"].dims == (f"band_{product}",)
        assert patch[f"status_{product}"] == 1
        assert patch[product].encoding == {"grid_mapping": "spatial_ref"}
        assert patch[product].attrs["_FillValue"].dtype == patch[product].dtype
        if product != "labels":
            assert patch[product].attrs["long_name"] == list(bands_of(product))
    assert patch["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert (patch["y"].attrs["axis"], patch["y"].attrs["units"]) == ("Y", "m")
    assert {"crs_wkt", "GeoTransform"} <= set(patch["spatial_ref"].attrs)
    for row in PROPERTIES:
        if row.name != "proj_transform":
            assert patch[row.name].dims == (), row.name
    assert patch["label_type"].item() == "high"
    assert patch["datetime"].dtype.kind == "M"
    assert "missing_products" not in patch.attrs
    # What tells of all footprints, in degrees, would be false of one patch.
    assert not [name for name in patch.attrs if name.startswith(("proj:", "spatial:"))]


def test_an_roi_in_two_zones(cube: Path, archive: Path) -> None:
    tree = c12.open_cube(cube)
    zones = set()
    for time in range(5):
        patch = select_patch(tree, "ROI_0012", time)
        with rasterio.open(source_of(archive, patch) / "S2L1C.tif") as source:
            assert patch.rio.crs == patch["s2l1c"].rio.crs == source.crs
            assert patch["s2l1c"].rio.transform() == source.transform
        zones.add(patch.rio.crs.to_epsg())
    assert zones == {32621, 32622}


def test_by_image_id(cube: Path) -> None:
    tree = c12.open_cube(cube)
    alone = str(tree["s2_id_gee"].sel(roi="ROI_8641", time=2).item())
    assert (select_patch(tree, alone)["roi"].item(), select_patch(tree, alone)["time"].item()) == ("ROI_8641", 2)
    for roi in ("ROI_0012", "ROI_10133"):
        patch = select_patch(tree, SHARED_ID, roi=roi)
        assert (patch["roi"].item(), patch["s2_id_gee"].item()) == (roi, SHARED_ID)
    with pytest.raises(ValueError, match=r"ROI_0012 time 0, ROI_10133 time 0.*give roi="):
        select_patch(tree, SHARED_ID)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("ROI_12", 0), "no ROI 'ROI_12' among the 4 .*did you mean 'ROI_0012'"),
        (("ROI_0012", 5), "no time 5 of ROI_0012; it has 0, 1, 2, 3, 4"),
        (("2019", None), "no image id '2019' among the 20 patches"),
        ((SHARED_ID, 3), "no time 3 of .*; it has 0"),
        ((SHARED_ID, None, "ROI_8641"), "is not an image of ROI_8641"),
        ((SHARED_ID, None, "ROI_8"), "no ROI 'ROI_8'"),
        (("ROI_0012", 0, "ROI_8641"), "ROI_0012 is not an image of ROI_8641"),
    ],
)
def test_unknown_places(cube: Path, asked: tuple[Any, ...], told: str) -> None:
    tree = c12.open_cube(cube)
    with pytest.raises(KeyError, match=told):
        select_patch(tree, *asked)
    with pytest.raises(KeyError, match=told):
        select_patch(tree["s1"].to_dataset(), *asked)


def test_an_roi_without_time_if_it_has_one(cube: Path) -> None:
    tree = c12.open_cube(cube)
    with pytest.raises(ValueError, match="give time="):
        select_patch(tree, "ROI_0012")
    assert select_patch(tree.sel(time=[3]), "ROI_0012")["time"] == 3


def test_times_are_labels(cube: Path, archive: Path) -> None:
    tree = c12.open_cube(cube)
    some = tree.sel(time=[1, 3], roi=["ROI_8641", "ROI_0012"])
    patch = select_patch(some, "ROI_0012", 3)
    xr.testing.assert_identical(patch, select_patch(tree, "ROI_0012", 3))
    assert_is_source(patch, archive)
    with pytest.raises(KeyError, match="it has 1, 3"):
        select_patch(some, "ROI_0012", 0)


def test_one_product_keeps_band(cube: Path, archive: Path) -> None:
    tree = c12.open_cube(cube)
    for product in PRODUCTS:
        one = select_patch(tree[product].to_dataset(), "ROI_0012", 3)
        assert one[product].dims == ("band", "y", "x")
        assert one["scale"].dims == ("band",)
        both = select_patch(tree, "ROI_0012", 3)
        assert one[product].rio.crs == both[product].rio.crs
        np.testing.assert_equal(one[product].attrs, both[product].attrs)
        np.testing.assert_array_equal(one[product], both[product])
        xr.testing.assert_equal(one["x"].variable, both["x"].variable)
    flat = select_patch(flatten(tree), "ROI_0012", 3)
    xr.testing.assert_identical(flat, select_patch(tree, "ROI_0012", 3))
    assert_is_source(flat, archive)


def test_a_reprojection_adds_fill_and_never_clear(cube: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 0)
    oblique = "EPSG:3413"  # polar: the patch comes out turned, so that a quarter of the result lies outside it
    moved = patch.rio.reproject(oblique, resolution=10)
    for product in PRODUCTS:
        fill = fill_value(product, str(patch[product].dtype))
        corner, array = moved[product].values[:, 0, 0], moved[product].values
        assert moved[product].dtype == patch[product].dtype
        np.testing.assert_array_equal(corner, np.full(len(corner), fill, array.dtype))
        outside = np.isnan(array) if np.isnan(fill) else array == fill
        assert outside[0].mean() > 0.2
    labels = patch["labels"].sel(band_labels=["manual_hq"])
    alone = labels.rio.reproject(oblique, resolution=10)
    assert alone.rio.nodata == fill_value("labels", "uint16")
    assert alone.values[0, 0, 0] == alone.rio.nodata


def test_clips_and_rasters(cube: Path, tmp_path: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 3)
    west, south, east, north = patch.rio.bounds()
    assert (east - west, north - south) == (10 * SIZE, 10 * SIZE)
    box = patch["s2l1c"].rio.clip_box(west + 50, south, east, north - 100)
    np.testing.assert_array_equal(box, patch["s2l1c"][:, 10:, 5:])
    triangle = {"type": "Polygon", "coordinates": [[(west, south), (east, south), (east, north), (west, south)]]}
    clipped = patch["labels"].rio.clip([triangle])
    assert (clipped.values[:, 0, 0] == patch["labels"].rio.nodata).all()
    assert clipped.values[-2, -2, -2] == patch["labels"].values[-2, -2, -2]
    for product in PRODUCTS:
        patch[product].rio.to_raster(tmp_path / f"{product}.tif")
        with rasterio.open(tmp_path / f"{product}.tif") as file:
            assert file.crs == patch.rio.crs
            assert file.transform == patch[product].rio.transform()
            np.testing.assert_array_equal(file.read(), patch[product])


def test_a_patch_survives_a_store(cube: Path, tmp_path: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 3)
    patch.to_zarr(tmp_path / "patch.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "patch.zarr", consolidated=False, decode_coords="all", mask_and_scale=False)
    for product in PRODUCTS:
        assert again[product].rio.crs == patch.rio.crs
        assert again[product].rio.transform() == patch[product].rio.transform()
        np.testing.assert_array_equal(again[product], patch[product])


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A cube with a patch whose radar failed, one that failed whole, and one that is absent."""
    root = tmp_path_factory.mktemp("broken")
    archive = c12.testing.make_archive(root / "archive", 1, 3, c12.testing.ArchiveOptions(size=16, times=4))
    folders = sorted(path.parent for path in archive.rglob("S1.tif"))
    (folders[0] / "S1.tif").write_bytes(b"no raster")
    for path in (path for path in folders[1].rglob("*.tif") if path.stem != "thumbnail"):
        path.write_bytes(b"no raster")
    shutil.rmtree(folders[2])
    assert c12.convert(archive, root / "cube.zarr").exit_code == 1
    names = ("radar", "failed", "absent", "whole")
    return root / "cube.zarr", {name: folder.name for name, folder in zip(names, folders, strict=True)}


def test_products_that_are_not_there(broken: tuple[Path, dict[str, str]]) -> None:
    place, images = broken
    tree = c12.open_cube(place)
    patch = select_patch(tree, images["radar"])
    assert list(patch.data_vars) == ["s2l1c", "s2l2a", "extra", "labels"]
    assert patch.attrs["missing_products"] == "s1 (failed)"
    assert patch["status_s1"] == 2
    assert "band_s1" not in patch.coords
    assert "missing_products" not in select_patch(tree, images["whole"]).attrs
    with pytest.raises(SelectionError, match=r"ROI_0012 time \d .* has no pixels.*s2l1c \(failed\)"):
        select_patch(tree, images["failed"])
    with pytest.raises(SelectionError, match=r"s1 \(absent\), extra \(absent\), labels \(absent\)"):
        select_patch(tree, images["absent"])
    with pytest.raises(SelectionError, match=r"s1 \(failed\)"):
        select_patch(tree["s1"].to_dataset(), images["radar"])


def changed(tree: xr.DataTree, change: Callable[[xr.Dataset], xr.Dataset]) -> xr.DataTree:
    return xr.DataTree.from_dict({"/": change(tree.to_dataset()), **{n: tree[n].to_dataset() for n in tree.children}})


def test_a_patch_without_a_place(cube: Path) -> None:
    tree = c12.open_cube(cube)
    with pytest.raises(SelectionError, match=r"the location of ROI_0012 time 0 .* is unknown"):
        select_patch(changed(tree, lambda root: root.assign(proj_epsg=root["proj_epsg"] * 0)), "ROI_0012", 0)
    with pytest.raises(SelectionError, match=r"the location of .* is unknown"):
        select_patch(
            changed(tree, lambda root: root.assign(proj_transform=root["proj_transform"] * np.nan)),
            SHARED_ID,
            roi="ROI_0012",
        )
    with pytest.raises(SelectionError, match="rotated"):
        select_patch(changed(tree, lambda root: root.assign(proj_transform=root["proj_transform"] + 1)), "ROI_0012", 0)


def test_a_place_on_the_grid_without_a_patch(cube: Path) -> None:
    tree = changed(
        c12.open_cube(cube),
        lambda root: root.assign(s2_id_gee=root["s2_id_gee"].astype(object).where(root["time"] < 4, "")),
    )
    with pytest.raises(KeyError, match="no time 4 of ROI_0012; it has 0, 1, 2, 3"):
        select_patch(tree, "ROI_0012", 4)
    with pytest.raises(KeyError, match="no image id ''"):
        select_patch(tree, "")
    with pytest.raises(KeyError, match="ROI_0012 has no patch"):
        select_patch(tree.sel(time=[4]), "ROI_0012", 4)


def test_the_flat_view(cube: Path) -> None:
    tree = c12.open_cube(cube)
    flat = flatten(tree)
    assert list(flat.data_vars) == list(PRODUCTS)
    for product in PRODUCTS:
        assert flat[product].dims == ("roi", "time", f"band_{product}", "y", "x")
        np.testing.assert_array_equal(flat[product], tree[product][product])
        np.testing.assert_array_equal(flat[f"status_{product}"], tree[product]["status"])
        assert list(flat[f"units_{product}"].values) == list(tree[product]["units"].values)
    assert {row.name for row in PROPERTIES} <= set(flat.coords)
    assert "status" not in flat.coords
    assert list(flatten(tree, ["labels", "s1"]).data_vars) == ["s1", "labels"]
    with pytest.raises(KeyError, match="no product 's3' in this cube; it has s2l1c"):
        flatten(tree, ["s3"])


@pytest.mark.parametrize("chunks", [None, "roi"])
def test_no_pixel_is_read(cube: Path, tmp_path: Path, chunks: Any) -> None:
    place = shutil.copytree(cube, tmp_path / "cube.zarr")
    for path in place.glob("*/*/c/*/0/0/0/0"):
        path.write_bytes(b"\0" * path.stat().st_size)
    tree = c12.open_cube(place, chunks=chunks)
    flat, patch = flatten(tree), select_patch(tree, "ROI_0012", 3)
    one = select_patch(tree["s1"].to_dataset(), "ROI_0012", 3)
    for array in (*flat.data_vars.values(), *patch.data_vars.values(), one["s1"]):
        assert (array.chunks is None) == (chunks is None)
        assert not array.variable._in_memory
    with pytest.raises(Exception, match=r"."):  # so a read would have been noticed
        patch["s1"].load()


@pytest.mark.parametrize("chunks", [None, "roi"])
def test_nothing_changes_the_tree(cube: Path, chunks: Any) -> None:
    tree = c12.open_cube(cube, chunks=chunks)
    before = tree.copy(deep=True)
    encodings = {(n.path, k): dict(v.encoding) for n in tree.subtree for k, v in n.variables.items()}
    patch = select_patch(tree, "ROI_0012", 3)
    select_patch(tree["s1"].to_dataset(), "ROI_0012", 3)
    patch["s1"].attrs["mine"] = 1
    patch["label_type"].attrs["mine"] = 1
    patch.attrs["mine"] = 1
    flatten(tree).attrs["mine"] = 1
    xr.testing.assert_identical(tree, before)
    assert encodings == {(n.path, k): dict(v.encoding) for n in tree.subtree for k, v in n.variables.items()}


def test_by_date(cube: Path) -> None:
    tree = c12.open_cube(cube)
    date = tree["datetime"].sel(roi="ROI_0012", time=3).values.astype("M8[D]")
    for asked in (str(date), date, date.item()):
        assert tree.cloudsen12.patch("ROI_0012", asked)["time"] == 3
    assert tree["s1"].to_dataset().cloudsen12.patch("ROI_0012", str(date))["time"] == 3
    with pytest.raises(KeyError, match=rf"no time 1999-01-01 of ROI_0012; it has .*{date}"):
        tree.cloudsen12.patch("ROI_0012", "1999-01-01")
    with pytest.raises(ValueError, match="'June' is not a time in ISO 8601"):
        tree.cloudsen12.patch("ROI_0012", "June")


def test_the_nearest(cube: Path) -> None:
    tree = c12.open_cube(cube)
    cs = tree.cloudsen12
    for roi in tree["roi"].values:
        lon, lat = (float(tree[name].sel(roi=roi, time=0)) for name in ("longitude", "latitude"))
        for turn in (0, 360 if lon < 0 else 0):
            assert cs.patch(lon=lon + turn, lat=lat + 0.01)["roi"] == roi
        assert cs.patch(time=2, lon=lon, lat=lat)["time"] == 2
    for options, text in (({}, "no patch is named"), ({"lon": 3}, "give both"), ({"lon": 1, "lat": 91}, "is no point")):
        with pytest.raises(ValueError, match=text):
            cs.patch(**options)
    with pytest.raises(ValueError, match="give one of them"):
        cs.patch("ROI_0012", lon=0, lat=0)


def test_rasters_name_bands_and_nodata(cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.tif"
    patch = c12.open_cube(cube).cloudsen12.patch("ROI_0012", 1)
    cs = patch.cloudsen12
    mask = cs.mask("thick_cloud", of="manual_hq")
    layer = patch["labels"].sel(band_labels="manual_hq").drop_attrs(deep=False).astype("uint8")
    for array, names, nodata in (
        (patch["s2l1c"], bands_of("s2l1c"), -32768),
        (patch["s1"], bands_of("s1"), np.nan),
        (cs.reflectance(["red", "B3"]), ("B4", "B3"), None),
        (cs.classes("manual_hq"), ("classes of manual_hq",), 255),
        (mask, ("thick_cloud of manual_hq",), None),
        ((~mask).astype("uint8"), (None,), None),
        (layer.rio.reproject("EPSG:3857"), ("labels",), 255),
    ):
        array.rio.to_raster(place)
        with rasterio.open(place) as file:
            assert file.descriptions == tuple(names) or names == (None,)
            assert file.nodata == nodata or np.isnan(nodata)
            assert file.crs == array.rio.crs is not None
    assert mask.dtype == bool
    assert (mask ^ ~mask).all()

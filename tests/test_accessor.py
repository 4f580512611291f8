"""The accessor as a user meets it: the same answers with and without dask, nothing changed, friendly refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (importing it is what gives xarray `.rio`)
import spyndex
import xarray as xr
from conftest import SHARED, needs_shared

import cloudsen12_cube as c12
from cloudsen12_cube.schema.assets import ASSETS, PRODUCTS, bands_of, find_band
from cloudsen12_cube.schema.classes import LAYERS
from cloudsen12_cube.schema.labels import to_classes
from cloudsen12_cube.testing import ArchiveOptions, make_archive

VIEWS = {
    "classes": lambda c: c.classes("sen2cor"),
    "probability": lambda c: c.classes("s2cloudless"),
    "threshold": lambda c: c.classes("CD-FCNN-RGBI", threshold=c12.Threshold(0.2, 1, 1)),
    "cloud": lambda c: c.superclass("cloud", of="fmask"),
    "valid": lambda c: c.superclass("valid", of="manual_hq"),
    "mask": lambda c: c.mask("thick_cloud", "thin_cloud", of="manual_hq"),
    "merge": lambda c: c.priority_merge(["manual_hq", "sen2cor", "s2cloudless"]),
    "reflectance": lambda c: c.reflectance(["red", "B03", "B2"]),
    "surface": lambda c: c.reflectance(product="s2l2a"),
}


@pytest.fixture(scope="module")
def loaded(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube).load()


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_the_same_with_and_without_dask(name: str, cube: Path, loaded: xr.DataTree) -> None:
    unread, dask = c12.open_cube(cube), c12.open_cube(cube, chunks="roi")
    before = dask.copy(deep=True)
    views = [VIEWS[name](tree.cloudsen12) for tree in (unread, dask, loaded)]
    assert not views[0].variable._in_memory
    assert views[1].chunks is not None
    assert views[1].chunksizes["roi"] == (1,) * 4
    whole = views[0].compute()
    for view in views[1:]:
        xr.testing.assert_identical(view.compute(), whole)
    xr.testing.assert_identical(dask, before)


@pytest.mark.parametrize("name", VIEWS)
def test_a_part_of_a_view_is_that_part_of_the_whole(name: str, cube: Path) -> None:
    view = VIEWS[name](c12.open_cube(cube).cloudsen12)
    whole = view.values
    part = {"roi": [3, 1], "time": 2, "y": slice(5, 30, 3), "x": [40, 0, 7]}
    np.testing.assert_array_equal(view.isel(part).values, xr.DataArray(whole, dims=view.dims).isel(part).values)
    np.testing.assert_array_equal(
        view.transpose(..., "roi").values, xr.DataArray(whole, dims=view.dims).transpose(..., "roi")
    )
    scattered = {dim: xr.DataArray([0, 1, 3], dims="point") for dim in ("roi", "time")}
    np.testing.assert_array_equal(view.isel(scattered).values, xr.DataArray(whole, dims=view.dims).isel(scattered))


def test_reading_a_part_reads_no_more(cube: Path, tmp_path: Path) -> None:
    """Without the other shards there, one patch can still be seen."""
    place = tmp_path / "c.zarr"
    shutil.copytree(cube, place)
    tree = c12.open_cube(place)
    view = tree.cloudsen12.query(label_type="high").cloudsen12.classes("fmask")
    expected = c12.open_cube(cube).cloudsen12.classes("fmask").sel(roi="ROI_0012", time=1).values
    for shard in (place / "labels/labels/c").iterdir():
        if shard.name != "0":
            (shard / "0/0/0/0").write_bytes(b"torn")
    np.testing.assert_array_equal(view.sel(roi="ROI_0012", time=1).values, expected)


def test_every_layer_against_the_files(archive: Path, cube: Path) -> None:
    accessor = c12.open_cube(cube).cloudsen12
    root = c12.open_cube(cube).to_dataset().load()
    for row in LAYERS:
        view = accessor.classes(row.band).load()
        seen = 0
        for path in archive.rglob(f"labels/{row.band}.tif"):
            roi, image = path.parts[-4], path.parts[-3]
            time = list(root.sel(roi=roi)["s2_id_gee"].values).index(image)
            with rasterio.open(path) as file:
                expected = to_classes(file.read(1), row.band, scale=100)
            np.testing.assert_array_equal(view.sel(roi=roi, time=time).values, expected)
            seen += 1
        assert seen
        lacking = (view == 255).all(("y", "x")).sum().item()
        assert lacking >= 20 - seen  # a patch without the file is unlabelled, never clear


def test_groups_and_arrays_answer_too(cube: Path) -> None:
    tree = c12.open_cube(cube)
    whole = tree.cloudsen12.classes("sen2cor")
    dataset, array = tree["labels"].to_dataset(), tree["labels"]["labels"]
    flat, patch = tree.cloudsen12.to_dataset(), tree.cloudsen12.patch("ROI_0012", 1)
    for found in (
        dataset.cloudsen12.classes("sen2cor"),
        array.cloudsen12.classes("sen2cor"),
        array.sel(band="sen2cor").cloudsen12.classes(),
        flat.cloudsen12.classes("sen2cor"),
    ):
        np.testing.assert_array_equal(found, whole)
    here = whole.sel(roi="ROI_0012", time=1)
    np.testing.assert_array_equal(patch.cloudsen12.classes("sen2cor"), here)
    assert patch.cloudsen12.classes("sen2cor").dims == ("y", "x")
    np.testing.assert_array_equal(
        array.cloudsen12.superclass("cloud", of="fmask"), dataset.cloudsen12.superclass("cloud", of="fmask")
    )
    np.testing.assert_array_equal(
        array.cloudsen12.mask("thick_cloud", of="fmask"),
        patch_mask := dataset.cloudsen12.mask("thick_cloud", of="fmask"),
    )
    assert patch_mask.labelled.dims == patch_mask.dims
    layers = ["fmask", "manual_hq"]
    np.testing.assert_array_equal(array.cloudsen12.priority_merge(layers), dataset.cloudsen12.priority_merge(layers))
    red = tree.cloudsen12.reflectance("red")
    np.testing.assert_array_equal(tree["s2l1c"]["s2l1c"].cloudsen12.reflectance("B4"), red)
    np.testing.assert_array_equal(tree["s2l1c"].to_dataset().cloudsen12.reflectance("B04"), red)
    np.testing.assert_array_equal(patch.cloudsen12.reflectance("red"), red.sel(roi="ROI_0012", time=1))


def test_reflectance_by_the_table(cube: Path) -> None:
    tree = c12.open_cube(cube)
    for product in ("s2l1c", "s2l2a"):
        found = tree.cloudsen12.reflectance(product=product)
        assert found.dtype == np.float32
        for asset in (a for a in ASSETS if a.product == product):
            stored = tree[product][product].sel(band=asset.band).values
            np.testing.assert_allclose(found.sel(band=asset.band), stored * asset.scale, rtol=2e-7)
            assert found["units"].sel(band=asset.band).item() == asset.units
        assert not {"scale", "offset", "nodata"} & set(found.coords)
    with pytest.raises(KeyError, match=r"s2l1c has no band 'B13'; it has B1, .*red"):
        tree.cloudsen12.reflectance(["B13"])
    with pytest.raises(ValueError, match="s1 holds no reflectance"):
        tree.cloudsen12.reflectance(product="s1")
    with pytest.raises(KeyError, match="the cube has no s3"):
        tree.cloudsen12.reflectance(product="s3")
    with pytest.raises(ValueError, match="scale and offset are gone"):
        tree["s2l1c"]["s2l1c"].drop_vars("scale").cloudsen12.reflectance()


def test_bands_by_all_their_names() -> None:
    for product in ("s2l1c", "s2l2a"):
        for asset in (a for a in ASSETS if a.product == product):
            assert find_band(product, asset.band) == asset.band
            assert asset.common_name is None or find_band(product, asset.common_name) == asset.band
    assert [find_band("s2l1c", t) for t in ("B01", "nir", "nir08", "swir22")] == ["B1", "B8", "B8A", "B12"]
    assert find_band("extra", "occurrence") == "ocurrence"


def test_a_spectral_index_is_one_line_of_spyndex(cube: Path) -> None:
    cs = c12.open_cube(cube, chunks="roi").cloudsen12
    ndvi = spyndex.computeIndex("NDVI", N=cs.reflectance("nir"), R=cs.reflectance("red"))
    nir, red = (c12.open_cube(cube)["s2l1c"]["s2l1c"].sel(band=b).values.astype(float) for b in ("B8", "B4"))
    np.testing.assert_allclose(ndvi.values, (nir - red) / (nir + red), rtol=1e-4)


@pytest.fixture(scope="module")
def wounded(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    """A cube whose second date lacks its labels and whose third is not there."""
    folder = tmp_path_factory.mktemp("wounded")
    archive = make_archive(folder / "a", rois=1, options=ArchiveOptions(size=32))
    images = sorted({p.parent for p in archive.rglob("S2L1C.tif")})
    (images[1] / "labels/fmask.tif").write_bytes(b"")
    (images[1] / "S2L1C.tif").write_bytes(b"")
    shutil.rmtree(images[2])
    assert c12.convert(archive, folder / "c.zarr").exit_code == 1
    return c12.open_cube(folder / "c.zarr")


def test_what_is_not_in_the_cube_is_never_clear(wounded: xr.DataTree) -> None:
    status = wounded["labels"].to_dataset()["status"].values[0]
    gone = np.flatnonzero(status != 1)
    assert sorted(status[gone]) == [0, 2]
    for row in LAYERS:
        view = wounded.cloudsen12.classes(row.band)
        assert (view.values[0, gone] == 255).all()
        mask = wounded.cloudsen12.mask("thick_cloud", "thin_cloud", of=row.band)
        assert not mask.labelled.values[0, gone].any()
        assert not mask.values[0, gone].any()
        assert (wounded.cloudsen12.superclass("cloud", of=row.band).values[0, gone] == 255).all()
    assert np.isnan(wounded.cloudsen12.reflectance().values[0, gone]).all()


def test_objects_that_are_no_cube() -> None:
    with pytest.raises(ValueError, match=r"no CloudSEN12 cube \(groups: none\): open one with"):
        xr.DataTree().cloudsen12.query()
    other = xr.DataTree.from_dict({"/a": xr.Dataset({"v": ("x", [1])})})
    for ask in (lambda c: c.classes("fmask"), lambda c: c.patch("ROI_0001"), lambda c: c.plot.rgb("a", 0)):
        with pytest.raises(ValueError, match=r"no CloudSEN12 cube \(groups: a\)"):
            ask(other.cloudsen12)
    with pytest.raises(KeyError, match="no labels in this Dataset: it has v"):
        other["a"].to_dataset().cloudsen12.classes("fmask")
    with pytest.raises(ValueError, match="v holds no reflectance"):
        xr.DataArray([1], name="v").cloudsen12.reflectance()
    with pytest.raises(ValueError, match=r"this Dataset is no CloudSEN12 cube \(variables: v\)"):
        other["a"].to_dataset().cloudsen12.patch("ROI_0001")


def test_a_dimension_that_a_selection_took_away(cube: Path) -> None:
    tree = c12.open_cube(cube)
    whole = tree.cloudsen12.classes("sen2cor")
    one, image = tree.isel(roi=1), tree.sel(roi="ROI_0012", time=2)
    np.testing.assert_array_equal(one.cloudsen12.classes("sen2cor"), whole.isel(roi=1))
    np.testing.assert_array_equal(image.cloudsen12.classes(of="sen2cor"), whole.sel(roi="ROI_0012", time=2))
    assert image.cloudsen12.reflectance("red").dims == ("y", "x")
    for ask in (
        lambda c: c.query(label_type="high"),
        lambda c: c.footprints(),
        lambda c: c.patch("ROI_0012", 0),
        lambda c: c.stream(inputs={"s2l1c": None}),
        lambda c: c.per_patch(),
        lambda c: c.plot.rgb("ROI_0012", 0),
    ):
        with pytest.raises(ValueError, match=r"lost its dimension roi: select with lists, as in isel\(roi=\[0\]"):
            ask(one.cloudsen12)
        with pytest.raises(ValueError, match="lost its dimension roi and time"):
            ask(image.cloudsen12)
    with pytest.raises(ValueError, match="lost its dimension time"):
        tree["s1"].to_dataset().isel(time=0).cloudsen12.patch("ROI_0012", 0)
    assert "1 ROI (ROI_0012), 1 patch" in repr(image.cloudsen12)
    assert "1 ROI" in repr(one.cloudsen12)


def test_a_description_never_raises(cube: Path) -> None:
    tree = c12.open_cube(cube)
    damaged = tree.copy()
    damaged["s1"] = damaged["s1"].to_dataset().drop_vars("status")
    hostile = xr.DataTree.from_dict({"/<script>": xr.Dataset({"v": ("x", [1])})})
    for part in (
        *(tree, tree.isel(roi=0), damaged, damaged["s1"], xr.DataTree(), hostile),
        *(tree["s1"].to_dataset(), tree["s1"]["s1"], xr.Dataset(), xr.DataArray(1), tree.cloudsen12.to_dataset()),
    ):
        text, html = repr(part.cloudsen12), part.cloudsen12._repr_html_()
        assert 0 < len(text) < 2500
        assert html.startswith("<div")
        assert "<script" not in html
    assert "no CloudSEN12 cube (groups: <script>)" in repr(hostile.cloudsen12)
    assert repr(tree["s1"]["s1"].cloudsen12).startswith(
        "cloudsen12 accessor of a DataArray: s1 (roi 4, time 5, band 3,"
    )
    assert repr(tree.cloudsen12.plot) == "Plot()"


def test_the_same_names_on_every_object(cube: Path) -> None:
    tree = c12.open_cube(cube)
    parts = (tree, tree["labels"].to_dataset(), tree["labels"]["labels"])
    for ask in (
        lambda c: c.classes(of="fmask"),
        lambda c: c.superclass("cloud", of="fmask"),
        lambda c: c.mask("thick_cloud", of="fmask"),
        lambda c: c.priority_merge(layers=["fmask", "manual_hq"]),
    ):
        views = [ask(part.cloudsen12) for part in parts]
        for view in views[1:]:
            np.testing.assert_array_equal(view, views[0])
    pixels = (tree, tree["s2l2a"].to_dataset(), tree["s2l2a"]["s2l2a"])
    views = [part.cloudsen12.reflectance(bands="red", product="s2l2a") for part in pixels]
    np.testing.assert_array_equal(views[1], views[0])
    np.testing.assert_array_equal(views[2], views[0])
    with pytest.raises(KeyError, match="no s2l1c here: the array is s2l2a"):
        pixels[2].cloudsen12.reflectance(product="s2l1c")


def test_a_cube_without_labels_has_no_masks(cube: Path) -> None:
    bare = c12.open_cube(cube, products=["s1"]).cloudsen12
    for ask in (
        lambda: bare.classes("fmask"),
        lambda: bare.mask("clear", of="fmask"),
        lambda: bare.superclass("cloud", of="fmask"),
    ):
        with pytest.raises(KeyError, match="the cube has no labels, so nothing here is clear: it has s1"):
            ask()
    whole = c12.open_cube(cube).cloudsen12
    with pytest.raises(KeyError, match=r"no label layer 'thumbnail' here; there are manual_hq, .*kappamask_L2A"):
        whole.classes("thumbnail")


def test_the_engine_alone_brings_the_accessor(cube: Path) -> None:
    code = (
        "import xarray as xr, sys\n"
        f"tree = xr.open_datatree({str(cube)!r}, engine='cloudsen12')\n"
        "assert tree.cloudsen12.classes('fmask').shape[:2] == (4, 5)\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'geopandas' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tree_laid_flat(cube: Path) -> None:
    tree = c12.open_cube(cube)
    flat = tree.cloudsen12.to_dataset(["s2l1c", "labels"])
    assert flat["s2l1c"].dims == ("roi", "time", "band_s2l1c", "y", "x")
    assert list(flat["band_labels"].values) == list(bands_of("labels"))
    np.testing.assert_array_equal(flat["labels"], tree["labels"]["labels"])


def test_a_cube_is_described(cube: Path) -> None:
    accessor = c12.open_cube(cube).cloudsen12
    assert "4 ROIs" in repr(accessor)
    assert "<table" in accessor._repr_html_()


def test_a_patch_goes_back_to_files(archive: Path, cube: Path, tmp_path: Path) -> None:
    patch = c12.open_cube(cube).cloudsen12.patch("ROI_0012", 0)
    files = patch.cloudsen12.to_cog(tmp_path / "patch")
    source = next(archive.rglob(f"ROI_0012/{patch['s2_id_gee'].item()}"))
    for path in files:
        with rasterio.open(path) as written, rasterio.open(source / path.relative_to(tmp_path / "patch")) as original:
            np.testing.assert_array_equal(written.read(), original.read())
            assert (written.crs, written.transform) == (original.crs, original.transform)
    assert len(files) >= 18


def test_footprints_and_pictures_are_reached(cube: Path) -> None:
    import matplotlib.pyplot as plt

    accessor = c12.open_cube(cube).cloudsen12
    assert len(accessor.footprints()) == 20
    axes: Any = accessor.plot.overview("ROI_0012", of=("manual_hq", "fmask"))
    assert axes.shape == (3, 5)
    accessor.plot.rgb("ROI_0012", 0)
    accessor.plot.labels("ROI_0012", 0, of="sen2cor")
    plt.close("all")


def test_the_benchmark_is_reached(cube: Path) -> None:
    from cloudsen12_cube.evaluation.benchmark import evaluate

    tree = c12.open_cube(cube)
    accessor = tree.cloudsen12
    table = accessor.evaluate(split=None)
    xr.testing.assert_equal(table.to_xarray(), evaluate(tree, split=None).to_xarray())
    patches = accessor.per_patch(split=None)
    fmask = patches[(patches["scheme"] == "cloud") & (patches["layer"] == "fmask")]
    np.testing.assert_array_equal(c12.evaluation.summarise(fmask), table.loc[("cloud", "fmask")])
    counts = accessor.confusion("fmask", "manual_hq", scheme="cloud")
    assert counts["counts"].dims == ("roi", "time", "reference", "predicted")
    assert int(counts["counts"].sum()) == int((accessor.classes("manual_hq") != 255).sum())
    assert len(accessor.plot.confusion(counts).axes) >= 1
    assert len(accessor.plot.accuracy(patches).axes) >= 2


@needs_shared
def test_the_real_archive(tmp_path: Path) -> None:
    c12.convert(SHARED / "archive_a", tmp_path / "c.zarr", products=["labels", "s2l1c"])
    cube = c12.open_cube(tmp_path / "c.zarr")
    hq = cube.cloudsen12.classes("manual_hq").sel(roi="ROI_0827")
    stored = cube["labels"]["labels"].sel(roi="ROI_0827", band="manual_hq")
    np.testing.assert_array_equal(hq, stored)  # the true label has the four codes alone
    assert json.loads(cube["labels"]["labels"].attrs["layers"])["CD-FCNN-RGBI"]["valid_max"] in (100, 10_000)
    for name in PRODUCTS:
        assert (name in cube.children) == (name in ("labels", "s2l1c"))
    for row in LAYERS:
        counts = np.unique(cube.cloudsen12.superclass("cloud", of=row.band), return_counts=True)
        assert set(counts[0].tolist()) <= {0, 1, 255}

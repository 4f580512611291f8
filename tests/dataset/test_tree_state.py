"""What was done to a tree is seen, or refused, by what reads past xarray; and what is left lies where it lay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.dataset import write_layer
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.schema import UNLABELLED
from cloudsen12_cube.testing import ArchiveOptions, make_archive

Change = Callable[[xr.Dataset], xr.Dataset]
FLIPPED = slice(None, None, -1)
SIZE = 24


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller one than that of the other tests: it is read some hundred times."""
    return make_archive(tmp_path_factory.mktemp("archive"), rois=4, seed=1, options=ArchiveOptions(size=SIZE, times=4))


@pytest.fixture(scope="module")
def cube(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cube") / "cube.zarr"
    assert c12.convert(archive, place).exit_code == 0
    return place


@pytest.fixture(scope="module", params=["lazy", "roi", "inner", "virtual", "memory"])
def tree(request: pytest.FixtureRequest, cube: Path, archive: Path) -> xr.DataTree:
    """Every kind of tree: not read yet, as two kinds of dask arrays, of an archive in place, and in memory."""
    kinds: dict[str, Callable[[], xr.DataTree]] = {
        "lazy": lambda: c12.open_cube(cube),
        "roi": lambda: c12.open_cube(cube, chunks="roi"),
        "inner": lambda: c12.open_cube(cube, chunks={}),
        "virtual": lambda: c12.open_virtual(archive),
        "memory": lambda: c12.open_cube(cube).load(),
    }
    return kinds[request.param]()


def changed(tree: xr.DataTree, product: str, change: Change) -> xr.DataTree:
    result = tree.copy()
    result[product] = xr.DataTree(change(tree[product].to_dataset(inherit=False)))
    return result


def pixels(change: Callable[[xr.DataArray], Any]) -> Change:
    """Replace the pixels of a group, whatever its labels say."""
    return lambda group: group.assign({name: array.copy(data=change(array)) for name, array in group.items()})


def batches(tree: xr.DataTree, target: str | None = "manual_hq", bands: Any = None) -> list[dict[str, Any]]:
    options = c12.StreamOptions(shuffle=False, labelled_only=False)
    return list(tree.cloudsen12.stream({"s2l1c": bands}, target, batch_size=4, options=options))


def assert_streams_what_it_holds(tree: xr.DataTree) -> None:
    """Compare every batch with the tree, read by xarray."""
    codes, images, count = tree.cloudsen12.classes("manual_hq"), tree["s2l1c"]["s2l1c"], 0
    for batch in batches(tree):
        for row, (roi, time) in enumerate(zip(batch["roi"], batch["time"], strict=True)):
            np.testing.assert_array_equal(batch["pixels"][row], images.sel(roi=roi, time=time))
            np.testing.assert_array_equal(batch["target"][row], codes.sel(roi=roi, time=time))
            count += 1
    assert count == np.count_nonzero((tree["s2l1c"]["status"] == 1) & (tree["labels"]["status"] == 1))


SELECTIONS: dict[str, Callable[[xr.DataTree], xr.DataTree]] = {
    "whole": lambda tree: tree,
    "copy": lambda tree: tree.copy(),
    "deep copy": lambda tree: tree.copy(deep=True),
    "roi and time": lambda tree: tree.isel(roi=[2, 0]).sel(time=[3, 1]),
    "slices": lambda tree: tree.isel(roi=slice(1, None), time=slice(None, None, 2)).isel(roi=[0]),
    "query": lambda tree: tree.cloudsen12.query(difficulty=(1, 3)),
    "query, isel": lambda tree: tree.cloudsen12.query(difficulty=(1, 4)).isel(roi=[1, 0]),
    "query, query": lambda tree: tree.cloudsen12.query(difficulty=(1, 4)).cloudsen12.query("difficulty>=2"),
    "bands": lambda tree: changed(tree, "s2l1c", lambda group: group.sel(band=["B4", "B12", "B2"])),
    "loaded": lambda tree: tree.cloudsen12.query(difficulty=(1, 3)).load(),
    "rechunked": lambda tree: tree.chunk({"roi": 2}),
    "equal values": lambda tree: changed(tree, "s2l1c", pixels(lambda array: array.values.copy())),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_by_labels_is_streamed(tree: xr.DataTree, selection: str) -> None:
    assert_streams_what_it_holds(SELECTIONS[selection](tree))


CHANGES: dict[str, Change] = {
    "crop": lambda group: group.isel(y=slice(8, 20), x=slice(0, 16)),
    "rows flipped": lambda group: group.isel(y=FLIPPED),
    "columns flipped": lambda group: group.isel(x=FLIPPED),
    "steps": lambda group: group.isel(y=slice(None, None, 2)),
    "one row left out": lambda group: group.isel(y=[*range(5), *range(6, SIZE)]),
    "no pixel": lambda group: group.isel(x=slice(0)),
    "one band": lambda group: group.isel(band=0),
    "sum of bands": lambda group: group.sum("band"),
    "constant": pixels(lambda array: array.data * 0 + 7),
    "doubled": lambda group: group * 2,
    "where": lambda group: group.where(group != 7),
    "clipped": lambda group: group.clip(0, 5),
    "rolled": lambda group: group.roll(x=3),
    "shifted": lambda group: group.shift(y=1, fill_value=0),
    "transposed": lambda group: group.transpose(),
    "other type": lambda group: group.astype("float64"),
    "renamed": lambda group: group.rename({str(name): "mine" for name in group.data_vars}),
    "renamed dim": lambda group: group.rename(band="channel"),
    "axes exchanged": lambda group: group.rename(x="y", y="x"),
    "pixels flipped": pixels(lambda array: array.data[..., ::-1]),
    "ROIs exchanged": pixels(lambda array: array.data[::-1]),
    "dates exchanged": pixels(lambda array: array.data[:, ::-1]),
    "bands exchanged": lambda group: group.assign_coords(band=group["band"].values[::-1]),
    "no labels of rows": lambda group: group.drop_vars("y"),
    "other labels of rows": lambda group: group.assign_coords(y=np.arange(SIZE) * 10.0),
    "coarser": lambda group: group.coarsen(y=2, x=2).max(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_change_is_refused(tree: xr.DataTree, change: str) -> None:
    with pytest.raises(SelectionError):
        batches(changed(tree, "s2l1c", CHANGES[change]))


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_change_of_the_labels_is_refused(cube: Path, change: str) -> None:
    with pytest.raises(SelectionError):
        batches(changed(c12.open_cube(cube), "labels", CHANGES[change]))


def test_one_changed_pixel_in_memory_is_refused(cube: Path) -> None:
    tree = c12.open_cube(cube)
    tree["s2l1c"]["s2l1c"].values[1, 2, 3, 4, 5] += 1  # xarray keeps what it has read
    with pytest.raises(SelectionError, match=r"has other values than the store, such as B4 of ROI_\d+ at time 2"):
        batches(tree)
    assert_streams_what_it_holds(tree.isel(roi=[0, 2]))  # none of these has changed


def test_another_cube_in_its_place_is_refused(cube: Path, archive: Path, tmp_path: Path) -> None:
    c12.convert(archive, tmp_path / "other.zarr", products=["s2l1c"])
    for chunks in (None, "roi"):
        tree, other = c12.open_cube(cube, chunks=chunks), c12.open_cube(tmp_path / "other.zarr", chunks=chunks)
        with pytest.raises(SelectionError, match="store"):
            batches(changed(tree, "s2l1c", lambda group, o=other: group.assign(s2l1c=o["s2l1c"]["s2l1c"].variable)))


def test_labels_of_rois_that_were_exchanged(tree: xr.DataTree) -> None:
    names = tree["roi"].values[::-1]
    other = tree.map_over_datasets(lambda node: node.assign_coords(roi=names) if "roi" in node.dims else node)
    other.encoding = tree.encoding
    with pytest.raises(SelectionError):
        batches(other)
    names = np.array([f"ROI_7{number}" for number in range(len(names))], dtype=object)
    other = tree.map_over_datasets(lambda node: node.assign_coords(roi=names) if "roi" in node.dims else node)
    other.encoding = tree.encoding
    with pytest.raises(SelectionError, match="an ROI 'ROI_70', which is not in the store"):
        batches(other)


def test_an_roi_twice_is_refused_everywhere(cube: Path) -> None:
    accessor = c12.open_cube(cube).isel(roi=[0, 0, 1]).cloudsen12
    for call in (
        accessor.footprints,
        accessor.evaluate,
        lambda: accessor.patch("ROI_0012", 0),
        lambda: accessor.query(difficulty=1),
        lambda: accessor.stream({"s2l1c": None}),
        lambda: accessor.confusion("fmask"),
    ):
        with pytest.raises(SelectionError, match="roi has 'ROI_0012' more than once"):
            call()


def test_bands_of_the_tree_are_those_of_the_stream(cube: Path) -> None:
    tree = changed(c12.open_cube(cube), "s2l1c", lambda group: group.sel(band=["B4", "B2"]))
    assert batches(tree)[0]["pixels"].shape[1] == 2
    assert batches(tree, bands=["B2"])[0]["pixels"].shape[1] == 1
    with pytest.raises(KeyError, match="no band 'B3' in s2l1c; it has B4, B2"):
        batches(tree, bands=["B3"])
    tree = changed(tree, "labels", lambda group: group.sel(band=["fmask"]))
    batches(tree, "fmask")
    with pytest.raises(KeyError, match="no label layer 'manual_hq' in this cube; it has fmask"):
        batches(tree, "manual_hq")


def test_torch_sees_it_too(cube: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SelectionError, match=r"has the pixels 0 to 15 along y, the store has 0 to 23.*crop="):
        c12.open_cube(cube).isel(y=slice(16)).cloudsen12.torch_dataset({"s2l1c": None})


def test_a_tree_is_no_location(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube).isel(x=slice(8))
    for call in (
        lambda: c12.subset(tree, tmp_path / "a"),
        lambda: c12.export(tree, tmp_path / "b"),
        lambda: c12.stats(tree),
    ):
        with pytest.raises(TypeError, match=r"is no location \(DataTree\): give a path") as caught:
            call()
        assert "\n" not in str(caught.value)


# What is left of a patch lies on the map where it lay.

axis_slices = st.builds(slice, st.integers(0, SIZE - 4), st.integers(SIZE - 2, SIZE), st.integers(1, 3)) | st.builds(
    lambda first, step: slice(SIZE - first, None, -step), st.integers(1, 9), st.integers(1, 3)
)


def source_of(archive: Path, patch: xr.Dataset) -> Path:
    return next(archive.glob(f"*/{patch['roi'].item()}/{patch['s2_id_gee'].item()}/S2L1C.tif"))


@settings(max_examples=25)
@given(rows=axis_slices, columns=axis_slices)
def test_crops_flips_and_steps_are_placed_right(
    cube: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory, rows: slice, columns: slice
) -> None:
    tree = c12.open_cube(cube)
    part = tree.isel(y=rows, x=columns)
    patch, whole = part.cloudsen12.patch("ROI_0012", 3), tree.cloudsen12.patch("ROI_0012", 3)
    with rasterio.open(source_of(archive, patch)) as source:
        stored = source.read()
        centres = [source.xy(row, column) for row in range(SIZE)[rows] for column in range(SIZE)[columns]]
    x, y = np.meshgrid(patch["x"], patch["y"])
    np.testing.assert_allclose(np.stack([x.ravel(), y.ravel()], axis=-1), centres, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(patch["s2l1c"], stored[:, rows, columns])
    assert patch.rio.transform() == patch.rio.transform(recalc=True)
    xr.testing.assert_equal(patch, whole.isel(y=rows, x=columns).assign_coords(spatial_ref=patch["spatial_ref"]))

    folder = tmp_path_factory.mktemp("cog")
    if 1 in (patch.sizes["y"], patch.sizes["x"]):
        with pytest.raises(SelectionError, match="at least two rows and columns"):
            patch.cloudsen12.to_cog(folder)
        return
    patch.cloudsen12.to_cog(folder)
    with rasterio.open(folder / "S2L1C.tif") as written:
        found = [written.xy(row, column) for row in range(written.height) for column in range(written.width)]
        np.testing.assert_allclose(found, centres, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(written.read(), stored[:, rows, columns])
        bounds = written.bounds

    table = part.cloudsen12.footprints()
    shape = table[(table["roi_id"] == "ROI_0012") & (table["time"] == 3)].to_crs(patch.rio.crs).geometry.iloc[0]
    west, east = sorted((bounds.left, bounds.right))
    south, north = sorted((bounds.bottom, bounds.top))
    np.testing.assert_allclose(shape.bounds, (west, south, east, north), atol=0.01)
    assert shape.exterior.is_ccw


def test_a_coarser_cube_is_placed_right(cube: Path) -> None:
    tree = c12.open_cube(cube)
    part = xr.DataTree.from_dict({"/": tree.to_dataset(), "s1": tree["s1"].to_dataset().coarsen(y=4, x=4).mean()})
    patch, whole = part.cloudsen12.patch("ROI_0012", 0), tree.cloudsen12.patch("ROI_0012", 0)
    assert patch.rio.bounds() == whole.rio.bounds()
    assert patch.rio.resolution() == (40, -40)
    left, right = part.cloudsen12.footprints(), tree.cloudsen12.footprints()
    assert left.geometry.geom_equals_exact(right.geometry, 1e-9).all()


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({"x": [1, 2, 5]}, "not regularly spaced"),
        ({"y": [3, 3]}, "not regularly spaced"),
        ({"x": 5}, "lost their dimension x"),
        ({"y": slice(0)}, "no pixel is left along y"),
    ],
)
def test_what_is_no_raster_is_refused(cube: Path, selection: dict[str, Any], text: str) -> None:
    part = c12.open_cube(cube).isel(selection)
    with pytest.raises(SelectionError, match=text):
        part.cloudsen12.footprints()
    with pytest.raises(SelectionError, match=text):
        part.cloudsen12.patch("ROI_0012", 0)
    with pytest.raises(SelectionError, match=text):
        part["s1"].to_dataset().cloudsen12.patch("ROI_0012", 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group.drop_vars("x"),
        lambda group: group.assign_coords(x=np.arange(SIZE) * 10),
        lambda group: group.assign_coords(x=group["x"] + 3),
        lambda group: group.pad(x=2),
        lambda group: group.roll(x=3, roll_coords=True),
    ],
)
def test_coordinates_that_say_nothing_of_the_location_are_refused(cube: Path, change: Change) -> None:
    tree = c12.open_cube(cube, products=["s1"])
    part = changed(tree, "s1", change)
    for call in (part.cloudsen12.footprints, lambda: part.cloudsen12.patch("ROI_0012", 0)):
        with pytest.raises(SelectionError):
            call()


def test_products_with_other_pixels(cube: Path) -> None:
    part = changed(c12.open_cube(cube), "s1", lambda group: group.isel(x=slice(8, 16)))
    with pytest.raises(SelectionError, match="do not hold the same pixels"):
        part.cloudsen12.patch("ROI_0012", 0)
    with pytest.raises(SelectionError, match="s2l1c and s1 hold different pixels"):
        part.cloudsen12.footprints()
    assert part["s1"].to_dataset().cloudsen12.patch("ROI_0012", 0).sizes["x"] == 8


def test_flipped_pixels_put_back_follow_their_labels(cube: Path, archive: Path) -> None:
    tree = changed(c12.open_cube(cube), "s2l1c", lambda group: group.assign(s2l1c=group["s2l1c"].isel(y=FLIPPED)))
    patch = tree.cloudsen12.patch("ROI_0012", 3)
    with rasterio.open(source_of(archive, patch)) as source:
        np.testing.assert_array_equal(patch["s2l1c"], source.read())
        assert patch.rio.transform() == source.transform


def test_a_cog_of_what_is_no_product_is_refused(cube: Path, tmp_path: Path) -> None:
    patch = c12.open_cube(cube).cloudsen12.patch("ROI_0012", 0)
    with pytest.raises(SelectionError, match="the Dataset also has mine"):
        patch.rename(s2l1c="mine").cloudsen12.to_cog(tmp_path / "a")
    with pytest.raises(SelectionError, match="not regularly spaced"):
        patch.isel(x=[0, 1, 5]).cloudsen12.to_cog(tmp_path / "b")
    assert not list(tmp_path.iterdir())


# Labels of a model, and those that a user has put into the tree.


def codes_of(tree: xr.DataTree) -> xr.DataArray:
    return tree.cloudsen12.classes("fmask").compute()


def test_the_order_of_the_dims_does_not_matter_to_an_evaluation(cube: Path) -> None:
    tree = c12.open_cube(cube)
    turned = changed(tree, "labels", lambda group: group.transpose())
    expected = tree.cloudsen12.per_patch(split=None)
    pd.testing.assert_frame_equal(turned.cloudsen12.per_patch(split=None), expected)


def test_a_renamed_variable_is_missed(cube: Path) -> None:
    accessor = changed(c12.open_cube(cube), "labels", CHANGES["renamed"]).cloudsen12
    for call in (accessor.evaluate, accessor.table_one, lambda: accessor.classes("fmask")):
        with pytest.raises(KeyError, match="the group labels has no variable 'labels', it has mine"):
            call()


def test_replaced_labels_are_evaluated(cube: Path) -> None:
    tree = c12.open_cube(cube)
    replaced = changed(tree, "labels", pixels(lambda array: np.full(array.shape, 1, array.dtype)))
    counts = replaced.cloudsen12.confusion("manual_sc", "manual_hq")["counts"].sum(("roi", "time"))
    assert counts.sum() == counts.sel(reference="thick_cloud", predicted="thick_cloud") > 0


@pytest.mark.parametrize("selection", [{"y": FLIPPED}, {"y": slice(4, 20), "x": slice(9, None, 2)}, {"x": FLIPPED}])
def test_predictions_are_compared_with_the_same_pixels(cube: Path, tmp_path: Path, selection: dict[str, slice]) -> None:
    """By an array, a layer opened before and after the selection, and a folder: as the stored layer."""
    tree = c12.open_cube(cube)
    codes = codes_of(tree)
    ids = tree["s2_id_gee"].values
    places = [(i, j) for i, j in np.ndindex(ids.shape) if ids[i, j]]
    for i, j in places:
        path = tmp_path / "run" / str(tree["roi"].values[i]) / f"{ids[i, j]}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = tree.cloudsen12.patch(str(tree["roi"].values[i]), j).rio
        form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": grid.crs, "transform": grid.transform()}
        with rasterio.open(path, "w", width=SIZE, height=SIZE, **form) as file:
            file.write(codes.values[i, j], 1)
    batch = (
        [tree["roi"].values[i] for i, _ in places],
        [j for _, j in places],
        np.stack([codes.values[p] for p in places]),
    )
    write_layer(tree, tmp_path / "layer.zarr", "copied", [batch])
    part, before = tree.isel(selection), tree.cloudsen12.with_layer(tmp_path / "layer.zarr").isel(selection)
    after = part.cloudsen12.with_layer(tmp_path / "layer.zarr")
    expected = part.cloudsen12.confusion("fmask", "manual_hq")["counts"].values
    assert expected.any()
    sources = ((part, codes), (part, codes_of(part)), (before, "copied"), (after, "copied"), (part, tmp_path / "run"))
    for one, source in sources:
        found = one.cloudsen12.confusion(source, "manual_hq")["counts"].values
        np.testing.assert_array_equal(found, expected)


def test_predictions_of_other_pixels_are_refused(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    with pytest.raises(ValueError, match="has x from 0 to 9, the cube's labels from 0 to 23"):
        tree.cloudsen12.confusion(codes_of(tree.isel(x=slice(10))), "manual_hq")
    metres = codes_of(tree).assign_coords(y=np.arange(SIZE) * -10.0)
    with pytest.raises(ValueError, match="drop its coordinate y to compare by position"):
        tree.cloudsen12.confusion(metres, "manual_hq")
    tree.cloudsen12.confusion(metres.drop_vars(["y", "x"]), "manual_hq")
    for part in (tree.isel(y=FLIPPED), tree.isel(x=slice(9))):
        with pytest.raises(SelectionError, match="the store has 0 to 23"):
            write_layer(part, tmp_path / "layer.zarr", "mine", [])


def test_a_layer_of_pixels_between_those_of_the_cube(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    write_layer(tree, tmp_path / "layer.zarr", "mine", [])
    coarse = xr.DataTree.from_dict({"/": tree.to_dataset(), "s1": tree["s1"].to_dataset().coarsen(y=2, x=2).mean()})
    with pytest.raises(StoreError, match="open the layer first"):
        coarse.cloudsen12.with_layer(tmp_path / "layer.zarr")


def test_a_query_hides_own_labels_never_as_clear(cube: Path) -> None:
    """Variables that the store does not know get no 0 where a patch is not selected."""
    tree = c12.open_cube(cube)
    added = changed(tree, "labels", lambda group: group.rename(labels="mine").assign(codes=codes_of(tree).variable))
    left = added.cloudsen12.query(difficulty=(1, 2))
    hidden = (left["s2_id_gee"] == "").values
    assert hidden.any()
    for name in ("mine", "codes"):
        values = left["labels"][name].values[hidden]
        assert np.isnan(values).all() if values.dtype.kind == "f" else not (values < UNLABELLED).any()

"""A predicted layer: written, read by plain xarray, and asked for through the accessor like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.predictions import write_layer
from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.training.stream import StreamOptions

IN_ORDER = StreamOptions(shuffle=False)


def batches(tree: xr.DataTree, split: str | None = None, **options: Any) -> Any:
    """A model that sees what fmask says."""
    stream = tree.cloudsen12.stream({"s2l1c": ["B4"]}, "fmask", split, 3, options=StreamOptions(**options))
    return ((batch["roi"], batch["time"], batch["target"]) for batch in stream)


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_layer_is_like_any_other(tree: xr.DataTree, tmp_path: Path, shuffle: bool) -> None:
    place = tmp_path / "unet.zarr"
    assert write_layer(tree, place, "unet", batches(tree, shuffle=shuffle)) == 20
    both = tree.cloudsen12.with_layer(place)
    asked, fmask = both.cloudsen12, tree.cloudsen12
    for found, expected in (
        (asked.classes("unet"), fmask.classes("fmask")),
        (asked.superclass("valid", of="unet"), fmask.superclass("valid", of="fmask")),
        (asked.mask("cloud_shadow", of="unet"), fmask.mask("cloud_shadow", of="fmask")),
        (asked.mask("cloud_shadow", of="unet").labelled, fmask.mask("cloud_shadow", of="fmask").labelled),
    ):
        assert found.dtype == expected.dtype
        assert found.dims == expected.dims
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(asked.classes("fmask"), fmask.classes("fmask"))
    plain = xr.open_zarr(place)["unet"]
    np.testing.assert_array_equal(plain, fmask.classes("fmask"))
    assert plain.attrs["flag_meanings"] == "clear thick_cloud thin_cloud cloud_shadow unlabelled"
    assert both.encoding == tree.encoding


def test_it_is_drawn_like_any_other(tree: xr.DataTree, tmp_path: Path) -> None:
    write_layer(tree, tmp_path / "unet.zarr", "unet", batches(tree))
    both = tree.cloudsen12.with_layer(tmp_path / "unet.zarr").cloudsen12
    roi = str(tree["roi"].values[0])
    axes = both.plot.overview(roi, of=["fmask", "unet"])
    for stored, predicted in zip(*axes[1:], strict=True):
        np.testing.assert_array_equal(stored.images[0].get_array(), predicted.images[0].get_array())
    alone = both.plot.labels(roi, 1, of="unet")
    np.testing.assert_array_equal(alone.images[0].get_array(), axes[2, 1].images[0].get_array())
    pyplot.close("all")


def test_what_was_not_predicted_is_unlabelled(tree: xr.DataTree, tmp_path: Path) -> None:
    place = tmp_path / "unet.zarr"
    write_layer(tree, place, "unet", batches(tree, "test", shuffle=False))
    codes = tree.cloudsen12.with_layer(place).cloudsen12.classes("unet")
    test = (tree["split"] == "test").values
    assert (codes[~test] == 255).all()
    np.testing.assert_array_equal(codes[test], tree.cloudsen12.classes("fmask")[test])


def test_a_query_hides_predictions_and_never_calls_them_clear(tree: xr.DataTree, tmp_path: Path) -> None:
    place = tmp_path / "unet.zarr"
    write_layer(tree, place, "unet", batches(tree, shuffle=False))
    chosen = tree.cloudsen12.with_layer(place).cloudsen12.query(difficulty=(1, 2))
    codes = chosen.cloudsen12.classes("unet").values
    assert (chosen["s2_id_gee"] == "").any()
    assert (codes[(chosen["s2_id_gee"] == "").values] == 255).all()
    np.testing.assert_array_equal(codes, chosen.cloudsen12.classes("fmask").values)
    again = tree.cloudsen12.query(difficulty=(1, 2)).cloudsen12.with_layer(place)  # the other way round
    kept = (again["s2_id_gee"] != "").values
    np.testing.assert_array_equal(again.cloudsen12.classes("unet").values[kept], codes[kept])


def test_wrong_predictions_are_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    rois, times = ["ROI_0012"], [0]
    good = np.zeros((1, 48, 48), np.uint8)
    for number, (codes, message) in enumerate(((good + 4, "holds 4"), (good[:, :40], "cut off the padding"))):
        with pytest.raises(ValueError, match=message):
            write_layer(tree, tmp_path / f"{number}.zarr", "unet", [(rois, times, codes)])
    for name in ("fmask", "my unet"):
        with pytest.raises(ValueError, match="cannot be called"):
            write_layer(tree, tmp_path / "a.zarr", name, [])
    write_layer(tree, tmp_path / "b.zarr", "unet", [])
    with pytest.raises(DestinationError, match="is there already"):
        write_layer(tree, tmp_path / "b.zarr", "unet", [])


def test_a_layer_of_another_cube_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is nothing"):
        tree.cloudsen12.with_layer(tmp_path / "none.zarr")
    write_layer(tree.isel(roi=[0, 1]), tmp_path / "part.zarr", "unet", [])
    with pytest.raises(StoreError, match="lacks 2 ROIs of the cube, such as"):
        tree.cloudsen12.with_layer(tmp_path / "part.zarr")
    write_layer(tree, tmp_path / "other.zarr", "unet", [])
    shutil.rmtree(tmp_path / "other.zarr" / "s2_id_gee" / "c")  # as of a cube with other images
    with pytest.raises(StoreError, match="its images are not this one's"):
        tree.cloudsen12.with_layer(tmp_path / "other.zarr")


def test_a_layer_whose_writer_was_stopped_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    def stopped() -> Any:
        yield from list(batches(tree, shuffle=False))[:2]
        raise KeyboardInterrupt

    place = tmp_path / "unet.zarr"
    with pytest.raises(KeyboardInterrupt):
        write_layer(tree, place, "unet", stopped())
    with pytest.raises(StoreError, match="is being written, or its writer was stopped: wait, or delete it"):
        tree.cloudsen12.with_layer(place)
    shutil.rmtree(place)
    write_layer(tree, place, "unet", batches(tree))
    assert xr.open_zarr(place).attrs["state"] == "final"
    (place / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(StoreError, match="is no finished layer"):
        tree.cloudsen12.with_layer(place)

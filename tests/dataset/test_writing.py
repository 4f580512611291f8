"""What an opened cube gives can be written by xarray's own methods, and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import cloudsen12_cube as c12

OPENERS: dict[str, Callable[[Path], xr.DataTree]] = {
    "no dask": c12.open_cube,
    "roi": lambda place: c12.open_cube(place, chunks="roi"),
    "stored chunks": lambda place: c12.open_cube(place, chunks={}),
    "parts of a plane": lambda place: c12.open_cube(place, chunks={"y": 20}),
    "engine, stored chunks": lambda place: xr.open_datatree(place, engine="cloudsen12", chunks={}),
    "engine, auto": lambda place: xr.open_datatree(place, engine="cloudsen12", chunks="auto"),
}
SELECTIONS: list[dict[str, Any]] = [
    {"band": [3, 2, 1], "y": slice(20, 48)},
    {"roi": [0, 2], "time": slice(1, 4)},
    {"roi": 0, "band": 0},
]


def test_netcdf(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    cs = tree.cloudsen12
    roi = str(tree["roi"].values[0])
    mask = cs.mask("thick_cloud", of="manual_hq").to_dataset(name="mask")
    for part in (cs.patch(roi, 0), tree["s2l1c"].to_dataset(), cs.to_dataset(), mask, cs.reflectance().to_dataset()):
        part.to_netcdf(tmp_path / "part.nc")
        with xr.open_dataset(tmp_path / "part.nc", mask_and_scale=False) as read:
            for name in part.data_vars:
                np.testing.assert_array_equal(read[name], part[name])
                assert read[name].dtype == part[name].dtype
            if "labels" in read:
                np.testing.assert_array_equal(read.cloudsen12.classes("fmask"), part.cloudsen12.classes("fmask"))
    tree["labels"]["labels"].to_netcdf(tmp_path / "array.nc")
    tree.to_netcdf(tmp_path / "tree.nc")
    with xr.open_datatree(tmp_path / "tree.nc", mask_and_scale=False) as read:
        assert read.cloudsen12.settings == cs.settings
        assert cs.settings["products"].keys() == tree.children.keys()
        for name in tree.children:
            np.testing.assert_array_equal(read[name][name], tree[name][name])
        xr.testing.assert_equal(read.cloudsen12.classes("CD-FCNN-RGBI"), cs.classes("CD-FCNN-RGBI"))
        assert read.cloudsen12.query(split="train")["roi"].size == cs.query(split="train")["roi"].size


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # zarr's, of every consolidated v3 store
@pytest.mark.parametrize("way", OPENERS)
def test_zarr(way: str, cube: Path, tmp_path: Path) -> None:
    group = OPENERS[way](cube)["s2l1c"].to_dataset()
    for number, selection in enumerate(SELECTIONS):
        part = group.isel(selection)
        part.to_zarr(tmp_path / str(number))
        with xr.open_zarr(tmp_path / str(number), chunks=None, mask_and_scale=False) as read:
            np.testing.assert_array_equal(read["s2l1c"], part["s2l1c"])
            assert 20 * 16 <= np.prod(read["s2l1c"].encoding["chunks"]) <= 48 * 48 * 13  # no pixel a chunk


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_virtual_zarr(archive: Path, tmp_path: Path) -> None:
    part = c12.open_virtual(archive)["s2l1c"].to_dataset().isel(band=[3, 2])
    part.to_zarr(tmp_path / "part.zarr")
    with xr.open_zarr(tmp_path / "part.zarr", chunks=None, mask_and_scale=False) as read:
        np.testing.assert_array_equal(read["s2l1c"], part["s2l1c"])
        assert read["s2l1c"].encoding["chunks"] == (1, 1, 1, 48, 48)

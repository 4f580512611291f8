"""The examples of analyses against numpy, and the size of their graphs."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest

import cloudsen12_cube as c12
from benchmarks.analysis import band_statistics, by, class_counts, composite, tasks


def test_class_counts(cube: Path) -> None:
    tree = c12.open_cube(cube, chunks="roi")
    counts = class_counts(tree)
    assert tasks(counts) <= 6 * tree.sizes["roi"]
    found = counts.compute()
    codes = c12.open_cube(cube).cloudsen12.classes("manual_hq").values
    for index, value in enumerate((0, 1, 2, 3, 255)):
        np.testing.assert_array_equal(found.isel({"class": index}), (codes == value).sum((1, 2, 3)))
    grouped = by(tree, found, ["label_type"])
    assert int(grouped.sum()) == codes.size
    high = tree.to_dataset()["label_type"].values == "high"
    np.testing.assert_array_equal(grouped.sel(label_type="high"), found.values[high].sum(0))
    assert int(by(tree, found, ["land_cover", "label_type"]).sum()) == codes.size


@pytest.mark.parametrize("product", ["s2l1c", "s1"])
def test_band_statistics(cube: Path, product: str) -> None:
    tree = c12.open_cube(cube, chunks="roi")
    mean, deviation = band_statistics(tree, product)
    assert tasks((mean, deviation)) <= 8 * tree.sizes["roi"] + 20
    pixels = c12.open_cube(cube)[product][product].values.astype(float)
    np.testing.assert_allclose(mean.compute(), np.nanmean(pixels, axis=(0, 1, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(deviation.compute(), np.nanstd(pixels, axis=(0, 1, 3, 4)), rtol=1e-6)


def test_composites(cube: Path) -> None:
    tree = c12.open_cube(cube, chunks="roi")
    lazy = composite(tree, ["B4", "B3"])
    assert tasks(lazy) <= 8 * tree.sizes["roi"]
    found = lazy.compute().values
    plain = c12.open_cube(cube)
    pixels = plain["s2l1c"]["s2l1c"].sel(band=["B4", "B3"]).values.astype(float)
    clear = plain.cloudsen12.classes("manual_hq").values == 0
    for roi, y, x in [(0, 0, 0), (1, 5, 7), (2, 30, 30), (3, 47, 47)]:
        values = pixels[roi, :, :, y, x][clear[roi, :, y, x]]
        expected = np.median(values, axis=0) if len(values) else np.full(2, np.nan)
        np.testing.assert_allclose(found[roi, :, y, x], expected, rtol=1e-6)
    assert dask.is_dask_collection(lazy)

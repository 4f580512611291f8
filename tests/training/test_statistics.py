"""Statistics and class counts against numpy on the same pixels, and what streams make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.errors import CubeError, DestinationError, StoreError
from cloudsen12_cube.format.statistics import COUNTED, PERCENTILES, Histogram, read_bands, read_counts
from cloudsen12_cube.storage.lock import write_lock
from cloudsen12_cube.storage.open import open_store
from cloudsen12_cube.training.statistics import balanced_weights, even_weights, stats
from cloudsen12_cube.training.stream import StreamOptions


@pytest.fixture(scope="module")
def counted(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("counted") / "cube.zarr"
    shutil.copytree(cube, place)
    stats(place)
    return place


def pixels(tree: xr.DataTree, product: str, split: str | None) -> xr.DataArray:
    array = tree[product][product].compute()
    return array if split is None else array[(tree["split"] == split).values]


@pytest.mark.parametrize("split", ["train", None])
def test_bands_are_numpys(cube: Path, tmp_path: Path, split: str | None) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    found = stats(copy, split)
    tree = c12.open_cube(copy)
    for product in ("s2l1c", "s1"):
        values = pixels(tree, product, split)
        for row in found.bands[product]:
            band = values.sel(band=row.band).values.astype(np.float64).ravel()
            assert row.pixels == band.size
            assert row.mean == pytest.approx(band.mean())
            assert row.std == pytest.approx(band.std())
            expected = np.percentile(band, PERCENTILES, method="inverted_cdf")
            tolerance = 0 if product == "s2l1c" else 0.005001
            np.testing.assert_allclose(list(row.percentiles.values()), expected, rtol=0, atol=tolerance)
    stored, origin = read_bands(open_store(copy), "s2l1c") or ({}, None)
    assert list(stored.values()) == found.bands["s2l1c"]
    assert origin is not None
    assert (origin.split, origin.rois) == (split, len(np.unique(pixels(tree, "s1", split).roi)))


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50), st.integers(0, 50))
def test_histograms_add_up(values: list[int], cut: int) -> None:
    whole, parts = Histogram("int16"), Histogram("int16")
    array = np.array(values, np.int16)
    whole.add(array)
    parts.add(array[cut:])
    parts.add(array[:cut])
    assert whole.statistics("B1") == parts.statistics("B1")
    assert whole.statistics("B1").mean == pytest.approx(array.mean())


def test_a_mixture_of_files_with_and_without_a_sign() -> None:
    whole = Histogram("int32")
    whole.add(np.array([-(2**15), 0, 2**16 - 1], np.int32))
    assert list(whole.statistics("B1").percentiles.values())[-1] == 2**16 - 1


def test_no_data_is_no_measurement() -> None:
    assert Histogram("float32").statistics("VV").pixels == 0


def test_classes_are_counted_in_every_patch_and_layer(counted: Path) -> None:
    tree = c12.open_cube(counted)
    counts = read_counts(open_store(counted))
    assert counts is not None
    assert len(counts.layers) == 10
    for number, layer in enumerate(counts.layers):
        codes = tree.cloudsen12.classes(layer)
        for row, roi, time in zip(counts.counts, counts.patches["roi"], counts.patches["time"], strict=True):
            plane = codes.sel(roi=roi, time=time).values
            assert row[number].tolist() == [(plane == code).sum() for code in COUNTED]


def test_standard_pixels_have_mean_0_and_deviation_1(counted: Path, cube: Path) -> None:
    tree = c12.open_cube(counted)
    options = StreamOptions(normalise="standard")
    batches = list(tree.cloudsen12.stream({"s2l1c": None, "s1": ["VV"]}, None, "train", 4, options=options))
    values = np.concatenate([batch["pixels"] for batch in batches]).astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-4)
    with pytest.raises(StoreError, match="run `cloudsen12-cube stats` on it once"):
        c12.open_cube(cube).cloudsen12.stream({"s2l1c": None}, options=options)


def test_counts_tell_labelled_patches_without_reading(counted: Path, cube: Path) -> None:
    """Also those whose layer is there, but says "unlabelled" all over."""
    for target in ("manual_hq", "manual_sc"):
        by_counts, by_index = (
            c12.open_cube(place).cloudsen12.stream({"s2l1c": ["B4"]}, target).patches for place in (counted, cube)
        )
        assert by_counts[["roi", "time"]].equals(by_index[["roi", "time"]])


def test_class_weights_even_out_the_classes(counted: Path, cube: Path) -> None:
    tree = c12.open_cube(counted)
    options = StreamOptions(weights="class")

    def rarest(options: StreamOptions) -> float:
        batches = list(tree.cloudsen12.stream({"s2l1c": ["B4"]}, "manual_hq", None, 64, options=options))
        counts = sum(np.bincount(batch["target"].ravel(), minlength=256)[:4] for batch in batches)
        return float((counts / counts.sum()).min())

    assert rarest(options) > rarest(StreamOptions())
    with pytest.raises(StoreError, match="no class counts of manual_hq"):
        c12.open_cube(cube).cloudsen12.stream({"s2l1c": ["B4"]}, "manual_hq", options=options)
    with pytest.raises(ValueError, match="give one"):
        tree.cloudsen12.stream({"s2l1c": ["B4"]}, options=options)


def test_weights_by_hand() -> None:
    counts = np.array([[90, 10, 0, 0, 0], [100, 0, 0, 0, 0], [0, 0, 0, 0, 100]])
    np.testing.assert_allclose(balanced_weights(counts), [(90 * 200 / 190 + 10 * 200 / 10) / 100, 200 / 190, 0])
    np.testing.assert_allclose(even_weights(np.array([1.0, 1.0, 2.0, np.nan, np.nan])), [0.5, 0.5, 1, 0.5, 0.5])


def test_the_cube_stays_what_it_was(counted: Path, cube: Path, archive: Path) -> None:
    """No Zarr object changes, verify finds nothing, plain Zarr lists no more than before."""
    for path in cube.rglob("*"):
        if path.is_file():
            assert (counted / path.relative_to(cube)).read_bytes() == path.read_bytes()
    assert c12.verify(counted, archive).exit_code == 0
    assert c12.convert(archive, counted).exit_code == 0
    assert xr.open_zarr(counted, group="s2l1c")["s2l1c"].shape[0] == 4


def test_the_command(cube: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    assert main(["stats", str(copy), "--split", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["origin"]["split"] is None
    assert told["origin"]["patches"] == 20
    assert sum(told["classes"]["fmask"]) == 20 * 48 * 48
    assert main(["stats", str(copy)]) == 0
    assert "manual_hq" in capsys.readouterr().out
    assert main(["stats", str(tmp_path / "none.zarr")]) == 2


def test_statistics_of_a_remote_cube_lie_in_it(cube: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(cube), "/counted.zarr", recursive=True)
    found = stats("memory://counted.zarr", split=None)
    local = stats(shutil.copytree(cube, cube.with_name("counted.zarr"), dirs_exist_ok=True), split=None)
    assert (found.bands, found.classes) == (local.bands, local.classes)
    assert fs.exists("/counted.zarr/s2l1c/s2l1c/statistics.json")


def test_statistics_are_all_that_is_added(cube: Path, tmp_path: Path) -> None:
    """No folder of the writing is left over, no other writer is disturbed, and no cube is made where none is."""
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    before = set(copy.rglob("*"))
    with write_lock(open_store(copy)), pytest.raises(DestinationError, match="another process is writing"):
        stats(copy)
    assert set(copy.rglob("*")) == before
    stats(copy, products=["s1", "labels"])
    added = {path.relative_to(copy).as_posix() for path in set(copy.rglob("*")) - before}
    assert added == {"s1/s1/statistics.json", "labels/labels/class_counts.npz"}
    with pytest.raises(CubeError, match="no such folder"):
        stats(tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()

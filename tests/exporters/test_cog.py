"""A patch back as files: the archive's pixels, names and places, as valid COGs that convert again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from conftest import SHARED, needs_shared
from rio_cogeo.cogeo import cog_validate

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.patch import flatten, select_patch
from cloudsen12_cube.errors import DestinationError, SelectionError
from cloudsen12_cube.exporters.cog import write_cogs
from cloudsen12_cube.schema.assets import PRODUCTS, files_of
from cloudsen12_cube.testing import ArchiveOptions, make_archive


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_same_file(written: Path, source: Path) -> None:
    with rasterio.open(written) as ours, rasterio.open(source) as theirs:
        np.testing.assert_array_equal(ours.read(), theirs.read())
        assert ours.dtypes == theirs.dtypes
        assert ours.crs == theirs.crs
        assert ours.transform == theirs.transform
        assert ours.descriptions == theirs.descriptions
        assert ours.compression == theirs.compression == rasterio.enums.Compression.lzw
    valid, errors, warnings = cog_validate(written, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


@pytest.mark.parametrize("roi", ["ROI_0012", "ROI_8641"])
def test_a_folder_as_in_the_archive(cube: Path, archive: Path, tmp_path: Path, roi: str) -> None:
    patch = select_patch(c12.open_cube(cube), roi, 3)
    source = next(archive.glob(f"*/{roi}/{patch['s2_id_gee'].item()}"))
    written = write_cogs(patch, tmp_path / "new" / "folder")
    assert files_in(tmp_path / "new" / "folder") == files_in(source) - {"thumbnail.tif"}
    assert [path.relative_to(tmp_path / "new" / "folder") for path in written] == [
        Path(f"{name}.tif") for product in PRODUCTS for name in files_of(product) if (source / f"{name}.tif").exists()
    ]
    for path in written:
        other = source / path.relative_to(tmp_path / "new" / "folder")
        assert_same_file(path, other)
        with rasterio.open(path) as ours, rasterio.open(other) as theirs:
            assert ours.nodata == theirs.nodata


@needs_shared
def test_real_patches(tmp_path: Path) -> None:
    archive = SHARED / "archive_a"
    options = c12.Options(rois=("ROI_0530",))
    c12.convert(archive, tmp_path / "cube.zarr", products=["s2l1c", "labels", "extra"], options=options)
    patch = select_patch(c12.open_cube(tmp_path / "cube.zarr"), "ROI_0530", 3)  # with a swath edge
    written = write_cogs(patch, tmp_path / "out")
    source = next(archive.glob(f"*/ROI_0530/{patch['s2_id_gee'].item()}"))
    there = {name for name in files_in(source) if name.startswith(("S2L1C", "extra", "labels"))}
    assert {str(path.relative_to(tmp_path / "out")) for path in written} == there
    for path in written:
        assert_same_file(path, source / path.relative_to(tmp_path / "out"))


def test_what_is_written_converts_again(tmp_path: Path) -> None:
    options = ArchiveOptions(size=16, times=2, striped_labels=True, dtype="uint16", descriptions=False)
    archive = make_archive(tmp_path / "archive", 2, 5, options)
    c12.convert(archive, tmp_path / "cube.zarr")
    tree = c12.open_cube(tmp_path / "cube.zarr")
    for patch in (select_patch(tree, roi, time) for roi in tree["roi"].values for time in range(2)):
        place = (patch[name].item() for name in ("label_type", "roi", "s2_id_gee"))
        write_cogs(patch, tmp_path.joinpath("again", *place))
    shutil.copy(archive / "cloudsen12_metadata.csv", tmp_path / "again")
    assert c12.convert(tmp_path / "again", tmp_path / "again.zarr").exit_code == 0
    other = c12.open_cube(tmp_path / "again.zarr")
    for product in PRODUCTS:
        np.testing.assert_array_equal(other[product][product], tree[product][product])
        assert (other[product]["status"] == 1).all()


def test_one_product_and_the_flat_view(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube, chunks="roi")
    one = write_cogs(select_patch(tree["labels"].to_dataset(), "ROI_0012", 0), tmp_path / "one")
    flat = write_cogs(select_patch(flatten(tree, ["labels"]), "ROI_0012", 0), tmp_path / "flat")
    assert [path.name for path in one] == [path.name for path in flat]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in flat]


def patched(cube: Path, product: str, change: Any) -> xr.Dataset:
    """Take a patch of one product and write something into its pixels."""
    patch = select_patch(c12.open_cube(cube)[product].to_dataset(), "ROI_0012", 0).load()
    change(patch[product].values)
    return patch


def stored(path: Path) -> tuple[npt.NDArray[Any], float | None]:
    with rasterio.open(path) as file:
        return file.read(), file.nodata


def test_a_value_that_the_published_type_cannot_hold(cube: Path, tmp_path: Path) -> None:
    def change(pixels: npt.NDArray[Any]) -> None:
        pixels[6, 0, 0] = 10_000  # CD-FCNN in hundredths of a per cent
        pixels[3, 0, 0] = 65_535  # fill in fmask

    write_cogs(patched(cube, "labels", change), tmp_path)
    pixels, nodata = stored(tmp_path / "labels" / "CD-FCNN-RGBI.tif")
    assert (pixels.dtype, pixels[0, 0, 0], nodata) == (np.uint16, 10_000, None)
    pixels, nodata = stored(tmp_path / "labels" / "fmask.tif")
    assert (pixels.dtype, pixels[0, 0, 0], nodata) == (np.uint16, 65_535, 65_535)
    pixels, nodata = stored(tmp_path / "labels" / "sen2cor.tif")
    assert (pixels.dtype, nodata) == (np.uint8, None)


def test_negative_land_cover_keeps_its_width(cube: Path, tmp_path: Path) -> None:
    def change(pixels: npt.NDArray[Any]) -> None:
        pixels[4, 0, 0] = -99  # LC100

    write_cogs(patched(cube, "extra", change), tmp_path)
    pixels, nodata = stored(tmp_path / "extra" / "LC100.tif")
    assert (pixels.dtype, pixels[0, 0, 0], nodata) == (np.int16, -99, -99)
    assert stored(tmp_path / "extra" / "LC10.tif")[0].dtype == np.uint8


def test_radar_without_a_value_stays_so(cube: Path, tmp_path: Path) -> None:
    def change(pixels: npt.NDArray[Any]) -> None:
        pixels[0, 0, :3] = np.nan

    patch = patched(cube, "s1", change)
    write_cogs(patch, tmp_path)
    pixels, nodata = stored(tmp_path / "S1.tif")
    np.testing.assert_array_equal(pixels, patch["s1"])
    assert nodata == -99


def test_a_layer_that_nobody_labelled(cube: Path, tmp_path: Path) -> None:
    def change(pixels: npt.NDArray[Any]) -> None:
        pixels[2] = 65_535

    names = [path.stem for path in write_cogs(patched(cube, "labels", change), tmp_path)]
    assert "sen2cor" not in names
    assert len(names) == 9
    assert not (tmp_path / "labels" / "sen2cor.tif").exists()


def test_clipped_and_reprojected(cube: Path, tmp_path: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 0)
    part = patch.isel(x=slice(5, 25), y=slice(10, 40))
    write_cogs(part, tmp_path / "part")
    with rasterio.open(tmp_path / "part" / "S2L1C.tif") as file:
        assert file.transform == part["s2l1c"].rio.transform(recalc=True)
        assert file.bounds == part["s2l1c"].rio.bounds()
        np.testing.assert_array_equal(file.read(), part["s2l1c"])
    moved = patch.rio.reproject("EPSG:3413", resolution=10)
    write_cogs(moved, tmp_path / "moved")
    with rasterio.open(tmp_path / "moved" / "labels" / "manual_hq.tif") as file:
        assert file.crs == rasterio.CRS.from_epsg(3413)
        assert file.transform.almost_equals(moved["labels"].rio.transform(), 1e-6)
        assert file.nodata == 65_535  # outside the patch: no label, not clear
        assert file.read(1)[0, 0] == 65_535


def test_files_that_are_there_stay(cube: Path, tmp_path: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 0)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "fmask.tif").write_text("mine")
    with pytest.raises(DestinationError, match=r"has labels/fmask\.tif already: remove"):
        write_cogs(patch, tmp_path)
    assert files_in(tmp_path) == {"labels/fmask.tif"}
    assert (tmp_path / "labels" / "fmask.tif").read_text() == "mine"


def test_whole_files_or_none(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 0)

    def stop(*_: object) -> None:
        raise OSError("the power fails")

    with monkeypatch.context() as during:
        during.setattr("os.replace", stop)
        with pytest.raises(OSError, match="the power fails"):
            write_cogs(patch, tmp_path)
    assert files_in(tmp_path) == set()
    assert len(write_cogs(patch, tmp_path)) == len(files_in(tmp_path)) == 19


def test_what_is_no_patch(cube: Path, tmp_path: Path) -> None:
    tree = c12.open_cube(cube)
    patch = select_patch(tree, "ROI_0012", 0)
    with pytest.raises(SelectionError, match="s1 has the dims roi, time, band, y, x: select one patch"):
        write_cogs(tree["s1"].to_dataset(), tmp_path)
    with pytest.raises(SelectionError, match="has none of s2l1c"):
        write_cogs(tree.to_dataset(), tmp_path)
    with pytest.raises(SelectionError, match=r"S2L1C\.tif holds 13 bands and B1, B2.* are not in.*rio\.to_raster"):
        write_cogs(patch.sel(band_s2l1c=["B8", "B4"]), tmp_path)
    with pytest.raises(SelectionError, match="the Dataset has no location"):
        write_cogs(patch.drop_vars("spatial_ref"), tmp_path)
    some = write_cogs(patch[["labels"]].sel(band_labels=["fmask", "manual_hq"]), tmp_path)
    assert [path.stem for path in some] == ["manual_hq", "fmask"]


def test_nothing_changes_the_patch(cube: Path, tmp_path: Path) -> None:
    patch = select_patch(c12.open_cube(cube), "ROI_0012", 0)
    before = patch.copy(deep=True)
    write_cogs(patch, tmp_path)
    xr.testing.assert_identical(patch, before)


def test_large_patches_have_overviews_that_mix_no_codes(tmp_path: Path) -> None:
    pixels = np.tile(np.array([[0, 3], [3, 0]], np.uint16), (300, 300))
    grid = {"y": -10.0 * np.arange(600), "x": 10.0 * np.arange(600), "band": ["fmask"]}
    patch = xr.Dataset({"labels": (("band", "y", "x"), pixels[None])}, grid)
    patch = patch.assign_coords(spatial_ref=((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32633).to_wkt()}))
    (path,) = write_cogs(patch, tmp_path)
    assert cog_validate(path, quiet=True) == (True, [], [])
    with rasterio.open(path, overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= {0, 3}

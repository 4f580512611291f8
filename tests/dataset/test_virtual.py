"""An archive opened in place: the converted cube and rasterio are the oracles, and nothing damaged becomes a pixel."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import rasterio
import xarray as xr
from broken_archive import Broken, rewritten
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from s3server import KEYS, PRIVATE, Faults, proxy

import cloudsen12_cube as c12
from cloudsen12_cube.errors import ArchiveError, RemoteError, SelectionError, StoreError
from cloudsen12_cube.schema.assets import PRODUCTS, files_of
from cloudsen12_cube.testing import ArchiveOptions, make_archive

AS_IT_WAS_MADE = {"history", "date_created", "cloudsen12"}


@pytest.fixture(scope="module")
def both(archive: Path, cube: Path) -> tuple[xr.DataTree, xr.DataTree]:
    return c12.open_virtual(archive, scale=scale_of(cube)), c12.open_cube(cube)


def scale_of(cube: Path) -> int | None:
    return json.loads(c12.open_cube(cube)["labels"]["labels"].attrs["layers"])["CD-FCNN-RGBI"].get("valid_max")  # type: ignore[no-any-return]


def assert_same(virtual: xr.DataTree, cube: xr.DataTree) -> None:
    """Groups, dims, coordinates, attributes and every pixel, with their types."""
    assert list(virtual.children) == list(cube.children)
    assert {k: v for k, v in virtual.attrs.items() if k not in AS_IT_WAS_MADE} == {
        k: v for k, v in cube.attrs.items() if k not in AS_IT_WAS_MADE
    }
    for path, node in cube.subtree_with_keys:
        one, other = virtual[path].to_dataset(), node.to_dataset()
        xr.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
        for name in other.variables:
            assert (one[name].dtype, one[name].dims) == (other[name].dtype, other[name].dims)


@pytest.mark.parametrize(
    "options",
    [
        ArchiveOptions(size=32),
        ArchiveOptions(size=24, times=3, striped_labels=True, occurrence=True, dtype="uint16", descriptions=False),
        ArchiveOptions(size=17, times=2, metadata="stac", top="deeper", nolabel_folder="no-label"),
    ],
    ids=["plain", "striped, mixed types", "STAC, deeper, odd size"],
)
def test_it_is_the_cube_that_a_conversion_gives(tmp_path: Path, options: ArchiveOptions) -> None:
    source = make_archive(tmp_path / "archive", rois=3, seed=5, options=options)
    assert c12.convert(source, tmp_path / "c.zarr").exit_code == 0
    scale = scale_of(tmp_path / "c.zarr")
    assert_same(c12.open_virtual(source, scale=scale), c12.open_cube(tmp_path / "c.zarr"))


@needs_shared
def test_real_files_of_both_interleavings(tmp_path: Path) -> None:
    source = SHARED / "archive_a"
    assert c12.convert(source, tmp_path / "c.zarr").exit_code == 0
    assert_same(c12.open_virtual(source, scale=scale_of(tmp_path / "c.zarr")), c12.open_cube(tmp_path / "c.zarr"))


def test_rasterio_reads_the_same(archive: Path, both: tuple[xr.DataTree, xr.DataTree]) -> None:
    seen = 0
    for product in PRODUCTS:
        images = both[0][product].to_dataset()
        for roi, time in np.ndindex(images["status"].shape):
            folder = next(archive.glob(f"*/{images.roi.values[roi]}/{images['s2_id_gee'].values[roi, time]}"))
            for name, bands in files_of(product).items():
                pixels = images[product].isel(roi=roi, time=time).sel(band=list(bands)).values
                if not (folder / f"{name}.tif").exists():
                    assert (pixels == images[product].encoding["fill_value"]).all()
                    continue
                with rasterio.open(folder / f"{name}.tif") as file:
                    np.testing.assert_array_equal(pixels, file.read())
                seen += 1
    assert seen > 100


def test_nothing_is_read_before_it_is_asked_for(archive: Path, tmp_path: Path) -> None:
    """What was opened before the files are gone is whole; its pixels are not."""
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    tree = c12.open_virtual(source)
    for path in source.rglob("*.tif"):
        path.unlink()
    for product in PRODUCTS:
        array = tree[product][product]
        assert array.chunks is None
        assert not array.variable._in_memory
        assert (tree[product]["status"].values == 1).all()
    assert len(tree.cloudsen12.query(label_type="high")["s1"]["roi"]) > 0
    with pytest.raises(StoreError, match=r"S1\.tif: found no such file .*convert it"):
        tree["s1"]["s1"].isel(roi=0, time=0).values  # noqa: B018 (reads)


@st.composite
def keys(draw: st.DrawFn) -> dict[str, Any]:
    """What a user may hand to isel, dim by dim; several lists select each for itself."""
    sizes = {"roi": 4, "time": 5, "band": 13, "y": 48, "x": 48}
    key: dict[str, Any] = {}
    for dim, size in sizes.items():
        place = st.integers(-size, size - 1)
        part = st.builds(slice, st.none() | place, st.none() | place, st.none() | st.integers(1, 3))
        one = draw(st.none() | place | part | st.lists(place, max_size=3))
        key |= {} if one is None else {dim: one}
    return key


@settings(max_examples=60)
@given(key=keys())
def test_any_part_is_that_of_the_cube(both: tuple[xr.DataTree, xr.DataTree], key: dict[str, Any]) -> None:
    one, other = (tree["s2l1c"]["s2l1c"].isel(key) for tree in both)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.dims == other.dims


def test_the_accessor_finds_what_it_needs(both: tuple[xr.DataTree, xr.DataTree]) -> None:
    virtual, real = (tree.cloudsen12 for tree in both)
    for layer in ("manual_hq", "sen2cor", "qa60", "s2cloudless", "CD-FCNN-RGBI", "kappamask_L2A"):
        np.testing.assert_array_equal(virtual.classes(layer).values, real.classes(layer).values)
    masks = [cs.mask("thick_cloud", "thin_cloud", of="manual_hq") for cs in (virtual, real)]
    np.testing.assert_array_equal(*(mask.values for mask in masks))
    np.testing.assert_array_equal(*(mask.labelled.values for mask in masks))
    np.testing.assert_array_equal(*(cs.reflectance(["red", "nir"]).values for cs in (virtual, real)))
    assert virtual.evaluate(split=None).equals(real.evaluate(split=None))
    roi = str(both[1]["roi"].values[0])
    one, other = (cs.patch(roi, 1).load() for cs in (virtual, real))
    xr.testing.assert_equal(one, other)
    assert one.rio.crs == other.rio.crs
    chosen = [cs.query(label_type="high", difficulty=(1, 3))["s1"]["s1"].values for cs in (virtual, real)]
    np.testing.assert_array_equal(*chosen)


def test_an_unlabelled_patch_is_not_clear(both: tuple[xr.DataTree, xr.DataTree]) -> None:
    tree = both[0].cloudsen12.query(label_type="scribble")
    assert tree["labels"].sizes["roi"] > 0
    assert (tree.cloudsen12.classes("manual_hq").values == 255).all()
    assert not tree.cloudsen12.mask("thick_cloud", of="manual_hq").labelled.values.any()


def test_the_scale_of_a_probability_is_not_guessed(archive: Path) -> None:
    cs = c12.open_virtual(archive, products=["labels"]).cloudsen12
    with pytest.raises(ValueError, match="give scale=100"):
        cs.classes("CD-FCNN-RGBI")
    assert set(np.unique(cs.classes("CD-FCNN-RGBI", scale=100))) <= {0, 1, 255}
    with pytest.raises(ValueError, match="scale is 7: give 100"):
        c12.open_virtual(archive, scale=7)


def test_batches_are_those_of_the_cube(both: tuple[xr.DataTree, xr.DataTree]) -> None:
    inputs = {"s2l1c": ["B4", "B8A"], "s1": None}
    options = c12.StreamOptions(crop=16, augment=True, normalise="physical")
    streams = [tree.cloudsen12.stream(inputs, "manual_hq", None, 3, 7, options) for tree in both]
    assert len(streams[0]) == len(streams[1]) > 1
    for one, other in zip(*streams, strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
    sent = pickle.loads(pickle.dumps(streams[0]))  # noqa: S301 (our own)
    np.testing.assert_array_equal(next(iter(sent))["roi"], next(iter(pickle.loads(pickle.dumps(streams[1]))))["roi"])  # noqa: S301
    told = both[0].cloudsen12.stream({"s2l1c": None}).explain(0.1)
    assert "requests" in str(told)


def test_dask_reads_in_other_processes(both: tuple[xr.DataTree, xr.DataTree], archive: Path) -> None:
    tree = c12.open_virtual(archive, chunks="roi")
    array = tree["s2l2a"]["s2l2a"]
    assert array.data.chunksize == (1, *array.shape[1:])
    sums = array.sel(band=["B2", "AOT"]).sum(("y", "x"))
    with dask.config.set(scheduler="processes", num_workers=2):
        found = sums.compute()
    np.testing.assert_array_equal(found, both[1]["s2l2a"]["s2l2a"].sel(band=["B2", "AOT"]).sum(("y", "x")))
    assert c12.open_virtual(archive, chunks={})["s1"]["s1"].data.chunksize == (1, 1, 3, 48, 48)
    assert c12.open_virtual(archive, chunks={"band": 1, "roi": 2})["s1"]["s1"].data.chunksize == (2, 1, 1, 48, 48)
    masks = tree.cloudsen12.mask("thick_cloud", of="fmask")
    np.testing.assert_array_equal(masks.compute(), both[0].cloudsen12.mask("thick_cloud", of="fmask").values)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    return Broken(tmp_path_factory.mktemp("broken"))


def read(array: xr.DataArray) -> tuple[Any, str]:
    """Pixels, or what reading them says."""
    try:
        return array.values, ""
    except StoreError as error:
        return None, str(error)


def test_what_a_conversion_refuses_is_fill_or_raises(broken: Broken) -> None:
    """Every fault of `test_faults`, patch by patch and product by product; all else is the cube's to the bit."""
    with pytest.warns(UserWarning, match=r"6 rows or folders .* are left out; the first is .*: found .*, expected"):
        tree = c12.open_virtual(broken.source)
    raised, called_failed = set(), set()
    for product in PRODUCTS:
        one, other = tree[product].to_dataset(), broken.cube[product].to_dataset()
        for roi, time in np.ndindex(other["status"].shape):
            told, real = (int(images["status"].values[roi, time]) for images in (one, other))
            pixels, error = read(one[product].isel(roi=roi, time=time))
            if error:
                assert (told, real) == (1, 2)
                assert f"Leave out {other['roi'].values[roi]} at time {time}" in error
                raised |= {name for name, path in broken.paths.items() if error.startswith(f"{path}: found")}
                continue
            assert told == real
            called_failed |= {other["s2_id_gee"].values[roi, time]} if told == 2 else set()
            np.testing.assert_array_equal(pixels, other[product].isel(roi=roi, time=time).values)
    in_listing = {"zero_bytes", "missing", "ten_gigabytes", "a_pipe", "a_link_out"}
    assert raised == broken.paths.keys() - in_listing
    assert called_failed == {broken.hit[name][1] for name in in_listing}


@pytest.mark.parametrize("way", ["values", "mask", "dask", "stream", "evaluate"])
def test_a_damaged_label_is_never_clear(archive: Path, tmp_path: Path, way: str) -> None:
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    victim = next(source.glob("high/*/*/labels/manual_hq.tif"))
    os.truncate(victim, victim.stat().st_size - 40)
    tree = c12.open_virtual(source, chunks="roi" if way == "dask" else None)
    cs, labels = tree.cloudsen12, tree["labels"]["labels"].sel(band="manual_hq")
    reads: dict[str, Any] = {
        "values": lambda: labels.values,
        "mask": lambda: cs.mask("thick_cloud", of="manual_hq").values,
        "dask": lambda: cs.classes("manual_hq").compute(),
        "stream": lambda: list(cs.stream({"labels": ["fmask"]}, "manual_hq", batch_size=4)),
        "evaluate": lambda: cs.evaluate(split=None),
    }
    with pytest.raises(StoreError, match=f"{re.escape(str(victim.relative_to(source)))}.*Leave out ROI_"):
        reads[way]()
    rest = [roi for roi, name in enumerate(tree["roi"].values) if name != victim.parts[-4]]
    assert (labels.isel(roi=rest).values != 65535).any(), "what is whole is still read"


def test_patches_of_two_sizes_are_named(tmp_path: Path) -> None:
    source = make_archive(tmp_path / "archive", rois=2, seed=1, options=ArchiveOptions(size=16, times=2))
    other = next(source.glob("*/ROI_*/*/S1.tif"))
    rewritten(other, lambda pixels: pixels[:, :8])
    tree = c12.open_virtual(source, products=["s1"])
    with pytest.raises(StoreError, match=r"S1\.tif: found 8 x 16 pixels, expected 16 x 16"):
        tree["s1"]["s1"].values  # noqa: B018 (reads)


def test_places_without_an_archive(cube: Path, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="does not exist"):
        c12.open_virtual(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match=r"cube\.zarr is a Zarr store, no archive: open it with open_cube"):
        c12.open_virtual(cube)
    with pytest.raises(SelectionError, match="unknown product 's3'"):
        c12.open_virtual(archive, products=["s3"])
    with pytest.raises(ValueError, match="give None, 'roi' or a mapping"):
        c12.open_virtual(tmp_path / "nowhere", chunks="auto")  # type: ignore[arg-type]
    assert list(c12.open_virtual(archive, products=["labels", "s1"]).children) == ["s1", "labels"]
    part = c12.open_virtual(archive, ["s1"], where=["label_type=high"])
    assert set(part["label_type"].values) == {"high"}


@pytest.fixture(scope="module")
def bucket(s3: str, archive: Path) -> str:
    files = fsspec.filesystem("s3", **KEYS, endpoint_url=s3, use_listings_cache=False)
    files.put(f"{archive}/", f"{PRIVATE}/untouched", recursive=True)
    return f"s3://{PRIVATE}/untouched"


@pytest.fixture
def counted(s3: str) -> Iterator[tuple[str, Faults]]:
    with proxy(s3) as both:
        yield both


def test_a_bucket_gives_the_same(s3: str, bucket: str, both: tuple[xr.DataTree, xr.DataTree]) -> None:
    options = {**KEYS, "endpoint_url": s3}
    where = c12.Url(bucket, options, "fsspec")
    for tree in (c12.open_virtual(bucket, storage_options=options), c12.open_virtual(where, chunks="roi")):
        for product in ("s2l1c", "labels"):
            np.testing.assert_array_equal(tree[product][product].values, both[1][product][product].values)
    assert not c12.open_virtual(bucket, storage_options=options).attrs["source"].startswith("http")
    assert KEYS["secret"] not in str(dict(tree.attrs))


def test_what_it_costs_is_as_documented(counted: tuple[str, Faults], bucket: str) -> None:
    endpoint, seen = counted
    tree = c12.open_virtual(bucket, storage_options={**KEYS, "endpoint_url": endpoint})
    headers = sum(n for path, n in seen.paths.items() if path.endswith(".tif"))
    patches = tree.to_dataset()["s2_id_gee"].size
    assert headers <= 60 * 20, "of 60 patches, however many there are"
    assert sum(seen.seen.values()) - headers <= 3
    image, labels = tree["s2l1c"]["s2l1c"], tree["labels"]["labels"].sel(band="fmask")
    reads: list[tuple[Any, int]] = [
        (lambda: image.isel(roi=0, time=0).sel(band="B4").values, 1),
        (lambda: image.isel(roi=0, time=0).sel(band=["B4", "B3", "B2"]).values, 0),  # its file is still decoded
        (lambda: image.isel(roi=1, time=0).values, 1),
        (lambda: image.isel(roi=2).values, 5),
        (lambda: labels.values, patches),
    ]
    for read, requests in reads:
        seen.clear()
        read()
        assert sum(seen.seen.values()) == requests


def test_bytes_that_flip_on_the_way_are_asked_for_again(
    counted: tuple[str, Faults], bucket: str, both: tuple[xr.DataTree, xr.DataTree]
) -> None:
    endpoint, faults = counted
    tree = c12.open_virtual(bucket, ["s1"], storage_options={**KEYS, "endpoint_url": endpoint})
    faults.kind, faults.every = "flip", 3
    np.testing.assert_array_equal(tree["s1"]["s1"].values, both[1]["s1"]["s1"].values)
    assert faults.hit > 0


def test_a_bucket_that_refuses_says_nothing_of_the_file(counted: tuple[str, Faults], bucket: str) -> None:
    endpoint, faults = counted
    tree = c12.open_virtual(bucket, ["s1"], storage_options={**KEYS, "endpoint_url": endpoint})
    faults.kind, faults.every = "403", 1
    with pytest.raises(RemoteError, match=r"S1\.tif cannot be read"):
        tree["s1"]["s1"].isel(roi=0, time=0).values  # noqa: B018 (reads)

"""Whatever the layout, everybody reads the same: the package, its streams, zarr-python, TensorStore, zarrita.js."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr
from conftest import SIZE
from layouts import LAYOUTS, OTHERS, resharded
from specification_reader import Reader, same

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.patches import stored_cube
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format.layout import ProductLayout, layout_of, parse_codec
from cloudsen12_cube.format.shard import ChunkReader as Chunks
from cloudsen12_cube.inspection.summary import info
from cloudsen12_cube.schema.assets import PRODUCTS
from cloudsen12_cube.testing import ArchiveOptions, make_archive

TIMES = 3
INPUTS: list[dict[str, Any]] = [
    {"s2l1c": None},
    {"s2l1c": ["B4", "B3", "B2"], "s1": ["VH"], "extra": None},
    {"labels": ["manual_sc", "fmask"]},
]
TREATMENTS = [c12.StreamOptions(), c12.StreamOptions(crop=32, pad=48, augment=True, normalise="physical")]


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four ROIs, so that a shard of three leaves one; all of it is read some fifty times here."""
    folder = tmp_path_factory.mktemp("source")
    make_archive(folder / "archive", rois=4, seed=1, options=ArchiveOptions(size=SIZE, times=TIMES))
    assert c12.convert(folder / "archive", folder / "c.zarr").exit_code == 0
    return folder / "c.zarr"


@pytest.fixture(scope="module")
def truth(cube: Path) -> dict[str, npt.NDArray[Any]]:
    tree = c12.open_cube(cube)
    return {product: tree[product][product].values for product in PRODUCTS}


@pytest.fixture(scope="module")
def cubes(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("layouts"), {"default": cube}
    for number, name in enumerate(OTHERS):
        made[name] = folder / f"{number}.zarr"
        assert resharded(cube, made[name], name).exit_code == 0
    return made


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_the_settings_say_is_what_was_asked_for(cubes: dict[str, Path], name: str) -> None:
    settings = json.loads((cubes[name] / "zarr.json").read_bytes())["attributes"]["cloudsen12"]
    assert settings["layout_version"] == (1 if name == "default" else 2)
    for product, row in settings["products"].items():
        assert layout_of(product, row).form == LAYOUTS[name]
        assert layout_of(product, row).as_json() == row
    shared = LAYOUTS[name].rois_per_shard
    assert len(list(cubes[name].glob("*/*/c/*/0/0/0/0"))) == len(PRODUCTS) * -(-4 // shared)


@pytest.mark.parametrize("name", OTHERS)
def test_the_package_and_zarr_python_read_the_same(
    cubes: dict[str, Path], truth: dict[str, npt.NDArray[Any]], name: str
) -> None:
    tree, other = c12.open_cube(cubes["default"]), c12.open_cube(cubes[name])
    for product, expected in truth.items():
        assert same(other[product][product].values, expected)
        assert same(np.asarray(zarr.open_array(cubes[name], path=f"{product}/{product}", mode="r")[...]), expected)
    for chunks in ("roi", {}):
        lazy = c12.open_cube(cubes[name], chunks=chunks)  # type: ignore[arg-type]
        assert same(lazy["s1"]["s1"].values, truth["s1"])
    for group in ("/", *PRODUCTS):
        left, right = tree[group].to_dataset(), other[group].to_dataset()
        for column in [c for c in left.variables if c not in PRODUCTS]:
            assert left[column].identical(right[column]), column


@pytest.mark.parametrize("name", LAYOUTS)
def test_tensorstore_reads_the_same(cubes: dict[str, Path], truth: dict[str, npt.NDArray[Any]], name: str) -> None:
    for product, expected in truth.items():
        place = {"driver": "file", "path": f"{cubes[name]}/{product}/{product}/"}
        found = tensorstore.open({"driver": "zarr3", "kvstore": place}).result().read().result()
        assert same(np.asarray(found), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_the_page_of_the_specification_suffices(
    cubes: dict[str, Path], truth: dict[str, npt.NDArray[Any]], name: str
) -> None:
    reader = Reader(cubes[name])
    for product, array in truth.items():
        for index, time, band in np.ndindex(array.shape[:3]):
            found = reader.patch(product, index, time, band)
            assert same(found, array[index, time, band]), (product, index, time, band)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("treated", [0, 1])
def test_streams_give_the_same_batches(cubes: dict[str, Path], cube: Path, name: str, treated: int) -> None:
    left, right = (c12.open_cube(place).cloudsen12 for place in (cube, cubes[name]))
    for inputs, target in zip(INPUTS, ("manual_hq", "sen2cor", "manual_sc"), strict=True):
        streams = [cs.stream(inputs, target, None, 3, 1, TREATMENTS[treated]) for cs in (left, right)]
        for one, other in zip(*streams, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                assert one[key].tobytes() == other[key].tobytes(), (inputs, key)


@pytest.mark.parametrize("name", ["bands", "lz4, bands, 3 ROIs"])
def test_torch_gives_the_same_batches(cubes: dict[str, Path], cube: Path, name: str) -> None:
    made = [
        c12.open_cube(p).cloudsen12.torch_dataset({"s2l1c": None}, "fmask", None, 4, 2) for p in (cube, cubes[name])
    ]
    for one, other in zip(*made, strict=True):
        assert one["pixels"].numpy().tobytes() == other["pixels"].numpy().tobytes()
        assert one["target"].numpy().tobytes() == other["target"].numpy().tobytes()


@pytest.mark.parametrize("name", ["none", "lz4, bands, 3 ROIs"])
def test_statistics_are_the_same(cubes: dict[str, Path], cube: Path, name: str, tmp_path: Path) -> None:
    made = []
    for place in (cube, cubes[name]):
        copy = tmp_path / f"{len(made)}.zarr"
        shutil.copytree(place, copy)
        made.append(c12.stats(copy, None))
    assert made[0].bands == made[1].bands
    assert made[0].classes == made[1].classes
    # They go with a cube whose patches are the same, and with no other.
    resharded(tmp_path / "0.zarr", tmp_path / "with.zarr", name)
    c12.convert(tmp_path / "0.zarr", tmp_path / "part.zarr", where=["label_type=high"])
    for product in ("s1", "labels"):
        for file in ("statistics.json", "class_counts.npz"):
            there = (tmp_path / "0.zarr" / product / product / file).exists()
            assert (tmp_path / "with.zarr" / product / product / file).exists() == there
            assert not (tmp_path / "part.zarr" / product / product / file).exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_explain_counts_objects(cubes: dict[str, Path], name: str) -> None:
    stream = c12.open_cube(cubes[name]).cloudsen12.stream({"s2l1c": ["B4", "B2"]}, "fmask", None, 4)
    told = stream.explain(0.01)
    form = LAYOUTS[name]
    assert told.shards == 2 * -(-4 // form.rois_per_shard)
    assert told.requests == 8  # a patch's bands lie together
    if form.codec == "none":
        planes = 13 + 10 if form.chunk == "bands" else 3 + 1  # B3 between is cheaper to read than to ask twice
        assert told.bytes_fetched == pytest.approx(4 * planes * SIZE * SIZE * 2, rel=0.01)


@pytest.mark.parametrize("name", OTHERS)
def test_a_flipped_byte_is_an_error_that_names_the_shard(cubes: dict[str, Path], name: str, tmp_path: Path) -> None:
    copy = tmp_path / "c.zarr"
    shutil.copytree(cubes[name], copy)
    place = stored_cube(c12.open_cube(copy))
    layout = place.layout("s2l1c")
    offset, length = map(int, Chunks(place.objects, layout).index(1)[2].reshape(-1, 2)[0])
    path = copy / layout.place(1)[0]
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(StoreError, match=f"{layout.place(1)[0]} is damaged.* at time 2"):
        list(c12.open_cube(copy).cloudsen12.stream({"s2l1c": None}, None, None, 4))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_byte_is_counted_twice(cubes: dict[str, Path], name: str) -> None:
    stored = {p: sum(f.stat().st_size for f in (cubes[name] / p / p / "c").rglob("0") if f.is_file()) for p in PRODUCTS}
    assert {row.product: row.bytes for row in info(cubes[name]).products} == stored
    assert {row.product: row.bytes for row in c12.status(cubes[name]).products} == stored
    assert c12.verify(cubes[name]).shard_bytes == sum(stored.values())
    shards = -(-4 // LAYOUTS[name].rois_per_shard)
    assert {(row.shards, row.objects) for row in info(cubes[name]).products} == {(shards, shards + 4)}


def test_a_predicted_layer_beside_any_layout(cubes: dict[str, Path], tmp_path: Path) -> None:
    from cloudsen12_cube.dataset.predictions import with_layer, write_layer

    tree = c12.open_cube(cubes["lz4, bands, 3 ROIs"])
    fmask = tree.cloudsen12.stream({"labels": ["fmask"]}, "fmask", None, 4, 0, c12.StreamOptions(shuffle=False))
    write_layer(tree, tmp_path / "p.zarr", "mine", ((b["roi"], b["time"], b["target"]) for b in fmask))
    both = with_layer(tree, tmp_path / "p.zarr").cloudsen12
    assert same(both.classes("mine").values, both.classes("fmask").values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"codec": "gzip"}, "codec is 'gzip': give one of zstd, lz4, none"),
        ({"chunk": "roi"}, "chunk is 'roi': give one of band, bands"),
        ({"codec": "lz4", "level": 10}, "level of codec lz4 is 10: give 1 to 9"),
        ({"codec": "none", "level": 3}, "level of codec none is 3: it has none"),
        ({"rois_per_shard": 0}, "rois_per_shard is 0"),
    ],
)
def test_what_is_no_layout(values: dict[str, Any], told: str) -> None:
    with pytest.raises(SelectionError, match=told):
        c12.Layout(**values)


def test_codecs_as_texts() -> None:
    assert [parse_codec(text) for text in ("zstd", "lz4:9", "none")] == [("zstd", None), ("lz4", 9), ("none", None)]
    for text in ("", "zip", "zstd:", "lz4:fast", ":1", "lz4:-1"):
        with pytest.raises(SelectionError, match="give one of zstd, lz4, none, or zstd:3"):
            parse_codec(text)


def test_where_an_roi_lies() -> None:
    layout = ProductLayout("s2l1c", "int16", 5, 509, 509, c12.Layout(chunk="bands", rois_per_shard=4))
    assert (layout.shard, layout.chunk) == ((4, 5, 13, 509, 509), (1, 1, 13, 509, 509))
    assert layout.place(7) == ("s2l1c/s2l1c/c/1/0/0/0/0", 3)
    assert layout.shard_bytes == 4 * layout.roi_bytes == 4 * 5 * layout.chunk_bytes == 4 * 5 * 13 * layout.plane_bytes


def test_a_codec_of_the_future_is_refused() -> None:
    row = ProductLayout("s1", "float32", 5, 9, 9).as_json() | {"codec": ["pcodec", 1, 0]}
    with pytest.raises(StoreError, match="install a newer release"):
        layout_of("s1", row)

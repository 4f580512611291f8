"""Streams against plain xarray reading of the same patches."""

from __future__ import annotations

import gc
import pickle
import shutil
import threading
import weakref
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr

import cloudsen12_cube as c12
from cloudsen12_cube.dataset.patches import stored_cube
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format.layout import shard_key
from cloudsen12_cube.format.shard import ChunkReader as Chunks
from cloudsen12_cube.schema.classes import LAYERS
from cloudsen12_cube.storage.arena import Arena
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.open import UrlStore, open_store
from cloudsen12_cube.training.stream import Stream, StreamOptions

RGB = {"s2l1c": ["B4", "B3", "B2"]}


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


def stream(tree: xr.DataTree, target: str | None = "fmask", batch_size: int = 3, **options: Any) -> Stream:
    return tree.cloudsen12.stream(RGB, target, None, batch_size, 5, StreamOptions(**options))


def keys(batches: Iterator[dict[str, Any]]) -> list[list[tuple[str, int]]]:
    return [list(zip(batch["roi"].tolist(), batch["time"].tolist(), strict=True)) for batch in batches]


def patches(tree: xr.DataTree) -> set[tuple[str, int]]:
    index, time = np.nonzero(tree["s2_id_gee"].values != "")
    return {(str(tree["roi"].values[i]), int(tree["time"].values[t])) for i, t in zip(index, time, strict=True)}


def test_products_together_are_what_xarray_reads(tree: xr.DataTree) -> None:
    inputs = {"s2l1c": None, "s1": ["VH", "VV"], "extra": ["elevation"]}
    made = tree.cloudsen12.stream(inputs, "sen2cor", batch_size=7)
    assert made.bands[12:] == (("s2l1c", "B12"), ("s1", "VH"), ("s1", "VV"), ("extra", "elevation"))
    seen = []
    for batch in made:
        assert batch["pixels"].dtype == np.float32  # holds int16 and float32
        for pixels, target, roi, time in zip(*batch.values(), strict=True):
            where = {"roi": roi, "time": time}
            parts = [tree[p][p].sel(where).sel(band=b or slice(None)).values for p, b in inputs.items()]
            np.testing.assert_array_equal(pixels, np.concatenate(parts))
            np.testing.assert_array_equal(target, tree.cloudsen12.classes("sen2cor").sel(where))
            seen.append((str(roi), int(time)))
    assert len(seen) == len(set(seen))
    assert set(seen) == patches(tree)


@pytest.mark.parametrize("layer", [row.band for row in LAYERS])
def test_every_layer_is_a_target(tree: xr.DataTree, layer: str) -> None:
    batch = next(iter(stream(tree, layer, labelled_only=False)))
    assert batch["target"].dtype == np.uint8
    expected = tree.cloudsen12.classes(layer)
    for target, roi, time in zip(batch["target"], batch["roi"], batch["time"], strict=True):
        np.testing.assert_array_equal(target, expected.sel(roi=roi, time=time))


def test_superclasses_are_targets(tree: xr.DataTree) -> None:
    batch = next(iter(stream(tree, superclass="valid")))
    expected = tree.cloudsen12.superclass("valid", of="fmask").sel(roi=batch["roi"][0], time=batch["time"][0])
    np.testing.assert_array_equal(batch["target"][0], expected)
    with pytest.raises(ValueError, match="qa60 does not distinguish valid from invalid"):
        stream(tree, "qa60", superclass="valid")


def test_without_a_target_there_is_no_key(tree: xr.DataTree) -> None:
    assert set(next(iter(stream(tree, None)))) == {"pixels", "roi", "time"}


def test_only_labelled_patches_of_a_manual_target(tree: xr.DataTree) -> None:
    found = {key for batch in keys(iter(stream(tree, "manual_hq"))) for key in batch}
    labels = tree.cloudsen12.classes("manual_hq")
    expected = {(r, t) for r, t in patches(tree) if (labels.sel(roi=r, time=t) != 255).any()}
    assert found == expected
    assert 0 < len(expected) < len(patches(tree))
    assert len(stream(tree, "manual_hq", labelled_only=False).patches) == len(patches(tree))


def test_a_query_is_the_filter(tree: xr.DataTree) -> None:
    chosen = tree.cloudsen12.query(difficulty=(1, 3)).isel(time=[1, 3])
    found = {key for batch in keys(iter(stream(chosen))) for key in batch}
    assert found == patches(chosen)
    assert {time for _, time in found} <= set(chosen["time"].values.tolist())
    batch = next(iter(stream(chosen)))
    expected = tree["s2l1c"]["s2l1c"].sel(roi=batch["roi"][0], time=batch["time"][0], band=RGB["s2l1c"])
    np.testing.assert_array_equal(batch["pixels"][0], expected)


def test_splits_share_no_roi_and_a_share_is_refused(tree: xr.DataTree) -> None:
    rois = []
    for split in ("train", "validation", "test"):
        made = tree.cloudsen12.stream(RGB, split=split)
        assert set(made.patches["split"]) == {split}
        rois.append(set(made.patches["roi"]))
    assert len(set.union(*rois)) == sum(map(len, rois))
    for share in (0.8, (0.8, 0.2)):
        with pytest.raises(SelectionError, match="random split by patch"):
            tree.cloudsen12.stream(RGB, split=share)
    with pytest.raises(SelectionError, match="give one of train, validation, test"):
        tree.cloudsen12.stream(RGB, split="val")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_order_depends_on_no_thread(tree: xr.DataTree, threads: int) -> None:
    one, other = stream(tree, threads=1), stream(tree, threads=threads)
    for a, b in zip(one, other, strict=True):
        assert keys(iter([a])) == keys(iter([b]))
        np.testing.assert_array_equal(a["pixels"], b["pixels"])
        np.testing.assert_array_equal(a["target"], b["target"])


def test_epochs_differ_and_are_reproducible(tree: xr.DataTree) -> None:
    made, again = stream(tree), stream(tree)
    first, second = keys(iter(made)), keys(iter(made))
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert [keys(iter(again)), keys(iter(again))] == [first, second]
    again.begin_at(0)
    assert keys(iter(again)) == first


@pytest.mark.parametrize("taken", [0, 1, 3, 6, 7])
def test_a_stream_resumes_at_the_exact_next_batch(tree: xr.DataTree, taken: int) -> None:
    whole = stream(tree, augment=True, crop=16)
    expected = [batch["pixels"].copy() for _ in range(2) for batch in whole]
    assert len(whole) == 7
    stopped = stream(tree, augment=True, crop=16)
    before = [batch["pixels"].copy() for batch in islice(stopped, taken)]
    state = pickle.loads(pickle.dumps(stopped.state_dict()))  # noqa: S301  # our own, as a checkpoint holds it
    fresh = stream(tree, augment=True, crop=16)
    fresh.load_state_dict(state)
    after = [batch["pixels"].copy() for _ in range(2 if taken < 7 else 1) for batch in fresh]
    assert len(before + after) == len(expected)
    for a, b in zip(before + after, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_of_another_stream_is_refused(tree: xr.DataTree) -> None:
    state = stream(tree).state_dict()
    with pytest.raises(ValueError, match="the state is of another stream"):
        stream(tree, batch_size=4).load_state_dict(state)


def test_ranks_share_an_epoch(tree: xr.DataTree) -> None:
    parts = [stream(tree, rank=rank, world_size=2, last="pad") for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 4
    batches = [batch for part in parts for batch in part]
    assert all(len(batch["roi"]) == 3 for batch in batches)
    found = sorted(key for batch in keys(iter(batches)) for key in batch if key[0])
    assert found == sorted(patches(tree))
    filler = [row for batch in batches for row in range(3) if batch["roi"][row] == ""]
    assert len(filler) == 4
    last = batches[-1]
    assert (last["target"][last["roi"] == ""] == 255).all()
    assert (last["pixels"][last["roi"] == ""] == 0).all()
    assert (last["time"][last["roi"] == ""] == -1).all()


def test_the_state_of_one_rank_suits_all(tree: xr.DataTree) -> None:
    """A training saves one checkpoint, on its first rank."""
    first, second = (stream(tree, rank=rank, world_size=2, last="drop") for rank in range(2))
    expected = keys(iter(second))
    list(islice(first, 1))
    fresh = stream(tree, rank=1, world_size=2, last="drop")
    fresh.load_state_dict(first.state_dict())
    assert keys(iter(fresh)) == expected[1:]


def test_input_and_target_are_cut_alike(tree: xr.DataTree) -> None:
    """With the label layer as input, too, every crop and turn must hit both in the same way."""
    options = StreamOptions(crop=(20, 31), pad=32, pad_mode="constant", augment=True)
    made = tree.cloudsen12.stream({"labels": ["fmask"], "s2l1c": ["B4"]}, "fmask", None, 5, 1, options)
    fmask = np.array([0, 0, 3, 0, 1], np.uint8)
    crops = set()
    for batch in made:
        assert batch["pixels"].shape[1:] == (2, 32, 32)
        for pixels, target in zip(batch["pixels"], batch["target"], strict=True):
            inside = target != 255
            assert inside.sum() == 20 * 31
            np.testing.assert_array_equal(fmask[pixels[0][inside]], target[inside])
            assert (pixels[:, ~inside] == 0).all()
            crops.add(pixels.tobytes())
    assert len(crops) == len(made.patches)


@pytest.mark.parametrize(("pad_at", "before"), [("both", 8), ("end", 0), (None, 8)])
def test_whole_patches_are_padded_to_a_multiple(tree: xr.DataTree, pad_at: str | None, before: int) -> None:
    batch = next(iter(stream(tree, pad=32, **({"pad_at": pad_at} if pad_at else {}))))
    assert batch["pixels"].shape == (3, 3, 64, 64)
    where = {"roi": batch["roi"][0], "time": batch["time"][0]}
    stored = tree["s2l1c"]["s2l1c"].sel(where).sel(band=RGB["s2l1c"]).values
    np.testing.assert_array_equal(
        batch["pixels"][0], np.pad(stored, ((0, 0), (before, 16 - before), (before, 16 - before)), mode="reflect")
    )
    inner = slice(before, before + 48)
    assert (np.delete(batch["target"], inner, axis=1) == 255).all()
    assert (np.delete(batch["target"], inner, axis=2) == 255).all()
    np.testing.assert_array_equal(batch["target"][0, inner, inner], tree.cloudsen12.classes("fmask").sel(where))


def test_physical_values_are_the_accessors(tree: xr.DataTree) -> None:
    batch = next(iter(stream(tree, normalise="physical", augment=False)))
    where = {"roi": batch["roi"][1], "time": batch["time"][1]}
    expected = tree.cloudsen12.reflectance(RGB["s2l1c"]).sel(where)
    assert batch["pixels"].dtype == np.float32
    np.testing.assert_allclose(batch["pixels"][1], expected, rtol=1e-6)


def test_a_flipped_byte_is_an_error_that_names_the_shard(cube: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    stored = stored_cube(c12.open_cube(copy))
    chunks = Chunks(stored.objects, stored.layout("s2l1c"))
    offset, length = map(int, chunks.index(0)[1][3])
    key = shard_key("s2l1c", 0)
    data = bytearray((copy / key).read_bytes())
    for spot, message in ((offset + length // 2, "B4 at time 1"), (len(data) - 20, "its index")):
        spoilt = data.copy()
        spoilt[spot] ^= 4
        (copy / key).write_bytes(spoilt)
        with pytest.raises(StoreError, match=f"{key} is damaged.*{message}"):
            list(stream(c12.open_cube(copy), None))


def test_batches_that_are_kept_stay_what_they_were(tree: xr.DataTree) -> None:
    """More batches than there are slabs: a consumer that collects them neither waits for ever nor sees them change."""
    made = stream(tree, batch_size=1)
    kept = list(made)
    assert len(kept) == 20 > made.limits.buffers
    for batch in kept:
        where = {"roi": batch["roi"][0], "time": batch["time"][0]}
        expected = tree["s2l1c"]["s2l1c"].sel(where).sel(band=RGB["s2l1c"])
        np.testing.assert_array_equal(batch["pixels"][0], expected)
    part = kept[4]["pixels"][0, 1]
    copy = part.copy()
    del kept, batch
    gc.collect()
    list(made)
    np.testing.assert_array_equal(part, copy)  # a view of a view keeps its batch alive


def test_memory_is_bounded_and_used_again(tree: xr.DataTree) -> None:
    made = stream(tree, batch_size=1, prefetch_bytes=2 * (3 * 48 * 48 * 2 + 48 * 48))
    assert made.limits.buffers == 2
    places = set()
    alive: list[weakref.ref[Any]] = []
    for _ in range(3):
        for batch in made:
            places.add(batch["pixels"].ctypes.data)
            alive.append(weakref.ref(batch["pixels"]))
    del batch
    assert len(places) == 2
    assert not any(ref() is not None for ref in alive)
    with pytest.raises(ValueError, match="two batches need"):
        stream(tree, batch_size=1, prefetch_bytes=10_000)


def test_leaving_early_leaves_no_thread(tree: xr.DataTree) -> None:
    before = threading.active_count()
    made = stream(tree, batch_size=1)
    for _ in range(20):
        for _batch in made:
            break
    gc.collect()
    assert threading.active_count() == before
    assert len(list(made)) == 20  # nor has it lost the memory of its batches
    assert made.limits.buffers == 3


def test_weights_of_values(tree: xr.DataTree) -> None:
    made = stream(tree, weights={"cloud_coverage": {"cloudy": 3.0, "cloud-free": 0.0}}, batch_size=20)
    coverage = made.patches.set_index(["roi", "time"])["cloud_coverage"].to_dict()
    drawn = [coverage[key] for key in keys(iter(made))[0]]
    assert "cloud-free" not in drawn
    assert drawn.count("cloudy") >= 2 * drawn.count("low-cloudy") > 0
    even = stream(tree, weights="cloud_coverage").weights
    shares = {name: even[made.patches["cloud_coverage"] == name].sum() for name in set(coverage.values())}
    assert np.allclose(list(shares.values()), 1.0)
    with pytest.raises(ValueError, match="weights is 'cloud'"):
        stream(tree, weights="cloud")
    with pytest.raises(KeyError, match="no property 'colour'"):
        stream(tree, weights={"colour": {}})


@pytest.mark.parametrize(
    ("inputs", "target", "error", "message"),
    [
        ({}, None, ValueError, "inputs is empty"),
        ({"s3": None}, None, KeyError, "no product 's3' in this cube; it has s2l1c"),
        ({"s2l1c": ["B4", "B99"]}, None, KeyError, "no band 'B99' in s2l1c; it has B1"),
        ({"s2l1c": []}, None, ValueError, "the bands of s2l1c are empty"),
        (RGB, "unet", KeyError, "no label layer 'unet'; the layers are manual_hq"),
    ],
)
def test_wrong_wishes(tree: xr.DataTree, inputs: Any, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tree.cloudsen12.stream(inputs, target)


def test_a_tree_without_a_store_is_refused(tree: xr.DataTree) -> None:
    loose = xr.DataTree.from_dict({path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys})
    loose.encoding = {}
    with pytest.raises(StoreError, match="does not know its store"):
        loose.cloudsen12.stream(RGB)


def test_explain_says_what_is_read(tree: xr.DataTree) -> None:
    told = stream(tree).explain(0.05)
    assert (told.patches, told.shards, told.batches) == (20, 8, 7)
    assert told.shape == (3, 3, 48, 48)
    assert told.requests == 6  # three bands that lie together, and a label
    assert told.bytes_fetched > 0
    assert told.rate > 0
    assert told.limit in ("fetch", "decode", "copy")
    assert "20 patches of 8 shards" in str(told)


def test_what_lies_together_is_one_request_and_each_index_one(tree: xr.DataTree, monkeypatch: Any) -> None:
    asked: list[str] = []
    get = LocalStore.get

    def counted(store: LocalStore, key: str, start: int = 0, *rest: Any) -> Any:
        path, chunk, _ = key.partition("/c/")
        if chunk and len(set(path.split("/"))) == 1:  # of pixels, not of the catalogue
            asked.append(f"tail {key}" if start < 0 else "read")
        return get(store, key, start, *rest)

    monkeypatch.setattr(LocalStore, "get", counted)
    made = stream(tree, None)
    asked.clear()  # making it compares three patches of a dask graph with the store
    for _ in range(2):
        list(made)
    assert asked.count("read") == 2 * 20
    assert len([a for a in asked if a != "read"]) == len({a for a in asked if a != "read"}) == 4


def test_a_remote_cube_gives_the_same(cube: Path, tree: xr.DataTree) -> None:
    """Through fsspec, with threads that fetch beside those that decode."""
    fs = fsspec.filesystem("memory")
    for path in Path(cube).rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/streamed.zarr/{path.relative_to(cube)}", path.read_bytes())
    remote = c12.open_cube("memory://streamed.zarr")
    made = stream(remote, "manual_hq")
    assert made.limits.connections == 32
    for a, b in zip(made, stream(tree, "manual_hq"), strict=True):
        assert keys(iter([a])) == keys(iter([b]))
        np.testing.assert_array_equal(a["pixels"], b["pixels"])
        np.testing.assert_array_equal(a["target"], b["target"])


def test_a_forked_connection_is_refused(monkeypatch: Any) -> None:
    objects = open_store("memory://nothing.zarr")
    assert isinstance(objects, UrlStore)
    assert objects.get("no") is None
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="multiprocessing_context='spawn'"):
        objects.get("no")
    assert pickle.loads(pickle.dumps(objects)).get("no") is None  # noqa: S301  # as a spawned worker gets it


def test_an_arena_gives_nothing_twice_before_it_is_reset() -> None:
    arena = Arena()
    parts = [arena.take(size) for size in (10, 5, 3000, 7, 1)]
    for number, part in enumerate(parts):
        part[:] = bytes([number]) * len(part)
    assert [bytes(part) for part in parts] == [bytes([n]) * s for n, s in enumerate((10, 5, 3000, 7, 1))]
    arena.reset()
    again = arena.take(7)
    again[:] = b"again.."
    assert bytes(parts[0]) == bytes(10)

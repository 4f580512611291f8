"""Layout arithmetic, and shards against zarr-python's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudsen12_cube.format.layout import ProductLayout, fill_value, shard_key, stored_dtype
from cloudsen12_cube.format.metadata import reference_codec
from cloudsen12_cube.format.shard import assemble, encode_chunk
from cloudsen12_cube.schema.assets import PRODUCTS, ProductName


def by_zarr(layout: ProductLayout, pixels: np.ndarray[Any, Any]) -> bytes | None:
    """Encode a shard with zarr-python."""
    memory: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(memory),
        shape=layout.shard,
        chunks=layout.shard,
        dtype=layout.dtype,
        fill_value=layout.fill,
        serializer=reference_codec(layout),
        compressors=None,
        filters=None,
    )
    array[...] = pixels[None]
    made = memory.get("c/0/0/0/0/0")
    return None if made is None else bytes(made.to_bytes())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRODUCTS), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.data())
def test_shards_equal_zarr_pythons_byte_for_byte(
    product: ProductName, times: int, height: int, width: int, data: st.DataObject
) -> None:
    dtype = {"s1": "float32", "labels": "uint16"}.get(product, data.draw(st.sampled_from(["int16", "uint16"])))
    layout = ProductLayout(product, dtype, times, height, width)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = random.integers(0, 500, layout.shard[1:]).astype(dtype)
    empty = random.random(layout.shard[1:3]) < 0.3
    pixels[empty] = layout.fill
    chunks = [encode_chunk(pixels[t, b], layout) for t in range(times) for b in range(len(layout.bands))]
    if empty.all():
        assert not any(chunks)
    else:
        assert assemble(chunks) == by_zarr(layout, pixels)


def test_only_a_whole_plane_of_fill_is_left_out() -> None:
    layout = ProductLayout("s1", "float32", 1, 4, 4)
    plane = np.full((4, 4), np.nan, "float32")
    assert encode_chunk(plane, layout) == b""
    plane[3, 3] = 0
    assert encode_chunk(plane, layout)


@pytest.mark.parametrize(
    ("product", "dtypes", "stored"),
    [
        ("s2l1c", ["int16"], "int16"),
        ("s2l1c", ["uint16"], "uint16"),
        ("s2l1c", ["int16", "uint16"], "int32"),
        ("extra", ["int16", "uint8"], "int16"),
        ("labels", ["uint8"], "uint16"),
        ("labels", ["uint8", "uint16", "float32"], "uint16"),
        ("labels", ["uint8", "int16"], "int16"),
        ("s1", [">f4"], "float32"),
        ("s1", ["float32", "float64"], "float64"),
    ],
)
def test_the_smallest_type_that_holds_all(product: ProductName, dtypes: list[str], stored: str) -> None:
    assert stored_dtype(product, map(np.dtype, dtypes)) == stored


def test_fill_is_never_zero() -> None:
    for product in PRODUCTS:
        for dtype in ("int16", "uint16", "int32", "float32"):
            assert fill_value(product, dtype) != 0


def test_one_roi_is_one_object() -> None:
    layout = ProductLayout("s2l1c", "int16", 5, 509, 509)
    assert layout.shard == (1, 5, 13, 509, 509)
    assert layout.chunk == (1, 1, 1, 509, 509)
    assert layout.shard_bytes == 5 * 13 * 509 * 509 * 2
    assert shard_key("s2l1c", 7) == "s2l1c/s2l1c/c/7/0/0/0/0"

"""Dates cut out of a shard's bytes, against shards that were encoded from the dates that are kept."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.layout import ProductLayout
from cloudsen12_cube.format.shard import assemble, encode_chunk, split
from cloudsen12_cube.schema.assets import PRODUCTS, ProductName


def planes(layout: ProductLayout, seed: int) -> np.ndarray[Any, Any]:
    """Pixels (time, band, y, x), about a third of the planes nothing but fill."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 500, layout.shard[1:]).astype(layout.dtype)
    pixels[random.random(layout.shard[1:3]) < 0.3] = layout.fill
    return pixels


def encoded(pixels: np.ndarray[Any, Any], layout: ProductLayout) -> list[bytes]:
    return [encode_chunk(plane, layout) for date in pixels for plane in date]


def cut(data: bytes, layout: ProductLayout, dates: list[int], times: int) -> bytes:
    """Give the shard of some dates, as a subset makes it."""
    chunks = split(data, layout) if data else [(b"",) * layout.chunks_a_date] * layout.times
    kept = [chunk for date in dates for chunk in chunks[date]]
    kept += [b""] * (times * layout.chunks_a_date - len(kept))
    return assemble(kept) if any(map(len, kept)) else b""


@settings(max_examples=60)
@given(st.sampled_from(PRODUCTS), st.integers(1, 5), st.integers(0, 99), st.data())
def test_it_is_the_shard_of_the_dates_that_are_kept(
    product: ProductName, times: int, seed: int, data: st.DataObject
) -> None:
    layout = ProductLayout(product, "float32" if product == "s1" else "int16", times, 5, 4)
    dates = data.draw(st.permutations(range(times)))[: data.draw(st.integers(0, times))]
    room = data.draw(st.integers(len(dates), times))
    pixels = planes(layout, seed)
    whole = encoded(pixels, layout)
    expected = [c for date in dates for c in encoded(pixels[[date]], layout)]
    expected += [b""] * (room * len(layout.bands) - len(expected))
    made = cut(assemble(whole) if any(whole) else b"", layout, dates, room)
    assert made == (assemble(expected) if any(expected) else b"")


def test_chunks_may_lie_in_any_order() -> None:
    layout = ProductLayout("s1", "int16", 2, 3, 3)
    chunks = encoded(np.arange(54, dtype="int16").reshape(2, 3, 3, 3), layout)
    body, index = b"", [0] * 12
    for number in (4, 0, 5, 2, 1, 3):
        index[2 * number : 2 * number + 2] = len(body), len(chunks[number])
        body += chunks[number]
    table = struct.pack("<12Q", *index)
    shuffled = body + table + struct.pack("<I", google_crc32c.value(table))
    for dates in ([0], [1], [1, 0]):
        assert cut(shuffled, layout, dates, 2) == cut(assemble(chunks), layout, dates, 2)


@pytest.mark.parametrize("byte", [-1, -5, -60, 0])
def test_a_damaged_index_is_an_error_and_a_damaged_chunk_is_not_looked_at(byte: int) -> None:
    layout = ProductLayout("s1", "int16", 2, 3, 3)
    data = bytearray(assemble(encoded(np.arange(54, dtype="int16").reshape(2, 3, 3, 3), layout)))
    data[byte] ^= 1
    if byte == 0:
        assert len(cut(bytes(data), layout, [0], 1)) > 0
        return
    with pytest.raises(StoreError, match="index"):
        cut(bytes(data), layout, [0], 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 10**6), "its index is damaged"),  # longer than any chunk of the layout
        ((10**6, 1), "out of the object"),
        ((30, 20), "out of the object"),
        ((2**63, 2**63), "its index is damaged"),
    ],
)
def test_an_index_that_leads_out_of_the_object(row: tuple[int, int], message: str) -> None:
    layout = ProductLayout("s1", "int16", 1, 3, 3)
    table = struct.pack("<6Q", *row, *([2**64 - 1] * 4))
    with pytest.raises(StoreError, match=message):
        cut(b"x" * 40 + table + struct.pack("<I", google_crc32c.value(table)), layout, [0], 1)

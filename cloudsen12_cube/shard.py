"""The bytes of a shard: inner chunks encoded one by one, then an index of where each lies.

The format is Zarr v3's ``sharding_indexed`` codec with the index at the end and the chunks in C order, which is what
zarr-python writes too, byte for byte (the tests compare). Written here because a whole shard through zarr-python costs
about twice the CPU of compressing it, and because a patch is encoded, and its memory freed, before the next is read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from cloudsen12_cube.codec import CRC, encode
from cloudsen12_cube.layout import Layout, ProductLayout

ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not stored."""

_PLAIN = Layout("none")


def encode_chunk(pixels: npt.NDArray[Any], layout: ProductLayout) -> bytes:
    """Encode a chunk as its layout says: little-endian bytes, compressed, with a crc32c behind.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (y, x) or (band, y, x)
        In the layout's data type: one band of one date, or all of them.

    Returns
    -------
    bytes
        Empty where every pixel is the fill: such a chunk is not stored.
    """
    if is_fill(pixels, layout.fill):
        return b""
    little = np.asarray(pixels, dtype=np.dtype(layout.dtype).newbyteorder("<"))
    return encode(little, layout.form.codec, layout.form.level or 0)


def by_plane(layout: ProductLayout) -> ProductLayout:
    """Give the layout in which a patch is to be encoded, plane by plane: its own, or one that costs nothing."""
    return layout if layout.form.chunk == "band" else replace(layout, form=_PLAIN)


def joined(planes: Sequence[bytes], layout: ProductLayout) -> tuple[bytes, ...]:
    """Make the chunks of one patch from its planes, which were encoded `by_plane`, one a band."""
    if layout.form.chunk == "band":
        return tuple(planes)
    pixels = np.empty((len(planes), layout.plane_bytes), dtype=np.uint8)
    values = pixels.view(np.dtype(layout.dtype).newbyteorder("<"))
    for band, plane in enumerate(planes):
        if plane:
            pixels[band] = np.frombuffer(plane, dtype=np.uint8, count=len(plane) - CRC)
        else:
            values[band] = layout.fill
    return (encode_chunk(values, layout),)


def is_fill(plane: npt.NDArray[Any], fill: float) -> bool:
    """Tell whether pixels are nothing but the fill value (for floats: NaN)."""
    if np.isnan(fill):
        return bool(np.isnan(plane.flat[0]) and np.isnan(plane).all())
    return bool(plane.flat[0] == fill and (plane == fill).all())


def assemble(chunks: Sequence[bytes]) -> bytes:
    """Join encoded chunks, in C order of (roi, time, band), into one shard.

    Returns
    -------
    bytes
        The chunks, then the index: offset and length of each as uint64, and a crc32c of the index.
    """
    index: list[int] = []
    offset = 0
    for chunk in chunks:
        index += [offset, len(chunk)] if chunk else [ABSENT, ABSENT]
        offset += len(chunk)
    table = struct.pack(f"<{len(index)}Q", *index)
    return b"".join([*chunks, table, struct.pack("<I", google_crc32c.value(table))])

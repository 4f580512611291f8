"""The bytes of a shard: inner chunks encoded one by one, then an index of where each lies.

The format is Zarr v3's ``sharding_indexed`` codec with the index at the end and the chunks in C order, which is what
zarr-python writes too, byte for byte (the tests compare). Written here because a whole shard through zarr-python costs
about twice the CPU of compressing it, and because a patch is encoded, and its memory freed, before the next is read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc

from cloudsen12_cube.layout import CODEC, ProductLayout

_ABSENT = 2**64 - 1  # offset and length of a chunk that is not stored


def compressor() -> Any:
    """Make the numcodecs object that compresses one chunk."""
    return Blosc("zstd", clevel=CODEC.level, shuffle=Blosc.SHUFFLE, blocksize=CODEC.blocksize)


def encode_chunk(plane: npt.NDArray[Any], layout: ProductLayout) -> bytes:
    """Encode one band of one date: little-endian bytes, compressed, with a crc32c behind.

    Parameters
    ----------
    plane : numpy.ndarray, shape (y, x)
        Pixels in the layout's data type.

    Returns
    -------
    bytes
        Empty where every pixel is the fill: such a chunk is not stored.
    """
    if is_fill(plane, layout.fill):
        return b""
    little = np.ascontiguousarray(plane, dtype=np.dtype(layout.dtype).newbyteorder("<"))
    data = bytes(compressor().encode(little))
    return data + struct.pack("<I", google_crc32c.value(data))


def is_fill(plane: npt.NDArray[Any], fill: float) -> bool:
    """Tell whether a plane holds nothing but the fill value (for floats: NaN)."""
    if np.isnan(fill):
        return bool(np.isnan(plane.flat[0]) and np.isnan(plane).all())
    return bool(plane.flat[0] == fill and (plane == fill).all())


def assemble(chunks: Sequence[bytes]) -> bytes:
    """Join encoded chunks, in C order of (time, band), into one shard.

    Returns
    -------
    bytes
        The chunks, then the index: offset and length of each as uint64, and a crc32c of the index.
    """
    index: list[int] = []
    offset = 0
    for chunk in chunks:
        index += [offset, len(chunk)] if chunk else [_ABSENT, _ABSENT]
        offset += len(chunk)
    table = struct.pack(f"<{len(index)}Q", *index)
    return b"".join([*chunks, table, struct.pack("<I", google_crc32c.value(table))])

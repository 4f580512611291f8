"""The bytes of an inner chunk: values, perhaps compressed, and a crc32c behind, without which a flipped bit is a pixel.

Blosc frames name their own compressor, so what is declared decides how chunks are written, and whether there is a frame
at all. Which codec pays where stands in ``docs/how-to/layouts.md``.
"""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc, blosc

from cloudsen12_cube.format.layout import BLOCKS, CodecName

CRC = 4
"""Bytes of a crc32c."""

_HEADER = 16  # bytes of a Blosc frame's header, which says how long the values are


def encode(values: npt.NDArray[Any], name: CodecName, level: int) -> bytes:
    """Encode values, little-endian and in C order, with a crc32c behind.

    Parameters
    ----------
    values : numpy.ndarray
        Of a chunk, in little-endian byte order.
    name : {"zstd", "lz4", "none"}
    level : int
        1 to 9; without meaning for ``none``.
    """
    if name == "none":
        data = values.tobytes()
    else:
        data = bytes(Blosc(name, level, Blosc.SHUFFLE, BLOCKS[name]).encode(np.ascontiguousarray(values)))
    return data + struct.pack("<I", google_crc32c.value(data))


def decode(chunk: bytes | memoryview, name: CodecName, out: npt.NDArray[Any]) -> bool:
    """Decode a chunk into contiguous memory.

    Returns
    -------
    bool
        False if the bytes are damaged: nothing that was decoded may be used then.
    """
    if not intact(chunk):
        return False
    body = memoryview(chunk)[:-CRC]
    if name == "none":
        if len(body) != out.nbytes:
            return False
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(body, dtype=np.uint8)
        return True
    if len(body) < _HEADER or struct.unpack_from("<I", body, 4)[0] != out.nbytes:
        return False
    blosc.decompress(body, out)
    return True


def intact(data: bytes | memoryview) -> bool:
    """Compare bytes with the crc32c at their end; numpy lends them without a copy, which a memoryview may not."""
    view = np.frombuffer(data, dtype=np.uint8)
    if len(view) < CRC:
        return False
    return bool(google_crc32c.value(view[:-CRC]) == struct.unpack("<I", view[-CRC:])[0])

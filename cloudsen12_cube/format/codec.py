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

_HEADER = struct.Struct("<BBBBIII")
"""Header of a Blosc frame: versions of Blosc and compressor, flags, type size, bytes, block, bytes of the frame."""

_COMPRESSORS = {"lz4": 1, "zstd": 4}
"""Codec -> the format of its streams, which stands in the upper bits of the flags."""

_COPIED = 0x02  # flag: the values follow as they are
_FLAGS = 0x01 | _COPIED | 0x10  # byte shuffle, copied, blocks that are not split into streams


def longest(nbytes: int) -> int:
    """Return the most bytes that an encoded chunk of so many bytes of values can have."""
    return nbytes + _HEADER.size + CRC


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
    if not is_encoded(chunk, name, out.nbytes):
        return False
    body = memoryview(chunk)[:-CRC]
    if name == "none":
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(body, dtype=np.uint8)
        return True
    try:
        blosc.decompress(body, out)
    except RuntimeError:  # streams that do not decode to the bytes that the header states
        return False
    return True


def is_encoded(chunk: bytes | memoryview, name: CodecName, nbytes: int) -> bool:
    """Return whether a chunk has its crc32c, and may be decoded to so many bytes.

    Parameters
    ----------
    chunk : bytes
    name : {"zstd", "lz4", "none"}
        Codec of the layout.
    nbytes : int
        Bytes of the decoded chunk.
    """
    if not intact(chunk):
        return False
    body = memoryview(chunk)[:-CRC]
    return is_frame(body, name, nbytes) if name != "none" else bool(len(body) == nbytes)


def is_frame(body: bytes | memoryview, name: CodecName, nbytes: int) -> bool:
    """Compare a Blosc frame with its header, which c-blosc trusts: what lies beyond the bytes would become pixels.

    Parameters
    ----------
    body : bytes
        A chunk without its crc32c.
    name : {"zstd", "lz4"}
        Codec of the layout.
    nbytes : int
        Bytes of the decoded chunk.

    Returns
    -------
    bool
        Whether the frame states exactly the bytes at hand and the bytes of the chunk, and its blocks start within it.
    """
    if len(body) < _HEADER.size:
        return False
    version, stream_version, flags, itemsize, stated, block, length = _HEADER.unpack_from(body)
    if (version, stream_version, stated, length) != (2, 1, nbytes, len(body)) or not itemsize:
        return False
    if flags & 0x1F & ~_FLAGS or flags >> 5 != _COMPRESSORS[name] or not 0 < block <= nbytes:
        return False
    if flags & _COPIED:
        return bool(length == nbytes + _HEADER.size)
    starts = _HEADER.size + 4 * -(-nbytes // block)
    if length < starts + 4:
        return False
    found = np.frombuffer(body, dtype="<i4", count=-(-nbytes // block), offset=_HEADER.size)
    return bool((found >= starts).all() and (found <= length - 4).all())


def intact(data: bytes | memoryview) -> bool:
    """Compare bytes with the crc32c at their end; numpy lends them without a copy, which a memoryview may not."""
    view = np.frombuffer(data, dtype=np.uint8)
    if len(view) < CRC:
        return False
    return bool(google_crc32c.value(view[:-CRC]) == struct.unpack("<I", view[-CRC:])[0])

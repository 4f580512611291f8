"""Mutated Blosc frames under a guard: none may end the process, and none may decode to bytes that are not its own.

Each frame lies at the end of a mapped region that is followed by a page that cannot be read, so that a decoder which
reads beyond it ends the process; and each is decoded twice, into memory and beside memory of different contents.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import Any

import google_crc32c
import numpy as np

from benchmarks.common import Settings, call
from cloudsen12_cube.format.codec import CRC, decode, encode

_SHAPE = (61, 67)
_FIELDS = struct.Struct("<BBBBIII")
_EDGES = (0, 1, 2, 4, 15, 16, 17, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1)


def run(settings: Settings) -> None:
    """Print how many of 100,000 mutated frames were refused, and how many were decoded."""
    del settings
    found = call("benchmarks.frames:fuzz", (100_000, 0))["result"]
    print(f"frames: {found['refused']:,} refused, {found['decoded']:,} decoded, {found['unstable']} of them unstable")


class Guard:
    """Memory whose last byte is followed by a page that cannot be read."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self._end = -(-size // page) * page
        self._map = mmap.mmap(-1, self._end + page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + self._end), page, 0):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def hold(self, data: bytes) -> memoryview:
        """Copy bytes to the end of the memory."""
        view = memoryview(self._map)[self._end - len(data) : self._end]
        view[:] = data
        return view


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Decode mutated frames, in a process that may end by it.

    Parameters
    ----------
    count, seed : int

    Returns
    -------
    dict
        ``refused``, ``decoded`` and ``unstable``: those whose pixels depend on what was in memory before.
    """
    random = np.random.default_rng(seed)
    guard = Guard(4 * _SHAPE[0] * _SHAPE[1] + 4096)
    result = {"refused": 0, "decoded": 0, "unstable": 0}
    outs = [np.empty(_SHAPE, "<u2") for _ in range(2)]
    whole = [_frame(random, name) for name in ("zstd", "lz4") for _ in range(8)]
    for _ in range(count):
        name, frame = whole[int(random.integers(len(whole)))]
        body = _mutated(frame, random)
        chunk = guard.hold(body + struct.pack("<I", google_crc32c.value(body)))
        decoded = []
        for out, before in zip(outs, (0x5555, 0xAAAA), strict=True):
            out.fill(before)
            _dirty(before)
            decoded.append(decode(chunk, name, out))
        result["decoded" if all(decoded) else "refused"] += 1
        result["unstable"] += decoded[0] != decoded[1] or bool(decoded[0] and (outs[0] != outs[1]).any())
    return result


def _frame(random: np.random.Generator, name: Any) -> tuple[Any, bytes]:
    high = int(random.choice([2, 50, 3000, 65535]))
    values = np.sort(random.integers(0, high, _SHAPE), axis=1).astype("<u2")
    return name, encode(values, name, int(random.integers(1, 10)))[:-CRC]


def _mutated(frame: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(frame)
    for _ in range(int(random.integers(1, 4))):
        how = int(random.integers(5))
        if how == 0:  # a field of the header
            fields = list(_FIELDS.unpack_from(data)) if len(data) >= _FIELDS.size else [0] * 7
            at = int(random.integers(7))
            edge = int(random.choice([*_EDGES, len(data), fields[at] + 1, fields[at] - 1]))
            fields[at] = edge % (256 if at < 4 else 2**32)
            data[: _FIELDS.size] = _FIELDS.pack(*fields)
        elif how == 1 and len(data) > 24:  # the start or the length of a stream
            struct.pack_into("<i", data, 16 + 4 * int(random.integers(2)), int(random.integers(-(2**31), 2**31)))
        elif how == 2 and data:  # a bit
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        elif how == 3:  # cut, with a header that fits
            del data[int(random.integers(16, len(data) + 1)) if len(data) >= 16 else 0 :]
            if len(data) >= 16:
                struct.pack_into("<I", data, 12, len(data))
        elif data:  # a run of junk
            at = int(random.integers(len(data)))
            data[at : at + 8] = random.bytes(min(8, len(data) - at))
    return bytes(data)


def _dirty(value: int) -> None:
    """Leave memory of known contents for the decoder's own buffers."""
    junk = [np.full(n, value, "<u2") for n in (2048, 4096, 8192, 65536)]
    del junk

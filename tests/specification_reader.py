"""A reader of cubes made from the page of the specification alone, ``docs/specification.md``.

It uses JSON, struct, two decompressors and a checksum: no Zarr library, nothing of the package.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc, Zstd

NOT_STORED = 2**64 - 1


class Reader:
    """A reader of layout versions 1 and 2, written from the page."""

    def __init__(self, place: Path) -> None:
        self.place = place
        root = json.loads((place / "zarr.json").read_bytes())
        self.settings = root["attributes"]["cloudsen12"]
        assert self.settings["layout_version"] in (1, 2)
        assert self.settings["state"] in ("converting", "final")
        self.nodes = root["consolidated_metadata"]["metadata"]

    def column(self, path: str) -> npt.NDArray[Any]:
        """Read a property array."""
        node = self.nodes[path]
        chunk = node["chunk_grid"]["configuration"]["chunk_shape"]
        key = "/".join(["c", *("0" for _ in chunk)])
        data = Zstd().decode(checked((self.place / path / key).read_bytes()))
        values = texts(data) if node["data_type"] == "string" else np.frombuffer(data, little(node["data_type"]))
        return values.reshape(chunk)[tuple(slice(size) for size in node["shape"])]

    def patch(self, product: str, index: int, time: int, band: int) -> npt.NDArray[Any]:
        """Read one band of one patch, (y, x)."""
        node = self.nodes[f"{product}/{product}"]
        rois, times, bands, height, width = node["chunk_grid"]["configuration"]["chunk_shape"]
        described = self.settings["products"][product]
        together = described["chunk"][2]
        dtype = little(node["data_type"])
        fill = math.nan if node["fill_value"] == "NaN" else node["fill_value"]
        nothing = np.full((height, width), fill, dtype)
        shard = self.place / product / product / "c" / str(index // rois) / "0/0/0/0"
        if not shard.exists() or self.column(f"{product}/status")[index, time] != 1:
            return nothing
        data = shard.read_bytes()
        count = rois * times * bands // together
        table = checked(data[-16 * count - 4 :])
        number = ((index % rois) * times + time) * (bands // together) + band // together
        offset, length = struct.unpack_from("<2Q", table, 16 * number)
        if offset == NOT_STORED and length == NOT_STORED:
            return nothing
        chunk = checked(data[offset : offset + length])
        values = chunk if described["codec"][0] == "none" else Blosc().decode(chunk)
        return np.frombuffer(values, dtype).reshape(together, height, width)[band % together]


def checked(data: bytes) -> bytes:
    body, stated = data[:-4], struct.unpack("<I", data[-4:])[0]
    assert google_crc32c.value(body) == stated
    return body


def little(name: str) -> np.dtype[Any]:
    return np.dtype(name).newbyteorder("<")


def texts(data: bytes) -> npt.NDArray[Any]:
    found, at = [], 4
    for _ in range(struct.unpack_from("<I", data)[0]):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size].decode())
        at += 4 + size
    assert at == len(data)
    return np.array(found, dtype=object)


def same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    return bool(np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"))

"""What a cube states and holds is checked before zarr decodes it: a cube may come from anyone.

zarr trusts the metadata of a store, and c-blosc trusts the header of a frame. So the arrays that a root describes must
be those that this package writes, and of bounded size; and each chunk must fit its array before it is decoded.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.codec import CRC, intact, is_encoded
from cloudsen12_cube.format.cube import StoredCube
from cloudsen12_cube.format.layout import ROOT_KEY, ProductLayout, array_path
from cloudsen12_cube.format.shard import decode_index, stored_chunks
from cloudsen12_cube.storage import Part, ZarrView, absolute

MOST_VALUES = 50_000_000
"""Values of an array other than pixels: a thousand times those of the published archive's largest property."""

MOST_BYTES = 2**28
"""Bytes of such an array."""

_ZSTD = struct.Struct("<IB")
_MAGIC = 0xFD2FB528
_PLAIN_CODECS = {"bytes", "vlen-utf8", "zstd", "crc32c"}
"""Codecs of arrays other than pixels. Others, such as numcodecs.pickle, may run code from the store."""


def checked_view(cube: StoredCube) -> ZarrView:
    """Return what zarr and xarray open of a cube: a read-only zarr store which checks all that it reads.

    Parameters
    ----------
    cube : StoredCube

    Raises
    ------
    StoreError
        If the root describes an array that this package does not write, or one of unreasonable size.
    """
    layouts = {array_path(name): layout for name, layout in cube.layouts.items()}
    _check_arrays(cube, layouts)
    return ZarrView(absolute(cube.store), ChunkCheck(layouts), {ROOT_KEY: json.dumps(cube.document).encode()})


def _check_arrays(cube: StoredCube, layouts: Mapping[str, ProductLayout]) -> None:
    """Check every array that the root describes."""
    try:
        nodes = cube.document["consolidated_metadata"]["metadata"]
        rois = nodes["roi"]["shape"][0]
        missing = sorted(layouts.keys() - nodes.keys())
        if missing:
            raise ValueError(f"{missing[0]} is not described")
        for path, node in nodes.items():
            if node["node_type"] == "array" and node["zarr_format"] == 3:
                _check_array(path, node, layouts.get(path), rois)
            elif (node["node_type"], node["zarr_format"]) != ("group", 3):
                raise ValueError(f"{path} is {node['node_type']!r} of Zarr format {node['zarr_format']!r}")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        text = f"{error} is not there" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{cube.store.root}/{ROOT_KEY} is damaged, or not of this package: {text}. Restore the file from a copy, "
            "or run `finalise`"
        ) from None


def _check_array(path: str, node: Mapping[str, Any], layout: ProductLayout | None, rois: int) -> None:
    shape, grid = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    if not all(type(size) is int and size >= 0 for size in (*shape, *grid)) or len(shape) != len(grid):
        raise ValueError(f"{path} has the shape {shape} and chunks of {grid}")
    names = [codec["name"] for codec in node["codecs"]]
    if not _fits(node["fill_value"], node["data_type"]):
        raise ValueError(f"the fill value of {path} is {node['fill_value']!r}, its data type {node['data_type']!r}")
    if layout is None:
        if max(math.prod(shape), math.prod(grid)) > MOST_VALUES:
            raise ValueError(f"{path} has the shape {shape} and chunks of {grid}, more than {MOST_VALUES} values")
        if not names or not set(names) <= _PLAIN_CODECS or names[-1] != "crc32c":
            raise ValueError(f"{path} has the codecs {names}, expected {sorted(_PLAIN_CODECS)}, crc32c last")
        return
    expected: dict[str, Any] = {
        "shape": list(layout.shape(rois)),
        "chunks": list(layout.shard),
        "data type": layout.dtype,
        "codecs": ["sharding_indexed"],
    }
    found = {"shape": shape, "chunks": grid, "data type": node["data_type"], "codecs": names}
    if names == ["sharding_indexed"]:
        sharding = node["codecs"][0]["configuration"]
        inner = ["bytes", "crc32c"] if layout.form.codec == "none" else ["bytes", "blosc", "crc32c"]
        expected |= {"inner chunk": list(layout.chunk), "inner codecs": inner, "index": (["bytes", "crc32c"], "end")}
        found |= {
            "inner chunk": sharding["chunk_shape"],
            "inner codecs": [codec["name"] for codec in sharding["codecs"]],
            "index": ([codec["name"] for codec in sharding["index_codecs"]], sharding["index_location"]),
        }
    for name, value in found.items():
        if value != expected[name]:
            raise ValueError(f"the {name} of {path} is {value}, expected {expected[name]}")


def _fits(fill: Any, data_type: Any) -> bool:
    if data_type == "string":
        return type(fill) is str
    return type(fill) in (int, float) or fill in ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True)
class ChunkCheck:
    """The check of what a `ZarrView` reads of a cube."""

    layouts: Mapping[str, ProductLayout]
    """Path of the array of each product -> its layout."""

    def __call__(self, key: str, data: bytes, part: Part) -> str:
        """Check an object, or a part of one, before zarr sees it.

        Parameters
        ----------
        key : str
        data : bytes
        part : {"whole", "range", "suffix"}

        Returns
        -------
        str
            What is wrong with it; empty if nothing is.
        """
        path, chunk, _ = key.rpartition("/c/")
        if not chunk:
            return ""
        layout = self.layouts.get(path)
        if layout is None:
            return _wrong_values(data) if part == "whole" else "it was not read as a whole"
        if part == "suffix":
            return "" if decode_index(data, layout) is not None else "its index is damaged"
        if part == "range":
            return "" if is_encoded(data, layout.form.codec, layout.chunk_bytes) else "a chunk is damaged"
        return damage_of(data, layout)


def damage_of(data: bytes, layout: ProductLayout) -> str:
    """Check the index and every chunk of a shard; nothing is decoded.

    Parameters
    ----------
    data : bytes
        The object of the shard.
    layout : ProductLayout

    Returns
    -------
    str
        What is wrong with it; empty if nothing is.
    """
    codec, nbytes = layout.form.codec, layout.chunk_bytes
    try:
        whole = all(is_encoded(chunk, codec, nbytes) for chunk in stored_chunks(data, layout))
    except StoreError as error:
        return str(error)
    return "" if whole else "a chunk is damaged"


def _wrong_values(data: bytes) -> str:
    """Check a chunk of an array that is no pixels: its checksum, and how much memory its frame asks for."""
    if not intact(data):
        return "its checksum does not fit"
    size = _zstd_size(data[:-CRC])
    if size is None or size > MOST_BYTES:
        return f"it states {'no size' if size is None else f'{size} bytes'}, expected {MOST_BYTES} at most"
    return ""


def _zstd_size(frame: bytes) -> int | None:
    """Read the decoded size from the header of a zstd frame (RFC 8878); None if it is not stated."""
    if len(frame) < _ZSTD.size or _ZSTD.unpack_from(frame)[0] != _MAGIC:
        return None
    flags = frame[4]
    single = bool(flags & 0x20)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not width or len(frame) < start + width:
        return None
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)

"""A finished cube as the source of another: its catalogue, and what each ROI holds, checked against its record.

A shard is read whole and compared with the sha256 in its record before anything of it is used: what is damaged here is
named, and never passed on.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube import record as records
from cloudsen12_cube.codec import CRC, decode
from cloudsen12_cube.errors import DestinationError, PatchError, StoreError
from cloudsen12_cube.layout import ProductLayout, layout_of, record_key
from cloudsen12_cube.place import Place, place_of
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.shard import ABSENT, encode_chunk
from cloudsen12_cube.store import KEY, ROOT_KEY, read_table, settings_of, stated_scale

Chunk = bytes | memoryview
KEPT = 2
"""Shards of several ROIs that a process keeps: the tasks that want one follow each other."""


@dataclass(frozen=True)
class Origin:
    """A finished cube."""

    place: Place
    settings: dict[str, Any]
    order: tuple[str, ...]
    """ROIs as they lie on disk."""
    table: pd.DataFrame
    """Its catalogue, a row a patch."""
    attributes: dict[str, Any]
    """Of its root."""
    scale: int | None
    """Full scale of CD-FCNN's probability, if it knows it."""

    @property
    def layouts(self) -> dict[str, ProductLayout]:
        """Product -> its array."""
        return {product: layout_of(product, row) for product, row in self.settings["products"].items()}


def is_cube(source: str | os.PathLike[str]) -> bool:
    """Tell whether there is a cube at a place, finished or not."""
    try:
        root = place_of(source).get(ROOT_KEY)
        return root is not None and KEY in json.loads(root)["attributes"]
    except (DestinationError, ValueError, KeyError, TypeError):
        return False


def open_origin(source: str | os.PathLike[str]) -> Origin:
    """Open a cube to make another one from it.

    Raises
    ------
    StoreError
        If it is not finished.
    """
    place = place_of(source)
    root = place.get(ROOT_KEY)
    settings = settings_of(root, place.root)
    if settings.get("state") != "final" or root is None:
        raise StoreError(f"{place.root} is not finished: end its conversion first, by the same command or `finalise`")
    order, table = read_table(place.root, place.access)
    document = json.loads(root)
    attributes = {name: value for name, value in document["attributes"].items() if name != KEY}
    return Origin(place.portable(), settings, order, table, attributes, stated_scale(root))


@dataclass(frozen=True)
class Piece:
    """What an ROI of a product holds."""

    record: ShardRecord
    chunks: tuple[tuple[Chunk, ...], ...]
    """Of each date, as encoded; empty where all is fill."""


def read_piece(place: Place, layout: ProductLayout, roi_id: str, index: int) -> Piece:
    """Read an ROI of a product, after the sha256 of its shard was compared.

    Raises
    ------
    PatchError
        If its record or its shard is damaged or not there.
    """
    record = records.load(place, layout.product, roi_id)
    if record is None or record.index != index:
        path = f"{place.root}/{record_key(layout.product, roi_id)}"
        raise PatchError(
            path, "no whole record" if record is None else f"index {record.index}", f"one of shard {index}"
        )
    key, inside = layout.place(index)
    data = _shard(place, key, record, layout.form.rois_per_shard > 1)
    if not data:
        return Piece(record, (((b"",) * layout.chunks_a_date),) * layout.times)
    size = 16 * int(np.prod(layout.index_shape[:3]))
    places = np.frombuffer(data[-size - CRC : -CRC], dtype="<u8").reshape(layout.index_shape)[inside]
    view = memoryview(data)

    def cut(offset: int, length: int) -> Chunk:
        return b"" if offset == ABSENT else view[offset : offset + length]

    return Piece(record, tuple(tuple(cut(*pair) for pair in date) for date in places.tolist()))


def _shard(place: Place, key: str, record: ShardRecord, shared: bool) -> bytes:
    if not record.size:
        return b""
    if not shared:
        return _right(place, key, record)
    return _shelf(os.getpid()).get(place, key, record)


def _right(place: Place, key: str, record: ShardRecord) -> bytes:
    data = place.get(key)
    wanted = f"{record.size} bytes with the sha256 {record.sha256[:12]}... of its record"
    if data is None:
        raise PatchError(f"{place.root}/{key}", "no such object", wanted)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.sha256:
        raise PatchError(f"{place.root}/{key}", f"{len(data)} bytes with the sha256 {digest[:12]}...", wanted)
    return data


class _Shelf:
    """Shards that several tasks want: each is read once, by the first that comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, str, str], Future[bytes]] = OrderedDict()

    def get(self, place: Place, key: str, record: ShardRecord) -> bytes:
        """Give a shard with the recorded sha256, or raise what reading it raised."""
        name = (place.root, key, record.sha256)
        with self._lock:
            found = self._held.get(name)
            mine: Future[bytes] = Future()
            if found is None:
                self._held[name] = mine
                while len(self._held) > KEPT:
                    self._held.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(_right(place, key, record))
        except BaseException as error:
            with self._lock:
                self._held.pop(name, None)
            mine.set_exception(error)
        return mine.result()


@lru_cache(maxsize=1)
def _shelf(process: int) -> _Shelf:
    del process
    return _Shelf()


def forget() -> None:
    """Let go of the shards that this process keeps."""
    _shelf.cache_clear()


def recoded(chunks: Sequence[Chunk], layout: ProductLayout, target: ProductLayout) -> tuple[bytes, ...]:
    """Give the chunks of one date the form of another layout; what has it already is copied.

    Raises
    ------
    ValueError
        If a chunk cannot be decoded.
    """
    if not any(map(len, chunks)):
        return (b"",) * target.chunks_a_date
    if _packing(layout) == _packing(target):
        return tuple(map(bytes, chunks))
    pixels = np.empty(layout.shard[2:], dtype=layout.dtype)
    parts = pixels if layout.form.chunk == "band" else pixels[None]
    for part, chunk in zip(parts, chunks, strict=True):
        if not len(chunk):
            part.fill(layout.fill)
        elif not decode(chunk, layout.form.codec, part):
            raise ValueError("a chunk that cannot be decoded")
    made = pixels if target.form.chunk == "band" else pixels[None]
    return tuple(encode_chunk(part, target) for part in made)


def _packing(layout: ProductLayout) -> tuple[str, int | None, str]:
    return layout.form.codec, layout.form.level, layout.form.chunk

"""The shape of the store: dims, chunk, shard, and where each object lies.

One shard is one ROI of one product, one inner chunk one band of one date. So one task writes one object, no two tasks
share one, and a reader of three bands fetches three ranges. A cube that is made from another may be laid out otherwise,
see `Layout`. All of it is arithmetic: no file is touched here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np

from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format.document import Natural, parse
from cloudsen12_cube.schema import ProductName, bands_of

ROOT_KEY = "zarr.json"
KEY = "cloudsen12"
"""Root attribute that holds the settings: a store without it is no cube of CloudSEN12."""

LAYOUT_VERSION = 1
"""Of a cube with the default layout."""

CHOSEN_VERSION = 2
"""Of a cube with any other: releases that know version 1 alone would take its shards for missing ones, that is fill."""

CodecName = Literal["zstd", "lz4", "none"]
LEVELS: dict[CodecName, int] = {"zstd": 1, "lz4": 5, "none": 0}
"""Level of each codec where none is given; 0 is that of no compression."""

BLOCKS: dict[CodecName, int] = {"zstd": 512 * 1024, "lz4": 256 * 1024, "none": 0}
"""Blosc's block in bytes; an explicit one is both smaller and faster than the default."""

Size = Annotated[int, range(1, 2**31)]
"""Length of a dim."""

DIMS = ("roi", "time", "band", "y", "x")
ChunkName = Literal["band", "bands"]
_BLOSC: dict[CodecName, str] = {"zstd": "blosc-zstd-shuffle", "lz4": "blosc-lz4-shuffle", "none": "none"}
"""Codec -> its name in a cube's settings."""


@dataclass(frozen=True)
class Layout:
    """How a cube's pixels are divided into chunks and shards, and compressed. The defaults suit most readers.

    Raises
    ------
    SelectionError
        If a value is not allowed.
    """

    codec: CodecName = "zstd"
    """``zstd`` (small), ``lz4`` (fast) or ``none``; a crc32c follows in any case. With ``zstd`` and ``lz4`` it is
    Blosc's frame with byte shuffle: labels, 16 bits wide, pack a fifth better with it than with zstd alone."""
    level: int | None = None
    """1 (fast) to 9 (small); by default 1 for zstd and 5 for lz4."""
    chunk: ChunkName = "band"
    """What is read and decoded at once: one ``band`` of a date, or all ``bands`` of a date."""
    rois_per_shard: int = 1
    """ROIs that share an object. More than one are made from a cube, not from an archive."""

    def __post_init__(self) -> None:
        """Check the values; fill in the level."""
        _one_of("codec", self.codec, get_args(CodecName))
        _one_of("chunk", self.chunk, get_args(ChunkName))
        if self.level is None:
            object.__setattr__(self, "level", LEVELS[self.codec])
        legal = range(1) if self.codec == "none" else range(1, 10)
        if self.level not in legal:
            way = "it has none" if self.codec == "none" else "give 1 to 9"
            raise SelectionError(f"the level of codec {self.codec} is {self.level}: {way}")
        if not 1 <= self.rois_per_shard <= 1024:
            raise SelectionError(f"rois_per_shard is {self.rois_per_shard}: give 1 to 1024")

    @property
    def version(self) -> int:
        """Number that tells a reader what it must know."""
        return LAYOUT_VERSION if self == DEFAULT else CHOSEN_VERSION

    def as_json(self) -> list[str | int]:
        """Describe the codec, as the settings of a cube have it: name, level and block."""
        return [_BLOSC[self.codec], self.level or 0, BLOCKS[self.codec]]


def _one_of(name: str, value: object, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise SelectionError(f"{name} is {value!r}: give one of {', '.join(legal)}")


DEFAULT = Layout()


def parse_codec(text: str) -> tuple[CodecName, int | None]:
    """Read ``lz4`` or ``zstd:3``.

    Returns
    -------
    name : {"zstd", "lz4", "none"}
    level : int, optional

    Raises
    ------
    SelectionError
        If it cannot be read.
    """
    name, colon, level = text.partition(":")
    found = next((known for known in get_args(CodecName) if known == name), None)
    if found is None or (colon and not level.isdecimal()):
        raise SelectionError(f"codec is {text!r}: give one of {', '.join(get_args(CodecName))}, or zstd:3")
    return found, int(level) if level else None


@dataclass(frozen=True)
class ProductLayout:
    """The array of one product."""

    product: ProductName
    dtype: str
    """Data type of the stored array, little-endian in the store."""
    times: int
    height: int
    width: int
    form: Layout = DEFAULT

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in order."""
        return bands_of(self.product)

    @property
    def chunk(self) -> tuple[int, int, int, int, int]:
        """Inner chunk: one band of one date, or all of them."""
        return 1, 1, len(self.bands) // self.chunks_a_date, self.height, self.width

    @property
    def chunks_a_date(self) -> int:
        """Inner chunks of a patch."""
        return len(self.bands) if self.form.chunk == "band" else 1

    @property
    def shard(self) -> tuple[int, int, int, int, int]:
        """Shard: one ROI, or a few. Its y and x are the patch's own, so no shard is ever written twice."""
        return self.form.rois_per_shard, self.times, len(self.bands), self.height, self.width

    @property
    def index_shape(self) -> tuple[int, int, int, int]:
        """Shape of a shard's index: (roi, time, chunk of the date, offset and length)."""
        return self.form.rois_per_shard, self.times, self.chunks_a_date, 2

    @property
    def fill(self) -> int | float:
        """Value of a pixel that is not there; see `fill_value`."""
        return fill_value(self.product, self.dtype)

    @property
    def plane_bytes(self) -> int:
        """Bytes of one band of one date, uncompressed."""
        return self.height * self.width * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, uncompressed."""
        return self.chunk[2] * self.plane_bytes

    @property
    def roi_bytes(self) -> int:
        """Bytes of one ROI, uncompressed."""
        return self.times * len(self.bands) * self.plane_bytes

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard, uncompressed."""
        return self.form.rois_per_shard * self.roi_bytes

    def shape(self, rois: int) -> tuple[int, int, int, int, int]:
        """Shape of the whole array."""
        return rois, *self.shard[1:]

    def place(self, index: int) -> tuple[str, int]:
        """Return the key of the object that holds the ROI at a disk index, and the position of the ROI in it."""
        shard, inside = divmod(index, self.form.rois_per_shard)
        return shard_key(self.product, shard), inside

    def as_json(self) -> dict[str, Any]:
        """Describe the layout; two cubes can be continued with each other if this is equal."""
        return {
            "dtype": self.dtype,
            "fill_value": str(self.fill),
            "shard": list(self.shard),
            "chunk": list(self.chunk),
            "codec": self.form.as_json(),
        }


@dataclass(frozen=True)
class StoredLayout:
    """A product's layout as a cube's settings describe it; see `ProductLayout.as_json`."""

    dtype: Annotated[str, "u?int(8|16|32)|float(32|64)"]
    fill_value: str
    shard: tuple[Size, Size, Size, Size, Size]
    chunk: tuple[Size, Size, Size, Size, Size]
    codec: tuple[str, Annotated[int, range(10)], Natural]


def layout_of(product: ProductName, row: dict[str, Any]) -> ProductLayout:
    """Read a layout back from its description in a cube's settings.

    Raises
    ------
    StoreError
        If this release does not know its codec, or it is no layout of this product.
    """
    try:
        stored = parse(StoredLayout, row)
    except ValueError as error:
        raise StoreError(f"the layout of {product} is damaged: {error}") from None
    rois, times, bands, height, width = stored.shard
    name, level, _ = stored.codec
    codec = next((codec for codec, known in _BLOSC.items() if known == name), None)
    if codec is None:
        raise StoreError(f"the pixels of {product} have the codec {name!r}: install a newer release")
    chunk: ChunkName = "bands" if stored.chunk[2] == bands > 1 else "band"
    try:
        layout = ProductLayout(product, stored.dtype, times, height, width, Layout(codec, level, chunk, rois))
    except SelectionError as error:
        raise StoreError(f"the layout of {product} is damaged: {error}") from None
    if (stored.shard, stored.chunk) != (layout.shard, layout.chunk):
        raise StoreError(
            f"the shards of {product} are {stored.shard} and its chunks {stored.chunk}, expected {layout.shard} and "
            f"{layout.chunk}: install a newer release"
        )
    return layout


def check_version(settings: dict[str, Any], place: str) -> None:
    """Refuse a cube that another release laid out in another way.

    Raises
    ------
    StoreError
        With the way to upgrade.
    """
    found = settings.get("layout_version")
    if found in (LAYOUT_VERSION, CHOSEN_VERSION):
        return
    if isinstance(found, int) and found > CHOSEN_VERSION:
        way = "install a newer release of cloudsen12-cube"
    else:
        way = f"open it with the release that made it ({settings.get('tool')}), or convert the archive into a new place"
    raise StoreError(f"{place} has layout version {found}, this release knows {CHOSEN_VERSION}: {way}")


def roi_chunk(rois: int) -> int:
    """Length along roi of the one chunk of a metadata array.

    A power of two with room to grow, so that a column is one object and an append seldom changes a chunk's shape.
    """
    return max(1024, 1 << max(rois - 1, 0).bit_length())


def array_path(product: str) -> str:
    """Path of a product's array in the store."""
    return f"{product}/{product}"


def shard_key(product: str, index: int) -> str:
    """Key of a shard: by default that of the ROI at this disk index; `ProductLayout.place` knows others."""
    return f"{array_path(product)}/c/{index}/0/0/0/0"


def records_path(product: str) -> str:
    """Where the records of a product lie: under the array, where no Zarr reader lists."""
    return f"{array_path(product)}/records"


def record_key(product: str, roi_id: str) -> str:
    """Key of the record that says a shard is done."""
    return f"{records_path(product)}/{roi_id}.json"


def stored_dtype(product: ProductName, dtypes: Iterable[np.dtype[Any]]) -> str:
    """Smallest data type that holds every file of a product.

    Labels are always 16 bits wide, with a sign if any file has one: QA60 needs 12 bits, every value below 256 is
    taken by some layer, and no code is larger than 10,000. (True KappaMask files are float32, with small integers.)

    Parameters
    ----------
    product : str
    dtypes : iterable of numpy.dtype
        Types that the files have.
    """
    kinds = {np.dtype(d).newbyteorder("=") for d in dtypes}
    if product == "labels":
        return "int16" if any(d.kind == "i" for d in kinds) else "uint16"
    return str(np.result_type(*kinds))


def fill_value(product: str, dtype: str) -> int | float:
    """Value that no file holds: NaN, the lowest integer, or the highest one where there is no sign.

    Never 0: that is a dark pixel, and in a label it says "clear". Labels take -1 where there is a sign.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float("nan")
    limits = np.iinfo(kind)
    if kind.kind == "u":
        return int(limits.max)
    return -1 if product == "labels" else int(limits.min)

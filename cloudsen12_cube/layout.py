"""The shape of the store: dims, chunk, shard, and where each object lies.

One shard is one ROI of one product, one inner chunk one band of one date. So one task writes one object, no two tasks
share one, and a reader of three bands fetches three ranges. All of it is arithmetic: no file is touched here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloudsen12_cube.assets import ProductName, bands_of
from cloudsen12_cube.errors import StoreError

LAYOUT_VERSION = 1
DIMS = ("roi", "time", "band", "y", "x")


@dataclass(frozen=True)
class Codec:
    """How the bytes of an inner chunk are compressed: Blosc, zstd inside, byte shuffle; a crc32c follows."""

    level: int = 1
    blocksize: int = 512 * 1024
    """Blosc's block in bytes; an explicit one is both smaller and faster than the default."""


CODEC = Codec()
"""For every product. Labels, 16 bits wide, pack a fifth better with the shuffle than with zstd alone (benchmarks)."""


@dataclass(frozen=True)
class ProductLayout:
    """The array of one product."""

    product: ProductName
    dtype: str
    """Data type of the stored array, little-endian in the store."""
    times: int
    height: int
    width: int

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in order."""
        return bands_of(self.product)

    @property
    def chunk(self) -> tuple[int, int, int, int, int]:
        """Inner chunk: one band of one date."""
        return 1, 1, 1, self.height, self.width

    @property
    def shard(self) -> tuple[int, int, int, int, int]:
        """Shard: one ROI. Its y and x are the patch's own, so no shard is ever written twice."""
        return 1, self.times, len(self.bands), self.height, self.width

    @property
    def fill(self) -> int | float:
        """Value of a pixel that is not there; see `fill_value`."""
        return fill_value(self.product, self.dtype)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, uncompressed."""
        return self.height * self.width * np.dtype(self.dtype).itemsize

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard, uncompressed."""
        return self.times * len(self.bands) * self.chunk_bytes

    def shape(self, rois: int) -> tuple[int, int, int, int, int]:
        """Shape of the whole array."""
        return rois, *self.shard[1:]

    def as_json(self) -> dict[str, Any]:
        """Describe the layout; two cubes can be continued with each other if this is equal."""
        return {
            "dtype": self.dtype,
            "fill_value": str(self.fill),
            "shard": list(self.shard),
            "chunk": list(self.chunk),
            "codec": ["blosc-zstd-shuffle", CODEC.level, CODEC.blocksize],
        }


def layout_of(product: ProductName, row: dict[str, Any]) -> ProductLayout:
    """Read a layout back from its description in a cube's settings."""
    _, times, _, height, width = row["shard"]
    return ProductLayout(product, row["dtype"], times, height, width)


def check_version(settings: dict[str, Any], place: str) -> None:
    """Refuse a cube that another release laid out in another way.

    Raises
    ------
    StoreError
        With the way to upgrade.
    """
    found = settings.get("layout_version")
    if found == LAYOUT_VERSION:
        return
    if isinstance(found, int) and found > LAYOUT_VERSION:
        way = "install a newer release of cloudsen12-cube"
    else:
        way = f"open it with the release that made it ({settings.get('tool')}), or convert the archive into a new place"
    raise StoreError(f"{place} has layout version {found}, this release knows {LAYOUT_VERSION}: {way}")


def roi_chunk(rois: int) -> int:
    """Length along roi of the one chunk of a metadata array.

    A power of two with room to grow, so that a column is one object and an append seldom changes a chunk's shape.
    """
    return max(1024, 1 << max(rois - 1, 0).bit_length())


def array_path(product: str) -> str:
    """Path of a product's array in the store."""
    return f"{product}/{product}"


def shard_key(product: str, index: int) -> str:
    """Key of the object that holds the ROI at a disk index."""
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

"""Some dates cut out of a shard's bytes: the chunks stay as they are encoded, and a new index is put behind them."""

from __future__ import annotations

from collections.abc import Buffer, Iterator, Sequence
from dataclasses import dataclass

from cloudsen12_cube.chunks import Chunks
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.ranges import Arena
from cloudsen12_cube.shard import ABSENT, assemble


@dataclass(frozen=True)
class _Held:
    """One object in memory, for the reader of indices."""

    data: bytes
    remote = False

    def read(self, key: str, start: int, length: int, arena: Arena | None = None) -> Buffer:
        del key, arena
        return self.data[start : start + length]

    def tail(self, key: str, length: int) -> bytes:
        del key
        return self.data[-length:]

    def get(self, key: str) -> bytes | None:
        del key
        return self.data


def cut(data: bytes, layout: ProductLayout, dates: Sequence[int], times: int) -> bytes:
    """Cut dates out of a shard; nothing is decompressed.

    Parameters
    ----------
    data : bytes
        The object of the shard; empty where every pixel is fill.
    layout : ProductLayout
        Of the shard as it is.
    dates : sequence of int
        Its dates that are kept, in their new order.
    times : int
        Dates that the new shard has room for; those behind the last of ``dates`` are fill.

    Returns
    -------
    bytes
        Equal to what the conversion of these dates alone makes; empty where nothing but fill is left.

    Raises
    ------
    StoreError
        If the index is damaged, or leads out of the object.
    """
    chunks = list(_chunks(data, layout, dates)) if data else []
    chunks += [b""] * (times * layout.chunks_a_date - len(chunks))
    return assemble(chunks) if any(chunks) else b""


def _chunks(data: bytes, layout: ProductLayout, dates: Sequence[int]) -> Iterator[bytes]:
    """Yield the encoded chunks of some dates, in the order of the index; an empty one where there is none."""
    try:
        index = Chunks(_Held(data), layout).index(0)
    except StoreError:  # its message names an object of a cube
        raise StoreError("the checksum of its index does not fit") from None
    end = len(data) - index.nbytes  # the index and its checksum begin at least this early
    for offset, length in index[list(dates)].reshape(-1, 2).tolist():
        if offset == ABSENT:
            yield b""
        elif offset + length > end:
            raise StoreError("its index leads out of the object")
        else:
            yield data[offset : offset + length]

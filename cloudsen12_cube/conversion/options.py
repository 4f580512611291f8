"""One conversion divided among machines that need not talk: each derives its own share of the ROIs.

What a conversion can be told, and what it tells on its way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.format import DEFAULT, Layout, ShardRecord
from cloudsen12_cube.schema import TestMeaning

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SelectionError(f"part {self.number}/{self.count} is none: parts are 1/n to n/n")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, rois: Sequence[str]) -> frozenset[str]:
        """Every ``count``-th ROI: neighbours, which are alike in size, go to different parts."""
        return frozenset(rois[self.number - 1 :: self.count])


def parse_part(text: str) -> Part:
    """Read ``2/3``.

    Raises
    ------
    SelectionError
        If it is none.
    """
    match = _PART.fullmatch(text.strip())
    if match is None:
        raise SelectionError(f"part {text!r} is none: write it like 2/3, the second of three")
    return Part(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Step:
    """One shard more is done."""

    record: ShardRecord
    raw_bytes: int
    """Bytes of the shard, uncompressed."""
    shards: int
    """Shards that this run makes in all."""


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class Options:
    """What a conversion can be told beside source, cube, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 converts in the calling thread. By default the cores of the machine, or twice as many if they wait for
    a bucket."""
    memory: int | None = None
    """Bytes that the run may use; fewer workers are started if they would need more."""
    strict: bool = False
    """Stop at the first file that cannot be converted."""
    test_meaning: TestMeaning | None = None
    """How to read the codes of ``test``; by default it is told from the codes."""
    part: Part | None = None
    """Make this share of the shards alone; others may make theirs at the same time, and `finalise` ends the job."""
    accept: str | os.PathLike[str] | None = None
    """File that names failures to live with: ``CUBE.failures.json`` or an excerpt of it."""
    repair: bool = False
    """Read every shard, and make again what is damaged or has other files now."""
    scheduler: str | None = None
    """Address of a dask scheduler, ``tcp://HOST:PORT``, whose workers make the shards."""
    break_lock: bool = False
    """Take away the notes of other writers in a bucket: they are dead."""
    layout: Layout = DEFAULT
    """Codec, chunks and shards of the cube; several ROIs a shard are made from a cube alone."""

    def __post_init__(self) -> None:
        if self.part and (self.repair or self.accept):
            name = "repair" if self.repair else "accept"
            raise SelectionError(f"{name} concerns the whole cube: give it without a part")


DEFAULTS = Options()


class StrictError(CubeError):
    """A damaged file stopped a strict run (exit code 1)."""

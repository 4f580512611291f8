"""What a conversion can be told, and what it tells on its way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from cloudsen12_cube.catalogue import TestMeaning
from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.layout import DEFAULT, Layout
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.share import Part


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

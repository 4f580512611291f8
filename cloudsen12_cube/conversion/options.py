"""What a conversion, a re-sharding and a subset can be asked for, and what they report on their way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.format import DEFAULT, Layout, ShardRecord
from cloudsen12_cube.schema import Selection, TestMeaning

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Part:
    """One share of a conversion that is divided among machines: part ``number`` of ``count``, counted from 1.

    The machines need not talk to each other: each derives its own share of the ROIs.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SelectionError(f"{self.number}/{self.count} is not a part: parts are 1/n to n/n")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, rois: Sequence[str]) -> frozenset[str]:
        """Select every ``count``-th ROI: neighbours, which are alike in size, go to different parts.

        Parameters
        ----------
        rois : sequence of str
            All ROIs of the plan, in its order.

        Returns
        -------
        frozenset of str
        """
        return frozenset(rois[self.number - 1 :: self.count])


def parse_part(text: str) -> Part:
    """Read a part such as ``2/3``, the second of three.

    Parameters
    ----------
    text : str

    Returns
    -------
    Part

    Raises
    ------
    SelectionError
        If the text has another form, or the numbers do not fit each other.
    """
    match = _PART.fullmatch(text.strip())
    if match is None:
        raise SelectionError(f"{text!r} is not a part: write NUMBER/COUNT, for example 2/3")
    return Part(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Step:
    """Progress: one more shard is done.

    Parameters
    ----------
    record : ShardRecord
    raw_bytes : int
        Bytes of the shard, uncompressed.
    shards : int
    """

    record: ShardRecord
    raw_bytes: int
    shards: int
    """Shards that this run makes in all."""


Progress = Callable[[Step], None]


class SelectionOptions(Protocol):
    """Options that select patches."""

    @property
    def bbox(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north in degrees."""

    @property
    def rois(self) -> tuple[str, ...]:
        """Ids of the ROIs to take."""


def selection_of(where: str | Sequence[str], options: SelectionOptions) -> Selection:
    """Gather the conditions of a call; all must hold.

    Parameters
    ----------
    where : str or sequence of str
        One condition or several.
    options : Options, SubsetOptions or ExportOptions
    """
    return Selection((where,) if isinstance(where, str) else tuple(where), options.bbox, tuple(options.rois))


def check_workers(workers: int | None) -> None:
    """Check a number of workers.

    Parameters
    ----------
    workers : int, optional
        Number of threads; 0 for the calling thread, None for the default.

    Raises
    ------
    SelectionError
        If it is negative.
    """
    if workers is not None and workers < 0:
        raise SelectionError(
            f"workers is {workers}: give a number of threads, 0 for the calling thread, or None for the default"
        )


@dataclass(frozen=True)
class Options:
    """Options of a conversion beside source, cube, products and conditions.

    Parameters
    ----------
    bbox : (float, float, float, float), optional
        West, south, east, north in degrees.
    rois : tuple of str
        Ids of the ROIs to take; by default all.
    workers : int, optional
        Threads; 0 converts in the calling thread. By default the cores of the machine, or twice as many if they
        wait for a bucket.
    memory : int, optional
        Bytes that the run may use; fewer workers are started if they would need more.
    strict : bool
        Stop at the first file that cannot be converted.
    test_meaning : {"v1.0", "v1.1"}, optional
        Meaning of the codes of ``test``; by default it is inferred from the codes.
    part : Part, optional
        Make this share of the shards alone; other machines may make theirs at the same time, and `finalise`
        ends the conversion.
    accept : path, optional
        File that names failures to accept: ``CUBE.failures.json`` or an excerpt of it.
    repair : bool
        Read every shard, and write those again that are damaged or whose files have changed.
    scheduler : str, optional
        Address of a dask scheduler, ``tcp://HOST:PORT``, whose workers make the shards.
    break_lock : bool
        Remove the lock notes of other writers in a bucket: their processes are dead.
    layout : Layout
        Codec, chunks and shards of the cube; several ROIs a shard can be made from a cube only.
    """

    bbox: tuple[float, float, float, float] | None = None
    rois: tuple[str, ...] = ()
    workers: int | None = None
    memory: int | None = None
    strict: bool = False
    test_meaning: TestMeaning | None = None
    part: Part | None = None
    accept: str | os.PathLike[str] | None = None
    repair: bool = False
    scheduler: str | None = None
    break_lock: bool = False
    layout: Layout = DEFAULT

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if self.part and (self.repair or self.accept):
            name = "repair" if self.repair else "accept"
            raise SelectionError(f"{name} concerns the whole cube: give it without a part")


DEFAULTS = Options()


@dataclass(frozen=True)
class SubsetOptions:
    """Options of a subset beside cube, place, products and conditions.

    Parameters
    ----------
    bbox : (float, float, float, float), optional
        West, south, east, north in degrees.
    rois : tuple of str
        Ids of the ROIs to take; by default all.
    workers : int, optional
        Threads; 0 copies in the calling thread. By default the cores of the machine, or 16 if a bucket takes
        part. Each holds a shard at a time, and its copy while dates are cut out.
    break_lock : bool
        Remove the lock notes of other writers in the bucket of the subset: their processes are dead.
    """

    bbox: tuple[float, float, float, float] | None = None
    rois: tuple[str, ...] = ()
    workers: int | None = None
    break_lock: bool = False

    def __post_init__(self) -> None:
        check_workers(self.workers)


SUBSET_DEFAULTS = SubsetOptions()


class StrictError(CubeError):
    """A damaged file stopped a strict run (exit code 1)."""

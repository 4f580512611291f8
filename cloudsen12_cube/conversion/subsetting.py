"""A part of a cube as a cube of its own: whole shards, or dates cut out of them, copied without decoding a pixel.

What a subset would take: shards and bytes, from the records of the cube; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cloudsen12_cube.conversion.cube_source import CopiedShard
from cloudsen12_cube.conversion.options import Progress
from cloudsen12_cube.conversion.planning import ShardCopy, SubsetPlan, plan_subset
from cloudsen12_cube.conversion.report import write_failures
from cloudsen12_cube.conversion.writer import CubeWriter, open_cube_writer
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.format import Fault, ShardRecord, faults_of
from cloudsen12_cube.format import record as records
from cloudsen12_cube.inspection import accepted as accept
from cloudsen12_cube.schema import Selection
from cloudsen12_cube.storage import ObjectStore, clean, each, is_url, open_store, s3_options, storage_config, write_lock


@dataclass(frozen=True)
class SubsetOptions:
    """What a subset can be told beside cube, place, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 copies in the calling thread. By default the cores of the machine, or 16 if a bucket takes part. Each
    holds a shard at a time, and its copy while dates are cut out."""
    break_lock: bool = False
    """Take away the notes of other writers in the bucket of the subset: they are dead."""


@dataclass(frozen=True)
class SubsetReport:
    """Result of a subset."""

    rois: int
    patches: int
    shards: int
    """That the selection names."""
    whole: int
    """Shards that this run copied byte for byte."""
    cut: int
    """Shards that this run made of some dates of the cube's."""
    skipped: int
    """Shards that were there already."""
    size: int
    """Bytes of the shards that this run wrote."""
    faults: tuple[Fault, ...] = ()
    """Shards that were damaged in the cube or not there, and what the conversion refused, less what is accepted."""
    accepted: int = 0
    """Failures that somebody decided to live with."""

    @property
    def exit_code(self) -> int:
        """0 if all is copied and right, 1 if something was not copied, or came along as failed."""
        return 1 if self.faults else 0


def subset(
    cube: str | os.PathLike[str],
    out: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: SubsetOptions = SubsetOptions(),
    progress: Progress | None = None,
) -> SubsetReport:
    """Copy the part of a cube that a selection names into a cube of its own. Run it again to continue.

    Conditions mean what they mean to `convert`, and the pixels, coordinates and shards are those that it would make of
    the archive with them. No pixel is decoded; every shard is compared with its sha256 before it is written.

    Parameters
    ----------
    cube, out : path, URL or `Url`
        The cube, and the one to make.
    products : sequence of str, optional
        Any of the cube's; by default all.
    where : sequence of str
        Conditions on the catalogue, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : SubsetOptions
    progress : callable, optional
        Called after each shard.

    Returns
    -------
    SubsetReport
        What was copied, skipped and refused.

    Raises
    ------
    CubeError
        If nothing could be done: no such cube, nothing selected, a place that holds something else.
    """
    excerpt = excerpt_for(cube, products, where, options)
    check_disjoint(cube, out)
    sink = open_store(out)
    with write_lock(sink, force=options.break_lock):
        target = open_cube_writer(excerpt, sink)
        there, todo = target.surveyed()
        copied = target.filled(there, todo, _workers(excerpt, sink, options), progress)
    report = _report(target, there, copied)
    write_failures(report.faults, out)
    return report


def excerpt_for(
    cube: str | os.PathLike[str], products: Sequence[str] | None, where: Sequence[str], options: SubsetOptions
) -> SubsetPlan:
    """Look up what the arguments of `subset` name."""
    conditions = (where,) if isinstance(where, str) else tuple(where)
    return plan_subset(cube, products, Selection(conditions, options.bbox, tuple(options.rois)))


def check_disjoint(cube: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Check that neither of two places lies in the other.

    Raises
    ------
    DestinationError
        If one does.
    """
    here, there = _lies(cube), _lies(out)
    if here == there:
        raise DestinationError(f"{clean(out)} is the cube itself: give the subset a place of its own")
    if there.startswith(here + "/"):
        raise DestinationError(f"{clean(out)} lies inside the cube: give the subset a place of its own")
    if here.startswith(there + "/"):
        raise DestinationError(f"{clean(out)} holds the cube itself: give the subset a place of its own")


def _lies(place: str | os.PathLike[str]) -> str:
    """Write where a place lies, so that equal places have equal texts: buckets of two servers may have one name."""
    text = clean(place)
    if not is_url(text):
        return os.path.realpath(text)
    return f"{s3_options(storage_config(place)).get('endpoint_url', '')} {text}"


def _workers(excerpt: SubsetPlan, sink: ObjectStore, options: SubsetOptions) -> int:
    if options.workers is not None:
        return options.workers
    return max(os.cpu_count() or 1, excerpt.source.concurrency, sink.concurrency)


def _report(target: CubeWriter, there: list[ShardRecord], copied: list[CopiedShard]) -> SubsetReport:
    """Sum up."""
    fresh = [one.record for one in copied if one.record]
    gaps = {gap.key for gap in accept.in_settings(target.settings)}
    rows = sorted([*there, *fresh], key=lambda row: (row.product, row.roi_id))
    refused = [fault for fault in faults_of(rows) if accept.key_of(fault) not in gaps]
    whole = sum(one.whole for one in copied)
    return SubsetReport(
        rois=len(target.order),
        patches=len(target.excerpt.catalogue.table),
        shards=len(there) + len(copied),
        whole=whole,
        cut=len(fresh) - whole,
        skipped=len(there),
        size=sum(record.size for record in fresh),
        faults=(*(one.fault for one in copied if one.fault), *refused),
        accepted=len(gaps),
    )


@dataclass(frozen=True)
class ProductPreview:
    """What would be copied of one product."""

    product: str
    shards: int
    whole: int
    """Shards that go byte for byte."""
    cut: int
    """Shards of which some dates go."""
    lacking: int
    """Shards that the cube does not have."""
    read: int
    """Bytes."""
    written: int
    """Bytes, as if all dates of a shard were equally long."""


@dataclass(frozen=True)
class Preview:
    """What a subset would take."""

    rois: int
    patches: int
    products: tuple[ProductPreview, ...]


def preview(
    cube: str | os.PathLike[str],
    out: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: SubsetOptions | None = None,
) -> Preview:
    """Look what `subset` would do with the same arguments.

    Raises
    ------
    CubeError
        As `subset` does.
    """
    excerpt = excerpt_for(cube, products, where, options or SubsetOptions())
    check_disjoint(cube, out)
    rois = excerpt.catalogue.rois
    found = list(each(excerpt.source, lambda p: _look(p, excerpt), excerpt.pieces(rois, excerpt.catalogue.times)))
    rows = tuple(_sum(layout.product, found) for layout in excerpt.layouts)
    return Preview(len(rois), len(excerpt.catalogue.table), rows)


def _look(piece: ShardCopy, excerpt: SubsetPlan) -> ProductPreview:
    """Sum up one shard."""
    product = piece.layout.product
    record = records.load(excerpt.source, product, piece.roi_id)
    if record is None:
        return ProductPreview(product, 1, 0, 0, 1, 0, 0)
    whole = piece.is_whole(record)
    share = 1.0 if whole else len(piece.dates) / max(len(record.patches), 1)
    return ProductPreview(product, 1, int(whole), int(not whole), 0, record.size, round(record.size * share))


def _sum(product: str, found: Sequence[ProductPreview]) -> ProductPreview:
    own = [row for row in found if row.product == product]
    names = ("shards", "whole", "cut", "lacking", "read", "written")
    return ProductPreview(product, *(sum(getattr(row, name) for row in own) for name in names))

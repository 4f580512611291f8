"""What a subset would take: shards and bytes, from the records of the cube; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cloudsen12_cube import record as records
from cloudsen12_cube.excerpt import Excerpt, Piece
from cloudsen12_cube.place import each
from cloudsen12_cube.subset import SubsetOptions, apart, excerpt_for


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
    apart(cube, out)
    rois = excerpt.catalogue.rois
    found = list(each(excerpt.source, lambda p: _look(p, excerpt), excerpt.pieces(rois, excerpt.catalogue.times)))
    rows = tuple(_sum(layout.product, found) for layout in excerpt.layouts)
    return Preview(len(rois), len(excerpt.catalogue.table), rows)


def _look(piece: Piece, excerpt: Excerpt) -> ProductPreview:
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

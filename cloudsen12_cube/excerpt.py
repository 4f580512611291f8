"""The part of a cube that a selection names: its patches, and its shards, whole or some of their dates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudsen12_cube.assets import PRODUCTS, ProductName
from cloudsen12_cube.catalogue import Catalogue, Selection, select
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.layout import ProductLayout, layout_of
from cloudsen12_cube.place import Place, place_of
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.store import ROOT_KEY, read_table, settings_of, stated_scale


@dataclass(frozen=True)
class Piece:
    """One shard of a cube, or some dates of it, and where it is to lie."""

    layout: ProductLayout
    """Of the shard as it is."""
    roi_id: str
    before: int
    """Position of the ROI on disk in the cube."""
    index: int
    """The same in the new one."""
    dates: tuple[int, ...]
    """``time`` in the cube of each patch that goes along, by its new ``time``."""
    images: tuple[str, ...]
    """The ids of these patches."""
    times: int
    """Dates that the new shard has room for."""

    def is_whole(self, record: ShardRecord) -> bool:
        """Tell whether the shard may go as it is: all of its patches, at the dates that they have."""
        return self.times == self.layout.times and self.dates == tuple(p.time for p in record.patches)

    def renewed(self, record: ShardRecord) -> ShardRecord | None:
        """Give the record of the new shard, but for size and sha256 of one that is cut; None if a patch lacks."""
        there = {(patch.time, patch.s2_id_gee): patch for patch in record.patches}
        wanted = list(zip(self.dates, self.images, strict=True))
        if any(key not in there for key in wanted):
            return None
        patches = tuple(replace(there[key], time=time) for time, key in enumerate(wanted))
        return replace(record, index=self.index, patches=patches)


@dataclass(frozen=True)
class Excerpt:
    """What a selection names of a cube."""

    source: Place
    settings: dict[str, Any]
    """Of the cube."""
    disk: dict[str, int]
    """ROI -> its position on disk."""
    dates: dict[tuple[str, str], int]
    """(roi_id, s2_id_gee) -> ``time`` in the cube, of all of its patches."""
    catalogue: Catalogue
    """The selected patches; ``time`` counts them anew in each ROI."""
    layouts: tuple[ProductLayout, ...]
    """Of the selected products, as they are in the cube."""
    selection: Selection
    full_scale: int | None = None
    """Of CD-FCNN's probabilities, where the cube knows it."""

    def pieces(self, order: Sequence[str], times: int) -> Iterator[Piece]:
        """Yield the shards in the order of the catalogue.

        Parameters
        ----------
        order : sequence of str
            ROIs as they are to lie on disk.
        times : int
            Length of the new ``time``.
        """
        position = {roi: index for index, roi in enumerate(order)}
        for roi, rows in self.catalogue.table.groupby("roi_id", sort=False):
            name, images = str(roi), tuple(rows["s2_id_gee"])
            dates = tuple(self.dates[name, image] for image in images)
            for layout in self.layouts:
                yield Piece(layout, name, self.disk[name], position[name], dates, images, times)


def excerpt_of(cube: str | os.PathLike[str], products: Sequence[str] | None, selection: Selection) -> Excerpt:
    """Look up what a selection names of a cube; its catalogue is read, and no shard.

    Parameters
    ----------
    cube : path, URL or `Url`
    products : sequence of str, optional
        By default all that the cube has.
    selection : Selection

    Raises
    ------
    StoreError
        If there is no cube at the place, or one whose shards cannot be taken apart.
    SelectionError
        If a condition cannot be read, a product or ROI is not there, or nothing is selected.
    """
    source = place_of(cube)
    root = source.get(ROOT_KEY) or None
    settings = settings_of(root, source.root)
    layouts = tuple(_layout(p, settings, source.root) for p in _chosen(products, settings, source.root))
    order, table = read_table(source.root, source.access)
    if not len(table):
        raise SelectionError(f"{source.root} has no patch that could be taken along")
    strange = [roi for roi in selection.rois if roi not in set(order)]
    if strange:
        raise SelectionError(f"no ROI {strange[0]!r} in {source.root}; ids look like {order[0]}")
    dates = {(roi, image): int(time) for roi, image, time in zip(*(table[c] for c in _KEY), strict=True)}
    chosen = select(Catalogue(table, settings["test_meaning"]), selection)
    disk = {roi: index for index, roi in enumerate(order)}
    scale = stated_scale(root or b"{}") or settings.get("full_scale")
    return Excerpt(source, settings, disk, dates, chosen, layouts, selection, scale)


_KEY = ("roi_id", "s2_id_gee", "time")


def _chosen(products: Sequence[str] | None, settings: dict[str, Any], place: str) -> list[ProductName]:
    there = [name for name in PRODUCTS if name in settings["products"]]
    wanted = [products] if isinstance(products, str) else products
    for name in wanted or ():
        if name not in there:
            raise SelectionError(f"no product {name!r} in {place}; it has {', '.join(there)}")
    return [name for name in there if not wanted or name in wanted]


def _layout(product: ProductName, settings: dict[str, Any], place: str) -> ProductLayout:
    """Read a layout whose shards can be taken apart: one ROI each."""
    row = settings["products"][product]
    layout = layout_of(product, row)
    if layout.form.rois_per_shard > 1 or layout.as_json() != row:
        raise StoreError(
            f"the shards of {product} in {place} have a layout that cannot be taken apart without decoding (shard "
            f"{row['shard']}, chunk {row['chunk']}, codec {row.get('codec')}): give convert the same conditions instead"
        )
    return layout

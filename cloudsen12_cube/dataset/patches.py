"""The patches of an opened cube that can be read: where they lie, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset.parts import catalogue_rows, catalogue_values, check_cube
from cloudsen12_cube.dataset.tree_state import StoredArray, check_unchanged
from cloudsen12_cube.dataset.virtual import FileChunks, VirtualArray
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format import DONE, KEY, ChunkReader, ProductLayout, attribute_mapping, layout_of, open_stored_cube
from cloudsen12_cube.schema import SPLITS, ProductName
from cloudsen12_cube.storage import ObjectStore

_KNOWN = ("s2_id_gee", "label_type", "split", "cloud_coverage", "difficulty")


@dataclass(frozen=True)
class PatchSource:
    """Where an opened cube's pixels lie."""

    objects: ObjectStore
    settings: dict[str, Any]
    files: Mapping[str, VirtualArray] | None = None
    """Of an archive that was opened in place, by product."""

    def layout(self, product: ProductName) -> ProductLayout:
        """Array of a product as the store has it."""
        return layout_of(product, self.settings["products"][product])

    def chunks(self, product: ProductName) -> ChunkReader:
        """Reader of a product's pixels."""
        return FileChunks(self.files[product]) if self.files else ChunkReader(self.objects, self.layout(product))

    def order(self) -> tuple[str, ...]:
        """ROIs as they lie on disk."""
        if self.files:
            return tuple(task.roi_id for task in next(iter(self.files.values())).tasks)
        return open_stored_cube(self.objects).order


def stored_cube(cube: xr.DataTree) -> PatchSource:
    """Find the store that a cube was opened from, also after a query.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube, or a selection of it.

    Returns
    -------
    PatchSource
        The store, the settings, and the files of an archive that was opened in place.

    Raises
    ------
    StoreError
        If the tree was not opened from a store, or is no cube.
    """
    store = cube.encoding.get("store")
    if store is None:
        raise StoreError(
            "this tree does not know its store, so nothing can be streamed from it: open the cube with open_cube and "
            "select with query, isel or sel, which keep the store in mind"
        )
    if KEY not in cube.attrs:
        raise StoreError(f"{store.root} is no CloudSEN12 cube: its root lacks the attribute {KEY!r}")
    return PatchSource(store, attribute_mapping(cube.attrs[KEY]), cube.encoding.get("virtual"))


def patch_table(cube: xr.DataTree, products: Sequence[str], split: str | None) -> pd.DataFrame:
    """List the patches of a cube whose pixels are there, and check that they are those of the store.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube, or a selection of it.
    products : sequence of str
        All of them must have the patch.
    split : str or None
        ``train``, ``validation`` or ``test``; None and ``all`` take all.

    Returns
    -------
    pandas.DataFrame
        One row a patch, by ROI and date: ``roi``, ``time``, ``disk`` (number of the ROI's shards) and the properties
        that patches are chosen or weighted by.

    Raises
    ------
    SelectionError
        If the split is no published one, nothing is left, or the pixels of a product are not those of the store.
    """
    split = parse_split(split)
    root = check_cube(cube, "roi", "time").to_dataset()
    there = catalogue_values(root, "s2_id_gee") != ""
    for product in products:
        there = there & (catalogue_values(cube[product].to_dataset(), "status") == DONE)
    table = catalogue_rows(root, there, ("roi", "time", *_KNOWN))
    stored = stored_cube(cube)
    order = stored.order()
    position = {roi: number for number, roi in enumerate(order)}
    _check_rois(table["roi"], position)
    table.insert(2, "disk", table["roi"].map(position).astype(np.int64))
    chosen = table if split is None else table[table["split"] == split].reset_index(drop=True)
    if chosen.empty:
        counts = ", ".join(f"{name or 'none'} {count}" for name, count in table["split"].value_counts().items())
        raise SelectionError(
            f"no patch of {', '.join(products)} is in the split {split!r}; patches by split: {counts or 'none at all'}"
        )
    for product in products:
        files = stored.files[product] if stored.files else None
        chunks = stored.chunks(product)  # type: ignore[arg-type]  # a group of the cube
        check_unchanged(cube, StoredArray(chunks, order, files), chosen)
    return chosen


def _check_rois(rois: pd.Series[str], known: Mapping[str, int]) -> None:
    unknown = [roi for roi in rois if roi not in known]
    if unknown:
        raise SelectionError(
            f"the tree has an ROI {unknown[0]!r}, which is not in the store: open the cube again and select ROIs by "
            "their labels"
        )


def parse_split(split: object) -> str | None:
    """Return a published split, or None for all patches.

    Parameters
    ----------
    split : object
        ``train``, ``validation`` or ``test``; ``all`` or None.

    Raises
    ------
    SelectionError
        If it is anything else; above all a share, which asks for a split by patch.
    """
    if split is None or split == "all":
        return None
    if split in SPLITS:
        return str(split)
    if isinstance(split, str):
        raise SelectionError(f"split is {split!r}: give one of {', '.join(SPLITS)}, or all")
    raise SelectionError(
        f"split is {split!r}, which asks for a random split by patch. The five patches of an ROI show the same ground: "
        f"some of them in training and others in testing leak, and the accuracy is too good. Give one of "
        f"{', '.join(SPLITS)}, which share no ROI; or query(roi=[...]) two sets of ROIs of your own"
    )

"""The plan: which shards will be written from which files, and what that will take.

A plan follows from the archive and the settings alone, so two runs on the same archive make the same one, and every
machine of a cluster can derive its own share of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.access import NOTHING, Access
from cloudsen12_cube.archive import Archive
from cloudsen12_cube.assets import ASSETS, PRODUCTS, ProductName, files_of
from cloudsen12_cube.catalogue import Catalogue, RowFault, Selection
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.form import Decoder, PatchFiles
from cloudsen12_cube.form_tif import TIFS
from cloudsen12_cube.grid import Grid, complete, grid_of, header_of
from cloudsen12_cube.header import Header
from cloudsen12_cube.layout import ProductLayout, stored_dtype

_MANUAL = frozenset(asset.file for asset in ASSETS if asset.manual)
_SAMPLED = 60
_ASKING = 16
"""Headers of a remote archive that are asked for at a time."""
_SECONDS_PER_GB = 4.0
"""Raw gigabytes (1e9) on one core: decode, hash, compress; measured in benchmarks/."""
_RATIO = 0.45
"""Stored bytes to raw bytes, a cautious guess before anything is compressed; measured in benchmarks/."""


@dataclass(frozen=True)
class PatchTask:
    """One patch of a shard, and the files that fill it."""

    time: int
    s2_id_gee: str
    grid: Grid
    files: PatchFiles | None
    """None where the archive has no folder for this row of its metadata."""


@dataclass(frozen=True)
class ShardTask:
    """All that is needed to make one shard: small, and sent as it is to a worker anywhere."""

    root: str
    layout: ProductLayout
    roi_id: str
    index: int
    """Position of the ROI on disk."""
    patches: tuple[PatchTask, ...]
    required: frozenset[str]
    """Files without which a patch of this product is not whole."""
    access: Access = NOTHING
    """How to get to the archive, if it is a URL."""
    decoder: Decoder = TIFS
    """How its files become pixels."""


@dataclass(frozen=True)
class Plan:
    """What a conversion will do."""

    archive: Archive
    catalogue: Catalogue
    source: str
    """Where the metadata came from: csv, stac or folders."""
    selection: Selection
    layouts: tuple[ProductLayout, ...]
    required: dict[str, frozenset[str]]
    """Product -> files that a patch must have."""
    order: tuple[str, ...] = field(default=())
    """ROIs in the order in which they lie on disk."""
    about: dict[str, Any] = field(default_factory=dict)
    """Settings of the cube that follow from its source alone, where that is a cube."""

    @cached_property
    def groups(self) -> dict[str, pd.DataFrame]:
        """Rows of each ROI, with the columns that a task needs."""
        needed = self.catalogue.table[["roi_id", "time", "s2_id_gee", "proj_epsg", "proj_transform"]]
        return {str(roi): rows for roi, rows in needed.groupby("roi_id", sort=False)}

    def tasks(self) -> Iterator[ShardTask]:
        """Yield the shards in the order of the catalogue."""
        position = {roi: index for index, roi in enumerate(self.order)}
        root = self.archive.root if self.archive.is_remote else os.path.abspath(self.archive.root)
        way = self.archive.access, self.archive.decoder
        for roi in self.catalogue.rois:
            patches = tuple(self._patches(roi))
            for layout in self.layouts:
                required = self.required[layout.product]
                own = tuple(_with_files_of(layout.product, patch) for patch in patches)
                yield ShardTask(root, layout, roi, position[roi], own, required, *way)

    def _patches(self, roi: str) -> Iterator[PatchTask]:
        for _, row in self.groups[roi].iterrows():
            image = row["s2_id_gee"]
            yield PatchTask(int(row["time"]), image, grid_of(row), self.archive.patches.get((roi, image)))

    def memory_need(self, workers: int) -> int:
        """Bytes that so many workers need at most."""
        return memory_need(self.layouts, workers)

    def totals(self, workers: int) -> dict[str, int | float]:
        """Sum up: shards, objects, bytes, memory and time.

        Parameters
        ----------
        workers : int
            Shards that are made at the same time.
        """
        rois = len(self.catalogue.rois)
        raw = sum(layout.shard_bytes for layout in self.layouts) * rois
        shards = rois * len(self.layouts)
        return {
            "rois": rois,
            "patches": len(self.catalogue.table),
            "shards": shards,
            "objects": 2 * shards,
            "source_bytes": self._source_bytes(),
            "raw_bytes": raw,
            "stored_bytes_estimate": round(raw * _RATIO),
            "memory_bytes": self.memory_need(workers),
            "seconds_estimate": round(raw / 1e9 * _SECONDS_PER_GB / max(workers, 1), 1),
        }

    def _source_bytes(self) -> int:
        wanted = {file for layout in self.layouts for file in files_of(layout.product)}
        found = (self.archive.patches[key] for key in self.catalogue.keys if key in self.archive.patches)
        return sum(max(size, 0) for files in found for name, size in files.sizes.items() if name in wanted)

    def lacking(self) -> list[str]:
        """Files that no patch of the archive has, of the products that are converted: their bands stay empty."""
        names = [name for layout in self.layouts for name in files_of(layout.product)]
        return [n for n in names if n not in _MANUAL and not any(n in r for r in self.required.values())]

    def faults(self) -> list[RowFault]:
        """Rows that cannot be used, and folders that no row names."""
        whole = self.selection == Selection()
        unnamed = sorted(set(self.archive.patches) - set(self.catalogue.keys)) if whole else []
        return [
            *self.catalogue.faults,
            *(
                RowFault(*key, "a folder that no row of the metadata names", "a row for every folder")
                for key in unnamed
            ),
        ]


def _with_files_of(product: ProductName, patch: PatchTask) -> PatchTask:
    """Leave out the files of other products: a task travels, and a scheduler may hold thousands."""
    if patch.files is None:
        return patch
    names = {name: patch.files.names[name] for name in files_of(product) if name in patch.files.names}
    sizes = {name: patch.files.sizes[name] for name in names}
    starts = {name: patch.files.starts[name] for name in names if name in patch.files.starts}
    outside = frozenset(patch.files.outside & names.keys())
    return replace(patch, files=replace(patch.files, names=names, sizes=sizes, starts=starts, outside=outside))


def memory_need(layouts: tuple[ProductLayout, ...], workers: int) -> int:
    """Bytes that a conversion needs at most, beside the catalogue.

    Each worker holds one source file twice (its bytes and its pixels), the files of the next patch where they come from
    afar, and the shard, whose compressed chunks it joins once: no shard is larger than its raw bytes and a little.
    Where a chunk holds all bands, the planes of a patch are joined, too.
    """
    held = {"band": 3, "bands": 5}  # times the bytes of a patch
    largest = max(row.shard_bytes // row.times * held[row.form.chunk] + 2 * row.shard_bytes for row in layouts)
    return 200 * 2**20 + largest * max(workers, 1)


def make_plan(archive: Archive, chosen: Catalogue, source: str, options: tuple[Selection, tuple[str, ...]]) -> Plan:
    """Decide the layout from the archive, and what goes where.

    Parameters
    ----------
    archive : Archive
    chosen : Catalogue
        The selected patches.
    source : str
        Where the metadata came from.
    options : (Selection, tuple of str)
        The selection and the wanted products; no products means all that the archive has.

    Raises
    ------
    ArchiveError, SelectionError
        If nothing is selected, the patches differ in size, or a product is unknown or not there.
    """
    selection, wanted = options
    if not len(chosen.table):
        raise SelectionError(f"{archive.root} has no patch that could be converted")
    chosen = replace(chosen, table=complete(chosen.table, archive))
    present = _present(archive)
    products = _products(wanted, present, archive)
    headers = _sample(archive, chosen, products)
    height, width = _size(headers, chosen)
    layouts = tuple(
        ProductLayout(p, _dtype(p, headers), chosen.times, height, width) for p in PRODUCTS if p in products
    )
    required: dict[str, frozenset[str]] = {p: _required(p, present) for p in products}
    return Plan(archive, chosen, source, selection, layouts, required, tuple(chosen.rois))


def _present(archive: Archive) -> Counter[str]:
    """Count the patches that have each file."""
    return Counter(name for files in archive.patches.values() for name in files.names)


def _products(wanted: tuple[str, ...], present: Counter[str], archive: Archive) -> tuple[ProductName, ...]:
    for name in wanted:
        if name not in PRODUCTS:
            raise SelectionError(f"unknown product {name!r}; the products are {', '.join(PRODUCTS)}")
    there = tuple(p for p in PRODUCTS if any(present[file] for file in files_of(p)))
    lacking = [name for name in wanted if there and name not in there]
    if lacking:
        raise ArchiveError(f"{archive.root} has no file of {lacking[0]!r}; it has {', '.join(there)}")
    return tuple(p for p in PRODUCTS if p in (wanted or there or PRODUCTS))


def _required(product: ProductName, present: Counter[str]) -> frozenset[str]:
    """Files that every patch must have: all but the manual labels, and what no patch of the archive has."""
    return frozenset(file for file in files_of(product) if file not in _MANUAL and (present[file] or not present))


def _sample(archive: Archive, chosen: Catalogue, products: tuple[ProductName, ...]) -> dict[str, list[Header]]:
    """Read the headers of patches spread evenly over the catalogue: reading 1.2 million would take hours."""
    keys = chosen.keys
    spread = np.unique(np.linspace(0, len(keys) - 1, _SAMPLED).astype(int))
    found = [archive.patches[keys[i]] for i in spread if keys[i] in archive.patches]
    headers: dict[str, list[Header]] = {p: [] for p in products}
    for product in products:
        asked = [(files, name) for files in found for name in files_of(product)]
        with ThreadPoolExecutor(_ASKING if archive.is_remote else 1) as pool:
            seen = pool.map(lambda pair: header_of(archive, *pair), asked)
            headers[product] += [h for h in seen if h]  # a damaged file decides nothing; the conversion will name it
    return headers


def _size(headers: dict[str, list[Header]], chosen: Catalogue) -> tuple[int, int]:
    stated = sorted(set(chosen.table["proj_shape"]) - {0})
    if len(stated) > 1:
        sizes = " and ".join(map(str, stated))
        raise SelectionError(
            f"patches of {sizes} pixels do not fit one cube: convert each with --where proj_shape={stated[0]} ..."
        )
    seen = Counter((h.height, h.width) for rows in headers.values() for h in rows)
    if seen:
        return min(seen, key=lambda size: (-seen[size], size))
    if stated:
        return stated[0], stated[0]
    raise ArchiveError("no readable raster and no proj_shape in the metadata: the patch size is unknown")


def _dtype(product: ProductName, headers: dict[str, list[Header]]) -> str:
    published = [np.dtype(asset.dtype) for asset in ASSETS if asset.product == product]
    return stored_dtype(product, [h.dtype for h in headers[product]] or published)

"""The plan of a conversion of an archive: its layouts follow from a sample of the files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.archive import Archive, ArchiveRoi, Header, PatchTask, build, complete, header_of, open_archive
from cloudsen12_cube.conversion.options import Options, selection_of
from cloudsen12_cube.conversion.planning import Plan, cube_settings, selection_json
from cloudsen12_cube.conversion.readers import ArchiveReader, RoiReader, ShardTask
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.format import AcceptedFailure, FailureKey, ProductLayout, stored_dtype
from cloudsen12_cube.inspection import still_accepted
from cloudsen12_cube.schema import (
    ASSETS,
    PRODUCTS,
    Catalogue,
    ProductName,
    RowFault,
    Selection,
    files_of,
    grid_of,
    select,
)
from cloudsen12_cube.storage import absolute

_MANUAL = frozenset(asset.file for asset in ASSETS if asset.manual)
_SAMPLED = 60
"""Patches whose headers are read: reading those of 1.2 million files would take hours."""
_CONCURRENT_HEADERS = 16
"""Headers of a remote archive that are requested at a time."""
_RATIO = 0.45
"""Stored bytes to raw bytes, a cautious guess before anything is compressed; measured in benchmarks/."""
_CONVERT_SECONDS_PER_GB = 4.0
"""Raw gigabytes (1e9) on one core: decode, hash, compress; measured in benchmarks/."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ArchivePlan(Plan):
    """What will be made from an archive."""

    archive: Archive
    required: dict[str, frozenset[str]]
    """Product -> files that a patch must have."""

    @cached_property
    def _rows(self) -> dict[str, pd.DataFrame]:
        """Rows of each ROI, with the columns that a task needs."""
        needed = self.catalogue.table[["roi_id", "time", "s2_id_gee", "proj_epsg", "proj_transform"]]
        return {str(roi): rows for roi, rows in needed.groupby("roi_id", sort=False)}

    def rois(self, roi_id: str) -> tuple[ArchiveRoi, ...]:
        """List the files of an ROI, one entry a layout."""
        store, patches = absolute(self.archive.store), []
        for _, row in self._rows[roi_id].iterrows():
            image = row["s2_id_gee"]
            files = self.archive.patches.get((roi_id, image))
            patches.append(PatchTask(int(row["time"]), image, grid_of(row), files))
        made = []
        for layout in self.layouts:
            own = tuple(_with_files_of(layout.product, patch) for patch in patches)
            made.append(ArchiveRoi(store, layout, roi_id, own, self.required[layout.product], self.archive.decoder))
        return tuple(made)

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        return tuple(map(ArchiveReader, self.rois(roi_id)))

    def source_bytes(self) -> int:
        """Bytes of the files that will be read, as far as they are known."""
        wanted = {file for layout in self.layouts for file in files_of(layout.product)}
        found = (self.archive.patches[key] for key in self.catalogue.keys if key in self.archive.patches)
        return sum(max(size, 0) for files in found for name, size in files.sizes.items() if name in wanted)

    def still_accepted(self, failures: Iterable[AcceptedFailure]) -> frozenset[FailureKey]:
        """Keys of the accepted failures that the archive still has: a file of another size is tried again."""
        return still_accepted(frozenset(failures), self.archive)

    def lacking(self) -> list[str]:
        """Files that no patch of the archive has, of the products that are converted: their bands stay empty."""
        names = [name for layout in self.layouts for name in files_of(layout.product)]
        return [n for n in names if n not in _MANUAL and not any(n in r for r in self.required.values())]

    def _line(self, task: ShardTask) -> dict[str, Any]:
        (roi,), product, patches = task.rois, task.layout.product, dict[str, Any]()
        for _, image in roi.patches:
            files = self.archive.patches.get((roi.roi_id, image))
            patches[image] = files and {
                "folder": files.folder,
                "files": {
                    self.archive.decoder.path(files, name).removeprefix(f"{files.folder}/"): files.sizes[name]
                    for name in files_of(product)
                    if name in files.names
                },
            }
        return {"roi": roi.roi_id, "product": product, "raw_bytes": task.layout.shard_bytes, "patches": patches}


def _with_files_of(product: ProductName, patch: PatchTask) -> PatchTask:
    """Leave out the files of other products: a task travels, and a scheduler may hold thousands."""
    if patch.files is None:
        return patch
    names = {name: patch.files.names[name] for name in files_of(product) if name in patch.files.names}
    sizes = {name: patch.files.sizes[name] for name in names}
    starts = {name: patch.files.starts[name] for name in names if name in patch.files.starts}
    outside = frozenset(patch.files.outside & names.keys())
    return replace(patch, files=replace(patch.files, names=names, sizes=sizes, starts=starts, outside=outside))


def plan_archive(
    source: str | os.PathLike[str], products: Sequence[str] | None, where: Sequence[str], options: Options
) -> ArchivePlan:
    """Plan the conversion of an archive: the layouts follow from a sample of its files.

    Parameters
    ----------
    source : path, URL or `Url`
        The archive.
    products : sequence of str, optional
        By default all that the archive has.
    where : sequence of str
        Conditions on the metadata; all must hold.
    options : Options

    Returns
    -------
    ArchivePlan

    Raises
    ------
    ArchiveError, SelectionError
        If nothing is selected, the patches differ in size, or a product is unknown or not there.
    """
    if options.layout.rois_per_shard > 1:
        raise SelectionError(
            "several ROIs a shard are made from a cube, not from an archive: convert it with one first, then convert "
            f"that cube with rois_per_shard={options.layout.rois_per_shard}"
        )
    archive = open_archive(source)
    metadata, texts = archive.table()
    whole = build(texts, options.test_meaning or archive.test_meaning)
    selection = selection_of(where, options)
    chosen = select(whole, selection)
    if not len(chosen.table):
        raise SelectionError(f"{archive.root} has no patch that could be converted")
    chosen = replace(chosen, table=complete(chosen.table, archive))
    present = Counter(name for files in archive.patches.values() for name in files.names)
    wanted = _products(products or (), present, archive)
    headers = _sample(archive, chosen, wanted)
    height, width = _size(headers, chosen)
    layouts = tuple(
        ProductLayout(p, _dtype(p, headers), chosen.times, height, width, options.layout)
        for p in PRODUCTS
        if p in wanted
    )
    unnamed = sorted(set(archive.patches) - set(chosen.keys)) if selection == Selection() else []
    found, expected = "a folder that no row of the metadata names", "a row for every folder"
    faults = (*chosen.faults, *(RowFault(*key, found, expected) for key in unnamed))
    source_name = archive.catalogue_source(metadata, texts)
    origin = {"source": source_name, "metadata": metadata, "test_meaning": chosen.test_meaning}
    return ArchivePlan(
        root=archive.root,
        catalogue=replace(chosen, faults=faults),
        selection=selection,
        layouts=layouts,
        order=tuple(chosen.rois),
        settings=cube_settings(layouts, origin, selection_json(selection)),
        source_shards={roi: rank for rank, roi in enumerate(chosen.rois)},
        worker_bytes=max(map(_memory_to_convert, layouts)),
        seconds_per_gb=_CONVERT_SECONDS_PER_GB,
        ratio=_RATIO,
        ignored=(*archive.ignored, *archive.passed_over),
        archive=archive,
        required={product: _required(product, present) for product in wanted},
    )


def _memory_to_convert(layout: ProductLayout) -> int:
    """Bytes that a worker needs.

    It holds one source file twice (its bytes and its pixels), the files of the next patch where they come from afar,
    and the shard, whose compressed chunks it joins once: no shard is larger than its raw bytes and a little. Where a
    chunk holds all bands, the planes of a patch are joined, too.
    """
    patches = {"band": 3, "bands": 5}[layout.form.chunk]
    return layout.shard_bytes // layout.times * patches + 2 * layout.shard_bytes


def _products(wanted: Sequence[str], present: Counter[str], archive: Archive) -> tuple[ProductName, ...]:
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
        with ThreadPoolExecutor(_CONCURRENT_HEADERS if archive.is_remote else 1) as pool:
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

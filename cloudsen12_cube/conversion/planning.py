"""The plan: which shards will be written from which files, and what that will take.

A plan follows from the archive and the settings alone, so two runs on the same archive make the same one, and every
machine of a cluster can derive its own share of it.

A plan as a document that a person can read: versioned JSON, one line a shard.

The plan of a cube that is made from a cube: which shard from which, and what that will take.

The part of a cube that a selection names: its patches, and its shards, whole or some of their dates.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.archive import (
    Archive,
    GeotiffFormat,
    Header,
    PatchTask,
    ShardTask,
    complete,
    header_of,
)
from cloudsen12_cube.conversion.options import Options
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError, StoreError, without_secrets
from cloudsen12_cube.format import (
    ROOT_KEY,
    ProductLayout,
    ShardRecord,
    SourceCube,
    layout_of,
    open_source_cube,
    read_table,
    settings_of,
    stated_scale,
    stored_dtype,
)
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
from cloudsen12_cube.storage import ObjectStore, absolute, list_once, open_store

_MANUAL = frozenset(asset.file for asset in ASSETS if asset.manual)
_SAMPLED = 60
_ASKING = 16
"""Headers of a remote archive that are asked for at a time."""
_SECONDS_PER_GB = 4.0
"""Raw gigabytes (1e9) on one core: decode, hash, compress; measured in benchmarks/."""
_RATIO = 0.45
"""Stored bytes to raw bytes, a cautious guess before anything is compressed; measured in benchmarks/."""


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
        store, decoder = absolute(self.archive.store), self.archive.decoder
        for roi in self.catalogue.rois:
            patches = tuple(self._patches(roi))
            for layout in self.layouts:
                required = self.required[layout.product]
                own = tuple(_with_files_of(layout.product, patch) for patch in patches)
                yield ShardTask(store, layout, roi, position[roi], own, required, decoder)

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


KEPT = 2
"""Shards of several ROIs that a process keeps: the tasks that want one follow each other."""

PLAN_VERSION = 1


def as_json(plan: Plan, workers: int) -> str:
    """Write a plan; equal plans give equal texts."""
    return document(plan, workers, map(_shard_json, plan.tasks()))


def document(plan: Plan, workers: int, shards: Iterable[dict[str, Any]]) -> str:
    """Write what plans have in common, and a line for each shard."""
    head = {
        "plan_version": PLAN_VERSION,
        "layout_version": plan.layouts[0].form.version,
        "source": without_secrets(plan.archive.root),
        "metadata": plan.source,
        "test_meaning": plan.catalogue.test_meaning,
        "selection": {
            "where": list(plan.selection.where),
            "bbox": plan.selection.bbox,
            "rois": list(plan.selection.rois),
        },
        "products": {layout.product: layout.as_json() for layout in plan.layouts},
        "totals": plan.totals(workers),
        "faults": [vars(fault) for fault in plan.faults()],
    }
    lines = ",\n  ".join(map(json.dumps, shards))
    return json.dumps(head, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n'


def _shard_json(task: ShardTask) -> dict[str, Any]:
    files = files_of(task.layout.product)
    patches = {
        patch.s2_id_gee: None
        if patch.files is None
        else {
            "folder": patch.files.folder,
            "files": {
                task.decoder.path(patch.files, f).removeprefix(f"{patch.files.folder}/"): patch.files.sizes[f]
                for f in files
                if f in patch.files.names
            },
        }
        for patch in task.patches
    }
    return {
        "roi": task.roi_id,
        "product": task.layout.product,
        "raw_bytes": task.layout.shard_bytes,
        "patches": patches,
    }


_RESHARD_SECONDS_PER_GB = 2.0
"""Raw gigabytes (1e9) on one core, decode and encode: a cautious guess."""


@dataclass(frozen=True)
class Member:
    """An ROI of a shard, and where it comes from."""

    roi_id: str
    index: int
    """Position on disk."""
    source: int
    """Position on the source's disk."""
    patches: tuple[tuple[int, str, int], ...]
    """Time, ``s2_id_gee`` and time in the source."""


@dataclass(frozen=True)
class GroupedShardTask:
    """All that is needed to make one shard of one ROI or of several: small, and sent as it is to a worker anywhere."""

    source: ObjectStore
    origin: ProductLayout
    """Of the product in the source."""
    layout: ProductLayout
    members: tuple[Member, ...]

    @property
    def key(self) -> str:
        """Of the object."""
        return self.layout.place(self.members[0].index)[0]


@dataclass(frozen=True)
class Resharding(Plan):
    """What will be made from a cube."""

    origin: SourceCube = field(kw_only=True)

    def shared(self, table: pd.DataFrame) -> list[GroupedShardTask]:
        """List the shards that hold an ROI of the plan, those from one shard of the source behind each other.

        Parameters
        ----------
        table : pandas.DataFrame
            Catalogue of the whole cube: a shard may hold ROIs of an earlier run, too.

        Raises
        ------
        DestinationError
            If the source lacks an ROI whose shard must be written again.
        """
        if not self.order:
            return []
        members = self._members(table)
        shared = self.layouts[0].form.rois_per_shard
        groups = [members[first : first + shared] for first in range(0, len(members), shared)]
        chosen = [group for group in groups if any(member.roi_id in self.groups for member in group)]
        for group in chosen:
            _complete(group, self.origin)
        tasks = [
            GroupedShardTask(self.origin.place, self.origin.layouts[layout.product], layout, tuple(group))
            for layout in self.layouts
            for group in chosen
        ]
        return sorted(tasks, key=lambda task: task.members[0].source // task.origin.form.rois_per_shard)

    def _members(self, table: pd.DataFrame) -> list[Member]:
        """List the ROIs in the order of the disk; the source of one that it lacks is -1."""
        disk = {roi: index for index, roi in enumerate(self.origin.order)}
        rows = self.origin.table
        when = dict(zip(zip(rows["roi_id"], rows["s2_id_gee"], strict=True), rows["time"], strict=True))
        found: dict[str, list[tuple[int, str, int]]] = {roi: [] for roi in self.order}
        for roi, image, time in zip(table["roi_id"], table["s2_id_gee"], table["time"], strict=True):
            found[roi].append((int(time), str(image), int(when.get((roi, image), -1))))
        patches = {roi: tuple(sorted(own)) for roi, own in found.items()}
        lacking = {roi for roi, own in patches.items() if any(time < 0 for *_, time in own)}
        return [
            Member(roi, index, -1 if roi in lacking else disk.get(roi, -1), patches[roi])
            for index, roi in enumerate(self.order)
        ]

    def memory_need(self, workers: int) -> int:
        """Bytes that it needs at most.

        Each worker holds a shard of the source, a patch, and the shard that it makes, whose compressed chunks it joins
        once; and a few shards of the source are kept.
        """
        need = 0
        for layout in self.layouts:
            origin = self.origin.layouts[layout.product]
            need = max(need, origin.shard_bytes + 2 * layout.roi_bytes // layout.times + 2 * layout.shard_bytes)
        return 200 * 2**20 + need * (max(workers, 1) + KEPT)

    def totals(self, workers: int) -> dict[str, int | float]:
        """Sum up: shards, objects, bytes, memory and time; what is stored is guessed from what is stored there."""
        rois = len(self.catalogue.rois)
        raw = sum(layout.roi_bytes for layout in self.layouts) * rois
        shards = sum(-(-rois // layout.form.rois_per_shard) for layout in self.layouts)
        read = self._source_bytes()
        packed = self.layouts[0].form.codec != "none"
        return {
            "rois": rois,
            "patches": len(self.catalogue.table),
            "shards": shards,
            "objects": shards + rois * len(self.layouts),
            "source_bytes": read,
            "raw_bytes": raw,
            "stored_bytes_estimate": min(read, raw) if packed else raw,
            "memory_bytes": self.memory_need(workers),
            "seconds_estimate": round(raw / 1e9 * _RESHARD_SECONDS_PER_GB / max(workers, 1), 1),
        }

    def _source_bytes(self) -> int:
        """Sum up the shards that will be read, each once."""
        place, chosen = list_once(self.origin.place), set(self.catalogue.rois)
        disks = [index for index, roi in enumerate(self.origin.order) if roi in chosen]
        origins = (self.origin.layouts[layout.product] for layout in self.layouts)
        return sum(place.size(key) or 0 for o in origins for key in {o.place(disk)[0] for disk in disks})

    def as_json(self, workers: int) -> str:
        """Write the plan as a document, one line a shard."""
        return document(self, workers, map(_reshard_json, self.shared(self.catalogue.table)))


def _complete(group: Sequence[Member], origin: SourceCube) -> None:
    for member in group:
        if member.source < 0:
            raise DestinationError(
                f"{member.roi_id} shares a shard with what is to be added, but {origin.place.root} lacks it or some of "
                "its patches: give a source that has both, or a new place"
            )


def _reshard_json(task: GroupedShardTask) -> dict[str, Any]:
    return {
        "rois": [member.roi_id for member in task.members],
        "product": task.layout.product,
        "raw_bytes": len(task.members) * task.layout.roi_bytes,
        "from": sorted({task.origin.place(member.source)[0] for member in task.members}),
    }


def plan_resharding(
    source: str | os.PathLike[str], products: Sequence[str], where: Sequence[str], options: Options
) -> Resharding:
    """Plan a cube that is made from a cube; nothing is written.

    Raises
    ------
    CubeError
        If the source is not finished, or lacks what is asked for.
    """
    origin = open_source_cube(source)
    root, settings = origin.place.root, origin.settings
    for name in products:
        if name not in settings["products"]:
            raise SelectionError(f"no product {name!r} in {root}; it has {', '.join(settings['products'])}")
    if options.test_meaning not in (None, settings["test_meaning"]):
        raise SelectionError(f"{root} reads `test` as {settings['test_meaning']}: leave the meaning of it to the cube")
    selection = Selection(tuple(where), options.bbox, options.rois)
    chosen = select(Catalogue(origin.table, settings["test_meaning"]), selection)
    kept = [product for product in PRODUCTS if product in (products or settings["products"])]
    layouts = tuple(replace(origin.layouts[p], times=chosen.times, form=options.layout) for p in kept)
    archive = Archive(
        origin.place, GeotiffFormat(origin.place, {}, (), ())
    )  # no file is known: gaps are the source's own
    required: dict[str, frozenset[str]] = {product: frozenset(files_of(product)) for product in kept}
    plan = Resharding(
        archive, chosen, settings["metadata"], selection, layouts, required, tuple(chosen.rois), origin=origin
    )
    return replace(plan, about=_about(origin, selection))


def _about(origin: SourceCube, selection: Selection) -> dict[str, Any]:
    """Give the settings that a cube has from the one it was made from, and where that was."""
    settings = origin.settings
    before = {
        "cube": without_secrets(origin.place.root),
        "history": origin.attributes.get("history", ""),
        "layout_version": settings["layout_version"],
        "products": settings["products"],
    }
    scale = {"full_scale": origin.scale} if origin.scale else {}
    return {
        "source": settings["source"],
        "selection": _together(settings["selection"], selection),
        "resharded_from": before,
        **scale,
    }


def _together(before: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """Give the conditions of the source and the new ones as one selection."""
    box: Any = selection.bbox or before["bbox"]
    if selection.bbox and before["bbox"] and selection.bbox[0] <= selection.bbox[2]:
        (w, s, e, n), (west, south, east, north) = selection.bbox, before["bbox"]
        box = (max(w, west), max(s, south), min(e, east), min(n, north)) if west <= east else selection.bbox
    where = [*before["where"], *(text for text in selection.where if text not in before["where"])]
    return {"where": where, "bbox": box and list(box), "rois": list(selection.rois) or before["rois"]}


@dataclass(frozen=True)
class ShardCopy:
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
class SubsetPlan:
    """What a selection names of a cube."""

    source: ObjectStore
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

    def pieces(self, order: Sequence[str], times: int) -> Iterator[ShardCopy]:
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
                yield ShardCopy(layout, name, self.disk[name], position[name], dates, images, times)


def plan_subset(cube: str | os.PathLike[str], products: Sequence[str] | None, selection: Selection) -> SubsetPlan:
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
    source = open_store(cube)
    root = source.get(ROOT_KEY) or None
    settings = settings_of(root, source.root)
    layouts = tuple(_layout(p, settings, source.root) for p in _chosen(products, settings, source.root))
    order, table = read_table(source)
    if not len(table):
        raise SelectionError(f"{source.root} has no patch that could be taken along")
    strange = [roi for roi in selection.rois if roi not in set(order)]
    if strange:
        raise SelectionError(f"no ROI {strange[0]!r} in {source.root}; ids look like {order[0]}")
    dates = {(roi, image): int(time) for roi, image, time in zip(*(table[c] for c in _KEY), strict=True)}
    chosen = select(Catalogue(table, settings["test_meaning"]), selection)
    disk = {roi: index for index, roi in enumerate(order)}
    scale = stated_scale(root or b"{}") or settings.get("full_scale")
    return SubsetPlan(source, settings, disk, dates, chosen, layouts, selection, scale)


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

"""Plans: which shards will be made from what, and what that will take; nothing is written.

A plan follows from the source and the options alone, so two runs on the same source make the same one, and every
machine of a cluster can derive its own share of it. Converting, re-sharding and taking a subset are one job: what
differs between them is data of the plan.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.archive import Archive, ArchiveRoi, Header, PatchTask, build, complete, header_of, open_archive
from cloudsen12_cube.conversion.options import Options
from cloudsen12_cube.conversion.readers import (
    CACHED_SHARDS,
    ArchiveReader,
    CubeReader,
    OnLoss,
    RoiReader,
    ShardRoi,
    ShardTask,
)
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError, StoreError, without_secrets
from cloudsen12_cube.format import ProductLayout, StoredCube, open_stored_cube, stored_dtype
from cloudsen12_cube.inspection import AcceptedFailure, FailureKey, as_setting, holding, in_settings
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

PLAN_VERSION = 1

_MANUAL = frozenset(asset.file for asset in ASSETS if asset.manual)
_SAMPLED = 60
"""Patches whose headers are read: reading those of 1.2 million files would take hours."""
_CONCURRENT_HEADERS = 16
"""Headers of a remote archive that are requested at a time."""
_RATIO = 0.45
"""Stored bytes to raw bytes, a cautious guess before anything is compressed; measured in benchmarks/."""
_CONVERT_SECONDS_PER_GB = 4.0
"""Raw gigabytes (1e9) on one core: decode, hash, compress; measured in benchmarks/."""
_RESHARD_SECONDS_PER_GB = 2.0
"""Raw gigabytes (1e9) on one core, decode and encode: a cautious guess."""
_BASE_MEMORY = 200 * 2**20
"""Bytes of a process that converts nothing."""

_CONVERTED_BY = ("layout_version", "tool", "created", "source", "metadata", "test_meaning")
"""Settings that describe the conversion which made the pixels."""
_KEPT = ("created", "tool", "source", "accepted", "subsets", "resharded_from", "full_scale")
"""Settings of the first run, or of an earlier one, that a later run keeps."""

Settings = Mapping[str, Any]


def _fixed_of_conversion(settings: Settings) -> dict[str, Any]:
    """Give the settings that a cube keeps for life."""
    return {name: settings.get(name) for name in ("products", "layout_version", "test_meaning")}


@dataclass(frozen=True)
class Plan:
    """What a run will make. Made by `plan`."""

    catalogue: Catalogue
    """The selected patches."""
    selection: Selection
    layouts: tuple[ProductLayout, ...]
    """Of the cube that is made, in the order of its products."""
    order: tuple[str, ...]
    """ROIs in the order in which they lie on disk."""
    settings: dict[str, Any]
    """Of the cube, all but its state."""
    fixed: Callable[[Settings], dict[str, Any]] = field(default=_fixed_of_conversion, kw_only=True)
    """Gives, from a cube's settings, what a cube must share with the plan to be continued."""
    kept: tuple[str, ...] = field(default=_KEPT, kw_only=True)
    """Settings of a cube that is continued which stay as they are there."""

    def __repr__(self) -> str:
        products = ", ".join(layout.product for layout in self.layouts)
        patches, rois = len(self.catalogue.table), len(self.catalogue.rois)
        return f"<{type(self).__name__} {self.root}: {products}; {rois} ROIs, {patches} patches>"

    @property
    def root(self) -> str:
        """Path or URL of the source."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """Where the metadata come from: ``csv``, ``stac``, ``folders`` or ``taco``."""
        return str(self.settings["metadata"])

    @property
    def on_loss(self) -> OnLoss:
        """What happens if the source does not have an ROI."""
        return "note"

    @property
    def concurrency(self) -> int:
        """Requests to the source that are worth having under way at a time while the cube is surveyed."""
        return 1

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of layers that the source has and a cube has no place for."""
        return ()

    def with_room(self, times: int) -> Plan:
        """Give the shards room for at least so many dates, as the cube has that is continued."""
        layouts = tuple(replace(layout, times=max(layout.times, times)) for layout in self.layouts)
        products = {layout.product: layout.as_json() for layout in layouts}
        return replace(self, layouts=layouts, settings=self.settings | {"products": products})

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        raise NotImplementedError

    def holding(self, gaps: Iterable[AcceptedFailure]) -> frozenset[FailureKey]:
        """Keys of the accepted failures that the source still has."""
        return frozenset(gap.key for gap in gaps)

    def lacking(self) -> list[str]:
        """Files that no patch of the source has, of the products that are converted: their bands stay empty."""
        return []

    def faults(self) -> list[RowFault]:
        """Rows of the metadata that cannot be used, and patches that no row names."""
        return list(self.catalogue.faults)

    def memory_need(self, workers: int) -> int:
        """Bytes that a run needs at most with so many workers, beside the catalogue."""
        raise NotImplementedError

    def tasks(self, table: pd.DataFrame | None = None) -> Iterator[ShardTask]:
        """Yield the shards that hold an ROI of the plan, those from one shard of the source behind each other.

        Parameters
        ----------
        table : pandas.DataFrame, optional
            Catalogue of the whole cube: a shard may hold ROIs of an earlier run, too. By default that of the plan.
        """
        patches: dict[str, list[tuple[int, str]]] = {}
        rows = self.catalogue.table if table is None else table
        for roi, image, time in zip(rows["roi_id"], rows["s2_id_gee"], rows["time"], strict=True):
            patches.setdefault(str(roi), []).append((int(time), str(image)))
        for _, batch in groupby(self._groups(), self._source_shard):
            groups = list(batch)
            readers = {roi: self.readers(roi) for group in groups for _, roi in group}
            for number, layout in enumerate(self.layouts):
                for group in groups:
                    rois = (ShardRoi(r, i, tuple(sorted(patches[r])), readers[r][number]) for i, r in group)
                    yield ShardTask(layout, tuple(rois), self.on_loss)

    def _groups(self) -> list[tuple[tuple[int, str], ...]]:
        """Position and id of the ROIs of each shard, in the order of the source."""
        count, disk, chosen = self.layouts[0].form.rois_per_shard, list(enumerate(self.order)), set(self.catalogue.rois)
        shards = (tuple(disk[first : first + count]) for first in range(0, len(disk), count))
        return sorted((shard for shard in shards if any(roi in chosen for _, roi in shard)), key=self._source_shard)

    def _source_shard(self, group: tuple[tuple[int, str], ...]) -> int:
        """Give the number of the source's shard that holds the first ROI."""
        raise NotImplementedError

    def _source_bytes(self) -> int:
        raise NotImplementedError

    def _stored_bytes(self, raw: int) -> int:
        return round(raw * _RATIO)

    @property
    def _seconds_per_gb(self) -> float:
        return _CONVERT_SECONDS_PER_GB

    def totals(self, workers: int) -> dict[str, int | float]:
        """Sum up shards, objects, bytes, memory and time.

        Parameters
        ----------
        workers : int
            Shards that are made at the same time.

        Returns
        -------
        dict of str to number
            ``stored_bytes_estimate`` and ``seconds_estimate`` are guesses.
        """
        rois = len(self.catalogue.rois)
        raw = sum(layout.roi_bytes for layout in self.layouts) * rois
        shards = sum(-(-rois // layout.form.rois_per_shard) for layout in self.layouts)
        return {
            "rois": rois,
            "patches": len(self.catalogue.table),
            "shards": shards,
            "objects": shards + rois * len(self.layouts),
            "source_bytes": self._source_bytes(),
            "raw_bytes": raw,
            "stored_bytes_estimate": self._stored_bytes(raw),
            "memory_bytes": self.memory_need(workers),
            "seconds_estimate": round(raw / 1e9 * self._seconds_per_gb / max(workers, 1), 1),
        }

    def as_json(self, workers: int) -> str:
        """Write the plan as a document, one line a shard; equal plans give equal texts.

        Parameters
        ----------
        workers : int
            Shards that are made at the same time.
        """
        head = {
            "plan_version": PLAN_VERSION,
            "layout_version": self.layouts[0].form.version,
            "source": without_secrets(self.root),
            "metadata": self.source,
            "test_meaning": self.catalogue.test_meaning,
            "selection": selection_json(self.selection),
            "products": {layout.product: layout.as_json() for layout in self.layouts},
            "totals": self.totals(workers),
            "faults": [vars(fault) for fault in self.faults()],
        }
        lines = ",\n  ".join(json.dumps(self._line(task)) for task in self.tasks())
        return json.dumps(head, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n'

    def _line(self, task: ShardTask) -> dict[str, Any]:
        raise NotImplementedError


def selection_json(selection: Selection) -> dict[str, Any]:
    """Write a selection as a cube's settings have it."""
    box = selection.bbox and list(selection.bbox)
    return {"where": list(selection.where), "bbox": box, "rois": list(selection.rois)}


def _made_now() -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"tool": f"cloudsen12-cube {version('cloudsen12-cube')}", "created": now}


def _cube_settings(layouts: tuple[ProductLayout, ...], source: Settings, selection: dict[str, Any]) -> dict[str, Any]:
    """Make the settings of a cube whose pixels a run of today makes."""
    return {
        "layout_version": layouts[0].form.version,
        **_made_now(),
        **{name: source[name] for name in ("source", "metadata", "test_meaning")},
        "selection": selection,
        "products": {layout.product: layout.as_json() for layout in layouts},
    }


@dataclass(frozen=True, repr=False)
class ArchivePlan(Plan):
    """What will be made from an archive."""

    archive: Archive = field(kw_only=True)
    required: dict[str, frozenset[str]] = field(kw_only=True)
    """Product -> files that a patch must have."""

    @property
    def root(self) -> str:
        """Path or URL of the archive."""
        return self.archive.root

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of layers that the archive has and a cube has no place for."""
        return self.archive.ignored

    @cached_property
    def _rows(self) -> dict[str, pd.DataFrame]:
        """Rows of each ROI, with the columns that a task needs."""
        needed = self.catalogue.table[["roi_id", "time", "s2_id_gee", "proj_epsg", "proj_transform"]]
        return {str(roi): rows for roi, rows in needed.groupby("roi_id", sort=False)}

    @cached_property
    def _rank(self) -> dict[str, int]:
        return {roi: rank for rank, roi in enumerate(self.catalogue.rois)}

    def rois(self, roi_id: str) -> tuple[ArchiveRoi, ...]:
        """List the files of an ROI, one entry a layout."""
        store = absolute(self.archive.store)
        patches = []
        for _, row in self._rows[roi_id].iterrows():
            image = row["s2_id_gee"]
            files = self.archive.patches.get((roi_id, image))
            patches.append(PatchTask(int(row["time"]), image, grid_of(row), files))
        return tuple(
            ArchiveRoi(
                store,
                layout,
                roi_id,
                tuple(_with_files_of(layout.product, patch) for patch in patches),
                self.required[layout.product],
                self.archive.decoder,
            )
            for layout in self.layouts
        )

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        return tuple(map(ArchiveReader, self.rois(roi_id)))

    def holding(self, gaps: Iterable[AcceptedFailure]) -> frozenset[FailureKey]:
        """Keys of the accepted failures that the archive still has: a file of another size is tried again."""
        return holding(frozenset(gaps), self.archive)

    def _source_shard(self, group: tuple[tuple[int, str], ...]) -> int:
        return self._rank[group[0][1]]

    def memory_need(self, workers: int) -> int:
        """Bytes that a run needs at most with so many workers, beside the catalogue.

        Each worker holds one source file twice (its bytes and its pixels), the files of the next patch where they come
        from afar, and the shard, whose compressed chunks it joins once: no shard is larger than its raw bytes and a
        little. Where a chunk holds all bands, the planes of a patch are joined, too.
        """
        held = {"band": 3, "bands": 5}  # times the bytes of a patch
        largest = max(row.shard_bytes // row.times * held[row.form.chunk] + 2 * row.shard_bytes for row in self.layouts)
        return _BASE_MEMORY + largest * max(workers, 1)

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
        found, expected = "a folder that no row of the metadata names", "a row for every folder"
        return [*self.catalogue.faults, *(RowFault(*key, found, expected) for key in unnamed)]

    def _line(self, task: ShardTask) -> dict[str, Any]:
        (roi,), product = task.rois, task.layout.product
        patches: dict[str, Any] = {}
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
    selection = Selection(tuple(where), options.bbox, options.rois)
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
    required: dict[str, frozenset[str]] = {p: _required(p, present) for p in wanted}
    origin = {
        "source": without_secrets(archive.root),
        "metadata": metadata,
        "test_meaning": chosen.test_meaning,
    }
    settings = _cube_settings(layouts, origin, selection_json(selection))
    return ArchivePlan(chosen, selection, layouts, tuple(chosen.rois), settings, archive=archive, required=required)


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


@dataclass(frozen=True, repr=False)
class CubePlan(Plan):
    """What will be made from a cube: the same patches in another layout, or some of them in the same."""

    cube: StoredCube = field(kw_only=True)
    """The source."""
    is_subset: bool = field(default=False, kw_only=True)
    """Whether the cube is to follow its source: it holds the selection and nothing else, every run compares it with the
    source, and what the source has lost is removed. Otherwise it keeps what it has."""

    @property
    def root(self) -> str:
        """Path or URL of the source."""
        return self.cube.store.root

    @property
    def on_loss(self) -> OnLoss:
        """What happens if the source does not have an ROI."""
        return "remove" if self.is_subset else "keep"

    @property
    def concurrency(self) -> int:
        """Requests to the source that are worth having under way at a time while the cube is surveyed."""
        return self.cube.store.concurrency if self.is_subset else 1

    @cached_property
    def _disk(self) -> dict[str, int]:
        """Position of each ROI in the source."""
        return {roi: index for index, roi in enumerate(self.cube.order)}

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        store, index = absolute(self.cube.store), self._disk[roi_id]
        sources = (self.cube.layouts[layout.product] for layout in self.layouts)
        return tuple(CubeReader(store, source, index, compare=self.is_subset) for source in sources)

    def tasks(self, table: pd.DataFrame | None = None) -> Iterator[ShardTask]:
        """Yield the shards that hold an ROI of the plan, those from one shard of the source behind each other.

        Parameters
        ----------
        table : pandas.DataFrame, optional
            Catalogue of the whole cube.

        Raises
        ------
        DestinationError
            If the source lacks an ROI whose shard must be written again.
        """
        if table is not None:
            self._check_complete(table)
        return super().tasks(table)

    def _check_complete(self, table: pd.DataFrame) -> None:
        there = set(zip(self.cube.table["roi_id"], self.cube.table["s2_id_gee"], strict=True))
        wanted = zip(table["roi_id"], table["s2_id_gee"], strict=True)
        missing = {roi for roi, image in wanted if (roi, image) not in there}
        count, chosen = self.layouts[0].form.rois_per_shard, set(self.catalogue.rois)
        for first in range(0, len(self.order), count):
            group = self.order[first : first + count]
            lost = next((roi for roi in group if roi in missing), None)
            if lost is not None and chosen.intersection(group):
                raise DestinationError(
                    f"{lost} shares a shard with what is to be added, but {self.root} lacks it or some of its patches: "
                    "give a source that has both, or a new place"
                )

    def _source_shard(self, group: tuple[tuple[int, str], ...]) -> int:
        return self._disk[group[0][1]] // self._shared

    @property
    def _shared(self) -> int:
        return self.cube.layouts[self.layouts[0].product].form.rois_per_shard

    def memory_need(self, workers: int) -> int:
        """Bytes that a run needs at most with so many workers, beside the catalogue.

        Each worker holds a shard of the source, a patch, and the shard that it makes, whose compressed chunks it joins
        once; and a few shards of the source are kept.
        """
        need = 0
        for layout in self.layouts:
            source = self.cube.layouts[layout.product]
            need = max(need, source.shard_bytes + 2 * layout.roi_bytes // layout.times + 2 * layout.shard_bytes)
        return _BASE_MEMORY + need * (max(workers, 1) + CACHED_SHARDS)

    def _source_bytes(self) -> int:
        """Sum up the shards that will be read, each once."""
        disks = [self._disk[roi] for roi in self.catalogue.rois]
        sources = (self.cube.layouts[layout.product] for layout in self.layouts)
        keys = (key for source in sources for key in {source.place(disk)[0] for disk in disks})
        return sum(self.cube.listed.size(key) or 0 for key in keys)

    def _stored_bytes(self, raw: int) -> int:
        return min(self._source_bytes(), raw) if self.layouts[0].form.codec != "none" else raw

    @property
    def _seconds_per_gb(self) -> float:
        return _RESHARD_SECONDS_PER_GB

    def _line(self, task: ShardTask) -> dict[str, Any]:
        source = self.cube.layouts[task.layout.product]
        return {
            "rois": [roi.roi_id for roi in task.rois],
            "product": task.layout.product,
            "raw_bytes": len(task.rois) * task.layout.roi_bytes,
            "from": sorted({source.place(self._disk[roi.roi_id])[0] for roi in task.rois}),
        }


def plan_resharding(
    source: str | os.PathLike[str], products: Sequence[str], where: Sequence[str], options: Options
) -> CubePlan:
    """Plan a cube that has patches of another cube in another layout.

    Raises
    ------
    CubeError
        If the source is not finished, or lacks what is asked for.
    """
    cube = open_stored_cube(source, "final")
    settings = cube.settings
    if options.test_meaning not in (None, settings["test_meaning"]):
        raise SelectionError(
            f"{cube.store.root} reads `test` as {settings['test_meaning']}: leave the meaning of it to the cube"
        )
    kept = _products_of(cube, products)
    selection = Selection(tuple(where), options.bbox, options.rois)
    chosen = _select(cube, selection)
    layouts = tuple(replace(cube.layouts[p], times=chosen.times, form=options.layout) for p in kept)
    before = {
        "cube": without_secrets(cube.store.root),
        "history": cube.attributes.get("history", ""),
        "layout_version": settings["layout_version"],
        "products": settings["products"],
    }
    made = {
        **_cube_settings(layouts, settings, _joint_selection(cube, selection, chosen)),
        "resharded_from": before,
        **({"full_scale": cube.full_scale} if cube.full_scale else {}),
        **as_setting(_gaps(cube, chosen, kept)),
    }
    return CubePlan(chosen, selection, layouts, tuple(chosen.rois), made, cube=cube)


def plan_subset(cube: str | os.PathLike[str], products: Sequence[str] | None, selection: Selection) -> CubePlan:
    """Plan a part of a cube in the cube's own layout; its catalogue is read, and no shard.

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
    found = open_stored_cube(cube)
    settings = found.settings
    kept = _products_of(found, products or ())
    for product in kept:
        layout, row = found.layouts[product], settings["products"][product]
        if layout.form.rois_per_shard > 1 or layout.as_json() != row:
            raise StoreError(
                f"the shards of {product} in {found.store.root} have a layout that cannot be taken apart without "
                f"decoding (shard {row['shard']}, chunk {row['chunk']}, codec {row.get('codec')}): give convert the "
                "same conditions instead"
            )
    chosen = _select(found, selection)
    layouts = tuple(replace(found.layouts[p], times=chosen.times) for p in kept)
    now = _made_now()
    step = {
        "cube": without_secrets(found.store.root),
        "created": now["created"],
        "tool": now["tool"],
        "selection": selection_json(selection),
        "products": list(kept),
    }
    made = {
        **{name: settings[name] for name in _CONVERTED_BY},
        "selection": _joint_selection(found, selection, chosen),
        "products": {layout.product: layout.as_json() for layout in layouts},
        "subsets": [*settings.get("subsets", []), step],
        **({"resharded_from": settings["resharded_from"]} if "resharded_from" in settings else {}),
        **as_setting(_gaps(found, chosen, kept)),
        **({"full_scale": found.full_scale} if found.full_scale else {}),
    }
    rest: dict[str, Any] = {"fixed": _fixed_of_subset, "kept": ("subsets",)}
    return CubePlan(chosen, selection, layouts, tuple(chosen.rois), made, cube=found, is_subset=True, **rest)


def _products_of(cube: StoredCube, wanted: Sequence[str]) -> tuple[ProductName, ...]:
    there = [name for name in PRODUCTS if name in cube.layouts]
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in there:
            raise SelectionError(f"no product {name!r} in {cube.store.root}; it has {', '.join(there)}")
    return tuple(name for name in there if not wanted or name in wanted)


def _select(cube: StoredCube, selection: Selection) -> Catalogue:
    if not len(cube.table):
        raise SelectionError(f"{cube.store.root} has no patch that could be taken along")
    known = set(cube.order)
    unknown = [roi for roi in selection.rois if roi not in known]
    if unknown:
        raise SelectionError(f"no ROI {unknown[0]!r} in {cube.store.root}; ids look like {cube.order[0]}")
    return select(Catalogue(cube.table, cube.settings["test_meaning"]), selection)


def _joint_selection(cube: StoredCube, asked: Selection, chosen: Catalogue) -> dict[str, Any]:
    """Give the conditions of a cube and these as one; two boxes are not always a box, so the ROIs are named instead."""
    before = cube.settings["selection"]
    rois, box = list(asked.rois) or before["rois"], list(asked.bbox) if asked.bbox else before["bbox"]
    if asked.bbox and before["bbox"] not in (None, box):
        rois = chosen.rois
    return {"where": list(dict.fromkeys([*before["where"], *asked.where])), "bbox": box, "rois": rois}


def _gaps(cube: StoredCube, chosen: Catalogue, products: Sequence[ProductName]) -> frozenset[AcceptedFailure]:
    """Give the accepted failures that go along: not those of patches and products that stay behind."""
    behind = set(zip(cube.table["roi_id"], cube.table["s2_id_gee"], strict=True)) - set(chosen.keys)
    files = {file for product in products for file in files_of(product)} | {""}
    known = in_settings(cube.settings)
    return frozenset(gap for gap in known if (gap.roi_id, gap.s2_id_gee) not in behind and gap.asset in files)


def _fixed_of_subset(settings: Settings) -> dict[str, Any]:
    """Give what two subsets must share: where their cube lies now is not asked, it may have been moved."""
    if not settings.get("subsets"):
        return {"subset": None}
    *before, step = settings["subsets"]
    asked = step["selection"]
    parts = [*asked["where"], *([f"bbox {asked['bbox']}"] if asked["bbox"] else []), *asked["rois"]]
    made = ", ".join(str(settings.get(name)) for name in _CONVERTED_BY)
    return {
        "conditions": f"{' and '.join(parts) or 'no condition'}; {', '.join(step['products'])}",
        "origin": "; subset of ".join([made, *(step["created"] for step in before)]),
        **{f"layout of {product}": row for product, row in settings["products"].items()},
    }

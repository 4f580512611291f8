"""Plans: which shards will be made from what, and what that will take; nothing is written.

A plan follows from the source and the options alone, so two runs on the same source make the same one, and every
machine of a cluster can derive its own share of it. Converting, re-sharding and taking a subset are one job: what
differs between them is data of the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import groupby
from typing import Any

import pandas as pd

from cloudsen12_cube.conversion.readers import OnLoss, RoiReader, ShardRoi, ShardTask
from cloudsen12_cube.errors import without_secrets
from cloudsen12_cube.format import AcceptedFailure, FailureKey, ProductLayout
from cloudsen12_cube.schema import Catalogue, RowFault, Selection, now_text

PLAN_VERSION = 1

_BASE_MEMORY = 200 * 2**20
"""Bytes of a process that converts nothing."""

CONVERTED_BY = ("layout_version", "tool", "created", "source", "metadata", "test_meaning")
"""Settings that describe the conversion which made the pixels."""
_KEPT = ("created", "tool", "source", "accepted", "subsets", "resharded_from", "full_scale")
"""Settings of the first run, or of an earlier one, that a later run keeps."""

Settings = Mapping[str, Any]


def _fixed_of_conversion(settings: Settings) -> dict[str, Any]:
    """Return the settings that a cube keeps for life."""
    return {name: settings.get(name) for name in ("products", "layout_version", "test_meaning")}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will make. Made by `plan`; see `ArchivePlan` and `CubePlan`.

    Parameters
    ----------
    root : str
        Path or URL of the source.
    catalogue : Catalogue
        The selected patches.
    selection : Selection
    layouts : tuple of ProductLayout
        Of the cube that is made, in the order of its products.
    order : tuple of str
        ROIs in the order in which they lie on disk.
    settings : dict
        Of the cube, all but its state.
    source_shards : mapping of str to int
        ROI -> number of the shard of the source that holds it: shards are made in this order.
    worker_bytes : int
        Memory that each worker needs.
    seconds_per_gb : float
        Estimated time for a raw gigabyte (1e9 bytes) on one core.
    ratio : float, optional
        Estimated stored bytes to raw bytes; by default the cube is taken to be as large as what it is made from.
    cached_shards : int
        Shards of the source that are kept beside those of the workers.
    ignored : tuple of str
        Names of layers that the source has and a cube has no place for.
    on_loss : {"note", "keep", "remove"}
        What happens if the source does not have an ROI; with "remove" the cube follows its source and holds the
        selection and nothing else.
    concurrency : int
        Requests to the source that are worth having under way at a time while the cube is surveyed.
    fixed : callable
        Gives, from a cube's settings, what a cube must share with the plan to be continued.
    kept : tuple of str
        Settings of a cube that is continued which stay as they are there.
    """

    root: str
    catalogue: Catalogue
    selection: Selection
    layouts: tuple[ProductLayout, ...]
    order: tuple[str, ...]
    settings: dict[str, Any]
    source_shards: Mapping[str, int]
    worker_bytes: int
    seconds_per_gb: float
    ratio: float | None = None
    cached_shards: int = 0
    ignored: tuple[str, ...] = ()
    on_loss: OnLoss = "note"
    concurrency: int = 1
    fixed: Callable[[Settings], dict[str, Any]] = _fixed_of_conversion
    kept: tuple[str, ...] = _KEPT

    def __repr__(self) -> str:
        products = ", ".join(layout.product for layout in self.layouts)
        patches, rois = len(self.catalogue.table), len(self.catalogue.rois)
        return f"<{type(self).__name__} {self.root}: {products}; {rois} ROIs, {patches} patches>"

    @property
    def source(self) -> str:
        """Where the metadata come from: ``csv``, ``stac``, ``folders`` or ``taco``."""
        return str(self.settings["metadata"])

    def with_room(self, times: int) -> Plan:
        """Make room in the shards for at least so many dates, as the cube that is continued has."""
        layouts = tuple(replace(layout, times=max(layout.times, times)) for layout in self.layouts)
        return replace(self, layouts=layouts, settings=self.settings | {"products": describe_layouts(layouts)})

    def readers(self, roi_id: str) -> tuple[RoiReader, ...]:
        """Make the readers of an ROI, one a layout."""
        raise NotImplementedError

    def source_bytes(self) -> int:
        """Bytes that will be read."""
        raise NotImplementedError

    def _line(self, task: ShardTask) -> dict[str, Any]:
        """Describe a shard in the document of the plan."""
        raise NotImplementedError

    def still_accepted(self, failures: Iterable[AcceptedFailure]) -> frozenset[FailureKey]:
        """Keys of the accepted failures that the source still has."""
        return frozenset(failure.key for failure in failures)

    def lacking(self) -> list[str]:
        """Files that no patch of the source has, of the products that are converted: their bands stay empty."""
        return []

    def faults(self) -> list[RowFault]:
        """Rows of the metadata that cannot be used, and patches that no row names."""
        return list(self.catalogue.faults)

    def memory_need(self, workers: int) -> int:
        """Bytes that a run needs at most with so many workers, beside the catalogue."""
        return _BASE_MEMORY + self.worker_bytes * (max(workers, 1) + self.cached_shards)

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
        return self.source_shards[group[0][1]]

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
        read = self.source_bytes()
        return {
            "rois": rois,
            "patches": len(self.catalogue.table),
            "shards": shards,
            "objects": shards + rois * len(self.layouts),
            "source_bytes": read,
            "raw_bytes": raw,
            "stored_bytes_estimate": min(read, raw) if self.ratio is None else round(raw * self.ratio),
            "memory_bytes": self.memory_need(workers),
            "seconds_estimate": round(raw / 1e9 * self.seconds_per_gb / max(workers, 1), 1),
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
            "products": describe_layouts(self.layouts),
            "totals": self.totals(workers),
            "faults": [vars(fault) for fault in self.faults()],
        }
        lines = ",\n  ".join(json.dumps(self._line(task)) for task in self.tasks())
        return json.dumps(head, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n'


def describe_layouts(layouts: Iterable[ProductLayout]) -> dict[str, Any]:
    """Write layouts as a cube's settings have them."""
    return {layout.product: layout.as_json() for layout in layouts}


def selection_json(selection: Selection) -> dict[str, Any]:
    """Write a selection as a cube's settings have it."""
    box = selection.bbox and list(selection.bbox)
    return {"where": list(selection.where), "bbox": box, "rois": list(selection.rois)}


def made_now() -> dict[str, str]:
    """State which release makes a cube, and when."""
    return {"tool": f"cloudsen12-cube {version('cloudsen12-cube')}", "created": now_text()}


def cube_settings(layouts: tuple[ProductLayout, ...], source: Settings, selection: dict[str, Any]) -> dict[str, Any]:
    """Make the settings of a cube whose pixels a run of today makes."""
    return {
        "layout_version": layouts[0].form.version,
        **made_now(),
        **{name: source[name] for name in ("source", "metadata", "test_meaning")},
        "selection": selection,
        "products": describe_layouts(layouts),
    }

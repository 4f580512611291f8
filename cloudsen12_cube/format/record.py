"""The record of a shard: what was written, from which files, and which files failed. A shard with a record is complete.

Summaries of all records of a cube: the status of every patch, and the scale of the probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.format.document import Digest, Natural, load_json, parse
from cloudsen12_cube.format.layout import ProductLayout, record_key
from cloudsen12_cube.schema import LAYERS, is_legal_key, probability_scale
from cloudsen12_cube.storage import ObjectStore

ABSENT, DONE, FAILED = 0, 1, 2


class FailureKey(NamedTuple):
    """Identity of a failure: one asset of one patch, or a whole patch."""

    roi_id: str
    s2_id_gee: str
    asset: str
    """File of the asset, ``labels/fmask``; empty where the whole patch is concerned."""
    path: str


@dataclass(frozen=True)
class Fault:
    """Why one asset of one patch is not in the cube: a line of the report."""

    roi_id: str
    s2_id_gee: str
    product: str
    asset: str
    """File of the asset, ``labels/fmask``; empty where the whole patch is concerned."""
    path: str
    found: str
    expected: str

    @property
    def key(self) -> FailureKey:
        """Identity of the failure."""
        return FailureKey(self.roi_id, self.s2_id_gee, self.asset, self.path)

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, order=True)
class AcceptedFailure:
    """A known failure that no longer counts as one, as a cube's settings hold it."""

    roi_id: str
    s2_id_gee: str
    asset: str
    """File of the asset, ``labels/fmask``; empty where the whole patch is concerned."""
    path: str
    size: Annotated[int, range(-1, 2**63)]
    """Bytes of the file when it was accepted; 0 for a folder, -1 for what was not there."""

    @property
    def key(self) -> FailureKey:
        """Identity of the failure."""
        return FailureKey(self.roi_id, self.s2_id_gee, self.asset, self.path)


@dataclass(frozen=True)
class Source:
    """A file that went into a shard."""

    path: str
    size: Natural
    """Bytes."""
    sha256: Digest


@dataclass(frozen=True)
class PatchRecord:
    """One patch of a shard."""

    time: Natural
    s2_id_gee: str
    status: Annotated[int, range(3)]
    """0 absent, 1 done, 2 failed."""
    sources: tuple[Source, ...] = ()
    faults: tuple[Fault, ...] = ()
    maxima: dict[str, int] = field(default_factory=dict)
    """Largest stored value of each layer of probabilities: the full scale is derived from it."""


@dataclass(frozen=True)
class ShardRecord:
    """One shard: stored as JSON under the product's array."""

    product: str
    roi_id: str
    index: Natural
    """Position of the ROI on disk."""
    size: Natural
    """Bytes of the shard's object; 0 where nothing was stored, since every pixel is the fill."""
    sha256: Digest
    patches: tuple[PatchRecord, ...] = field(default=())

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything that went wrong in the shard."""
        return tuple(fault for patch in self.patches for fault in patch.faults)

    def without_sources(self) -> ShardRecord:
        """Drop the file lists: a run keeps a record of every shard in memory, and the store has the rest."""
        return replace(self, patches=tuple(replace(patch, sources=()) for patch in self.patches))

    def as_bytes(self) -> bytes:
        """Serialise; equal records give equal bytes."""
        return json.dumps(asdict(self), indent=1).encode()


def load(store: ObjectStore, layout: ProductLayout, roi_id: str) -> ShardRecord | None:
    """Read the record of a shard.

    Returns
    -------
    ShardRecord or None
        None if it is missing or damaged, describes another shard or has a date that the array does not have: keys are
        made of product and ROI, so a record is trusted only where it was asked for. An id that is a path has none.
    """
    if not is_legal_key(roi_id, "image"):
        return None
    data = store.get(record_key(layout.product, roi_id))
    try:
        record = None if data is None else parse(ShardRecord, load_json(data))
    except ValueError:
        return None
    if record is None or (record.product, record.roi_id) != (layout.product, roi_id):
        return None
    return record if all(patch.time < layout.times for patch in record.patches) else None


def agreeing(found: Sequence[ShardRecord | None], rois_per_shard: int) -> list[ShardRecord | None]:
    """Leave out the records of ROIs that share a shard, and say different things of it: it is not done."""
    digests: dict[int, set[str]] = {}
    for record in found:
        if record is not None:
            digests.setdefault(record.index // rois_per_shard, set()).add(record.sha256)
    return [row if row and len(digests[row.index // rois_per_shard]) == 1 else None for row in found]


STATUS = ("absent", "done", "failed")
"""Meaning of the codes 0, 1 and 2 of ``status``."""


def status_name(code: int) -> str:
    """Return the meaning of a code of ``status``; a damaged cube may hold others."""
    return STATUS[code] if code < len(STATUS) else f"status {code}, which does not exist"


UNSCALED = tuple(layer.band for layer in LAYERS if layer.probability and layer.full_scale is None)
"""Layers whose full scale follows from their values."""

_CERTAIN = 10_000
"""The scale that a single value tells; the other follows from all values."""


@dataclass
class StatusGrid:
    """Sums that grow as records are added; equal records in any order give equal sums."""

    status: dict[str, npt.NDArray[np.uint8]]
    """Product -> (roi, time) of 0 absent, 1 done, 2 failed."""
    maxima: dict[int, int] = field(default_factory=dict)
    """Place of an ROI on disk -> largest value of CD-FCNN in its labels; -1 where none was read."""
    known: int = -1
    """Full scale stated by the larger cube of which this one is a subset; -1 without a statement."""

    @classmethod
    def empty(cls, layouts: Sequence[ProductLayout], rois: int, known: int | None = None) -> StatusGrid:
        """Begin with nothing done."""
        status: dict[str, npt.NDArray[np.uint8]] = {
            row.product: np.zeros((rois, row.times), dtype=np.uint8) for row in layouts
        }
        return cls(status, known=-1 if known is None else known)

    def add(self, record: ShardRecord, shown: bool = True) -> None:
        """Add a record; one of an ROI and product that was added before takes its place.

        Parameters
        ----------
        record : ShardRecord
        shown : bool
            Whether readers may see its patches as present.
        """
        status = self.status[record.product]
        status[record.index] = 0
        for patch in record.patches if shown else ():
            status[record.index, patch.time] = patch.status
        if record.product == "labels":
            values = [p.maxima[band] for p in record.patches for band in UNSCALED if band in p.maxima]
            self.maxima[record.index] = max(values, default=-1)

    @property
    def scale(self) -> int | None:
        """Full scale of CD-FCNN's probability; None as long as an ROI that is still missing may decide it."""
        largest = max(self.known, *self.maxima.values(), -1)
        if largest < 0:
            return None
        scale = probability_scale(largest)
        whole = len(self.maxima) == len(next(iter(self.status.values())))
        return scale if whole or scale == _CERTAIN else None


def faults_of(records: Iterable[ShardRecord]) -> list[Fault]:
    """Collect the faults of all records; a patch without a folder, which lacks every product, is one fault."""
    found = [fault for record in records for fault in record.faults]
    return list(dict.fromkeys(f if f.asset else replace(f, product="") for f in found))

"""What a run did: counts, and a line for everything that was refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloudsen12_cube.conversion.options import Part
from cloudsen12_cube.format import Fault
from cloudsen12_cube.storage import LocalStore, open_store, parent_store, root_of

REPORT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Result of a conversion.

    Parameters
    ----------
    shards : int
        Shards of the plan, or of the part of it that was asked for.
    written : int
        Shards that this run made.
    skipped : int
        Shards that were there already.
    done : int
        Patches of the written shards that are whole, counted once a product.
    failed : int
        Patches with a damaged file, counted once a product.
    absent : int
        Patches without a folder, counted once a product.
    size : int
        Stored bytes of the written shards.
    faults : tuple of Fault
        What was refused, less what is accepted.
    accepted : int
        Failures that are accepted.
    part : Part, optional
        The share of the plan that this was.
    """

    shards: int
    written: int
    skipped: int
    done: int
    failed: int
    absent: int
    size: int
    faults: tuple[Fault, ...] = ()
    accepted: int = 0
    part: Part | None = None

    def __repr__(self) -> str:
        part = f"part {self.part}: " if self.part else ""
        return f"<Report {part}{self.written} of {self.shards} shards written, {len(self.faults)} failures>"

    @property
    def exit_code(self) -> int:
        """0 if all is done and right, 1 if something was refused."""
        return 1 if self.faults else 0


@dataclass(frozen=True)
class SubsetReport:
    """Result of a subset.

    Parameters
    ----------
    rois : int
    patches : int
    shards : int
        That the selection names.
    whole : int
        Shards that this run copied byte for byte.
    cut : int
        Shards that this run made of some of the cube's dates.
    skipped : int
        Shards that were there already.
    size : int
        Bytes of the shards that this run wrote.
    faults : tuple of Fault
        Shards that were damaged in the cube or not there, and what the conversion refused, less what is
        accepted.
    accepted : int
        Failures that are accepted.
    """

    rois: int
    patches: int
    shards: int
    whole: int
    cut: int
    skipped: int
    size: int
    faults: tuple[Fault, ...] = ()
    accepted: int = 0

    def __repr__(self) -> str:
        copied = self.whole + self.cut
        return f"<SubsetReport {copied} of {self.shards} shards copied, {len(self.faults)} failures>"

    @property
    def exit_code(self) -> int:
        """0 if all is copied and right, 1 if something was not copied, or came along as failed."""
        return 1 if self.faults else 0


def failures_path(cube: str | os.PathLike[str], part: Part | None = None) -> str:
    """Path or URL of the list of failures: beside the cube, one for each part.

    Parameters
    ----------
    cube : path, URL or `Url`
    part : Part, optional
    """
    share = f".part-{part.number}-of-{part.count}" if part else ""
    return root_of(cube).rstrip("/") + f"{share}.failures.json"


def write_failures(faults: Sequence[Fault], cube: Any, part: Part | None = None) -> None:
    """Write the list of failures beside a cube; remove an old list if nothing failed."""
    document = {"report_version": REPORT_VERSION, "failures": [asdict(fault) for fault in faults]}
    data, place = json.dumps(document, indent=1).encode(), failures_path(cube, part)
    store = open_store(cube)
    if not isinstance(store, LocalStore):
        above = parent_store(store)
        if above:  # an opened store has nothing beside it; its records and the report name the failures
            name = place.rpartition("/")[2]
            above[0].put(name, data) if faults else above[0].delete(name)
        return
    path = Path(place)
    if not faults:
        if path.exists():  # to unlink what is not there would fail on a read-only disk
            path.unlink()
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)

"""What a conversion did: counts, and a line for everything that was refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cloudsen12_cube.plan import Plan, ShardTask
from cloudsen12_cube.record import ABSENT, DONE, FAILED, Fault, ShardRecord

REPORT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Result of a conversion."""

    shards: int
    """Shards of the plan."""
    written: int
    """Shards that this run made."""
    skipped: int
    """Shards that were there already."""
    done: int
    """Patches of the written shards that are whole, counted once a product."""
    failed: int
    """Patches with a damaged file, counted once a product."""
    absent: int
    """Patches without a folder, counted once a product."""
    size: int
    """Stored bytes of the written shards."""
    faults: tuple[Fault, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if all is done and right, 1 if something was refused."""
        return 1 if self.faults else 0

    @classmethod
    def of(cls, plan: Plan, records: dict[tuple[str, str], ShardRecord], tasks: Sequence[ShardTask]) -> Report:
        """Sum up the records of a run."""
        shards = len(plan.catalogue.rois) * len(plan.layouts)
        status = [patch.status for record in records.values() for patch in record.patches]
        counts = {code: status.count(code) for code in (ABSENT, DONE, FAILED)}
        size = sum(record.size for record in records.values())
        faults = _faults(plan, records)
        return cls(
            shards, len(records), shards - len(tasks), counts[DONE], counts[FAILED], counts[ABSENT], size, faults
        )


def _faults(plan: Plan, records: dict[tuple[str, str], ShardRecord]) -> tuple[Fault, ...]:
    rows = [Fault(f.roi_id, f.s2_id_gee, "", "", "metadata", f.found, f.expected) for f in plan.faults()]
    found = (fault for key in sorted(records) for fault in records[key].faults)
    # A patch without a folder lacks every product: one line says so.
    return tuple(dict.fromkeys([*rows, *(f if f.asset else replace(f, product="") for f in found)]))


def failures_path(cube: str | os.PathLike[str]) -> Path:
    """Place of the list of failures: beside the cube."""
    return Path(os.fspath(cube).rstrip("/") + ".failures.json")


def write_failures(report: Report, cube: str) -> None:
    """Write the list of failures beside the cube; take an old one away where there are none."""
    path = failures_path(cube)
    if not report.faults:
        path.unlink(missing_ok=True)
        return
    document = {"report_version": REPORT_VERSION, "failures": [asdict(fault) for fault in report.faults]}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(path)

"""What a conversion did: counts, and a line for everything that was refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cloudsen12_cube.conversion.options import Part
from cloudsen12_cube.format import ABSENT, DONE, FAILED, Fault, ShardRecord
from cloudsen12_cube.schema import RowFault
from cloudsen12_cube.storage import Url, clean, is_url, open_store

REPORT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Result of a conversion."""

    shards: int
    """Shards of the plan, or of the part of it that was asked for."""
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
    """What was refused, less what is accepted."""
    accepted: int = 0
    """Failures that somebody decided to live with."""
    part: Part | None = None
    """The share of the plan that this was."""

    @property
    def exit_code(self) -> int:
        """0 if all is done and right, 1 if something was refused."""
        return 1 if self.faults else 0

    @classmethod
    def of(cls, shards: int, skipped: int, records: Iterable[ShardRecord], faults: tuple[Fault, ...]) -> Report:
        """Sum up the records of a run."""
        rows = list(records)
        status = [patch.status for record in rows for patch in record.patches]
        counts = {code: status.count(code) for code in (ABSENT, DONE, FAILED)}
        size = sum(record.size for record in rows)
        return cls(shards, len(rows), skipped, counts[DONE], counts[FAILED], counts[ABSENT], size, faults)


def faults_of_rows(rows: Iterable[RowFault]) -> list[Fault]:
    """Give faults of the metadata the form of all others."""
    return [Fault(f.roi_id, f.s2_id_gee, "", "", "metadata", f.found, f.expected) for f in rows]


def failures_path(cube: str | os.PathLike[str], part: Part | None = None) -> str:
    """Path or URL of the list of failures: beside the cube, one for each part."""
    share = f".part-{part.number}-of-{part.count}" if part else ""
    return clean(cube).rstrip("/") + f"{share}.failures.json"


def write_failures(faults: Sequence[Fault], cube: str | os.PathLike[str], part: Part | None = None) -> None:
    """Write the list of failures beside a cube; take an old one away where there are none."""
    document = {"report_version": REPORT_VERSION, "failures": [asdict(fault) for fault in faults]}
    data, place = json.dumps(document, indent=1).encode(), failures_path(cube, part)
    if is_url(place):
        beside, _, name = place.rpartition("/")
        store = open_store(replace(cube, url=beside) if isinstance(cube, Url) else beside)
        store.put(name, data) if faults else store.delete(name)
        return
    path = Path(place)
    if not faults:
        if path.exists():  # or a disk that may only be read would mind
            path.unlink()
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)

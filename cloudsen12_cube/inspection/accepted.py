"""Decisions to live with a gap: which failures of a cube are known, and no longer count as failures.

A decision names one asset of one patch and stands in the cube's settings, so that it outlives the record of a shard
that is made again. It holds as long as the archive has what it had: another size of the file, and it is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import Fault

Key = tuple[str, str, str, str]
"""roi_id, s2_id_gee, asset and path: what a line of the report says of the place of a fault."""

_NAMES = ("roi_id", "s2_id_gee", "asset", "path")


@dataclass(frozen=True, order=True)
class AcceptedFailure:
    """One failure that is accepted."""

    roi_id: str
    s2_id_gee: str
    asset: str
    """File of the asset, ``labels/fmask``; empty where the whole patch is concerned."""
    path: str
    size: int
    """Bytes of the file when this was decided; 0 for a folder, -1 for what was not there."""

    @property
    def key(self) -> Key:
        """What names the failure."""
        return self.roi_id, self.s2_id_gee, self.asset, self.path


def key_of(fault: Fault) -> Key:
    """Name a fault as a gap does."""
    return fault.roi_id, fault.s2_id_gee, fault.asset, fault.path


def size_of(archive: Archive, key: Key) -> int:
    """Bytes that the archive has now in the place of a failure; 0 for a folder, -1 for what is not there."""
    files = archive.patches.get((key[0], key[1]))
    if files is None:
        return -1
    return files.sizes.get(key[2], -1) if key[2] else 0


def read_choices(path: Path) -> list[Key]:
    """Read which failures to accept: ``CUBE.failures.json`` as a conversion wrote it, or an excerpt of it.

    Raises
    ------
    SelectionError
        If the file is not there, or no such document.
    """
    way = "give a file such as CUBE.failures.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SelectionError(f"{path} cannot be read ({error.strerror}): {way}") from None
    except ValueError as error:
        raise SelectionError(f"{path} is no JSON ({error}): {way}") from None
    rows = document.get("failures") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise SelectionError(f"{path} has no list of failures: {way}")
    return [_key(row, path) for row in rows]


def _key(row: Any, path: Path) -> Key:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _NAMES):
        raise SelectionError(f"{path}: {json.dumps(row)[:100]} is no failure; each has {', '.join(_NAMES)}")
    return row["roi_id"], row["s2_id_gee"], row["asset"], row["path"]


def decide(
    choices: Sequence[Key], known: Iterable[Key], before: frozenset[AcceptedFailure], archive: Archive
) -> frozenset[AcceptedFailure]:
    """Add decisions to those that were made before.

    Parameters
    ----------
    choices : sequence of key
        As `read_choices` gives them.
    known : iterable of key
        The failures that there are.
    before : frozenset of Gap
    archive : Archive

    Raises
    ------
    SelectionError
        If a choice names no failure of the cube.
    """
    there = {*known, *(gap.key for gap in before)}
    strange = [key for key in choices if key not in there]
    if strange:
        told = "; ".join(f"{roi} {image} {asset or path}" for roi, image, asset, path in strange[:3])
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise SelectionError(f"the cube has no such failure to accept: {told}{more}")
    fresh = {AcceptedFailure(*key, size_of(archive, key)) for key in choices}
    return frozenset(gap for gap in before if gap.key not in set(choices)) | fresh


def in_settings(settings: dict[str, Any]) -> frozenset[AcceptedFailure]:
    """Decisions that a cube's settings hold; none in a cube of a release that knew of none."""
    return frozenset(AcceptedFailure(**row) for row in settings.get("accepted", ()))


def as_setting(gaps: frozenset[AcceptedFailure]) -> dict[str, Any]:
    """Give the part of the settings that holds decisions: nothing where there are none."""
    return {"accepted": [asdict(gap) for gap in sorted(gaps)]} if gaps else {}


def holding(gaps: frozenset[AcceptedFailure], archive: Archive) -> frozenset[Key]:
    """Names of the accepted failures for which the archive still has what it had."""
    return frozenset(gap.key for gap in gaps if size_of(archive, gap.key) == gap.size)

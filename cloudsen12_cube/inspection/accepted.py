"""Accepted failures: which failures of a cube are known, and no longer count as failures.

Each names one asset of one patch and stands in the cube's settings, so that it outlives the record of a shard that is
written again. It holds as long as the archive has a file of the same size there; then the asset is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import AcceptedFailure as AcceptedFailure
from cloudsen12_cube.format import Fault, load_json, parse

FailureKey = tuple[str, str, str, str]
"""roi_id, s2_id_gee, asset and path: see `Fault.key`."""

_NAMES = ("roi_id", "s2_id_gee", "asset", "path")


def key_of(fault: Fault) -> FailureKey:
    """Identity of a failure."""
    return fault.key


def size_of(archive: Archive, key: FailureKey) -> int:
    """Bytes that the archive has now in the place of a failure; 0 for a folder, -1 for what is not there."""
    files = archive.patches.get((key[0], key[1]))
    if files is None:
        return -1
    return files.sizes.get(key[2], -1) if key[2] else 0


def read_choices(path: Path) -> list[FailureKey]:
    """Read which failures to accept: ``CUBE.failures.json`` as a conversion wrote it, or some rows of it.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    list of (roi_id, s2_id_gee, asset, path)

    Raises
    ------
    SelectionError
        If the file is not there, or has no list of failures.
    """
    way = "give a file such as CUBE.failures.json"
    try:
        document = load_json(path.read_bytes())
    except OSError as error:
        raise SelectionError(f"{path} cannot be read ({error.strerror}): {way}") from None
    except ValueError as error:
        raise SelectionError(f"{path} is no JSON ({error}): {way}") from None
    rows = document.get("failures") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise SelectionError(f"{path} has no list of failures: {way}")
    return [_key(row, path) for row in rows]


def _key(row: Any, path: Path) -> FailureKey:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _NAMES):
        raise SelectionError(f"{path}: {json.dumps(row)[:100]} is no failure; each has {', '.join(_NAMES)}")
    return row["roi_id"], row["s2_id_gee"], row["asset"], row["path"]


def decide(
    choices: Sequence[FailureKey], known: Iterable[FailureKey], before: frozenset[AcceptedFailure], archive: Archive
) -> frozenset[AcceptedFailure]:
    """Add accepted failures to those that were accepted before.

    Parameters
    ----------
    choices : sequence of key
        As `read_choices` gives them.
    known : iterable of key
        The failures that there are.
    before : frozenset of AcceptedFailure
    archive : Archive

    Raises
    ------
    SelectionError
        If a choice names no failure of the cube.
    """
    there = {*known, *(failure.key for failure in before)}
    strange = [key for key in choices if key not in there]
    if strange:
        first = "; ".join(f"{roi} {image} {asset or path}" for roi, image, asset, path in strange[:3])
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise SelectionError(f"the cube has no such failure to accept: {first}{more}")
    fresh = {AcceptedFailure(*key, size_of(archive, key)) for key in choices}
    return frozenset(failure for failure in before if failure.key not in set(choices)) | fresh


def in_settings(settings: dict[str, Any]) -> frozenset[AcceptedFailure]:
    """Read the accepted failures of a cube's settings; none in a cube of a release that did not know them."""
    return frozenset(parse(tuple[AcceptedFailure, ...], settings.get("accepted", [])))


def as_setting(failures: frozenset[AcceptedFailure]) -> dict[str, Any]:
    """Give the part of the settings that holds accepted failures: empty without accepted failures."""
    return {"accepted": [asdict(failure) for failure in sorted(failures)]} if failures else {}


def holding(failures: frozenset[AcceptedFailure], archive: Archive) -> frozenset[FailureKey]:
    """Keys of the accepted failures for which the archive still has a file of the same size."""
    return frozenset(failure.key for failure in failures if size_of(archive, failure.key) == failure.size)

"""Accepted failures: which failures of a cube are known, and no longer count as failures.

Each names one asset of one patch and stands in the cube's settings, so that it outlives the record of a shard that is
written again. It holds as long as the archive has a file of the same size there; then the asset is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloudsen12_cube.archive import Archive
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format import AcceptedFailure, FailureKey, load_json, parse


def archive_size(archive: Archive, key: FailureKey) -> int:
    """Return the bytes that the archive has in the place of a failure; 0 for a folder, -1 if there is nothing."""
    files = archive.patches.get((key.roi_id, key.s2_id_gee))
    if files is None:
        return -1
    return files.sizes.get(key.asset, -1) if key.asset else 0


def read_choices(path: Path) -> list[FailureKey]:
    """Read which failures to accept: ``CUBE.failures.json`` as a conversion wrote it, or some rows of it.

    Parameters
    ----------
    path : pathlib.Path
        JSON: a list of failures, or an object with a list ``failures``.

    Returns
    -------
    list of FailureKey
        Keys of the failures that are listed.

    Raises
    ------
    SelectionError
        If the file cannot be read, or has no list of failures.
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
    names = FailureKey._fields
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise SelectionError(f"{path}: {json.dumps(row)[:100]} is no failure; each has {', '.join(names)}")
    return FailureKey(*(row[name] for name in names))


def accept_failures(
    choices: Sequence[FailureKey], known: Iterable[FailureKey], before: frozenset[AcceptedFailure], archive: Archive
) -> frozenset[AcceptedFailure]:
    """Add failures to those that were accepted before.

    Parameters
    ----------
    choices : sequence of FailureKey
        Failures to accept, as `read_choices` returns them.
    known : iterable of FailureKey
        Failures of the cube.
    before : frozenset of AcceptedFailure
        Failures that were accepted before.
    archive : Archive
        Source of the cube, for the sizes of the files.

    Returns
    -------
    frozenset of AcceptedFailure
        All accepted failures.

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
    fresh = {AcceptedFailure(*key, archive_size(archive, key)) for key in choices}
    return frozenset(failure for failure in before if failure.key not in set(choices)) | fresh


def accepted_failures(settings: Mapping[str, Any]) -> frozenset[AcceptedFailure]:
    """Return the accepted failures of a cube's settings; none if they were written before there were any."""
    return frozenset(parse(tuple[AcceptedFailure, ...], settings.get("accepted", [])))


def accepted_setting(failures: frozenset[AcceptedFailure]) -> dict[str, Any]:
    """Return the part of the settings that holds accepted failures; an empty one for no failure."""
    return {"accepted": [asdict(failure) for failure in sorted(failures)]} if failures else {}


def still_accepted(failures: frozenset[AcceptedFailure], archive: Archive) -> frozenset[FailureKey]:
    """Return the keys of the accepted failures for which the archive has a file of the same size as before."""
    return frozenset(failure.key for failure in failures if archive_size(archive, failure.key) == failure.size)

"""What an exported folder says of itself, in ``cloudsen12_export.json`` beside its table.

The published table cannot say what the codes of ``test`` mean: 0 and 1 alone read as train and test, yet in a part of
the newer set they are train and validation. So the folder says it, and a conversion of the folder believes it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from cloudsen12_cube.catalogue import TestMeaning
from cloudsen12_cube.errors import ArchiveError, DestinationError
from cloudsen12_cube.listing import Listing

NOTE_NAME = "cloudsen12_export.json"
NOTE_VERSION = 1


@dataclass(frozen=True)
class LeftOut:
    """A product of a patch that was not written, and why."""

    roi_id: str
    s2_id_gee: str
    product: str
    reason: str

    def __str__(self) -> str:
        return f"{self.roi_id}/{self.s2_id_gee} {self.product}: {self.reason}"


@dataclass(frozen=True)
class Note:
    """What the folder was made from, and how far the last run came."""

    test_meaning: TestMeaning
    """What the codes of ``test`` in the table mean."""
    cube: dict[str, str]
    """Which cube: when it was created, and from what."""
    tool: str
    table_sha256: str
    """Of the table as it was written."""
    state: str = "exporting"
    """``final`` when the last run has ended."""
    left_out: tuple[LeftOut, ...] = ()
    """By the last run."""
    export_version: int = NOTE_VERSION

    def as_bytes(self) -> bytes:
        """Serialise."""
        return json.dumps(asdict(self), indent=1).encode()


def read_note(data: bytes, place: str) -> Note:
    """Read the note of a folder.

    Raises
    ------
    DestinationError
        If it is none, or one of a later release.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        if document["export_version"] != NOTE_VERSION:
            raise DestinationError(
                f"{place} was exported by another release (version {document['export_version']}, this one writes "
                f"{NOTE_VERSION}): give another folder"
            )
        left_out = tuple(LeftOut(**row) for row in document.pop("left_out"))
        return Note(**document, left_out=left_out)
    except (ValueError, TypeError, KeyError):
        raise DestinationError(f"{place} has a damaged {NOTE_NAME}: remove that folder, or give another one") from None


def told_meaning(listing: Listing, table: str, documents: Sequence[str]) -> TestMeaning | None:
    """Find out what an exported folder says of its codes of ``test``; None for any other archive.

    Raises
    ------
    ArchiveError
        If the note beside the table is damaged: to guess could turn validation into test.
    """
    path = posixpath.join(posixpath.dirname(table), NOTE_NAME)
    if path not in documents:
        return None
    try:
        meaning = json.loads(listing.read(path))["test_meaning"]
    except (ValueError, TypeError, KeyError):
        meaning = None
    for known in get_args(TestMeaning):
        if meaning == known:
            return known  # type: ignore[no-any-return]  # one of the literals
    raise ArchiveError(
        f"{path} does not say what the codes of `test` mean (one of {', '.join(get_args(TestMeaning))}): "
        "remove it and give --test-meaning"
    )

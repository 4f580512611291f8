"""An archive in any of its published formats: which patches it has, their metadata, and their bytes.

To add a format, write its module and name its detector in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cloudsen12_cube.archive.base import Archive, FormatDetector, list_files
from cloudsen12_cube.archive.geotiff import GeotiffDetector
from cloudsen12_cube.archive.memmap import MemmapDetector
from cloudsen12_cube.archive.taco import TacoDetector
from cloudsen12_cube.errors import ArchiveError

FORMATS: dict[str, Callable[[], FormatDetector]] = {
    "COGs": GeotiffDetector,
    "memory maps": MemmapDetector,
    "TACO files": TacoDetector,
}
"""Name of a format's files -> its detector."""


_NAMED = 5


def open_archive(root: Any) -> Archive:
    """List an archive once.

    Parameters
    ----------
    root : path, URL, `Url` or any other location that `open_store` takes
        Folder or URL that holds ``high``, ``scribble`` and ``nolabel`` (any of them), or one level above it; or
        Hugging Face's memory maps (``.dat`` beside a metadata.csv); or TACO files, or a single one of them.

    Raises
    ------
    ArchiveError
        If there is no such folder, neither patches nor metadata are in it, or more than one format.
    """
    store, entries = list_files(root)
    detectors = {name: make() for name, make in FORMATS.items()}
    wanting: dict[str, list[FormatDetector]] = {}
    for detector in detectors.values():
        for suffix in detector.suffixes:
            wanting.setdefault(suffix, []).append(detector)
    foreign: list[str] = []
    for entry in entries:
        if _is_foreign(entry.key):
            foreign.append(entry.key)
            continue
        for detector in wanting.get(entry.key[entry.key.rfind(".") :], ()):
            detector.add(entry)
    found = {name: archive for name, detector in detectors.items() if (archive := detector.detect(store))}
    if len(found) > 1:
        raise ArchiveError(f"{store.root} holds {' and '.join(found)}: give the folder of one of them")
    if not found:
        raise ArchiveError(
            f"{store.root} is no CloudSEN12 archive: no metadata, no {{high,scribble,nolabel}}/ROI_*/<id>/*.tif, "
            "no .dat beside a metadata.csv, and no .taco in it"
        )
    named = (*_summary(foreign), *(name for detector in detectors.values() for name in detector.passed_over))
    return replace(next(iter(found.values())), foreign=named)  # type: ignore[type-var]  # all are dataclasses


def _is_foreign(key: str) -> bool:
    """Return whether a file is one that macOS writes beside others, on disks of other systems and in ZIP files."""
    return key.startswith(("._", "__MACOSX/")) or "/._" in key or "/__MACOSX/" in key


def _summary(keys: Sequence[str]) -> tuple[str, ...]:
    """Name some files; a full archive may have a million of them."""
    rest = len(keys) - _NAMED
    return (*keys[:_NAMED], *([f"{rest:,} more files ._* or in __MACOSX"] if rest > 0 else []))

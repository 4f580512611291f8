"""What an export has written into a folder."""

from __future__ import annotations

from pathlib import Path

from cloudsen12_cube.exporters.folder import JOURNAL


def tifs(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.tif"))}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != JOURNAL}

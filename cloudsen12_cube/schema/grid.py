"""grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyproj import Transformer
from pyproj.exceptions import CRSError

from cloudsen12_cube.errors import ArchiveError

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a patch lie."""

    epsg: int
    """EPSG code, 0 where unknown."""
    transform: Affine | None
    """a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f; None where unknown."""


def parse_transform(text: str) -> Affine | None:
    """Read six numbers, ``10, 0, 440030, 0, -10, 4573910``; None for an empty text.

    Raises
    ------
    ArchiveError
        If the text is something else.
    """
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.strip("[]() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (6, 9) or not all(map(math.isfinite, numbers)):
        raise ArchiveError(f"proj_transform {text!r} is not six numbers such as 10, 0, 440030, 0, -10, 4573910")
    a, b, c, d, e, f = numbers[:6]
    return a, b, c, d, e, f


def grid_of(row: Any) -> Grid:
    """Grid that a row of the catalogue states."""
    return Grid(int(row["proj_epsg"]), parse_transform(row["proj_transform"]))


def _told(transform: Affine) -> str:
    return ", ".join(f"{v:.15g}" for v in transform)


@lru_cache(maxsize=128)
def to_degrees(epsg: int) -> Transformer:
    """Make the way from a reference system to longitude and latitude, in this order.

    Raises
    ------
    ArchiveError
        If PROJ knows no such code.
    """
    try:
        return Transformer.from_crs(epsg, 4326, always_xy=True)
    except CRSError:
        raise ArchiveError(f"EPSG:{epsg} is no coordinate reference system that PROJ knows") from None

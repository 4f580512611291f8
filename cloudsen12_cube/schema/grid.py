"""Grids of patches: EPSG code and affine transform, as text and as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyproj import Transformer
from pyproj.exceptions import CRSError

from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.schema.properties import number_text

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Coordinate reference system and transform of a patch."""

    epsg: int
    """EPSG code, 0 if unknown."""
    transform: Affine | None
    """a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f; None if unknown."""


def parse_transform(text: str) -> Affine | None:
    """Parse an affine transform, ``10, 0, 440030, 0, -10, 4573910``.

    Parameters
    ----------
    text : str
        Six numbers, or the nine of a 3 x 3 matrix, separated by commas. An empty text means unknown.

    Raises
    ------
    ArchiveError
        If the text is not a transform.
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


def transform_text(transform: Iterable[float]) -> str:
    """Write the numbers of a transform; `parse_transform` returns equal ones."""
    return ", ".join(number_text(float(value)) for value in transform)


def grid_of(row: Any) -> Grid:
    """Return the grid of a row of the catalogue."""
    return Grid(int(row["proj_epsg"]), parse_transform(row["proj_transform"]))


@lru_cache(maxsize=128)
def to_degrees(epsg: int) -> Transformer:
    """Return the transformer from a coordinate reference system to longitude and latitude, in this order.

    Parameters
    ----------
    epsg : int
        EPSG code.

    Raises
    ------
    ArchiveError
        If PROJ does not know the code.
    """
    try:
        return Transformer.from_crs(epsg, 4326, always_xy=True)
    except CRSError:
        raise ArchiveError(f"EPSG:{epsg} is not a coordinate reference system known to PROJ") from None

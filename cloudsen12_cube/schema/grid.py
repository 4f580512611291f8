"""Grids of patches: EPSG code and affine transform, as text and as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
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


def enclosing_box(boxes: npt.NDArray[np.float64]) -> list[float] | None:
    """Return the box around boxes, in the order of GeoJSON.

    Parameters
    ----------
    boxes : numpy.ndarray of float64, shape (n, 4)
        West <= east, south, north in degrees, as west, south, east, north; rows with NaN are left out.

    Returns
    -------
    list of float or None
        West, south, east, north. West > east if the boxes are on both sides of the antimeridian (RFC 7946, section
        5.2), that is if a gap wider than half of the Earth is between them. None if there is no box.
    """
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes):
        return None
    boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
    west, south, east, north = boxes.T
    reach = np.maximum.accumulate(east)
    edges = west[0], reach[-1]
    gaps = west[1:] - reach[:-1]
    if len(gaps) and gaps.max() > 180:
        edges = west[gaps.argmax() + 1], reach[gaps.argmax()]
    return [float(edge) for edge in (edges[0], south.min(), edges[1], north.max())]

"""On which side of a larger image a patch lies: found from the pixels, which are zero around it.

Nothing in CloudSEN12+ says it for certain: its card names the left and the bottom, its readers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_SAMPLED = 8


@dataclass(frozen=True)
class Room:
    """Where a patch may begin in its image: rows and columns from the first to the last number, both in."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def corner(self) -> tuple[int, int] | None:
        """The one row and column that are left, if it is one."""
        one = self.rows[0] == self.rows[1] and self.columns[0] == self.columns[1]
        return (self.rows[0], self.columns[0]) if one else None

    @property
    def empty(self) -> bool:
        """Whether no place is left."""
        return self.rows[0] > self.rows[1] or self.columns[0] > self.columns[1]

    def holds(self, corner: tuple[int, int]) -> bool:
        """Tell whether the patch may begin there."""
        return self.rows[0] <= corner[0] <= self.rows[1] and self.columns[0] <= corner[1] <= self.columns[1]

    def __and__(self, other: Room) -> Room:
        """Give the places that both allow."""
        return Room(_both(self.rows, other.rows), _both(self.columns, other.columns))


def _both(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), min(a[1], b[1])


def room_of(pixels: npt.NDArray[Any], size: int) -> Room:
    """Find where a patch may begin so that all pixels around it are zero.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (band, y, x)
    size : int
        Rows and columns of the patch.
    """
    seen = (pixels != 0).any(axis=0)
    return Room(_span(seen.any(axis=1), size), _span(seen.any(axis=0), size))


def _span(seen: npt.NDArray[np.bool_], size: int) -> tuple[int, int]:
    there = np.flatnonzero(seen)
    last = len(seen) - size
    if not len(there):
        return 0, last
    return max(0, int(there[-1]) - size + 1), min(last, int(there[0]))


def corners(rooms: Sequence[Callable[[], Room | None]], pad: int) -> list[tuple[int, int] | None]:
    """Find the corner of each of some patches that belong together: as a rule it is the same.

    Parameters
    ----------
    rooms : sequence of callables
        Each reads one image; None where it is damaged.
    pad : int
        Rows (and columns) that an image has more than its patch.

    Returns
    -------
    list of (row, column) or None
        None where the pixels do not tell, and the documented side, left and bottom, does not fit either. Only some
        images are read if they agree: what contradicts them later is seen when its padding is cut off.
    """
    spread = sorted(set(np.linspace(0, len(rooms) - 1, min(_SAMPLED, len(rooms))).astype(int).tolist()))
    rest = [i for i in range(len(rooms)) if i not in set(spread)]
    known: dict[int, Room] = {}
    common = Room((0, pad), (0, pad))
    for index in (*spread, *rest):
        if index not in spread and common.corner and not common.empty:
            break  # the sample agrees, and leaves one place
        room = rooms[index]()
        if room is not None and not room.empty:
            known[index] = room
            common &= room
    if not common.empty:
        return [_chosen(common, pad)] * len(rooms)
    return _each(known, len(rooms), pad)


def _chosen(room: Room, pad: int) -> tuple[int, int] | None:
    card = (0, pad)
    return room.corner or (card if room.holds(card) else None)


def _each(known: dict[int, Room], count: int, pad: int) -> list[tuple[int, int] | None]:
    """Give each its own corner; where the pixels of one leave several, the most frequent of the others that fits."""
    certain = [room.corner for room in known.values() if room.corner]
    frequent: Iterable[tuple[int, int]] = sorted(set(certain), key=lambda c: (-certain.count(c), c))
    return [
        room.corner or next((c for c in frequent if room.holds(c)), _chosen(room, pad))
        if (room := known.get(index))
        else None
        for index in range(count)
    ]

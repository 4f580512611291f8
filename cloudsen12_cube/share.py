"""One conversion divided among machines that need not talk: each derives its own share of the ROIs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cloudsen12_cube.errors import SelectionError

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SelectionError(f"part {self.number}/{self.count} is none: parts are 1/n to n/n")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, rois: Sequence[str]) -> frozenset[str]:
        """Every ``count``-th ROI: neighbours, which are alike in size, go to different parts."""
        return frozenset(rois[self.number - 1 :: self.count])


def parse_part(text: str) -> Part:
    """Read ``2/3``.

    Raises
    ------
    SelectionError
        If it is none.
    """
    match = _PART.fullmatch(text.strip())
    if match is None:
        raise SelectionError(f"part {text!r} is none: write it like 2/3, the second of three")
    return Part(int(match[1]), int(match[2]))

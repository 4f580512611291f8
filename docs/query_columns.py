"""Writes the keywords of ``query`` from the table of properties: ``python docs/query_columns.py``."""

from __future__ import annotations

from pathlib import Path

from cloudsen12_cube.schema import PLUS, PROPERTIES, Kind

PLACE = Path(__file__).parents[1] / "cloudsen12_cube" / "dataset" / "query_columns.py"
_HEAD = '''"""The keywords of ``query``, written by ``docs/query_columns.py`` from the table of properties."""

from collections.abc import Collection
from datetime import date, datetime
from typing import TypedDict

import numpy as np

Moment = str | datetime | date | np.datetime64
WantedText = str | Collection[str] | None
"""A text, or several, any of which fits; a trailing ``*`` stands for any ending."""
WantedNumber = float | Collection[float] | tuple[float | None, float | None] | slice | None
"""A number, a list of numbers, or a tuple or slice (low, high), both ends included, None for an open end."""
WantedCode = float | str | Collection[float | str] | tuple[float | None, float | None] | slice | None
"""As a number; a code may be given by its name, such as ``Built-up``."""
WantedTime = Moment | Collection[Moment] | tuple[Moment | None, Moment | None] | slice | None
"""A time, a list of times, or a tuple or slice (low, high), both ends included, None for an open end. A date, month or
year, such as ``2019-08``, is the whole of it; times are in UTC, or have an offset such as ``+02:00``."""


class QueryColumns(TypedDict, total=False):
    """Properties that a query selects by; None is no condition."""

    roi: WantedText  # ROI id, such as ROI_0827
'''
_TYPES: dict[Kind, str] = {"text": "WantedText", "float": "WantedNumber", "int": "WantedNumber", "time": "WantedTime"}


def source() -> str:
    """Text of the module; a transform has six numbers, which no condition compares."""
    rows = [row for row in (*PROPERTIES, *PLUS) if row.name != "proj_transform"]
    types = [(row, "WantedCode" if row.legend else _TYPES[row.kind]) for row in rows]
    return _HEAD + "".join(f"    {row.name}: {name}  # {row.description}\n" for row, name in types)


if __name__ == "__main__":
    PLACE.write_text(source(), encoding="utf-8")

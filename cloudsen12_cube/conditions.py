"""Conditions on the catalogue, such as ``difficulty<=3``: parsed into data, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.properties import BY_NAME, canonical

Operator = Literal["<=", ">=", "!=", "<", ">", "="]
Mask = npt.NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(r"\s*([\w:]+)\s*(" + "|".join(get_args(Operator)) + r")=?\s*(.*?)\s*$", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """``column operator value``; several values mean "any of them" and go with = and != alone."""

    column: str
    operator: Operator
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{'|'.join(self.values)}"


def parse(text: str) -> Condition:
    """Read one condition.

    Parameters
    ----------
    text : str
        ``COLUMN OP VALUE`` with OP one of ``= != < <= > >=``. ``a|b`` means either; a trailing ``*`` means any ending.

    Raises
    ------
    SelectionError
        If the text has no such form, names no property or compares texts by size.
    """
    match = _PATTERN.match(text)
    if match is None or not match[3]:
        raise SelectionError(f"cannot read the condition {text!r}: write it like label_type=high or difficulty<=3")
    column = match[1] if match[1] == "roi_id" else canonical(match[1])
    if column is None:
        raise SelectionError(f"no property {match[1]!r} in {text!r}; there are {', '.join(['roi_id', *BY_NAME])}")
    values = tuple(value.strip() for value in match[3].split("|"))
    condition = Condition(column, match[2], values)  # type: ignore[arg-type]  # the pattern lists the operators
    _check(condition, text)
    return condition


def _kind(column: str) -> str:
    return "text" if column == "roi_id" else BY_NAME[column].kind


def _check(condition: Condition, text: str) -> None:
    kind, sized = _kind(condition.column), condition.operator in _COMPARE
    if sized and kind == "text":
        raise SelectionError(f"{condition.column} is text, so {text!r} has no meaning: use = or !=")
    if sized and len(condition.values) > 1:
        raise SelectionError(f"{text!r} compares with several values: use = or !=, or one value")
    for value in condition.values:
        _value(value, kind, text)


def _value(value: str, kind: str, text: str) -> Any:
    if kind == "text":
        return value
    try:
        return pd.Timestamp(value).tz_localize(None) if kind == "time" else float(value)
    except ValueError:
        raise SelectionError(f"{value!r} in {text!r} is no {'date' if kind == 'time' else 'number'}") from None


def fulfilled(condition: Condition, table: pd.DataFrame) -> Mask:
    """Rows that fulfil a condition.

    An unknown value (NaN, NaT, an absent number) fulfils no comparison; it fulfils ``!=``.

    Parameters
    ----------
    condition : Condition
    table : pandas.DataFrame
        A catalogue's table.

    Returns
    -------
    numpy.ndarray of bool, shape (rows,)
    """
    kind = _kind(condition.column)
    if condition.column not in table:
        raise SelectionError(
            f"{condition.column} in '{condition}' is a property of CloudSEN12+ and not of this archive"
        )
    column = table[condition.column]
    values = [_value(v, kind, str(condition)) for v in condition.values]
    if condition.operator in _COMPARE:
        known = column != BY_NAME[condition.column].missing if kind == "int" else column.notna()
        return np.asarray(_COMPARE[condition.operator](column, values[0]) & known, dtype=bool)
    equal = np.zeros(len(table), dtype=bool)
    for value in values:
        equal |= _equal(column, value)
    return ~equal if condition.operator == "!=" else equal


def in_box(
    longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64], bbox: tuple[float, float, float, float]
) -> Mask:
    """Tell which places lie in a box, edges in.

    Parameters
    ----------
    longitude, latitude : numpy.ndarray of float64
        In degrees; NaN lies nowhere.
    bbox : (float, float, float, float)
        West, south, east, north in degrees; west > east crosses the antimeridian.

    Returns
    -------
    numpy.ndarray of bool, the same shape

    Raises
    ------
    SelectionError
        If the box is none.
    """
    numbers = np.asarray(bbox, dtype=float)
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or numbers[1] > numbers[3]:
        raise SelectionError(f"bbox {bbox} is no west, south, east, north in degrees")
    west, south, east, north = numbers
    after, before = longitude >= west, longitude <= east
    across = after & before if west <= east else after | before
    inside: Mask = across & (latitude >= south) & (latitude <= north)
    return inside


def _equal(column: pd.Series[Any], value: Any) -> Mask:
    if isinstance(value, str) and value.endswith("*"):
        return np.asarray(column.str.startswith(value[:-1]), dtype=bool)
    return np.asarray(column == value, dtype=bool)

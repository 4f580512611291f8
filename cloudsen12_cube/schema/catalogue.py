"""The catalogue, one validated row a patch, and which of its rows a selection takes.

A condition such as ``difficulty<=3`` is data: a column, an operator and values; it is never evaluated as code. Convert,
subset, export and query select by the same ones.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema.properties import BY_NAME, Kind, canonical

Operator = Literal["<=", ">=", "!=", "<", ">", "="]
Mask = npt.NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(r"\s*([\w:]+)\s*(" + "|".join(get_args(Operator)) + r")=?\s*(.*?)\s*$", re.DOTALL)
_LISTED = 8  # values in an error message

Value = str | float | datetime | date | np.datetime64


@dataclass(frozen=True)
class Condition:
    """``column operator value``; several values mean "any of them" and go with = and != alone."""

    column: str
    operator: Operator
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{'|'.join(map(str, self.values))}"


def parse(text: str, columns: Collection[str] = ()) -> Condition:
    """Read one condition.

    Parameters
    ----------
    text : str
        ``COLUMN OP VALUE`` with OP one of ``= != < <= > >=``. ``a|b`` means either; a trailing ``*`` means any ending.
    columns : collection of str
        Columns that the table has beside the properties of CloudSEN12.

    Raises
    ------
    SelectionError
        If the text has no such form, names no property or compares texts by size.
    """
    match = _PATTERN.match(text)
    if match is None or not match[3]:
        raise SelectionError(f"cannot read the condition {text!r}: write it like label_type=high or difficulty<=3")
    column = find_column(match[1], columns)
    values = tuple(value.strip() for value in match[3].split("|"))
    condition = Condition(column, match[2], values)  # type: ignore[arg-type]  # the pattern lists the operators
    if column not in columns:  # the type of any other column stands in the table alone
        _check(condition, "text" if column == "roi_id" else BY_NAME[column].kind)
    return condition


def find_column(name: str, columns: Collection[str] = ()) -> str:
    """Find a column of a catalogue by any of its spellings.

    Raises
    ------
    SelectionError
        If there is none; the message names those that are written alike.
    """
    found = name if name in ("roi_id", *columns) else canonical(name)
    if found is None:
        raise SelectionError(f"no property {name!r}{did_you_mean(name, ['roi_id', *BY_NAME, *columns])}")
    return found


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Say which names are written like one that is not there, or else which there are; for the end of a message."""
    near = get_close_matches(name, names, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(names) - _LISTED:,} more" if len(names) > 5 * _LISTED else ""
    return f"; there are {', '.join(names[:_LISTED] if more else names)}{more}"


def _check(condition: Condition, kind: Kind) -> None:
    """Refuse a condition that does not suit the type of its column."""
    if condition.operator in _COMPARE:
        if kind == "text":
            raise SelectionError(f"{condition.column} is text, so '{condition}' has no meaning: use = or !=")
        if len(condition.values) > 1:
            raise SelectionError(f"'{condition}' compares with several values: use = or !=, or one value")
    for value in condition.values:
        _typed(condition.column, value, kind)


def _typed(column: str, value: Any, kind: Kind) -> Any:
    """Give a value the type of its column; a text is a number or a date only where it reads as one."""
    if kind == "text":
        if not isinstance(value, str):
            raise SelectionError(f"{column}={value!r}: {column} is text, give a text or a list of texts")
        return value
    try:
        if kind == "time":
            moment = pd.Timestamp(value)
            return moment.tz_convert(None) if moment.tzinfo else moment
        if isinstance(value, (bool, datetime, date)):
            raise TypeError
        return float(value)
    except (ValueError, TypeError):
        raise SelectionError(f"{column}={value!r} is no {'date' if kind == 'time' else 'number'}") from None


def fulfilled(condition: Condition, table: pd.DataFrame) -> Mask:
    """Rows that fulfil a condition.

    An unknown value (NaN, NaT, an absent number) fulfils nothing but ``!=``.

    Parameters
    ----------
    condition : Condition
    table : pandas.DataFrame
        A catalogue's table.

    Returns
    -------
    numpy.ndarray of bool, shape (rows,)
    """
    column = _column(condition, table)
    kind = _kind(column)
    _check(condition, kind)
    values, known = _values(condition, kind), _known(column)
    if condition.operator in _COMPARE:
        return np.asarray(_COMPARE[condition.operator](column, values[0]), dtype=bool) & known
    equal = _equal(column, values) & known
    return ~equal if condition.operator == "!=" else equal


def _column(condition: Condition, table: pd.DataFrame) -> pd.Series[Any]:
    if condition.column not in table:
        raise SelectionError(f"{condition.column} in '{condition}' is a property of CloudSEN12+, which is not here")
    return table[condition.column]


def _values(condition: Condition, kind: Kind) -> list[Any]:
    return [_typed(condition.column, value, kind) for value in condition.values]


def _kind(column: pd.Series[Any]) -> Kind:
    """Type of a column; of one that is no property, by what it holds."""
    if column.name in BY_NAME:
        return BY_NAME[str(column.name)].kind
    dtype = column.dtype.kind
    return "time" if dtype == "M" else "float" if dtype in "fiu" else "text"


def _known(column: pd.Series[Any]) -> Mask:
    row = BY_NAME.get(str(column.name))
    return np.asarray(column != row.missing if row and row.kind == "int" else column.notna(), dtype=bool)


def _prefix(value: Any) -> str | None:
    """Beginning that a text with a trailing ``*`` stands for."""
    return value[:-1] if isinstance(value, str) and value.endswith("*") else None


def _equal(column: pd.Series[Any], values: Sequence[Any]) -> Mask:
    prefixes = tuple(prefix for value in values if (prefix := _prefix(value)) is not None)
    equal = column.isin(
        [value for value in values if _prefix(value) is None]
    )  # one pass, however long a list of ROIs is
    return np.asarray(equal | column.str.startswith(prefixes) if prefixes else equal, dtype=bool)


def matching(conditions: Iterable[Condition], table: pd.DataFrame) -> Mask:
    """Rows that fulfil all conditions.

    Raises
    ------
    SelectionError
        If a condition does not suit its column, or asks for a value that no row has, as one that is misspelt.
    """
    keep = np.ones(len(table), dtype=bool)
    for condition in conditions:
        _check_values(condition, table)
        keep &= fulfilled(condition, table)
    return keep


def _check_values(condition: Condition, table: pd.DataFrame) -> None:
    """Refuse a value that no row has; one that the paper defines may be absent if another one is there."""
    if condition.operator != "=" or table.empty:
        return
    column = _column(condition, table)
    there = set(column[_known(column)])
    values = zip(condition.values, _values(condition, _kind(column)), strict=True)
    absent = [given for given, value in values if value not in there and not _is_prefix(value, there)]
    row = BY_NAME.get(condition.column)
    legal = row.values if row and len(absent) < len(condition.values) else ()
    wrong = [value for value in absent if value not in legal]
    if wrong:
        raise SelectionError(f"{condition.column} has no value {wrong[0]!r}{_values_here(wrong[0], column)}")


def _is_prefix(value: Any, there: Collection[Any]) -> bool:
    prefix = _prefix(value)
    return prefix is not None and any(text.startswith(prefix) for text in there)


def _values_here(value: Value, column: pd.Series[Any]) -> str:
    """List the values of a column with the number of their rows; of many, those that are written like the wrong one."""
    known = column[_known(column)]
    counts = known.astype(str).value_counts() if _kind(column) != "int" else known.value_counts().rename(index=str)
    if len(counts) > _LISTED:
        near = get_close_matches(str(value), list(counts.index), n=3)
        if near:
            return f"; did you mean {' or '.join(map(repr, near))}?"
    shown = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:_LISTED]
    more = f" and {len(counts) - _LISTED:,} more" if len(counts) > _LISTED else ""
    return f"; values here: {', '.join(f'{text or "unknown"} ({count:,})' for text, count in shown) or 'none'}{more}"


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


LABEL_FOLDERS = {
    "high": "high",
    "scribble": "scribble",
    "nolabel": "nolabel",
    "no-label": "nolabel",
    "no_label": "nolabel",
}
"""Folder of an archive -> label_type. The last two are the paper's spelling and a copy's."""


_SENSING = re.compile(r"(\d{8}T\d{6})_")


def sensing_start(s2_id_gee: str) -> str:
    """Acquisition time that stands in an image id, ``20190123T095319_...``, or an empty text."""
    match = _SENSING.match(s2_id_gee)
    return match[1] if match else ""


TestMeaning = Literal["v1.0", "v1.1"]
_ROI = re.compile(r"ROI_\d{1,9}")
_IMAGE = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class RowFault:
    """A row of the metadata that cannot be used."""

    roi_id: str
    s2_id_gee: str
    found: str
    expected: str


@dataclass(frozen=True)
class Catalogue:
    """The patches of an archive, or a selection of them."""

    table: pd.DataFrame
    """One row a patch in (roi, time) order: ``roi_id``, ``time``, every column of ``PROPERTIES``, and those of ``PLUS``
    that the archive has."""
    test_meaning: TestMeaning
    """How ``test`` was read."""
    faults: tuple[RowFault, ...] = ()

    @property
    def rois(self) -> list[str]:
        """ROI ids in numeric order."""
        return list(dict.fromkeys(self.table["roi_id"]))

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(roi_id, s2_id_gee) of each row."""
        return list(zip(self.table["roi_id"], self.table["s2_id_gee"], strict=True))

    @property
    def times(self) -> int:
        """Length of the ``time`` dimension: the most patches that any ROI has."""
        return int(self.table["time"].max()) + 1 if len(self.table) else 0


def roi_number(roi_id: str) -> int:
    """Return the number of an ROI: ``ROI_0827`` is 827 and comes before ``ROI_10133``."""
    return int(roi_id.removeprefix("ROI_"))


def is_legal_key(roi_id: str, s2_id_gee: str) -> bool:
    """Tell whether the ids of a patch are names, such as ``ROI_0827``, which may become folders; a path may not."""
    return bool(_ROI.fullmatch(roi_id) and _IMAGE.fullmatch(s2_id_gee)) and ".." not in s2_id_gee


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Order by (ROI number, acquisition, id); ``time`` is the rank inside the ROI."""
    number = table["roi_id"].map(roi_number) if len(table) else pd.Series(dtype="int64")
    table = table.assign(_number=number).sort_values(["_number", "roi_id", "datetime", "s2_id_gee"], kind="stable")
    table = table.drop(columns="_number").reset_index(drop=True)
    table["time"] = table.groupby("roi_id", sort=False).cumcount().astype("int64")
    return table


@dataclass(frozen=True)
class Selection:
    """Which patches: all conditions must hold."""

    where: tuple[str, ...] = ()
    """Conditions such as ``difficulty<=3``."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; west > east crosses the antimeridian."""
    rois: tuple[str, ...] = ()


def select(catalogue: Catalogue, selection: Selection) -> Catalogue:
    """Keep the patches that a selection names; ``time`` counts those of an ROI that are left.

    Raises
    ------
    SelectionError
        If a condition cannot be read, a value or an ROI is not there, or nothing is left.
    """
    table = catalogue.table
    keep = matching(map(parse, selection.where), table)
    if selection.bbox is not None:
        keep &= in_box(table["longitude"].to_numpy(), table["latitude"].to_numpy(), selection.bbox)
    if selection.rois:
        _check_rois(selection.rois, table)
        keep &= np.asarray(table["roi_id"].isin(selection.rois))
    if len(table) and not keep.any():
        raise SelectionError(f"the selection is empty: no patch of {len(table)} has {_describe(selection)}")
    return Catalogue(_ordered(table[keep]), catalogue.test_meaning, catalogue.faults)


def _check_rois(rois: Sequence[str], table: pd.DataFrame) -> None:
    there = set(table["roi_id"])
    unknown = [roi for roi in rois if roi not in there]
    if unknown:
        raise SelectionError(
            f"no ROI {unknown[0]!r} here{did_you_mean(unknown[0], list(dict.fromkeys(table['roi_id'])))}"
        )


def _describe(selection: Selection) -> str:
    parts = [*selection.where]
    parts += [f"bbox {','.join(map(str, selection.bbox))}"] if selection.bbox else []
    parts += [f"roi in {','.join(selection.rois)}"] if selection.rois else []
    return " and ".join(parts)

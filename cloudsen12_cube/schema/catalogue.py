"""The catalogue, one validated row for each patch in the order (roi, time), and the selection of patches.

A condition such as ``difficulty<=3`` is parsed to a column, an operator and values, and never evaluated as code.
Convert, subset, export and query use the same conditions.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema.properties import BY_NAME, Kind, canonical
from cloudsen12_cube.schema.times import TimeSpan, parse_time

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
    """``column operator value``. Several values, which only ``=`` and ``!=`` accept, mean any of them."""

    column: str
    operator: Operator
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{'|'.join(map(str, self.values))}"


def parse(text: str, columns: Collection[str] = ()) -> Condition:
    """Parse one condition.

    Parameters
    ----------
    text : str
        ``COLUMN OP VALUE`` with OP one of ``= != < <= > >=``. ``a|b`` matches both values, ``a*`` a prefix.
    columns : collection of str
        Columns of the table that are not properties of CloudSEN12.

    Raises
    ------
    SelectionError
        If the text is not a condition, the property is unknown, or the operator does not apply to it.
    """
    match = _PATTERN.match(text)
    if match is None or not match[3]:
        raise SelectionError(f"cannot read the condition {text!r}: write it like label_type=high or difficulty<=3")
    column = find_column(match[1], columns)
    values = tuple(value.strip() for value in match[3].split("|"))
    condition = Condition(column, match[2], values)  # type: ignore[arg-type]  # the pattern lists the operators
    if column not in columns:  # the type of other columns is known only from the table
        _check(condition, "text" if column == "roi_id" else BY_NAME[column].kind)
    return condition


def find_column(name: str, columns: Collection[str] = ()) -> str:
    """Return the name of a column for any of its spellings.

    Raises
    ------
    SelectionError
        If the column is unknown; the message suggests similar names.
    """
    found = name if name in ("roi_id", *columns) else canonical(name)
    if found is None:
        raise SelectionError(f"no property {name!r}{did_you_mean(name, ['roi_id', *BY_NAME, *columns])}")
    return found


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: similar names, or the existing ones."""
    near = get_close_matches(name, names, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(names) - _LISTED:,} more" if len(names) > 5 * _LISTED else ""
    return f"; there are {', '.join(names[:_LISTED] if more else names)}{more}"


def _check(condition: Condition, kind: Kind) -> None:
    """Check the operator and the values of a condition against the type of its column."""
    if condition.operator in _COMPARE:
        if kind == "text":
            raise SelectionError(f"'{condition}' orders texts, and {condition.column} is text: use = or !=")
        if len(condition.values) > 1:
            raise SelectionError(f"'{condition}' orders several values: use = or !=, or one value")
    for value in condition.values:
        typed_value(condition.column, value, kind)


def typed_value(column: str, value: Any, kind: Kind) -> Any:
    """Convert a value to the type of its column: a text, a float or a `TimeSpan`.

    Raises
    ------
    SelectionError
        If the value is not of that type, or a text cannot be read as it.
    """
    if kind == "text":
        if not isinstance(value, str):
            raise SelectionError(f"{column}={value!r}: {column} is text, give a text or a list of texts")
        return value
    with suppress(ValueError, TypeError):
        if kind == "time":
            return parse_time(value)
        if not isinstance(value, (bool, datetime, date)):
            return float(value)
    row = BY_NAME.get(column)
    if row and row.legend and isinstance(value, str):
        return _code(column, value, row.legend)
    expected = "date: write it as 2019, 2019-08, 2019-08-11 or 2019-08-11T10:00+02:00" if kind == "time" else "number"
    raise SelectionError(f"{column}={value!r} is no {expected}")


def _code(column: str, name: str, legend: Mapping[int, str]) -> float:
    """Return the code of a name in a legend, in any case of letters."""
    codes = {text.casefold(): code for code, text in legend.items()}
    code = codes.get(name.strip().casefold())
    if code is None:
        raise SelectionError(f"{column} has no class {name!r}{did_you_mean(name, list(legend.values()))}")
    return float(code)


def fulfilled(condition: Condition, table: pd.DataFrame) -> Mask:
    """Return which rows fulfil a condition.

    An unknown value (NaN, NaT, a missing number) fulfils ``!=`` and no other comparison. A date, month or year is the
    whole of it: ``<=2019-08`` includes August 31, ``>2019-08`` begins in September.

    Parameters
    ----------
    condition : Condition
        Parsed condition.
    table : pandas.DataFrame
        Table of a catalogue.

    Returns
    -------
    numpy.ndarray of bool, shape (rows,)
    """
    column = _column(condition, table)
    kind = _kind(column)
    if kind == "time":
        column = column.dt.as_unit("us")  # the resolution of a cube, so that an archive and its cube agree
    _check(condition, kind)
    values, known = _values(condition, kind), _known(column)
    if condition.operator in _COMPARE:
        edge = values[0]
        if isinstance(edge, TimeSpan):
            edge = edge.first if condition.operator in ("<", ">=") else edge.last
        return np.asarray(_COMPARE[condition.operator](column, edge), dtype=bool) & known
    equal = _equal(column, values) & known
    return ~equal if condition.operator == "!=" else equal


def _column(condition: Condition, table: pd.DataFrame) -> pd.Series[Any]:
    if condition.column not in table:
        raise SelectionError(
            f"{condition.column} in '{condition}' is a property of CloudSEN12+, which this archive does not have"
        )
    return table[condition.column]


def _values(condition: Condition, kind: Kind) -> list[Any]:
    return [typed_value(condition.column, value, kind) for value in condition.values]


def _kind(column: pd.Series[Any]) -> Kind:
    """Return the type of a property, or of another column from its dtype."""
    if column.name in BY_NAME:
        return BY_NAME[str(column.name)].kind
    dtype = column.dtype.kind
    return "time" if dtype == "M" else "float" if dtype in "fiu" else "text"


def _known(column: pd.Series[Any]) -> Mask:
    row = BY_NAME.get(str(column.name))
    return np.asarray(column != row.missing if row and row.kind == "int" else column.notna(), dtype=bool)


def _prefix(value: Any) -> str | None:
    """Return the prefix of a text with a trailing ``*``."""
    return value[:-1] if isinstance(value, str) and value.endswith("*") else None


def _equal(column: pd.Series[Any], values: Sequence[Any]) -> Mask:
    if values and isinstance(values[0], TimeSpan):
        return np.asarray(np.logical_or.reduce([column.between(*span) for span in values]), dtype=bool)
    prefixes = tuple(prefix for value in values if (prefix := _prefix(value)) is not None)
    equal = column.isin([value for value in values if _prefix(value) is None])  # one pass for long lists of ROIs
    return np.asarray(equal | column.str.startswith(prefixes) if prefixes else equal, dtype=bool)


def matching(conditions: Iterable[Condition], table: pd.DataFrame) -> Mask:
    """Return which rows fulfil all conditions.

    Raises
    ------
    SelectionError
        If a condition does not apply to its column, or no row has one of its values.
    """
    keep = np.ones(len(table), dtype=bool)
    for condition in conditions:
        _check_values(condition, table)
        keep &= fulfilled(condition, table)
    return keep


def _check_values(condition: Condition, table: pd.DataFrame) -> None:
    """Check that rows with the values exist; values that the paper defines may be absent if another value exists."""
    if condition.operator != "=" or table.empty:
        return
    column = _column(condition, table)
    there = set(column[_known(column)])
    values = zip(condition.values, _values(condition, _kind(column)), strict=True)
    absent = [given for given, value in values if value not in there and not _matches_any(value, there)]
    row = BY_NAME.get(condition.column)
    legal = row.values if row and len(absent) < len(condition.values) else ()
    wrong = [value for value in absent if value not in legal]
    if wrong:
        raise SelectionError(f"{condition.column} has no value {wrong[0]!r}{_values_here(wrong[0], column)}")


def _matches_any(value: Any, there: Collection[Any]) -> bool:
    """Return whether a text with a trailing ``*``, or a period, matches any of the values."""
    if isinstance(value, TimeSpan):
        return any(value.first <= np.datetime64(moment, "us") <= value.last for moment in there)
    prefix = _prefix(value)
    return prefix is not None and any(text.startswith(prefix) for text in there)


def _values_here(value: Value, column: pd.Series[Any]) -> str:
    """Return the end of a message: the values of a column with their counts or, if there are many, similar values."""
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
    """Return which points are inside a box, including its edges.

    Parameters
    ----------
    longitude, latitude : numpy.ndarray of float64
        Degrees; False for NaN.
    bbox : (float, float, float, float)
        West, south, east, north in degrees; a box with west > east, or one that ends beyond 180, crosses the
        antimeridian.

    Returns
    -------
    numpy.ndarray of bool, the same shape

    Raises
    ------
    SelectionError
        If the box does not have four finite numbers of degrees with south <= north.
    """
    numbers = np.asarray(bbox, dtype=float)
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or numbers[1] > numbers[3]:
        raise SelectionError(f"bbox {bbox} is not west, south, east, north in degrees")
    if np.abs(numbers[::2]).max() > 540 or np.abs(numbers[1::2]).max() > 90:
        raise SelectionError(
            f"bbox {bbox} is beyond 540 or 90 degrees: give degrees of WGS 84, not metres of a projection"
        )
    west, south, east, north = numbers
    east += 360 if west > east else 0
    across = np.logical_or.reduce([(longitude + turn >= west) & (longitude + turn <= east) for turn in (-360, 0, 360)])
    inside: Mask = across & (latitude >= south) & (latitude <= north)
    return inside


LABEL_FOLDERS = {
    "high": "high",
    "scribble": "scribble",
    "nolabel": "nolabel",
    "no-label": "nolabel",
    "no_label": "nolabel",
}
"""Folder of an archive -> label_type. The last two spellings are those of the paper and of a copy of the dataset."""

_SENSING = re.compile(r"(\d{8}T\d{6})_")


def sensing_start(s2_id_gee: str) -> str:
    """Return the acquisition time in an image id, ``20190123T095319_...``, or an empty text."""
    match = _SENSING.match(s2_id_gee)
    return match[1] if match else ""


TestMeaning = Literal["v1.0", "v1.1"]
_ROI = re.compile(r"ROI_\d{1,9}")
_IMAGE = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class RowFault:
    """An invalid row of the metadata."""

    roi_id: str
    s2_id_gee: str
    found: str
    expected: str


@dataclass(frozen=True)
class Catalogue:
    """The patches of an archive, or a selection of them."""

    table: pd.DataFrame
    """One row for each patch in the order (roi, time), with ``roi_id``, ``time``, the columns of ``PROPERTIES``, and
    those of ``PLUS`` that the archive has."""
    test_meaning: TestMeaning
    """Definition of the codes of ``test``."""
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
        """Length of the ``time`` dimension: the largest number of patches of an ROI."""
        return int(self.table["time"].max()) + 1 if len(self.table) else 0


def roi_number(roi_id: str) -> int:
    """Return the number of an ROI: ``ROI_0827`` is 827 and comes before ``ROI_10133``."""
    return int(roi_id.removeprefix("ROI_"))


def is_legal_key(roi_id: str, s2_id_gee: str) -> bool:
    """Return whether the ids of a patch are names, which can be used as folders, and not paths."""
    return bool(_ROI.fullmatch(roi_id) and _IMAGE.fullmatch(s2_id_gee)) and ".." not in s2_id_gee


def order_patches(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by (ROI number, acquisition time, id), and set ``time`` to the rank inside the ROI."""
    number = table["roi_id"].map(roi_number) if len(table) else pd.Series(dtype="int64")
    table = table.assign(_number=number).sort_values(["_number", "roi_id", "datetime", "s2_id_gee"], kind="stable")
    table = table.drop(columns="_number").reset_index(drop=True)
    table["time"] = table.groupby("roi_id", sort=False).cumcount().astype("int64")
    return table


@dataclass(frozen=True)
class Selection:
    """Conditions that select patches; a patch has to fulfil all of them."""

    where: tuple[str, ...] = ()
    """Conditions such as ``difficulty<=3``."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; a box with west > east crosses the antimeridian."""
    rois: tuple[str, ...] = ()
    """ROI ids; empty for all."""

    def __str__(self) -> str:
        """Return the conditions for messages."""
        parts = [*self.where]
        parts += [f"bbox {','.join(map(str, self.bbox))}"] if self.bbox else []
        parts += [f"roi in {','.join(self.rois)}"] if self.rois else []
        return " and ".join(parts)


def select(catalogue: Catalogue, selection: Selection) -> Catalogue:
    """Return the selected patches of a catalogue; ``time`` is renumbered in each ROI.

    Parameters
    ----------
    catalogue : Catalogue
        All patches.
    selection : Selection
        Conditions on the patches.

    Raises
    ------
    SelectionError
        If a condition is invalid, a value or an ROI does not exist, or no patch is selected.
    """
    table = catalogue.table
    keep = matching(map(parse, selection.where), table)
    if selection.bbox is not None:
        keep &= in_box(table["longitude"].to_numpy(), table["latitude"].to_numpy(), selection.bbox)
    if selection.rois:
        _check_rois(selection.rois, table)
        keep &= np.asarray(table["roi_id"].isin(selection.rois))
    if len(table) and not keep.any():
        raise SelectionError(f"the selection is empty: no patch of {len(table)} has {selection}")
    return Catalogue(order_patches(table[keep]), catalogue.test_meaning, catalogue.faults)


def _check_rois(rois: Sequence[str], table: pd.DataFrame) -> None:
    there = set(table["roi_id"])
    unknown = [roi for roi in rois if roi not in there]
    if unknown:
        raise SelectionError(f"no ROI {unknown[0]!r}{did_you_mean(unknown[0], list(dict.fromkeys(table['roi_id'])))}")

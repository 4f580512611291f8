"""Conditions on the catalogue, such as ``difficulty<=3``: parsed into data, never evaluated as code.

The catalogue: one validated row a patch, ordered by (roi, time).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema.properties import BY_NAME, canonical

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
        If a condition cannot be read, an ROI is not there, or nothing is left.
    """
    table = catalogue.table
    keep = np.ones(len(table), dtype=bool)
    for text in selection.where:
        keep &= fulfilled(parse(text), table)
    if selection.bbox is not None:
        keep &= in_box(table["longitude"].to_numpy(), table["latitude"].to_numpy(), selection.bbox)
    if selection.rois:
        _known(selection.rois, table)
        keep &= np.asarray(table["roi_id"].isin(selection.rois))
    if len(table) and not keep.any():
        raise SelectionError(f"the selection is empty: no patch of {len(table)} has {_told(selection)}")
    return Catalogue(_ordered(table[keep]), catalogue.test_meaning, catalogue.faults)


def _known(rois: Sequence[str], table: pd.DataFrame) -> None:
    unknown = [roi for roi in rois if roi not in set(table["roi_id"])]
    if unknown:
        raise SelectionError(f"no ROI {unknown[0]!r} in the archive; ids look like {table['roi_id'].iloc[0]}")


def _told(selection: Selection) -> str:
    parts = [*selection.where]
    parts += [f"bbox {','.join(map(str, selection.bbox))}"] if selection.bbox else []
    parts += [f"roi in {','.join(selection.rois)}"] if selection.rois else []
    return " and ".join(parts)

"""The catalogue: one validated row a patch, ordered by (roi, time)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cloudsen12_cube.conditions import fulfilled, in_box, parse
from cloudsen12_cube.errors import ArchiveError, SelectionError
from cloudsen12_cube.metadata import LABEL_FOLDERS, sensing_start
from cloudsen12_cube.properties import PLUS, PROPERTIES, ROI_WIDE, UNKNOWN, Property

TestMeaning = Literal["v1.0", "v1.1"]
_SPLITS: dict[TestMeaning, dict[int, str]] = {
    "v1.0": {0: "train", 1: "test"},
    "v1.1": {0: "train", 1: "validation", 2: "test"},
}
_ROI = re.compile(r"ROI_\d{1,9}")
_IMAGE = re.compile(r"\w[\w.-]*")
_POINT = re.compile(r"POINT\s*\(\s*(\S+)\s+(\S+)\s*\)")


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


def build(texts: pd.DataFrame, test_meaning: TestMeaning | None = None) -> Catalogue:
    """Validate a table of texts and give it types and an order.

    Parameters
    ----------
    texts : pandas.DataFrame
        As the readers in ``metadata`` give it.
    test_meaning : {"v1.0", "v1.1"}, optional
        What the codes of ``test`` mean. By default v1.1 if any code is 2, else v1.0.

    Raises
    ------
    ArchiveError
        If a value cannot be read, or the rows of an ROI disagree on its label type or split.
    """
    texts, faults = _legal_rows(texts)
    table = pd.DataFrame({"roi_id": texts.get("roi_id", pd.Series(dtype=object))}, dtype=object)
    for row in (*PROPERTIES, *(row for row in PLUS if row.name in texts)):
        table[row.name] = _typed(row, texts[row.name] if row.name in texts else pd.Series([""] * len(texts)))
    meaning = test_meaning or ("v1.1" if (table["test"] == 2).any() else "v1.0")
    _derive(table, meaning)
    _check_roi_wide(table)
    return Catalogue(_ordered(table), meaning, tuple(faults))


def is_legal_key(roi_id: str, s2_id_gee: str) -> bool:
    """Tell whether the ids of a patch are names, such as ``ROI_0827``, which may become folders; a path may not."""
    return bool(_ROI.fullmatch(roi_id) and _IMAGE.fullmatch(s2_id_gee)) and ".." not in s2_id_gee


def _legal_rows(texts: pd.DataFrame) -> tuple[pd.DataFrame, list[RowFault]]:
    """Keep rows whose ids are names, not paths, and each key once."""
    faults: list[RowFault] = []
    keep: list[int] = []
    seen: set[tuple[str, str]] = set()
    for index, key in enumerate(zip(texts["roi_id"], texts["s2_id_gee"], strict=True)):
        if not is_legal_key(*key):
            faults.append(RowFault(*key, "an illegal id", "an roi_id like ROI_0827 and a plain image id"))
        elif key in seen:
            faults.append(RowFault(*key, "a second row of this patch", "one row a patch; the first is used"))
        else:
            keep.append(index)
            seen.add(key)
    return texts.iloc[keep].reset_index(drop=True), faults


def _typed(row: Property, column: pd.Series[Any]) -> Any:
    column = column.reset_index(drop=True)
    if row.kind == "text":
        return column.astype(object)
    column = column.mask(column.isin(UNKNOWN), None)
    try:
        if row.kind == "time":
            return pd.to_datetime(column, utc=True, format="ISO8601").dt.tz_localize(None).dt.as_unit("ns")
        numbers = pd.to_numeric(column).astype("float64")
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"column {row.name} of the metadata holds no {row.kind}: {error}") from None
    if row.kind == "float":
        return numbers
    if (numbers.dropna() % 1 != 0).any():
        raise ArchiveError(f"column {row.name} of the metadata holds {numbers[numbers % 1 != 0].iloc[0]}, no integer")
    return numbers.fillna(row.missing).astype("int64")


def _derive(table: pd.DataFrame, meaning: TestMeaning) -> None:
    """Fill the columns that follow from others."""
    unknown = set(table["test"]) - set(_SPLITS[meaning]) - {-1}
    if unknown:
        raise ArchiveError(f"column test holds {sorted(unknown)[0]}; {meaning} knows {sorted(_SPLITS[meaning])}")
    told = table["test"].map(_SPLITS[meaning]).fillna("")
    table["split"] = table["split"].where(table["split"] != "", told).astype(object)  # where the archive says it itself
    strange = set(table["split"]) - {*_SPLITS["v1.1"].values(), ""}
    if strange:
        raise ArchiveError(f"column split holds {sorted(strange)[0]!r}; a split is train, validation or test")
    table["label_type"] = table["label_type"].map(lambda t: LABEL_FOLDERS.get(t, t)).astype(object)
    start = pd.to_datetime(table["s2_id_gee"].map(sensing_start).replace("", None), format="%Y%m%dT%H%M%S")
    table["datetime"] = table["datetime"].fillna(start.dt.as_unit("ns"))
    table["longitude"], table["latitude"] = _centres(table["proj_centroid"])


def _centres(column: pd.Series[Any]) -> tuple[Any, Any]:
    points = column.str.extract(_POINT)
    try:
        return points[0].astype("float64"), points[1].astype("float64")
    except ValueError as error:
        raise ArchiveError(f"column proj_centroid of the metadata holds no POINT (lon lat): {error}") from None


def _check_roi_wide(table: pd.DataFrame) -> None:
    for name in ROI_WIDE:
        counts = table.groupby("roi_id")[name].nunique()
        bad = list(counts.index[counts > 1])
        if bad:
            values = sorted(set(table.loc[table["roi_id"] == bad[0], name]))
            raise ArchiveError(
                f"the patches of {bad[0]} disagree on {name} ({', '.join(map(repr, values))}): one ROI has one {name}"
            )


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

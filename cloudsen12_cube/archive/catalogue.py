"""From the texts of an archive's metadata to a typed, ordered and checked catalogue."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.schema import (
    LABEL_FOLDERS,
    PLUS,
    PROPERTIES,
    ROI_WIDE,
    UNKNOWN,
    Catalogue,
    Property,
    RowFault,
    TestMeaning,
    is_legal_key,
    order_patches,
    sensing_start,
)

_SPLITS: dict[TestMeaning, dict[int, str]] = {
    "v1.0": {0: "train", 1: "test"},
    "v1.1": {0: "train", 1: "validation", 2: "test"},
}
_LARGEST = 2**31
_POINT = re.compile(r"POINT\s*\(\s*(\S+)\s+(\S+)\s*\)")


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
    return Catalogue(order_patches(table), meaning, tuple(faults))


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
    if row.name == "s2_id_gee":
        return column.astype(object)
    if row.kind == "text":
        return column.mask(column.isin(UNKNOWN), "").astype(object)
    column = column.mask(column.isin(UNKNOWN), None)
    try:
        if row.kind == "time":
            if column.isin(("now", "today")).any():  # pandas would read the clock
                raise ValueError("it says now or today, expected ISO 8601")
            return pd.to_datetime(column, utc=True, format="ISO8601").dt.tz_localize(None).dt.as_unit("ns")
        numbers = pd.to_numeric(column).astype("float64")
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"column {row.name} of the metadata holds no {row.kind}: {error}") from None
    if row.kind == "float":
        return numbers
    if (numbers.abs() >= _LARGEST).any():
        raise ArchiveError(f"column {row.name} of the metadata holds {numbers[numbers.abs() >= _LARGEST].iloc[0]}")
    if (numbers.dropna() % 1 != 0).any():
        raise ArchiveError(f"column {row.name} of the metadata holds {numbers[numbers % 1 != 0].iloc[0]}, no integer")
    return numbers.fillna(row.missing).astype("int64")


def _derive(table: pd.DataFrame, meaning: TestMeaning) -> None:
    """Fill the columns that follow from others."""
    unknown = set(table["test"]) - set(_SPLITS[meaning]) - {-1}
    if unknown:
        raise ArchiveError(f"column test holds {sorted(unknown)[0]}; {meaning} has {sorted(_SPLITS[meaning])}")
    split = table["test"].map(_SPLITS[meaning]).fillna("")
    table["split"] = (
        table["split"].where(table["split"] != "", split).astype(object)
    )  # where the archive states it itself
    strange = set(table["split"]) - {*_SPLITS["v1.1"].values(), ""}
    if strange:
        raise ArchiveError(f"column split holds {sorted(strange)[0]!r}; a split is train, validation or test")
    table["label_type"] = table["label_type"].map(lambda t: LABEL_FOLDERS.get(t, t)).astype(object)
    start = pd.to_datetime(table["s2_id_gee"].map(sensing_start).replace("", None), format="%Y%m%dT%H%M%S")
    table["datetime"] = table["datetime"].fillna(start.dt.as_unit("ns"))
    table["longitude"], table["latitude"] = _centres(table["proj_centroid"])


def _centres(column: pd.Series[Any]) -> tuple[Any, Any]:
    points = column.str.extract(_POINT)
    points = points.mask(points.isin(UNKNOWN))
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

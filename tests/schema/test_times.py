"""Times in conditions: offsets are converted, a date, month or year is the whole of it, and words are no times."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.schema.catalogue import fulfilled, parse
from cloudsen12_cube.schema.times import TimeSpan, parse_time
from cloudsen12_cube.testing import ArchiveOptions

MOMENTS = st.datetimes(datetime(2018, 1, 1), datetime(2021, 1, 1))
OFFSETS = st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
    lambda t: timedelta(minutes=t // timedelta(minutes=1))
)
COMPARE = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def table(moments: list[datetime]) -> pd.DataFrame:
    return pd.DataFrame({"datetime": pd.Series(moments, dtype="datetime64[ns]")})


def instant(text: str) -> TimeSpan:
    return TimeSpan(np.datetime64(text, "us"), np.datetime64(text, "us"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2019-08-11T10:00", "2019-08-11T10:00"),
        ("2019-08-11T10:00Z", "2019-08-11T10:00"),
        ("2019-08-11T10:00+02:00", "2019-08-11T08:00"),
        ("2019-08-11 10:00 +0200", "2019-08-11T08:00"),
        ("2019-08-11T23:30:05.25-01", "2019-08-12T00:30:05.25"),
        (datetime(2019, 8, 11, 10, tzinfo=timezone(timedelta(hours=2))), "2019-08-11T08:00"),
        (datetime(2019, 8, 11), "2019-08-11T00:00"),
        (pd.Timestamp("2019-08-11", tz="Asia/Tokyo"), "2019-08-10T15:00"),
        (np.datetime64("2019-08-11T10", "h"), "2019-08-11T10:00"),
    ],
)
def test_instants(value: Any, text: str) -> None:
    assert parse_time(value) == instant(text)


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("2019", "2019-01-01", "2019-12-31"),
        ("2020-02", "2020-02-01", "2020-02-29"),
        ("2019-08-11", "2019-08-11", "2019-08-11"),
        (date(2019, 8, 11), "2019-08-11", "2019-08-11"),
        (np.datetime64("2019-12"), "2019-12-01", "2019-12-31"),
        (np.datetime64("2019-08-11"), "2019-08-11", "2019-08-11"),
        (pd.Period("2019Q3"), "2019-07-01", "2019-09-30"),
        ("9999-12", "9999-12-01", "9999-12-31"),
    ],
)
def test_periods(value: Any, first: str, last: str) -> None:
    assert parse_time(value) == (np.datetime64(first, "us"), np.datetime64(f"{last}T23:59:59.999999"))


def test_a_day_elsewhere_begins_at_its_own_midnight() -> None:
    expected = np.datetime64("2019-08-10T22:00", "us"), np.datetime64("2019-08-11T21:59:59.999999")
    assert parse_time("2019-08-11+02:00") == expected


WRONG = [
    *("June", "2019-13", "2019-02-30", "2019-8", "201908", "11/08/2019", "now", "today", "NaT", "12", "2019-08+02:00"),
    *("2019-08-11T10:00+99:00", "2019-08-11T25:00", "2019-08-11T10:00 CEST"),
]


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_refused(text: str) -> None:
    for operator in ("=", "<=", "!="):
        with pytest.raises(SelectionError, match="is no date: write it as 2019, 2019-08, 2019-08-11 or"):
            parse(f"datetime{operator}{text}")


@pytest.mark.parametrize(
    "value", [2019, 2019.5, True, np.datetime64("NaT", "s"), pd.NaT, [None], ("June", None), {"a": 1}]
)
def test_other_values_are_refused(tree: xr.DataTree, value: Any) -> None:
    with pytest.raises(SelectionError, match="is no date"):
        tree.cloudsen12.query(datetime=value)


@given(st.lists(MOMENTS, min_size=1, max_size=6), MOMENTS, OFFSETS)
def test_an_offset_is_converted(moments: list[datetime], moment: datetime, offset: timedelta) -> None:
    moments = [*moments, moment]
    local = (moment.replace(tzinfo=UTC)).astimezone(timezone(offset)).isoformat()
    rows = table(moments)
    for operator, name in COMPARE.items():
        expected = [bool(getattr(m, f"__{name}__")(moment)) for m in moments]
        assert fulfilled(parse(f"datetime{operator}{local}"), rows).tolist() == expected
    assert fulfilled(parse(f"datetime={local}"), rows).tolist() == [m == moment for m in moments]


@settings(max_examples=200)
@given(st.lists(MOMENTS, min_size=1, max_size=6), MOMENTS, st.sampled_from([4, 7, 10]))
def test_a_period_is_compared_as_its_text(moments: list[datetime], moment: datetime, length: int) -> None:
    """ISO 8601 sorts as text: a moment is in a period whose text begins its own."""
    edge = pd.Timestamp(moment)
    border = [edge.floor("D"), edge.floor("D") - pd.Timedelta(1, "us"), edge.replace(day=1).floor("D")]
    moments = [*moments, *(m.to_pydatetime() for m in border)]
    text, texts = moment.isoformat()[:length], [m.isoformat()[:length] for m in moments]
    rows = table(moments)
    for operator, name in COMPARE.items():
        expected = [bool(getattr(t, f"__{name}__")(text)) for t in texts]
        assert fulfilled(parse(f"datetime{operator}{text}"), rows).tolist() == expected
    assert fulfilled(parse(f"datetime={text}|2001"), rows).tolist() == [t == text for t in texts]
    assert fulfilled(parse(f"datetime!={text}"), rows).tolist() == [t != text for t in texts]


def test_an_unknown_time_is_in_no_period() -> None:
    rows = pd.DataFrame({"s1_datetime": pd.to_datetime(["2019-08-11", None])})
    for condition in ("s1_datetime=2019", "s1_datetime<=2019", "s1_datetime>2018", "s1_datetime<9999"):
        assert fulfilled(parse(condition), rows).tolist() == [True, False]
    assert fulfilled(parse("s1_datetime!=2019"), rows).tolist() == [False, True]


@pytest.fixture(scope="module")
def tree(archive: Path) -> xr.DataTree:
    return c12.open_virtual(archive, ["labels"])


def keys(tree: xr.DataTree) -> set[str]:
    root = tree.to_dataset()
    return {
        f"{roi}/{image}"
        for roi, row in zip(root["roi"].values, root["s2_id_gee"].values, strict=True)
        for image in row
        if image
    }


@pytest.mark.parametrize(
    ("keyword", "conditions"),
    [
        ("2019-03", ["datetime=2019-03"]),
        (["2019-01", "2019-03"], ["datetime=2019-01|2019-03"]),
        (("2019-01", "2019-02"), ["datetime>=2019-01", "datetime<=2019-02"]),
        (slice("2019-01", "2019-02"), ["datetime>=2019-01", "datetime<2019-03"]),
        (slice("2019-02", None), ["datetime>2019-01"]),
        (slice(None, date(2019, 2, 10)), ["datetime<2019-02-11"]),
        (slice(np.datetime64("2019-01"), np.datetime64("2019-02")), ["datetime<=2019-02"]),
        (("2019-01-10T12:00+02:00", None), ["datetime>=2019-01-10T10:00Z"]),
    ],
)
def test_query_and_command_line_agree(archive: Path, tree: xr.DataTree, keyword: Any, conditions: list[str]) -> None:
    expected = keys(c12.open_virtual(archive, ["labels"], where=conditions))
    assert keys(tree.cloudsen12.query(datetime=keyword)) == keys(tree.cloudsen12.query(conditions)) == expected
    assert 0 < len(expected) < len(keys(tree))


def test_slices_are_ranges(tree: xr.DataTree) -> None:
    ask = tree.cloudsen12.query
    assert keys(ask(difficulty=slice(1, 3))) == keys(ask(difficulty=(1, 3)))
    assert keys(ask(difficulty=slice(None, 2))) == keys(ask(difficulty=(None, 2)))
    for wrong in ({"difficulty": slice(1, 3, 2)}, {"label_type": slice("a", "b")}):
        with pytest.raises(SelectionError, match=r"give slice\(low, high\)"):
            ask(**wrong)
    with pytest.raises(SelectionError, match="above the high one"):
        ask(datetime=slice("2019-03", "2019-02"))
    with pytest.raises(SelectionError, match="datetime has no value '2001-01'"):
        ask(datetime="2001-01")


def test_a_fraction_beyond_the_resolution_of_a_cube_is_the_same_in_the_archive(tmp_path: Path) -> None:
    archive = c12.testing.make_archive(tmp_path / "a", rois=1, options=ArchiveOptions(size=16))
    path = archive / "cloudsen12_metadata.csv"
    path.write_text(path.read_text().replace("T10:09:47Z", "T10:09:47.1234567Z", 1))
    c12.convert(archive, tmp_path / "c.zarr", ["extra"])
    cube = c12.open_cube(tmp_path / "c.zarr")
    moment = str(np.sort(cube["datetime"].values.ravel().astype("M8[us]"))[0])
    for condition in (f"datetime={moment}", f"datetime<={moment}", f"datetime>{moment}"):
        assert keys(cube.cloudsen12.query(condition)) == keys(c12.open_virtual(archive, ["extra"], where=[condition]))

"""What records add up to: in any order, and never more certain than they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsen12_cube.format.layout import ProductLayout
from cloudsen12_cube.format.record import PatchRecord, ShardRecord, StatusGrid

LAYOUT = ProductLayout("labels", "int16", 2, 4, 4)


def record(index: int, status: tuple[int, ...] = (1,), maximum: int | None = None) -> ShardRecord:
    maxima = {} if maximum is None else {"CD-FCNN-RGBI": maximum, "s2cloudless": 100}
    patches = tuple(PatchRecord(time, "x", code, maxima=maxima) for time, code in enumerate(status))
    return ShardRecord("labels", f"ROI_{index}", index, 1, "", patches)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=4), st.randoms())
def test_the_order_of_records_changes_nothing(codes: list[tuple[int, int]], random: np.random.Generator) -> None:
    rows = [record(index, pair, index) for index, pair in enumerate(codes)]
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = StatusGrid.empty([LAYOUT], 4), StatusGrid.empty([LAYOUT], 4)
    for row in rows:
        first.add(row)
    for row in shuffled:
        second.add(row)
    expected = np.array([*codes, *[(0, 0)] * (4 - len(codes))], dtype=np.uint8)
    for tally in (first, second):
        np.testing.assert_array_equal(tally.status["labels"], expected)
    assert first.scale == second.scale


def test_a_later_record_takes_the_place_of_an_earlier_one_and_a_hidden_one_shows_nothing() -> None:
    tally = StatusGrid.empty([LAYOUT], 1)
    tally.add(record(0, (2, 1), 5_000))
    tally.add(record(0, (1,), 60), shown=False)
    assert tally.status["labels"].tolist() == [[0, 0]]
    assert tally.scale == 100
    tally.add(record(0, (1,), 60))
    assert tally.status["labels"].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("maxima", "scale"),
    [
        ([60, 70], 100),
        ([60], None),  # the one that is missing may hold 5,000
        ([5_000], 10_000),  # which no other can change
        ([60, 5_000], 10_000),
        ([60, None], 100),
        ([1, 1], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_scale_is_told_when_it_is_certain(maxima: list[int | None], scale: int | None) -> None:
    tally = StatusGrid.empty([LAYOUT], 2)
    for index, maximum in enumerate(maxima):
        tally.add(record(index, maximum=maximum))
    assert tally.scale == scale

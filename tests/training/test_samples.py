"""The order of an epoch: properties that must hold for any seed, size, window and number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsen12_cube.training.order import FILLER, Order, make_epoch, shuffle_quality

ROIS = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))
ORDERS = {
    "batch_size": st.integers(1, 9),
    "seed": st.integers(0, 2**31),
    "window": st.none() | st.integers(1, 8),
    "shuffle": st.booleans(),
}


@given(rois=ROIS, number=st.integers(0, 5), options=st.fixed_dictionaries(ORDERS))
def test_an_epoch_is_a_permutation(rois: np.ndarray, number: int, options: dict) -> None:
    order = Order(**options)
    epoch = make_epoch(order, number, rois)
    assert sorted(epoch.patches) == list(range(len(rois)))
    again = make_epoch(order, number, rois)
    np.testing.assert_array_equal(epoch.patches, again.patches)
    np.testing.assert_array_equal(epoch.draws, again.draws)
    taken = np.concatenate([epoch.batch(step)[0] for step in range(epoch.steps)])
    np.testing.assert_array_equal(taken, epoch.patches)


@given(rois=ROIS, world=st.integers(1, 4), last=st.sampled_from(["drop", "pad"]), options=st.fixed_dictionaries(ORDERS))
def test_ranks_are_disjoint_equal_and_complete(rois: np.ndarray, world: int, last: str, options: dict) -> None:
    ranks = [make_epoch(Order(**options, rank=r, world_size=world, last=last), 1, rois) for r in range(world)]
    assert len({epoch.steps for epoch in ranks}) == 1
    batches = [epoch.batch(step)[0] for epoch in ranks for step in range(epoch.steps)]
    assert all(len(batch) == options["batch_size"] for batch in batches)
    counts = Counter(int(patch) for batch in batches for patch in batch if patch != FILLER)
    assert set(counts.values()) <= {1}
    share = options["batch_size"] * world
    assert len(counts) == (len(rois) if last == "pad" else len(rois) // share * share)


@given(rois=ROIS, world=st.integers(1, 4), options=st.fixed_dictionaries(ORDERS))
def test_ranks_together_are_one_rank_with_a_larger_batch(rois: np.ndarray, world: int, options: dict) -> None:
    ranks = [make_epoch(Order(**options, rank=r, world_size=world, last="drop"), 0, rois) for r in range(world)]
    size = options.pop("batch_size") * world
    alone = make_epoch(Order(batch_size=size, **options, last="drop"), 0, rois)
    for step in range(alone.steps):
        together = np.concatenate([epoch.batch(step)[0] for epoch in ranks])
        np.testing.assert_array_equal(together, alone.batch(step)[0])


@given(rois=ROIS, window=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_window_holds_so_many_rois(rois: np.ndarray, window: int, seed: int) -> None:
    epoch = make_epoch(Order(1, seed, window=window), 0, rois)
    walked = rois[epoch.patches]
    present = len(np.unique(rois))
    start = 0
    for first in range(0, present, window):
        expected = min(window, present - first)
        seen: list[int] = []
        while start < len(walked) and (walked[start] in seen or len(seen) < expected):
            seen = [*dict.fromkeys([*seen, int(walked[start])])]
            start += 1
        assert len(seen) == expected
    assert start == len(walked)


def test_epochs_and_seeds_differ() -> None:
    rois = np.repeat(np.arange(20), 5)
    orders = [make_epoch(Order(4, seed), number, rois).patches.tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert make_epoch(Order(4, shuffle=False), 3, rois).patches.tolist() == list(range(100))


@given(weights=st.lists(st.floats(0, 100), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_weighted_patches_come_as_often_as_their_share_says(weights: list[float], seed: int) -> None:
    values = np.array(weights)
    if values.sum() < 1e-6:
        values += 1
    epoch = make_epoch(Order(4, seed), 0, np.arange(len(values)), values)
    counts = np.bincount(epoch.patches, minlength=len(values))
    share = values / values.sum() * len(values)
    assert counts.sum() == len(values)
    assert (np.abs(counts - share) < 1 + 1e-6).all()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        make_epoch(Order(1), 0, np.arange(2), np.array(weights))


def test_shuffle_quality_tells_a_shuffle_from_none() -> None:
    rois = np.repeat(np.arange(200), 5)
    assert shuffle_quality(rois) < 0.01
    full = [shuffle_quality(rois[make_epoch(Order(1, s, window=None), 0, rois).patches]) for s in range(5)]
    assert 0.9 < np.mean(full) < 1.1
    narrow = [shuffle_quality(rois[make_epoch(Order(1, s, window=20), 0, rois).patches]) for s in range(5)]
    assert np.mean(narrow) < 0.2
    assert shuffle_quality(np.arange(7)) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1, "window": 0}, "window is 0"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "rank is 2: give 0 to 1"),
        ({"batch_size": 1, "last": "repeat"}, "last is 'repeat': give one of keep, drop, pad"),
        ({"batch_size": 1, "world_size": 2}, "give last='drop' or last='pad'"),
    ],
)
def test_orders_that_are_none(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(**options)

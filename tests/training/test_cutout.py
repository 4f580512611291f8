"""Crops, padding and turns against numpy's own, on planes whose pixels tell their place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsen12_cube.training.transform import PatchTransform, Scaling

LOTS = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3).map(np.array)


def made(cutout: PatchTransform, plane: np.ndarray, lot: np.ndarray, padding: float | None = None) -> np.ndarray:
    out = np.full(cutout.shape, -7, plane.dtype)
    cutout.target_view(out, lot)[...] = cutout.source_view(plane, lot)
    cutout.fill_padding(out, lot, padding)
    return out


def naive(cutout: PatchTransform, plane: np.ndarray, lot: np.ndarray, padding: float | None) -> np.ndarray:
    """Crop, pad, then flip and transpose, each by numpy."""
    rows, columns = cutout.cropped
    y, x = (0.5, 0.5) if cutout.crop_at == "centre" else lot[:2]
    top, left = int(y * (cutout.height - rows + 1)), int(x * (cutout.width - columns + 1))
    part = plane[top : top + rows, left : left + columns]
    total = [cutout.shape[0] - rows, cutout.shape[1] - columns]
    before = [n // 2 if cutout.pad_at == "both" else 0 for n in total]
    mode = {"mode": "reflect"} if padding is None else {"mode": "constant", "constant_values": padding}
    part = np.pad(part, [(b, n - b) for b, n in zip(before, total, strict=True)], **mode)
    if not cutout.augment:
        return part
    turn = int(lot[2] * (8 if cutout.shape[0] == cutout.shape[1] else 4))
    part = np.flip(part, 0) if turn & 1 else part
    return np.flip(part, 1) if turn & 2 else part


@given(
    lot=LOTS,
    crop=st.none() | st.tuples(st.integers(6, 20), st.integers(6, 17)),
    at=st.sampled_from(["random", "centre"]),
    pad=st.none() | st.integers(1, 5),
    pad_at=st.sampled_from(["both", "end"]),
    padding=st.sampled_from([None, 0, 255]),
)
def test_crops_and_padding_are_numpys(lot, crop, at, pad, pad_at, padding) -> None:
    plane = np.arange(20 * 17).reshape(20, 17)
    cutout = PatchTransform(20, 17, crop, at, pad, pad_at=pad_at)
    np.testing.assert_array_equal(made(cutout, plane, lot, padding), naive(cutout, plane, lot, padding))


@given(
    lot=LOTS,
    pad=st.sampled_from([None, 8]),
    pad_at=st.sampled_from(["both", "end"]),
    padding=st.sampled_from([None, 255]),
)
def test_turns_are_the_eight_of_a_square(lot, pad, pad_at, padding) -> None:
    plane = np.arange(13 * 13).reshape(13, 13)
    upright = naive(PatchTransform(13, 13, pad=pad, pad_at=pad_at), plane, lot, padding)
    eight = [np.rot90(side, k) for side in (upright, upright[::-1]) for k in range(4)]
    found = made(PatchTransform(13, 13, pad=pad, augment=True, pad_at=pad_at), plane, lot, padding)
    assert sum(np.array_equal(found, one) for one in eight) == 1


def test_a_patch_is_padded_as_by_the_authors() -> None:
    """One row and column before, two after, so that row 1 of the batch is row 0 of the patch."""
    plane = np.arange(509 * 509).reshape(509, 509)
    cutout = PatchTransform(509, 509, pad=32)
    padded = made(cutout, plane, np.zeros(3))
    np.testing.assert_array_equal(padded, np.pad(plane, ((1, 2), (1, 2)), mode="reflect"))
    np.testing.assert_array_equal(padded[cutout.inner], plane)
    assert cutout.inner == (slice(1, 510), slice(1, 510))
    assert PatchTransform(6, 6, pad=10).shape == (10, 10)  # reflection needs more rows than padding on one side


def test_every_turn_comes_and_equally_often() -> None:
    plane = np.arange(9).reshape(3, 3)
    cutout = PatchTransform(3, 3, augment=True)
    seen = {made(cutout, plane, np.array([0, 0, k / 8 + 0.01])).tobytes() for k in range(8)}
    assert len(seen) == 8
    oblong = PatchTransform(3, 4, augment=True)
    seen = {made(oblong, np.arange(12).reshape(3, 4), np.array([0, 0, k / 8 + 0.01])).tobytes() for k in range(8)}
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (21, 5)}, "crop is 21 x 5: a patch has 20 x 17"),
        ({"crop_at": "corner"}, "crop_at is 'corner': give one of random, centre"),
        ({"pad": 0}, "pad is 0"),
        ({"pad_at": "start"}, "pad_at is 'start': give one of both, end"),
        ({"pad_mode": "edge"}, "pad_mode is 'edge': give one of reflect, constant"),
        ({"crop": (5, 5), "pad": 16}, "cannot be reflected"),
        ({"crop": (6, 6), "pad": 12, "pad_at": "end"}, "cannot be reflected"),
    ],
)
def test_cutouts_that_are_none(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchTransform(20, 17, **options)


def test_scaling_marks_what_is_no_data() -> None:
    plane = np.array([[100, -99], [0, 50]], np.int16)
    out = np.empty((2, 2), np.float32)
    Scaling(0.5, 1.0, nodata=-99).write(plane, out)
    np.testing.assert_array_equal(out, [[51, np.nan], [1, 26]])
    Scaling(0.5, 1.0, nodata=-99, missing=0.0).write(plane, out)
    np.testing.assert_array_equal(out, [[51, 0], [1, 26]])
    Scaling(missing=0.0).write(np.array([[np.nan, 2], [3, 4]], np.float32), out)
    np.testing.assert_array_equal(out, [[0, 2], [3, 4]])

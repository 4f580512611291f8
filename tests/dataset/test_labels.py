"""Label values as classes: every code of every layer against a table written anew, and the detector's arithmetic."""

from __future__ import annotations

import json

import cf_xarray  # noqa: F401  (importing it is what gives xarray `.cf`)
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

import cloudsen12_cube as c12
from cloudsen12_cube.dataset import class_views as class_view
from cloudsen12_cube.schema.classes import LAYERS, Layer, Threshold
from cloudsen12_cube.schema.labels import (
    class_masks,
    in_classes,
    is_labelled,
    merge,
    probability_scale,
    to_classes,
    to_superclass,
)

U = 255
# Written from the paper's tables 3 and 5 and the producers' handbooks: stored value -> class.
EXPECTED: dict[str, dict[int, int]] = {
    "manual_hq": {0: 0, 1: 1, 2: 2, 3: 3, 99: U, 255: U},
    "manual_sc": {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 99: U, 255: U},
    "sen2cor": {0: U, 1: U, 2: 0, 3: 3, 4: 0, 5: 0, 6: 0, 7: U, 8: 1, 9: 1, 10: 2, 11: 0},
    "fmask": {0: 0, 1: 0, 2: 3, 3: 0, 4: 1, 255: U},
    "qa60": {0: 0, **{v: 1 if v & 1024 else 2 for v in range(1, 65535) if v & 3072}},
    "kappamask_L1C": {0: U, 1: 0, 2: 3, 3: 2, 4: 1, 5: U},
    "kappamask_L2A": {0: U, 1: 0, 2: 3, 3: 2, 4: 1, 5: U},
}
PROBABILITIES = {"s2cloudless", "CD-FCNN-RGBI", "CD-FCNN-RGBISWIR"}


def test_no_layer_is_left_out() -> None:
    assert {row.band for row in LAYERS} == set(EXPECTED) | PROBABILITIES


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint8", "int64"])
def test_every_code_of_every_layer(name: str, dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.arange(max(limits.min, -300), min(limits.max, 65535) + 1).astype(dtype)
    sixteen_bits = values.view(np.uint16) if dtype == "int16" else values
    expected = [EXPECTED[name].get(int(v), U) for v in sixteen_bits]
    np.testing.assert_array_equal(to_classes(values, name), np.array(expected, np.uint8))


@pytest.mark.parametrize("name", ["CD-FCNN-RGBI", "CD-FCNN-RGBISWIR"])
@pytest.mark.parametrize("scale", [1, 100, 10_000])
def test_a_probability_is_cloud_above_its_threshold(name: str, scale: int) -> None:
    values = np.arange(0, scale + 1, dtype=np.uint16)
    np.testing.assert_array_equal(to_classes(values[None], name, scale)[0], [int(v / scale > 0.5) for v in values])
    beyond = np.array([[scale + 1, 65535]], np.uint16)
    assert (to_classes(beyond, name, scale) == U).all()
    quarter = to_classes(values[None], name, scale, Threshold(0.25))[0]
    np.testing.assert_array_equal(quarter, [int(v > 0.25 * scale) for v in values])


def test_an_unknown_scale_is_asked_for() -> None:
    with pytest.raises(ValueError, match="pass scale=100 or scale=10000"):
        to_classes(np.zeros((1, 1), np.uint16), "CD-FCNN-RGBI")


def naive_detector(percent: npt.NDArray[np.uint16], threshold: Threshold) -> npt.NDArray[np.bool_]:
    """The s2cloudless detector's ``get_mask_from_prob`` with SciPy: a convolution in float64, ``>``, a dilation."""

    def disk(radius: int) -> npt.NDArray[np.float64]:
        offsets = np.arange(-radius, radius + 1)
        return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)

    mean, average = disk(threshold.average_over), percent / 100
    if threshold.average_over:
        average = ndimage.convolve(average, mean / mean.sum(), mode="reflect")
    return ndimage.binary_dilation(average > threshold.probability, disk(threshold.dilation_size) > 0)


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 100)),
    st.builds(Threshold, st.integers(0, 100).map(lambda p: p / 100), st.integers(0, 5), st.integers(0, 3)),
)
def test_the_detectors_average_and_dilation(percent: npt.NDArray[np.uint16], threshold: Threshold) -> None:
    found = to_classes(percent, "s2cloudless", threshold=threshold)
    np.testing.assert_array_equal(found, naive_detector(percent, threshold).astype(np.uint8))


def test_the_benchmarks_threshold_is_the_default() -> None:
    percent = np.random.default_rng(0).integers(0, 101, (2, 60, 60)).astype(np.uint16)
    for plane, found in zip(percent, to_classes(percent, "s2cloudless"), strict=True):
        np.testing.assert_array_equal(found, naive_detector(plane, Threshold(0.4, 1, 1)))
    plain = to_classes(percent, "s2cloudless", threshold=Threshold(0.4))
    np.testing.assert_array_equal(plain, percent > 40)


@pytest.mark.parametrize("value", range(0, 101, 5))
def test_rounding_decides_where_the_average_is_the_threshold(value: int) -> None:
    """The average of five times 0.4 is 0.4000000000000001 in the detector: a uniform 40 is cloud in the benchmark."""
    plane = np.full((9, 12), value, np.uint16)
    for radius in (1, 2, 4):
        for limit in (value / 100, 0.4):
            threshold = Threshold(limit, radius, 1)
            found = to_classes(plane, "s2cloudless", threshold=threshold)
            np.testing.assert_array_equal(found, naive_detector(plane, threshold))
    assert (to_classes(plane, "s2cloudless") == (value >= 40)).all()
    missing = plane.copy()
    missing[0, 0] = 65535
    assert (to_classes(missing, "s2cloudless")[4:] == (value >= 40)).all()


def test_any_value_of_qa60_is_legal_and_its_known_bits_decide() -> None:
    values = np.array([[0, 1024, 2048, 3072, 1024 | 16384, 2048 | 32768, 16384, 32768, 700, 65535]], np.uint16)
    expected = [0, 1, 2, 1, 1, 2, U, U, 2 if 700 & 2048 else U, U]
    assert to_classes(values, "qa60")[0].tolist() == expected
    assert to_classes(values.view(np.int16), "qa60")[0].tolist() == expected
    clear, thick, thin = class_masks(values, "qa60")  # as the benchmark reads it: cloud is any value above 0
    assert clear[0].tolist() == [True] + [False] * 9
    assert (thick | thin)[0].tolist() == [False] + [True] * 8 + [False]
    assert not (thick & thin).any()


def test_what_is_missing_in_a_probability_stays_missing_and_weighs_nothing() -> None:
    percent = np.full((20, 20), 100, np.uint16)
    percent[:, 10:] = 65535
    found = to_classes(percent, "s2cloudless")
    assert (found[:, :10] == 1).all()
    assert (found[:, 10:] == U).all()


@pytest.mark.parametrize("wrong", [{"probability": 40}, {"average_over": 99}, {"dilation_size": -1}], ids=str)
def test_thresholds_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Threshold(**{"probability": 0.4} | wrong)


def test_floats_are_no_labels() -> None:
    with pytest.raises(TypeError, match="not integers"):
        to_classes(np.zeros((2, 2)), "fmask")
    with pytest.raises(KeyError, match="no label layer 'thumbnail'"):
        to_classes(np.zeros((2, 2), np.uint8), "thumbnail")


codes = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.sampled_from([0, 1, 2, 3, U])
)


@given(codes)
def test_superclasses_follow_from_classes(classes: npt.NDArray[np.uint8]) -> None:
    cloud = {0: 0, 1: 1, 2: 1, 3: 0, U: U}
    valid = {0: 0, 1: 1, 2: 1, 3: 1, U: U}
    for scheme, table in (("cloud", cloud), ("valid", valid)):
        found = to_superclass(classes, scheme)  # type: ignore[arg-type]
        assert found.ravel().tolist() == [table[int(c)] for c in classes.ravel()]


@given(codes)
def test_masks_of_all_classes_and_the_unlabelled_partition_the_pixels(classes: npt.NDArray[np.uint8]) -> None:
    masks = [in_classes(classes, {code}) for code in range(4)] + [~is_labelled(classes)]
    assert (np.sum(masks, axis=0) == 1).all()


@given(codes)
def test_a_merge_takes_the_class_of_the_highest_priority(layers: npt.NDArray[np.uint8]) -> None:
    order = [1, 3, 2, 0, U]  # priorities 1 to 4 of table 3, then none
    for index in np.ndindex(layers.shape[1:]):
        assert merge(layers)[index] == min((int(c) for c in layers[(slice(None), *index)]), key=order.index)


@pytest.mark.parametrize(("maximum", "scale"), [(0, 100), (1, None), (2, 100), (100, 100), (101, 10000), (9999, 10000)])
def test_a_scale_is_told_from_the_largest_value_of_the_cube(maximum: int, scale: int | None) -> None:
    assert probability_scale(maximum) == scale


def layers(values: npt.NDArray[np.uint16], band: list[str]) -> xr.DataArray:
    return xr.DataArray(values, dims=("band", "y", "x"), coords={"band": band}, name="labels")


def test_cf_xarray_reads_the_flags() -> None:
    array = layers(np.array([[[0, 1, 2, 3, 99]]], np.uint16), ["manual_hq"])
    found = class_view.classes(array)
    assert (found.cf == "thick_cloud").values.tolist() == [[False, True, False, False, False]]
    assert (found.cf == "unlabelled").values.tolist() == [[False, False, False, False, True]]
    cloud = class_view.superclass(array, "cloud")
    assert (cloud.cf == "non_cloud").values.tolist() == [[True, False, False, True, False]]
    assert class_view.superclass(array, "valid").attrs["flag_meanings"] == "valid invalid unlabelled"


def test_an_array_in_the_callers_hands() -> None:
    plain = xr.DataArray(np.array([[4, 2, 0]], np.uint8), dims=("y", "x"))
    assert class_view.classes(plain, "fmask").values.tolist() == [[1, 3, 0]]
    with pytest.raises(KeyError, match="give the name of a layer: the array has no coordinate band"):
        class_view.classes(plain)
    two = layers(np.zeros((2, 1, 1), np.uint16), ["fmask", "qa60"])
    with pytest.raises(KeyError, match="there are fmask, qa60"):
        class_view.classes(two, "sen2cor")
    with pytest.raises(ValueError, match="holds codes, no probability"):
        class_view.classes(two, "fmask", Threshold(0.5))
    assert class_view.classes(two.sel(band="qa60")).name == "qa60"


def test_an_unknown_scale_is_asked_for_and_a_recorded_one_holds() -> None:
    array = layers(np.array([[[60, 4000]]], np.uint16), ["CD-FCNN-RGBI"])
    with pytest.raises(ValueError, match="give scale=100, scale=10000, or scale=1"):
        class_view.classes(array)
    assert class_view.classes(array, scale=10_000).values.tolist() == [[0, 0]]
    array.attrs["layers"] = {"CD-FCNN-RGBI": {"valid_max": 10_000}}
    assert class_view.classes(array).values.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="full scale of CD-FCNN-RGBI is 10000"):
        class_view.classes(array, scale=100)


@pytest.mark.parametrize(("factor", "scale"), [(1, 100), (100, 10_000)])
def test_the_scale_is_recorded_at_conversion(factor: int, scale: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    import rasterio

    folder = tmp_path_factory.mktemp("scale")
    archive = c12.testing.make_archive(folder / "a", rois=2, options=c12.testing.ArchiveOptions(size=32))
    for path in archive.rglob("CD-FCNN-*.tif"):
        with rasterio.open(path) as file:
            profile, pixels = file.profile, file.read()
        with rasterio.open(path, "w", **profile | {"dtype": "int16", "predictor": 1, "nodata": None}) as file:
            file.write(pixels.astype(np.int16) * factor)
    c12.convert(archive, folder / "c.zarr", products=["labels"], options=c12.Options(rois=("ROI_0012",)))
    c12.convert(archive, folder / "c.zarr", products=["labels"])
    labels = c12.open_cube(folder / "c.zarr")["labels"]["labels"]
    for name in ("CD-FCNN-RGBI", "CD-FCNN-RGBISWIR"):
        assert json.loads(labels.attrs["layers"])[name]["valid_max"] == scale
        stored = labels.sel(band=name).values.astype(int)
        np.testing.assert_array_equal(class_view.classes(labels, name).values, stored > scale / 2)


REFUSED = {
    "cloud_shadow": ({"qa60", *PROBABILITIES}, "manual_hq, manual_sc, sen2cor, fmask, kappamask_L1C, kappamask_L2A"),
    "clear": ({"qa60", *PROBABILITIES}, "manual_hq, manual_sc, sen2cor, fmask, kappamask_L1C, kappamask_L2A"),
    "thin_cloud": ({"fmask", *PROBABILITIES}, "manual_hq, manual_sc, sen2cor, qa60, kappamask_L1C, kappamask_L2A"),
    "thick_cloud": (set[str](), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cannot_tell_a_class_says_which_can(name: str) -> None:
    blind, able = REFUSED[name]
    for row in LAYERS:
        array = layers(np.zeros((1, 2, 2), np.uint16), [row.band])
        if row.band in blind:
            with pytest.raises(ValueError, match=f"does not distinguish {name}.*layers that do: {able}"):
                class_view.mask(array, [name], scale=100 if "CD" in row.band else None)  # type: ignore[list-item]
        else:
            class_view.mask(array, [name], scale=100 if "CD" in row.band else None)  # type: ignore[list-item]


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row.band)
def test_every_layer_tells_cloud_from_non_cloud(row: Layer) -> None:
    array = layers(np.arange(100, dtype=np.uint16).reshape(1, 10, 10), [row.band])
    scale = 100 if "CD" in row.band else None
    cloud = class_view.superclass(array, "cloud", scale=scale)
    both = class_view.mask(array, ["thick_cloud", "thin_cloud"], scale=scale)
    np.testing.assert_array_equal(both, cloud == 1)
    non_cloud = class_view.mask(array, ["clear", "cloud_shadow"], scale=scale)
    np.testing.assert_array_equal(non_cloud, ~both & both.labelled)
    if "valid" not in row.resolves:
        with pytest.raises(ValueError, match="does not distinguish valid from invalid"):
            class_view.superclass(array, "valid", scale=scale)


def test_what_is_no_class_or_superclass() -> None:
    array = layers(np.zeros((1, 2, 2), np.uint16), ["fmask"])
    with pytest.raises(ValueError, match="no class 'cloud'; the classes are clear, thick_cloud"):
        class_view.mask(array, ["cloud"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no class is given"):
        class_view.mask(array, [])
    with pytest.raises(ValueError, match="unknown superclass 'shadow'; the superclasses are cloud, valid"):
        class_view.superclass(array, "shadow")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no layer is given"):
        class_view.priority_merge(array, [])


def test_an_unlabelled_pixel_is_in_no_mask_and_in_no_complement() -> None:
    mask = class_view.mask(layers(np.array([[[0, 1, 99]]], np.uint16), ["manual_hq"]), ["thick_cloud"])
    assert mask.dtype == bool
    assert mask.values.tolist() == [[False, True, False]]
    assert (~mask & mask.labelled).values.tolist() == [[True, False, False]]

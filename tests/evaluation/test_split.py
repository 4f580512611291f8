"""Hexagons of equal area against distances and pyproj's geodesics, and splits that do not leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

import cloudsen12_cube as c12
from cloudsen12_cube.evaluation.split import block_split, hexagons, leakage, published_cells, rois_of

GEOD = Geod(ellps="WGS84")


def places(count: int = 2000, seed: int = 0) -> pd.DataFrame:
    """ROIs spread evenly over the land's latitudes."""
    random = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(random.uniform(-0.85, 0.95, count)))
    index = pd.Index([f"ROI_{i:04d}" for i in range(count)], name="roi_id")
    difficulty = np.where(random.random(count) < 0.2, np.nan, random.integers(1, 6, count).astype(float))
    table = {"longitude": random.uniform(-180, 180, count), "latitude": latitude, "difficulty": difficulty}
    return pd.DataFrame(table, index=index)


@settings(deadline=None)
@given(st.floats(-180, 180), st.floats(-90, 90))
def test_a_published_cell_is_the_nearest_centre(longitude: float, latitude: float) -> None:
    """The lattice as published: rows of hexagons 3.5 degrees wide, every other one shifted by half of that."""
    j, k = np.meshgrid(np.arange(-14, 50), np.arange(-56, 56), indexing="ij")
    north = -54.72539 + 3.031088913 * j
    east = np.where(j % 2 == 0, 2.4145, 0.6645) + 3.5 * k
    distance = np.hypot(east - longitude, north - latitude)
    column, row = map(int, published_cells(longitude, latitude).item().split("/"))
    found = distance[(j == row) & (k == column)]
    assert found == pytest.approx(distance.min(), abs=1e-9)


def test_published_cells_are_named_like_hexagons() -> None:
    assert published_cells([2.4145, 0.6645, np.nan], [-54.72539, -54.72539 + 3.031088913, 0]).tolist() == [
        "0/0",
        "0/1",
        "",
    ]
    assert published_cells(5.9145, -54.72539).item() == "1/0"


def test_leakage_reports_cells_of_both_lattices() -> None:
    rois = pd.DataFrame(
        {"longitude": [2.4, 2.5, 60.0], "latitude": [-54.7, -54.6, 10.0]},
        index=pd.Index(["a", "b", "c"], name="roi_id"),
    )
    found = leakage(rois, pd.Series(["train", "test", "test"]))
    assert found.loc["b", "cell"] == "0/0"
    assert found["cell_shared"].to_dict() == {"b": True, "c": False}
    assert found["hexagon_shared"].to_dict() == {"b": True, "c": False}
    assert found.loc["c", "hexagon"] == hexagons(60.0, 10.0).item()


@pytest.mark.parametrize("area", [50_000.0, 1_000.0])
def test_hexagons_have_the_area_that_is_asked_for(area: float) -> None:
    """In a dense grid of equal cells on the ground, each whole hexagon holds its area of them."""
    step = np.sqrt(area) / 60
    back = Transformer.from_crs("+proj=igh +datum=WGS84 +units=km", "EPSG:4326", always_xy=True)
    x, y = np.meshgrid(np.arange(1500, 1500 + 260 * step, step), np.arange(-900, -900 + 260 * step, step))
    names = hexagons(*back.transform(x, y), area)
    edge = {*names[0], *names[-1], *names[:, 0], *names[:, -1]}
    whole = pd.Series(names.ravel()).value_counts()
    inner = whole[[name for name in whole.index if name not in edge]]
    assert len(inner) >= 5
    assert (inner * step**2 / area).between(0.98, 1.02).all()


def test_hexagons_are_the_nearest_centres() -> None:
    """A hexagon is what lies nearer to its centre than to any other: an oracle by distance, on the map."""
    area = 50_000.0
    side = np.sqrt(area * 2 / (3 * np.sqrt(3)))
    table = places(500)
    x, y = Transformer.from_crs("EPSG:4326", "+proj=igh +datum=WGS84 +units=km", always_xy=True).transform(
        table["longitude"].to_numpy(), table["latitude"].to_numpy()
    )
    column, row = (n.ravel() for n in np.meshgrid(np.arange(-160, 161), np.arange(-45, 46)))
    centres = np.column_stack([side * np.sqrt(3) * (column + row / 2), side * 1.5 * row])
    for i, name in enumerate(hexagons(table["longitude"], table["latitude"])):
        nearest = np.hypot(*(centres - [x[i], y[i]]).T).argmin()
        assert name == f"{column[nearest]}/{row[nearest]}"


def test_a_hexagon_is_about_as_wide_as_it_should_be_on_the_ground() -> None:
    table = places(4000)
    table["hexagon"] = hexagons(table["longitude"], table["latitude"])
    for _, block in table.groupby("hexagon"):
        lon, lat = block["longitude"].to_numpy(), block["latitude"].to_numpy()
        distance = GEOD.inv(np.full_like(lon, lon[0]), np.full_like(lat, lat[0]), lon, lat)[2]
        assert np.median(distance) < 400e3


def test_places_that_are_unknown_have_no_hexagon() -> None:
    assert hexagons([0.0, np.nan], [0.0, 1.0]).tolist() == ["0/0", ""]
    with pytest.raises(ValueError, match="the area is 0: give square kilometres"):
        hexagons([0.0], [0.0], 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.25]))
def test_a_split_is_whole_hexagons_in_the_share_that_is_asked_for(seed: int, share: float) -> None:
    rois = places()
    split = block_split(rois, share, seed)
    assert list(split.index) == list(rois.index)
    names = hexagons(rois["longitude"], rois["latitude"])
    assert pd.Series(split.to_numpy()).groupby(names).nunique().max() == 1
    assert (split == "test").mean() == pytest.approx(share, abs=0.005)
    means = rois["difficulty"].groupby(names).mean().round().fillna(0)
    stratum = pd.Series(names).map(means).to_numpy()
    shares = pd.Series((split == "test").to_numpy()).groupby(stratum).mean()
    assert (shares - share).abs().max() < 0.04


def test_a_split_follows_from_its_seed_alone() -> None:
    rois = places()
    first = block_split(rois, seed=7)
    pd.testing.assert_series_equal(block_split(rois.sample(frac=1, random_state=1), seed=7)[rois.index], first)
    assert (block_split(rois, seed=8) != first).any()


def test_splits_that_cannot_be_drawn() -> None:
    rois = places(10)
    with pytest.raises(ValueError, match="share is 10: give"):
        block_split(rois, 10)
    with pytest.raises(ValueError, match="ROI_0000 is listed twice"):
        block_split(pd.concat([rois, rois.iloc[:1]]))
    with pytest.raises(ValueError, match="ROI_0003 has no longitude and latitude"):
        block_split(rois.assign(latitude=rois["latitude"].where(rois.index != "ROI_0003")))


@pytest.mark.parametrize("count", [50, 2500])
def test_distances_are_those_of_a_naive_search(count: int) -> None:
    rois = places(count)
    rois.loc["ROI_0000", ["longitude", "latitude"]] = 179.99, 10.0
    rois.loc["ROI_0001", ["longitude", "latitude"]] = -179.99, 10.0  # 2.2 km away, across the date line
    split = pd.Series("train", index=rois.index)
    split.iloc[1 : count if count < 100 else 1200 : 2] = "test"
    found = leakage(rois, split)
    assert len(found) == (split == "test").sum()
    assert found.index[0] == "ROI_0001"
    assert found["nearest"].iloc[0] == "ROI_0000"
    assert found["km"].iloc[0] == pytest.approx(2.19, abs=0.02)
    assert found["km"].is_monotonic_increasing
    train = rois[split == "train"]
    for roi, row in found.iloc[:: max(1, len(found) // 20)].iterrows():
        here = rois.loc[roi]
        ends = [np.full(len(train), here[name]) for name in ("longitude", "latitude")]
        naive = GEOD.inv(*ends, train["longitude"].to_numpy(), train["latitude"].to_numpy())[2] / 1000
        assert row["km"] == pytest.approx(naive.min(), rel=0.006, abs=0.001)


def test_a_block_split_leaks_less_than_one_by_chance() -> None:
    rois = places(200).loc[lambda table: table.index.repeat(10)]  # ten ROIs to a neighbourhood of some kilometres
    rois.index = [f"ROI_{i:04d}" for i in range(len(rois))]
    rois["latitude"] += np.tile(np.linspace(-0.05, 0.05, 10), 200)
    split = block_split(rois)
    chance = pd.Series(np.random.default_rng(0).permutation(list(split)), index=rois.index)
    assert leakage(rois, chance)["km"].median() < 2
    assert leakage(rois, split)["km"].median() > 100
    with pytest.raises(ValueError, match="no ROI is in 'exam'"):
        leakage(rois, block_split(rois), other="exam")


def test_rois_of_a_cube(cube: Path) -> None:
    tree = c12.open_cube(cube)
    rois = rois_of(tree)
    assert list(rois.index) == [str(roi) for roi in tree["roi"].values]
    first = tree["longitude"].values[0]
    assert rois["longitude"].iloc[0] == pytest.approx(first.mean())
    assert set(block_split(rois, 0.3)) == {"train", "test"}
    published = leakage(rois, rois["split"], other=str(rois["split"].iloc[-1]))
    assert (published["km"] > 0).all()

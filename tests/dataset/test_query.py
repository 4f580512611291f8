"""Choosing patches: what a query keeps, what it takes away, and that nothing is read, changed or evaluated."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cloudsen12_cube as c12
from cloudsen12_cube.dataset import QueryColumns
from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.format.metadata import read_table
from cloudsen12_cube.schema.assets import PRODUCTS
from cloudsen12_cube.schema.properties import BY_NAME, PLUS, PROPERTIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


@pytest.fixture(scope="module")
def table(cube: Path) -> pd.DataFrame:
    return read_table(open_stored_cube(cube))[1]


def patches(tree: xr.DataTree) -> set[tuple[str, int]]:
    root = tree.to_dataset()
    rows, columns = np.nonzero(root["s2_id_gee"].values != "")
    return {(str(root["roi"].values[i]), int(root["time"].values[j])) for i, j in zip(rows, columns, strict=True)}


def keys(table: pd.DataFrame) -> set[tuple[str, int]]:
    return set(zip(table["roi_id"], table["time"], strict=True))


def test_every_property_can_be_asked_for() -> None:
    assert set(QueryColumns.__annotations__) == {"roi", *BY_NAME} - {"proj_transform"}


def test_the_keywords_are_written_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("query_columns", ROOT / "docs" / "query_columns.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PLACE.read_text() == script.source(), "run: python docs/query_columns.py"


def test_values_lists_ranges_and_prefixes(tree: xr.DataTree, table: pd.DataFrame) -> None:
    ask = tree.cloudsen12.query
    assert patches(ask(label_type="high")) == keys(table[table["label_type"] == "high"])
    assert patches(ask(split=["train", "test"])) == keys(table[table["split"].isin(["train", "test"])])
    assert patches(ask(difficulty=(1, 3))) == keys(table[table["difficulty"].between(1, 3)])
    assert patches(ask(difficulty=(None, 2))) == keys(table[table["difficulty"] <= 2])
    assert patches(ask(difficulty=[1, 5])) == keys(table[table["difficulty"].isin([1, 5])])
    assert patches(ask(s2_id_gee="2019*")) == keys(table[table["s2_id_gee"].str.startswith("2019")])
    assert patches(ask(roi="ROI_0012")) == keys(table[table["roi_id"] == "ROI_0012"])
    assert patches(ask(land_cover=10)) == keys(table[table["land_cover"] == 10])
    late = ask(datetime=("2019-03-01", None))
    assert patches(late) == keys(table[table["datetime"] >= pd.Timestamp("2019-03-01")])
    both = ask(label_type="high", cloud_coverage=["cloudy", "cloud-free"], difficulty=(2, 5))
    rows = (table["label_type"] == "high") & table["cloud_coverage"].isin(["cloudy", "cloud-free"])
    assert patches(both) == keys(table[rows & table["difficulty"].between(2, 5)])
    assert patches(ask()) == keys(table)


def test_an_unknown_number_fulfils_nothing(tree: xr.DataTree, table: pd.DataFrame) -> None:
    assert table["difficulty"].isna().any()
    assert patches(tree.cloudsen12.query(difficulty=(None, None))) == keys(table[table["difficulty"].notna()])


def test_places(tree: xr.DataTree, table: pd.DataFrame) -> None:
    row = table.iloc[0]
    x, y = row["longitude"], row["latitude"]
    near = table["longitude"].between(x - 1, x + 1) & table["latitude"].between(y - 1, y + 1)
    box = (x - 1, y - 1, x + 1, y + 1)
    assert patches(tree.cloudsen12.query(bbox=box)) == keys(table[near])
    assert patches(tree.cloudsen12.query(geometry=shapely.box(*box))) == keys(table[near])
    across = tree.cloudsen12.query(bbox=(x + 1, -90, x - 1, 90))
    assert patches(across) == keys(table[~table["longitude"].between(x - 1, x + 1, inclusive="neither")])
    for wrong in ((0, 5, 1, 1), (0, 1, 2), (0, 0, np.nan, 1)):
        with pytest.raises(SelectionError, match="is not west, south, east, north"):
            tree.cloudsen12.query(bbox=wrong)


def test_what_is_not_chosen_is_absent_and_says_so(tree: xr.DataTree) -> None:
    part = tree.cloudsen12.query(label_type="high", cloud_coverage=["cloudy", "mid-cloudy"])
    whole = {name: tree[name].to_dataset() for name in PRODUCTS}
    hidden = 0
    for roi in part.to_dataset()["roi"].values:
        for time in part.to_dataset()["time"].values:
            there = (str(roi), int(time)) in patches(part)
            for name in PRODUCTS:
                image = part[name].to_dataset().sel(roi=roi, time=time)
                source = whole[name].sel(roi=roi, time=time)
                assert int(image["status"]) == (1 if there else 0)
                assert image["s2_id_gee"].item() == (source["s2_id_gee"].item() if there else "")
                if there:
                    np.testing.assert_array_equal(image[name], source[name])
                else:
                    fill = tree[name][name].encoding["fill_value"]
                    np.testing.assert_array_equal(image[name], np.full_like(source[name], fill))
                    assert np.isnan(image["difficulty"].item())
                    assert np.isnat(image["datetime"].values)
                    assert int(image["proj_epsg"]) == 0
                    hidden += 1
    assert hidden
    assert (part.cloudsen12.classes("sen2cor").values == 255).any(axis=(2, 3)).sum() == hidden // len(PRODUCTS)


def test_a_cube_of_the_same_kind_comes_out(tree: xr.DataTree) -> None:
    part = tree.cloudsen12.query(difficulty=(1, 2))
    assert list(part.children) == list(tree.children)
    assert part.attrs == tree.attrs
    assert part.encoding["source"] == tree.encoding["source"]
    for name in PRODUCTS:
        assert part[name][name].dtype == tree[name][name].dtype
        assert part[name][name].attrs == tree[name][name].attrs
        assert set(part[name].coords) == set(tree[name].coords)
    xr.testing.assert_identical(part.cloudsen12.query(difficulty=(1, 2)).load(), part.load())


def test_nothing_is_read_computed_or_changed(cube: Path) -> None:
    for chunks in (None, "roi"):
        tree = c12.open_cube(cube, chunks=chunks)
        before = tree.copy(deep=True)
        part = tree.cloudsen12.query(cloud_coverage="cloudy")
        for name in PRODUCTS:
            assert not part[name][name].variable._in_memory
            assert (part[name][name].chunks is None) == (chunks is None)
        xr.testing.assert_identical(tree, before)
    lazy, eager = (c12.open_cube(cube, chunks=chunks).cloudsen12.query(difficulty=(2, 4)) for chunks in ("roi", None))
    xr.testing.assert_identical(lazy.load(), eager.load())


wishes = st.fixed_dictionaries(
    {},
    optional={
        "difficulty": st.tuples(st.integers(0, 3), st.integers(3, 6)),
        "cloud_coverage": st.lists(st.sampled_from(["cloudy", "cloud-free", "mid-cloudy"]), min_size=1),
        "split": st.sampled_from(["train", "test", "validation"]),
        "land_cover": st.sampled_from([10, (20, None), (99, 99)]),
    },
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wishes)
def test_asked_twice_is_asked_once(tree: xr.DataTree, wish: dict[str, Any]) -> None:
    once = tree.cloudsen12.query(**wish)
    xr.testing.assert_identical(once.cloudsen12.query(**wish).to_dataset(), once.to_dataset())
    assert patches(once) <= patches(tree)


def test_hostile_text_is_text(tree: xr.DataTree, tmp_path: Path) -> None:
    for text in (f"__import__('pathlib').Path({str(tmp_path / 'x')!r}).touch()", "high' or '1'=='1", "@tree", "*' *"):
        with pytest.raises(SelectionError, match="label_type has no value"):
            tree.cloudsen12.query(label_type=text)
        with pytest.raises(SelectionError, match="is no number"):
            tree.cloudsen12.query(difficulty=text)
    assert not (tmp_path / "x").exists()


def test_an_empty_selection_is_an_empty_cube(tree: xr.DataTree) -> None:
    empty = tree.cloudsen12.query(split="test", difficulty=(6, None))
    assert empty["s2l1c"]["s2l1c"].shape[:2] == (0, 0)
    assert empty.cloudsen12.classes("fmask").shape[:2] == (0, 0)
    assert "0 patches" in repr(empty.cloudsen12)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"difficulty": "easy"}, "difficulty='easy' is no number"),
        ({"difficulty": (1, 2, 3)}, r"a range is \(low, high\)"),
        ({"difficulty": (3, 1)}, "above the high one"),
        ({"label_type": 1}, "label_type is text"),
        ({"datetime": "soon"}, "is no date"),
        ({"difficulty": True}, "is no number"),
    ],
)
def test_a_wish_that_does_not_suit(tree: xr.DataTree, wish: dict[str, Any], text: str) -> None:
    with pytest.raises(SelectionError, match=text):
        tree.cloudsen12.query(**wish)


def test_a_name_that_is_no_property(tree: xr.DataTree) -> None:
    with pytest.raises(SelectionError, match="no property 'diffculty'; did you mean 'difficulty'"):
        tree.cloudsen12.query(diffculty=1)
    with pytest.raises(SelectionError, match="no property 'rio'; did you mean 'roi'"):
        tree.cloudsen12.query(rio="ROI_0012")
    with pytest.raises(SelectionError, match=r"no property 'x'; there are roi_id, s2_id_gee, .* and 3\d more"):
        tree.cloudsen12.query("x=1")
    with pytest.raises(SelectionError, match="old_roi_id in 'old_roi_id=a' is a property of CloudSEN12"):
        tree.cloudsen12.query(old_roi_id="a")
    assert len(PROPERTIES) + len(PLUS) == len(QueryColumns.__annotations__)


def test_a_value_that_no_patch_has(tree: xr.DataTree, table: pd.DataFrame) -> None:
    counts = table["label_type"].value_counts()
    here = ", ".join(f"{v} ({counts[v]})" for v in sorted(counts.index, key=lambda v: (-counts[v], v)))
    for ask in ({"label_type": "hi"}, {"label_type": ["high", "hi"]}, {"where": "label_type=hi"}):
        with pytest.raises(SelectionError) as caught:
            tree.cloudsen12.query(**ask)
        assert str(caught.value) == f"label_type has no value 'hi'; values here: {here}"
    with pytest.raises(SelectionError, match="roi_id has no value 'ROI_12'; values here: ROI_0012"):
        tree.cloudsen12.query(roi=["ROI_0012", "ROI_12"])
    with pytest.raises(SelectionError, match=r"land_cover has no value 12345; values here: .*\(5\)"):
        tree.cloudsen12.query(land_cover=12345)
    near = table["s2_id_gee"].iloc[0]
    with pytest.raises(SelectionError, match=f"has no value '{near[:-1]}'; did you mean .*'{near}'"):
        tree.cloudsen12.query(s2_id_gee=near[:-1])
    # A value that the paper defines may be absent beside one that is there, so a cube that grows keeps its queries.
    few = tree.cloudsen12.query(label_type="high").cloudsen12
    assert patches(few.query(label_type=["high", "nolabel"])) == keys(table[table["label_type"] == "high"])
    with pytest.raises(SelectionError, match="label_type has no value 'nolabel'; values here: high"):
        few.query(label_type="nolabel")


def test_conditions_as_convert_takes_them(tree: xr.DataTree, table: pd.DataFrame) -> None:
    ask = tree.cloudsen12.query
    assert patches(ask("label_type=high")) == keys(table[table["label_type"] == "high"])
    some = ask(["difficulty<=3", "cloud_coverage!=cloudy"], label_type="high")
    rows = (table["difficulty"] <= 3) & (table["cloud_coverage"] != "cloudy") & (table["label_type"] == "high")
    assert patches(some) == keys(table[rows])
    assert patches(ask("s2_date>=2019-03-01")) == keys(table[table["datetime"] >= pd.Timestamp("2019-03-01")])
    with pytest.raises(SelectionError, match="proj_transform holds six numbers"):
        ask("proj_transform=1")


def test_a_column_that_only_this_cube_has(tree: xr.DataTree) -> None:
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    nodes["."] = nodes["."].assign(
        haze=(("roi", "time"), np.arange(20.0).reshape(4, 5)), site=("roi", np.array(list("abca"), object))
    )
    own = xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()}).cloudsen12
    assert len(patches(own.query("haze>=12"))) == 8
    assert len(patches(own.query(["site=a", "haze<=16"]))) == 7
    with pytest.raises(SelectionError, match=r"site has no value 'd'; values here: a \(10\), b \(5\), c \(5\)"):
        own.query("site=d")
    with pytest.raises(SelectionError, match="no property 'hazy'; did you mean 'haze'"):
        own.query("hazy>1")
    with pytest.raises(SelectionError, match="site is text"):
        own.query("site<b")

"""What a notebook shows of a cube: the counts are right, and nothing in a cube can be more than text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import cloudsen12_cube as c12
from cloudsen12_cube.plotting.repr import cube_html, cube_text

HOSTILE = "<script>alert('1')</script><b title=\"&\">"
PROPERTIES = ("label_type", "split", "cloud_coverage")


class Page(HTMLParser):
    """Checks that tags balance, and keeps the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"class"}
        self.open.append(tag)
        self.tags[tag] += 1
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if "style" not in self.open:
            self.text += data + "\n"


@pytest.fixture
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


def remade(tree: xr.DataTree, change: Any) -> xr.DataTree:
    nodes = {path: change(path, node.to_dataset(inherit=False)) for path, node in tree.subtree_with_keys}
    return xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()})


def naive_counts(tree: xr.DataTree) -> dict[str, Counter[str]]:
    root = tree.to_dataset()
    counts: dict[str, Counter[str]] = {name: Counter() for name in PROPERTIES}
    for roi in range(root.sizes["roi"]):
        for time in range(root.sizes["time"]):
            patch = root.isel(roi=roi, time=time)
            if patch["s2_id_gee"].item():
                for name in PROPERTIES:
                    counts[name][patch[name].item() or "unknown"] += 1
    return counts


def told_counts(page: Page) -> dict[str, dict[str, int]]:
    told = {row[0].replace(" ", "_"): row[1] for row in page.rows if len(row) == 2}
    pairs = {name: [part.rsplit(" ", 1) for part in text.split(", ")] for name, text in told.items()}
    return {name: {value: int(count.replace(",", "")) for value, count in values} for name, values in pairs.items()}


def test_the_counts_are_those_of_a_naive_loop(tree: xr.DataTree) -> None:
    assert told_counts(Page(cube_html(tree))) == naive_counts(tree)
    gone = [(0, 1), (2, 0), (2, 1), (3, 4)]

    def leave_out(_: str, node: xr.Dataset) -> xr.Dataset:
        node = node.copy(deep=True)
        for roi, time in gone:
            node["s2_id_gee"][roi, time] = ""
        if "status" in node.coords:
            node["status"][0, 1], node["status"][1, 1], node["status"][1, 2], node["status"][1, 3] = 0, 0, 2, 2
        return node

    some = remade(tree, leave_out)
    page = Page(cube_html(some))
    assert told_counts(page) == naive_counts(some)
    assert "4 ROIs (ROI_0012 to ROI_10133), 16 patches" in page.text
    assert [row[4:] for row in page.rows if row[0] == "s1"] == [["13", "2", "1"]]


def test_the_values_stand_in_the_order_of_the_field(tree: xr.DataTree) -> None:
    text = cube_text(tree)
    for words in (
        "high \\d+, scribble \\d+, nolabel \\d+",
        "cloud-free \\d+, almost-clear \\d+, low-cloudy \\d+, mid-cloudy \\d+, cloudy \\d+",
    ):
        assert re.search(words, text)


def test_each_product_has_a_line(tree: xr.DataTree, cube: Path) -> None:
    page = Page(cube_html(tree))
    assert page.rows[0] == ["product", "shape", "dtype", "size", "done", "failed", "absent"]
    for name, row in zip(tree.children, page.rows[1:], strict=False):
        array = tree[name][name]
        shape = ", ".join(f"{dim} {length}" for dim, length in array.sizes.items())
        assert row[:3] == [name, shape, str(array.dtype)]
        number, unit = row[3].split()
        assert float(number) == pytest.approx(array.nbytes / {"kiB": 2**10, "MiB": 2**20}[unit], rel=0.01)
        assert row[4:] == ["20", "0", "0"]
    few = Page(cube_html(c12.open_cube(cube, products=["s2l1c", "labels"])))
    assert [row[0] for row in few.rows[1:3]] == ["s2l1c", "labels"]
    assert len(few.rows) == len(page.rows) - 3


def test_the_text_says_the_same(tree: xr.DataTree) -> None:
    words = cube_text(tree).split()
    page = Page(cube_html(tree))
    assert (
        words
        == page.text.replace("label type\n", "label type:\n")
        .replace("split\n", "split:\n")
        .replace("cloud coverage\n", "cloud coverage:\n")
        .split()
    )
    assert not any(line != line.rstrip() for line in cube_text(tree).splitlines())


def test_what_a_cube_says_is_text(tree: xr.DataTree) -> None:
    def spoil(_: str, node: xr.Dataset) -> xr.Dataset:
        rois = [HOSTILE, *node["roi"].values[1:]] if "roi" in node.coords else None
        node = node.assign_coords(roi=rois) if rois else node
        if "cloud_coverage" in node.variables:
            node["cloud_coverage"] = xr.full_like(node["cloud_coverage"], HOSTILE)
        if "label_type" in node.variables:
            node["label_type"] = xr.full_like(node["label_type"], "</td></table>&lt;")
        return node.assign_attrs(title=HOSTILE)

    text = cube_html(remade(tree, spoil))
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<script" not in text
    assert page.tags["b"] == 1
    assert page.text.count(HOSTILE) == 3  # the title, the first ROI and the coverage, letter by letter
    assert "</td></table>&lt; 20" in page.text


def test_nothing_comes_from_outside_and_it_is_small(tree: xr.DataTree) -> None:
    text = cube_html(tree)
    assert not re.search(r"https?:|url\(|@import|<(img|script|link|iframe)", text)
    assert not re.search(r"color\s*:|background|#[0-9a-fA-F]{3}", text)  # those of the page, dark or light
    assert len(text) < 4000


def test_many_values_are_cut_and_unknown_ones_have_a_name(tree: xr.DataTree) -> None:
    root = tree.to_dataset()
    names = np.array([f"class {n:02}" for n in range(root["cloud_coverage"].size - 1)] + [""], dtype=object)
    root["cloud_coverage"] = (("roi", "time"), names.reshape(root["cloud_coverage"].shape))
    text = cube_text(xr.DataTree(root))
    assert "unknown 1, class 00 1" in text
    assert "class 06 1, and 12 more" in text
    assert "cloud coverage" not in cube_text(xr.DataTree(root.drop_vars("cloud_coverage")))


def test_an_empty_selection_has_a_description(tree: xr.DataTree) -> None:
    none = tree.isel(roi=slice(0))
    assert "0 ROIs, 0 patches" in cube_text(none)
    assert "label type: none" in cube_text(none)
    one = tree.isel(roi=[1], time=[0])
    assert f"1 ROI ({one['roi'].values[0]}), 1 patch\n" in cube_text(one)
    Page(cube_html(none))


def test_no_pixel_is_read_and_a_whole_catalogue_is_counted(tree: xr.DataTree) -> None:
    cube_html(tree)
    assert not any(tree[name][name].variable._in_memory for name in tree.children)
    random = np.random.default_rng(0)
    shape = (3000, 5)
    there = random.random(shape) < 0.9
    root = xr.Dataset(
        {
            "s2_id_gee": (("roi", "time"), np.where(there, "id", "").astype(object)),
            "label_type": ("roi", random.choice(["high", "scribble", "nolabel"], shape[0])),
            "split": ("roi", random.choice(["train", "validation", "test", ""], shape[0])),
            "cloud_coverage": (("roi", "time"), random.choice(["cloudy", "cloud-free"], shape)),
        },
        {"roi": [f"ROI_{n:04}" for n in range(shape[0])], "time": range(shape[1])},
    )
    told = told_counts(Page(cube_html(xr.DataTree(root))))
    for name in PROPERTIES:
        column = root[name].values
        values = [column[i] if column.ndim == 1 else column[i, j] for i, j in np.ndindex(shape) if there[i, j]]
        assert told[name] == Counter(value or "unknown" for value in values)

"""The specification suffices: a reader made from its page alone sees what the package sees.

``Reader`` uses JSON, struct, two decompressors and a checksum: no Zarr library, nothing of the package. The tables of
the page are compared with the code's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from specification_reader import Reader, same

import cloudsen12_cube as c12
from cloudsen12_cube.format.layout import LAYOUT_VERSION
from cloudsen12_cube.schema.assets import ASSETS, PRODUCTS
from cloudsen12_cube.schema.classes import LAYERS, UNLABELLED
from cloudsen12_cube.schema.labels import to_classes
from cloudsen12_cube.schema.properties import PLUS, PROPERTIES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "specification.md").read_text()


@pytest.fixture(scope="module")
def gappy(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube with one patch that is absent and one that failed, whose ROIs lie out of order."""
    folder = tmp_path_factory.mktemp("gappy")
    source = Path(shutil.copytree(archive, folder / "archive"))
    patches = sorted(source.glob("high/*/*"))
    shutil.rmtree(patches[0])
    (patches[1] / "S2L1C.tif").write_bytes(b"no picture")
    rois = sorted(path.name for path in source.glob("*/ROI_*"))
    for roi in (rois[-1], *rois):
        c12.convert(source, folder / "cube.zarr", options=c12.Options(rois=(roi,)))
    return folder / "cube.zarr"


@pytest.mark.parametrize("which", ["cube", "gappy"])
def test_the_page_suffices_for_every_pixel(which: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(which)
    reader, tree = Reader(place), c12.open_cube(place)
    order = list(reader.column("roi"))
    assert set(reader.settings["products"]) == set(PRODUCTS)
    for product in PRODUCTS:
        array = tree[product][product]
        for index, roi in enumerate(order):
            expected = array.sel(roi=roi).values
            found = [[reader.patch(product, index, t, b) for b in range(array.sizes["band"])] for t in range(5)]
            assert same(np.array(found), expected), (product, roi)


@pytest.mark.parametrize("which", ["cube", "gappy"])
def test_the_page_suffices_for_every_property(which: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(which)
    reader, tree = Reader(place), c12.open_cube(place)
    order = reader.column("roi")
    for path, node in reader.nodes.items():
        group, _, name = path.rpartition("/")
        if node["node_type"] == "group" or group == name:
            continue
        expected = tree[group or "/"].to_dataset()[name]
        found = reader.column(path)
        if "roi" in expected.dims:
            expected = expected.sel(roi=list(order))
        if np.issubdtype(expected.dtype, np.datetime64):
            found = found.astype("datetime64[us]").astype("datetime64[ns]")
            assert same(found.astype("int64"), expected.values.astype("int64")), path
        elif found.dtype == object:
            assert found.tolist() == expected.values.astype(object).tolist(), path
        else:
            assert same(found, expected.values), path


def test_the_gaps_are_there(gappy: Path) -> None:
    reader = Reader(gappy)
    order = [int(roi[4:]) for roi in reader.column("roi")]
    assert order != sorted(order)
    assert set(np.unique(reader.column("s2l1c/status"))) == {0, 1, 2}
    assert set(np.unique(reader.column("labels/status"))) == {0, 1}


def row_of(page_line: str) -> list[str]:
    return [cell.strip() for cell in page_line.strip("|").split("|")]


def rows(first: str, width: int) -> list[list[str]]:
    """Rows of the page's table whose header begins so."""
    lines = PAGE.splitlines()
    start = lines.index(next(line for line in lines if line.startswith(first))) + 2
    found = [row_of(line) for line in lines[start : start + next(i for i, x in enumerate(lines[start:]) if not x)]]
    assert all(len(row) == width for row in found)
    return found


def test_the_pages_bands_are_the_codes() -> None:
    nodata = ["" if asset.nodata is None else f"{asset.nodata:g}" for asset in ASSETS]
    expected = [
        [a.product, a.band, a.long_name, f"{a.scale:g}", a.units, n] for a, n in zip(ASSETS, nodata, strict=True)
    ]
    assert rows("| product | band |", 6) == expected


def test_the_pages_properties_are_the_cubes(cube: Path) -> None:
    reader, found = Reader(cube), rows("| array | type | dims | fill |", 5)
    assert [row[0] for row in found] == [p.name for p in PROPERTIES]
    more = [(row[0], row[4]) for row in rows("| more | type |", 5)]
    assert more == [(p.name, p.description) for p in PLUS]
    for (name, kind, dims, fill, text), row in zip(found, PROPERTIES, strict=True):
        node = reader.nodes[name]
        assert (kind, dims) == (node["data_type"], ", ".join(node["dimension_names"]))
        assert fill == {"": '""', -(2**63): "-2^63"}.get(node["fill_value"], str(node["fill_value"]))
        assert text == row.description


def test_the_pages_codes_are_the_codes() -> None:
    for layer, text in rows("| layer | stored value = class code |", 2):
        row = next(r for r in LAYERS if r.band == layer)
        if row.threshold:
            assert text.startswith(f"a probability of cloud; full scale {row.full_scale or '100 or 10,000'}")
            continue
        pairs = [(value, int(code)) for value, _, code in (pair.partition(" = ") for pair in text.split(", "))]
        codes = {int(value): code for value, code in pairs if not value.startswith("bit ")}
        for value, code in reversed([(int(v.removeprefix("bit ")), c) for v, c in pairs if v.startswith("bit ")]):
            codes |= {every: code for every in range(2**16 - 1) if every & value}  # the last one is the fill
        every = np.arange(2**16, dtype=np.uint16)
        expected = [codes.get(int(value), UNLABELLED) for value in every]
        assert to_classes(every, layer).tolist() == expected
    assert len(LAYERS) == len(rows("| layer | stored value = class code |", 2))


def test_the_page_is_of_this_layout() -> None:
    assert f"Layout version {LAYOUT_VERSION}." in PAGE

"""Pictures: the colours that reach the canvas, what is said beside them, and what is not known is grey."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

import cloudsen12_cube as c12
from cloudsen12_cube.cli.demo import demo
from cloudsen12_cube.dataset import class_views as class_view
from cloudsen12_cube.plotting import images as plot
from cloudsen12_cube.schema.classes import CLASSES, UNLABELLED_COLOR
from cloudsen12_cube.testing import ArchiveOptions, make_archive

SIZE = 48
WHITE, VERMILLION, SKY, BLACK, GREY = (255, 255, 255), (213, 94, 0), (86, 180, 233), (0, 0, 0), (212, 212, 212)
LEGEND = ["clear", "thick cloud", "thin cloud", "cloud shadow", "unlabelled"]


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.fixture
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube, products=["s2l1c", "s2l2a", "labels"])


@pytest.fixture
def roi(tree: xr.DataTree) -> str:
    root = tree.to_dataset()
    return str(root["roi"].values[list(root["label_type"].values).index("high")])


def changed(tree: xr.DataTree, product: str, **coords: Any) -> xr.DataTree:
    """Give a product other coordinates."""
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    nodes[product] = nodes[product].assign_coords(coords)
    return xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()})


def with_pixels(tree: xr.DataTree, product: str, roi: str, band: str | list[str], values: Any) -> xr.DataTree:
    """Put other pixels into the first patch of an ROI."""
    array = tree[product][product].copy(deep=True).load()
    array.loc[{"roi": roi, "time": 0, "band": band}] = values
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    nodes[product] = nodes[product].assign({product: array})
    return xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()})


def with_status(tree: xr.DataTree, product: str, roi: str, time: int, status: int) -> xr.DataTree:
    values = tree[product]["status"].copy(deep=True)
    values.loc[{"roi": roi, "time": time}] = status
    return changed(tree, product, status=values)


def empty_axes() -> Axes:
    """Axes that fill a canvas with two pixels for each pixel of a patch."""
    figure = Figure(figsize=(2 * SIZE / 96, 2 * SIZE / 96), dpi=96)
    return figure.add_axes((0, 0, 1, 1))


def drawn(axes: Axes) -> npt.NDArray[np.uint8]:
    """Colours on the canvas, one a pixel of the patch; the frame's own row and column are left out."""
    axes.set_title("")
    canvas = FigureCanvasAgg(axes.get_figure(root=True))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[1::2, 1::2, :3][2:-2, 2:-2]


def notes(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend_of(owner: Any) -> list[str]:
    legend = owner.legends[0] if isinstance(owner, Figure) else owner.get_legend()
    return [text.get_text() for text in legend.get_texts()]


def test_each_class_has_its_colour(tree: xr.DataTree, roi: str) -> None:
    pattern = np.zeros((SIZE, SIZE), dtype=np.uint16)
    expected = np.full((SIZE, SIZE, 3), WHITE)
    for n, (value, color) in enumerate([(1, VERMILLION), (2, SKY), (3, BLACK), (99, GREY), (255, GREY), (65535, GREY)]):
        pattern[6 + 6 * n : 10 + 6 * n, 5:30], expected[6 + 6 * n : 10 + 6 * n, 5:30] = value, color
    axes = plot.labels(with_pixels(tree, "labels", roi, "manual_hq", pattern), roi, 0, ax=empty_axes(), legend=False)
    np.testing.assert_array_equal(drawn(axes), expected[2:-2, 2:-2])
    assert notes(axes) == []
    assert axes.get_legend() is None


def test_an_algorithm_is_drawn_in_classes(tree: xr.DataTree, roi: str) -> None:
    pattern = np.full((SIZE, SIZE), 6, dtype=np.uint16)
    pattern[:, 10:20], pattern[:, 20:30], pattern[:, 30:40], pattern[:, 40:] = 9, 10, 3, 0
    axes = plot.labels(with_pixels(tree, "labels", roi, "sen2cor", pattern), roi, 0, "sen2cor", empty_axes())
    row = [WHITE] * 10 + [VERMILLION] * 10 + [SKY] * 10 + [BLACK] * 10 + [GREY] * 8
    axes.get_legend().remove()
    np.testing.assert_array_equal(drawn(axes)[20], row[2:-2])


@pytest.mark.parametrize("of", ["s2cloudless", "qa60", "CD-FCNN-RGBI", "kappamask_L2A", "fmask", "manual_sc"])
def test_every_layer_agrees_with_the_class_view(tree: xr.DataTree, roi: str, of: str) -> None:
    codes = class_view.classes(tree["labels"]["labels"], of).sel(roi=roi, time=3).values
    colors = np.array([WHITE, VERMILLION, SKY, BLACK, *[GREY] * 252])
    axes = plot.labels(tree, roi, 3, of, empty_axes(), legend=False)
    np.testing.assert_array_equal(drawn(axes), colors[codes][2:-2, 2:-2])


def test_the_table_of_colours_is_told_apart_in_grey() -> None:
    light = []
    for color in [*(c.color for c in CLASSES), UNLABELLED_COLOR]:
        linear = [((v / 255 + 0.055) / 1.055) ** 2.4 for v in bytes.fromhex(color[1:])]
        light.append(116 * max(0.0088, np.dot([0.2126, 0.7152, 0.0722], linear)) ** (1 / 3) - 16)
    assert np.diff(sorted(light)).min() > 14


def test_the_legend_names_the_classes_beside_the_picture(tree: xr.DataTree, roi: str) -> None:
    axes = plot.labels(tree, roi, 1)
    assert legend_of(axes) == LEGEND
    figure: Any = axes.get_figure(root=True)
    figure.canvas.draw()
    box = axes.get_legend().get_window_extent()
    assert box.x0 > axes.get_window_extent().x1  # it covers nothing
    assert box.x1 <= figure.bbox.x1  # and is not cut off
    assert axes.get_xticks().size == axes.get_yticks().size == 0


def test_red_green_and_blue_are_where_they_belong(tree: xr.DataTree, roi: str) -> None:
    planes = np.full((3, SIZE, SIZE), 1, dtype=np.int16)
    for band in range(3):
        planes[band, 10 * band : 10 * band + 10] = 9000
    shown = drawn(plot.rgb(with_pixels(tree, "s2l1c", roi, ["B4", "B3", "B2"], planes), roi, 0, empty_axes())).astype(
        int
    )
    for row, channel in ((5, 0), (15, 1), (25, 2)):
        dark = [c for c in range(3) if c != channel]
        assert (shown[row - 2, :, channel] == 255).all()
        assert (shown[row - 2][:, dark] < 10).all()


def test_brighter_is_brighter_and_negative_is_black(tree: xr.DataTree, roi: str) -> None:
    ramp = np.broadcast_to(np.linspace(-500, 6500, SIZE).astype(np.int16), (3, SIZE, SIZE))
    axes = plot.rgb(with_pixels(tree, "s2l1c", roi, ["B4", "B3", "B2"], ramp), roi, 0, empty_axes())
    line = drawn(axes)[3].astype(int)
    assert (np.diff(line, axis=0) >= 0).all()
    assert (line[0] == 0).all()
    assert (line[-1] == 255).all()


def test_bands_and_product_are_chosen(tree: xr.DataTree, roi: str) -> None:
    values = {"s2l1c": 9000, "s2l2a": 2}
    for product, value in values.items():
        tree = with_pixels(tree, product, roi, ["B12", "B8", "B4"], np.full((3, SIZE, SIZE), value))
    first = drawn(plot.rgb(tree, roi, 0, empty_axes(), bands=["B12", "B8", "B4"]))
    second = drawn(plot.rgb(tree, roi, 0, empty_axes(), product="s2l2a", bands=["B12", "B8", "B4"]))
    assert first.min() == 255
    assert second.max() < 10


def test_pixels_without_data_are_grey(tree: xr.DataTree, roi: str) -> None:
    planes = np.full((3, SIZE, SIZE), 9000, dtype=np.int16)
    planes[:, :10] = 0  # beyond the swath
    planes[:, 10:20] = np.iinfo(np.int16).min
    planes[1, 20:30] = np.iinfo(np.int16).min
    planes[:2, 30:40] = 0  # dark in two bands is still data
    shown = drawn(plot.rgb(with_pixels(tree, "s2l1c", roi, ["B4", "B3", "B2"], planes), roi, 0, empty_axes()))
    assert (shown[:28] == GREY).all()
    assert (shown[28:38] == (0, 0, 255)).all()
    assert (shown[38:] == WHITE).all()


def test_unsigned_pixels_have_another_fill(tmp_path: Path) -> None:
    options = ArchiveOptions(size=16, times=1, dtype="uint16")
    c12.convert(make_archive(tmp_path / "a", rois=1, options=options), tmp_path / "c.zarr", products=["s2l1c"])
    tree = c12.open_cube(tmp_path / "c.zarr")
    roi = str(tree["roi"].values[0])
    tree = with_pixels(tree, "s2l1c", roi, ["B4", "B3", "B2"], np.full((3, 16, 16), 65535))
    axes = plot.rgb(tree, roi, 0, empty_axes())
    assert notes(axes) == ["no data"]
    axes.texts[0].remove()
    assert (drawn(axes) == GREY).all()


def test_a_damaged_patch_is_grey_and_says_so(tmp_path: Path) -> None:
    options = ArchiveOptions(size=16, times=2)
    broken = make_archive(tmp_path / "a", rois=1, options=options)
    folder = sorted(broken.glob("high/*/*"))[0]
    for file in ("S2L1C", "labels/manual_hq"):
        (folder / f"{file}.tif").write_bytes(b"no picture")
    assert c12.convert(broken, tmp_path / "c.zarr").exit_code == 1
    tree = c12.open_cube(tmp_path / "c.zarr")
    roi, times = str(tree["roi"].values[0]), list(tree["s2l1c"]["status"].values[0])
    time = times.index(2)
    for axes in (plot.rgb(tree, roi, time, empty_axes()), plot.labels(tree, roi, time, ax=empty_axes(), legend=False)):
        assert notes(axes) == ["failed"]
        axes.texts[0].remove()
        assert (drawn(axes) == GREY).all()
    assert notes(plot.rgb(tree, roi, 1 - time)) == []
    assert [notes(one) for one in plot.overview(tree, roi)[:, time]] == [["failed"], ["failed"]]


def test_an_absent_patch_is_grey_and_says_so(tree: xr.DataTree, roi: str) -> None:
    tree = with_status(with_status(tree, "s2l1c", roi, 2, 0), "labels", roi, 2, 0)
    for axes in (plot.rgb(tree, roi, 2, empty_axes()), plot.labels(tree, roi, 2, ax=empty_axes(), legend=False)):
        assert notes(axes) == ["not in the cube"]
        axes.texts[0].remove()
        assert (drawn(axes) == GREY).all()


def test_a_patch_that_nobody_labelled_is_grey_and_says_so(tree: xr.DataTree) -> None:
    root = tree.to_dataset()
    roi = str(root["roi"].values[list(root["label_type"].values).index("scribble")])
    axes = plot.labels(tree, roi, 0, ax=empty_axes(), legend=False)
    assert notes(axes) == ["unlabelled"]
    axes.texts[0].remove()
    assert (drawn(axes) == GREY).all()


def test_titles_say_what_is_known(tree: xr.DataTree, roi: str) -> None:
    patch = tree.to_dataset().sel(roi=roi, time=1)
    day, cover = str(patch["datetime"].values)[:10], patch["cloud_coverage"].item()
    hard = f"difficulty {patch['difficulty'].item():g}"
    assert plot.rgb(tree, roi, 1).get_title() == f"{roi}, time 1, {day}\n{cover}, {hard}"
    assert plot.labels(tree, roi, 1, "fmask").get_title() == f"{roi}, time 1, {day}\nfmask, {cover}, {hard}"
    unknown = {
        "datetime": xr.full_like(tree["s2l1c"]["datetime"], np.datetime64("NaT", "ns")),
        "difficulty": xr.full_like(tree["s2l1c"]["difficulty"], np.nan),
        "cloud_coverage": xr.full_like(tree["s2l1c"]["cloud_coverage"], ""),
    }
    assert plot.rgb(changed(tree, "s2l1c", **unknown), roi, 1).get_title() == f"{roi}, time 1, date unknown\n"


def test_dates_are_columns_and_layers_are_rows(tree: xr.DataTree, roi: str) -> None:
    axes = plot.overview(tree, roi, of=("manual_hq", "sen2cor", "s2cloudless"))
    assert axes.shape == (4, tree.sizes["time"])
    assert [one.get_ylabel() for one in axes[:, 0]] == ["true colour", "manual_hq", "sen2cor", "s2cloudless"]
    figure = axes[0, 0].get_figure(root=True)
    assert legend_of(figure) == LEGEND
    assert figure.get_suptitle().startswith(f"{roi} (high, ")
    for column in range(axes.shape[1]):
        alone = [plot.rgb(tree, roi, column), *(plot.labels(tree, roi, column, o) for o in ("manual_hq", "sen2cor"))]
        for one, other in zip(axes[:, column], alone, strict=False):
            np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())


@pytest.mark.parametrize("times", [[3], [1, 3], None])
@pytest.mark.parametrize("of", [(), ("manual_hq",), "manual_hq"])
def test_nothing_is_cut_off(tree: xr.DataTree, roi: str, times: list[int] | None, of: Any) -> None:
    chosen = tree if times is None else tree.sel(time=times)
    axes = plot.overview(chosen, roi, of=of, product="s2l2a")
    assert axes.shape == (1 + bool(of), len(times or range(5)))
    assert axes[0, 0].get_title().startswith(f"time {times[0] if times else 0}, ")
    figure = axes[0, 0].get_figure(root=True)
    assert bool(figure.legends) == bool(of)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()


def test_a_date_that_the_roi_has_not_is_no_column(tree: xr.DataTree, roi: str) -> None:
    ids = tree["s2l1c"]["s2_id_gee"].copy(deep=True)
    ids.loc[{"roi": roi, "time": 1}] = ""
    axes = plot.overview(changed(tree, "s2l1c", s2_id_gee=ids), roi)
    assert [one.get_title()[:6] for one in axes[0]] == ["time 0", "time 2", "time 3", "time 4"]
    with pytest.raises(KeyError, match="no patch of"):
        plot.overview(changed(tree, "s2l1c", s2_id_gee=xr.full_like(ids, "")), roi)


def test_what_is_not_there_is_named_and_leaves_no_figure(tree: xr.DataTree, roi: str, cube: Path) -> None:
    cases: list[tuple[Any, str]] = [
        (lambda: plot.rgb(tree, "ROI_0000", 0), f"no roi 'ROI_0000' in the cube; it has .*{roi}"),
        (lambda: plot.rgb(tree, roi, 9), "no time 9 in the cube; it has 0, 1, 2, 3, 4"),
        (lambda: plot.rgb(tree, roi, 0, bands=["B4", "B3", "TCI_B"]), "no spectral band 'TCI_B' in s2l1c; it has B1,"),
        (lambda: plot.rgb(tree, roi, 0, product="s1"), "product is 's1': an image needs s2l1c or s2l2a"),  # type: ignore[arg-type]
        (lambda: plot.labels(tree, roi, 0, "sen2core"), "no label layer 'sen2core'.*kappamask_L2A"),
        (lambda: plot.labels(tree, "ROI_0000", 0), "no roi 'ROI_0000'"),
        (lambda: plot.overview(tree, "ROI_0000"), "no roi 'ROI_0000'"),
        (lambda: plot.overview(tree, roi, of=("manual_hq", "no")), "no label layer 'no'"),
        (lambda: plot.overview(c12.open_cube(cube, ["s2l1c"]), roi), "no product 'labels' in the cube; it has s2l1c"),
        (lambda: plot.overview(c12.open_cube(cube, ["labels"]), roi), "an image needs s2l1c or s2l2a"),
        (lambda: plot.labels(few(tree), roi, 0), "it has sen2cor"),
    ]
    for call, message in cases:
        with pytest.raises(KeyError, match=message):
            call()
    with pytest.raises(ValueError, match="bands are B4: give three"):
        plot.rgb(tree, roi, 0, bands=["B4"])
    assert pyplot.get_fignums() == []


def few(tree: xr.DataTree) -> xr.DataTree:
    labels = tree["labels"].to_dataset(inherit=False).sel(band=["sen2cor"])
    return xr.DataTree.from_dict({"/": tree.to_dataset(), "labels": labels})


def test_the_cube_stays_as_it_was(tree: xr.DataTree, roi: str) -> None:
    before = tree.copy(deep=True)
    plot.rgb(tree, roi, 0)
    plot.labels(tree, roi, 0)
    plot.overview(tree, roi)
    xr.testing.assert_identical(tree, before)


def test_only_what_is_drawn_is_read(cube: Path, roi: str) -> None:
    seen: list[int] = []

    def note(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        seen.append(block.size)
        return block

    tree = c12.open_cube(cube, chunks={})
    for product in ("s2l1c", "labels"):
        array = tree[product][product]
        watched = array.copy(data=da.map_blocks(note, array.data, dtype=array.dtype, meta=array.data._meta))
        tree[product] = tree[product].to_dataset(inherit=False).assign({product: watched})
    for draw, planes in (
        (lambda: plot.rgb(tree, roi, 1), 3),
        (lambda: plot.labels(tree, roi, 1, "sen2cor"), 1),
        (lambda: plot.overview(tree, roi, of=("manual_hq", "qa60")), 5 * (3 + 2)),
    ):
        seen.clear()
        draw()
        assert seen == [SIZE * SIZE] * planes


def test_names_are_text_not_formulas(tree: xr.DataTree, roi: str) -> None:
    covers = xr.full_like(tree["s2l1c"]["cloud_coverage"], "$\\frac{cloudy$")
    axes = plot.overview(changed(tree, "s2l1c", cloud_coverage=covers), roi)
    axes[0, 0].figure.savefig(io.BytesIO(), format="png")  # would raise on a formula that is none
    assert "$\\frac{cloudy$" in axes[0, 0].get_title()


def test_the_demo_leaves_no_figure_open(tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", rois=1, options=ArchiveOptions(size=16, times=2))
    assert demo(tmp_path, Console(file=io.StringIO())) == 0
    assert pyplot.imread(tmp_path / "overview.png").shape[1] > 300
    assert pyplot.get_fignums() == []


def test_without_a_display_nothing_is_warned_of(cube: Path, roi: str, tmp_path: Path) -> None:
    script = f"""
import cloudsen12_cube as c12
from cloudsen12_cube.plotting import images as plot
tree = c12.open_cube({str(cube)!r})
plot.save_overview(tree, {roi!r}, {str(tmp_path / "a.png")!r})
plot.rgb(tree, {roi!r}, 0)
plot.labels(tree, {roi!r}, 0)
plot.overview(tree, {roi!r})[0, 0].figure.savefig({str(tmp_path / "b.png")!r}, dpi=110)
"""
    hidden = {"MPLBACKEND", "DISPLAY", "WAYLAND_DISPLAY"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"MPLCONFIGDIR": str(tmp_path / "mpl")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(pyplot.imread(tmp_path / "a.png"), pyplot.imread(tmp_path / "b.png"))

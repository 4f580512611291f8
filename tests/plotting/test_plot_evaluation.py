"""Pictures of an evaluation: the numbers and shapes that are drawn, not the look."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from cloudsen12_cube.plotting.figures import accuracy_figure, confusion_figure

NAMES = ["clear", "thick_cloud", "thin_cloud", "cloud_shadow"]


def counts(pixels: npt.ArrayLike) -> xr.Dataset:
    table = np.asarray(pixels)
    data = xr.DataArray(table[None], dims=("roi", "reference", "predicted"))
    names = NAMES[: len(table)]
    about = {"reference": "manual_hq", "predicted": "fmask"}
    return xr.Dataset({"counts": data}, {"reference": names, "predicted": names}, about)


def drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def test_the_cells_of_a_confusion_matrix() -> None:
    figure = confusion_figure(counts([[60, 20], [5, 15]]))
    axes: Any = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(0, 0)] == "60.00%\n60\nUA 92.3%\nPA 75.0%"
    assert texts[(1, 0)] == "20.00%\n20"  # reference clear, predicted thick: across is the prediction
    assert texts[(0, 1)] == "5.00%\n5"
    assert texts[(1, 1)] == "15.00%\n15\nUA 42.9%\nPA 75.0%"
    assert axes.get_title() == "overall agreement 75.00%\n100 pixels"
    assert axes.get_ylabel() == "reference: manual_hq"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clear", "thick cloud"]
    assert drawn(figure)[:4] == b"\x89PNG"


def test_the_agreement_of_experts() -> None:
    """Figure 7 of the paper: the label before quality control across, PA by it, UA by the label after."""
    table = [[50, 2, 3, 1], [1, 20, 2, 0], [4, 1, 10, 0], [0, 1, 0, 5]]
    axes: Any = confusion_figure(counts(table), producers="predicted").axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(0, 0)] == f"50.00%\n50\nUA {50 / 56:.1%}\nPA {50 / 55:.1%}"
    assert texts[(2, 2)] == f"10.00%\n10\nUA {10 / 15:.1%}\nPA {10 / 15:.1%}"
    without = (50 + 20 + 5) / (100 - 15 - 5)
    assert axes.get_title() == f"overall agreement 85.00%, {without:.2%} without thin cloud\n100 pixels"


def test_a_column_of_unclassified_pixels() -> None:
    data = xr.DataArray([[4, 1, 5], [0, 8, 2]], dims=("reference", "predicted"))
    names = {"reference": ["clear", "thick_cloud"], "predicted": ["clear", "thick_cloud", "unlabelled"]}
    axes: Any = confusion_figure(xr.Dataset({"counts": data}, names)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clear", "thick cloud", "unlabelled"]
    assert "20.00%\n4\nUA 100.0%\nPA 40.0%" in [text.get_text() for text in axes.texts]


def test_a_class_that_nobody_gave() -> None:
    axes: Any = confusion_figure(counts([[4, 0, 0], [0, 0, 0], [0, 0, 4]])).axes[0]
    assert "0.00%\n0\nUA -\nPA -" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match="no pixel is labelled by both"):
        confusion_figure(counts([[0, 0], [0, 0]]))


def patches() -> pd.DataFrame:
    random = np.random.default_rng(0)
    layers = {"mine": 0.95, "fmask": 0.8, "qa60": 0.5}
    parts = [
        pd.DataFrame({m: random.normal(middle, 0.1, 300).clip(0, 1) for m in ("boa", "pa", "ua")}).assign(layer=name)
        for name, middle in layers.items()
    ]
    table = pd.concat(parts, ignore_index=True).assign(scheme="cloud")
    table.loc[::10, ["pa", "ua"]] = np.nan
    return table


def test_curves_have_an_area_in_common() -> None:
    table = patches()
    figure = accuracy_figure(table)
    axes: Any = figure.axes[0]
    curves = [line.get_xydata() for line in axes.lines]
    heights = [curve - [0, place] for place, curve in enumerate(curves)]
    areas = [trapezoid(curve[:, 1], curve[:, 0]) for curve in heights]
    assert areas == pytest.approx([areas[0]] * 3, rel=0.02)
    assert max(curve[:, 1].max() for curve in heights) == pytest.approx(1.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["QA60", "Fmask", "mine"]
    peaks = [curve[curve[:, 1].argmax(), 0] for curve in heights]
    assert peaks == pytest.approx([0.5, 0.8, 0.97], abs=0.06)


def test_curves_are_filled_by_tail_probability() -> None:
    table = patches()
    axes: Any = accuracy_figure(table).axes[0]
    grid = axes.lines[0].get_xdata()
    for fill, name in zip(
        [c for c in axes.collections if c.get_array() is not None], ("qa60", "fmask", "mine"), strict=True
    ):
        values = table.loc[table["layer"] == name, "boa"]
        ecdf = np.array([(values <= x).mean() for x in grid[:-1]])
        np.testing.assert_allclose(np.asarray(fill.get_array()), 0.5 - np.abs(0.5 - ecdf))
        assert fill.get_clim() == (0, 0.5)


def test_the_legend_names_star_and_whiskers() -> None:
    legend = accuracy_figure(patches()).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["median", "quartiles"]


def test_few_patches_are_dots() -> None:
    for count, dots in ((19, True), (20, False)):
        table = pd.concat([rows.head(count) for _, rows in patches().fillna(0.5).groupby("layer")])
        axes: Any = accuracy_figure(table).axes
        drawn_dots = [line.get_xdata() for line in axes[1].lines if line.get_marker() == "."]
        assert [len(values) for values in drawn_dots] == ([count] * 3 if dots else [])


@pytest.mark.parametrize(("place", "metric"), [(1, "pa"), (2, "ua")])
def test_heat_lines_are_histograms(place: int, metric: str) -> None:
    table = patches()
    axes: Any = accuracy_figure(table).axes[place]
    for mesh, name in zip(axes.collections, ("mine", "fmask", "qa60"), strict=True):
        values = table.loc[table["layer"] == name, metric].dropna()
        naive = [100 * ((values >= b / 100) & (values < (b + 1) / 100)).mean() for b in range(99)]
        shown = np.asarray(mesh.get_array()).ravel()
        assert shown[:99] == pytest.approx(naive, abs=0.8)  # a value on an edge may fall to either side
        assert shown.sum() == pytest.approx(100)
    stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]
    assert stars == pytest.approx(list(table.groupby("layer", sort=False)[metric].median()))


def test_the_darkest_colour_is_of_some_patches() -> None:
    """5 % as in the paper; with 20 patches that would be each of them, and nothing were told apart."""
    for count, full in ((300, 5.0), (20, 20.0), (2, 100.0)):
        table = pd.concat([rows.head(count) for _, rows in patches().fillna(0.5).groupby("layer")])
        axes: Any = accuracy_figure(table).axes[1]
        assert [mesh.get_clim()[1] for mesh in axes.collections] == pytest.approx([full] * 3)


def test_layers_without_a_value_are_drawn_empty() -> None:
    table = patches()
    table.loc[table["layer"] == "fmask", ["boa", "pa", "ua"]] = np.nan
    assert drawn(accuracy_figure(table))[:4] == b"\x89PNG"
    assert drawn(accuracy_figure(table.assign(boa=0.5)))[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no scheme 'shadow'; it has cloud"):
        accuracy_figure(table, "shadow")

"""Figures of an evaluation: the paper's confusion matrix (figure 7), accuracies (figure 9) and versions (figure S3).

Drawn from counts and from the table of accuracies per patch, so that no pixel is read for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cloudsen12_cube import evaluation
from cloudsen12_cube.evaluation import layer_title, scheme_title, sort_layers
from cloudsen12_cube.schema import Scheme

_BINS = 100
# Share of the patches in one bin of a heat line that gets the darkest colour, as in the paper.
_FULL = 0.05
# Patches that the darkest colour stands for at least: with few patches, a single one must not be the darkest.
_LEAST = 4
# Below this number of patches, each is drawn as a dot: a density or histogram alone would suggest more.
_FEW = 20
_HEAT = colormaps["YlGnBu"].with_extremes(under="white")
_TAIL = colormaps["viridis"]
# Below this share a bin is white.
_WHITE = 1e-6
_GRID = np.linspace(0, 1, 401)
_QUARTILES = (0.25, 0.5, 0.75)
_STAR = "#D7191C"
_LINE = "#404040"


def confusion_figure(counts: xr.Dataset, producers: Literal["reference", "predicted"] = "reference") -> Figure:
    """Draw a confusion matrix: pixels and shares in each tile, and the two accuracies on the diagonal.

    Parameters
    ----------
    counts : xarray.Dataset
        Result of `confusion`; the remaining dims other than ``reference`` and ``predicted`` are summed.
    producers : {"reference", "predicted"}
        Labels that the producer's accuracy refers to; the user's accuracy refers to the others. ``predicted`` is the
        convention of the paper's figure 7, the agreement of experts: with the label before quality control as
        prediction (columns) and the one after as reference (rows), PA is by columns and UA by rows.

    Returns
    -------
    matplotlib.figure.Figure
        Reference down, prediction across, in per cent; the title gives the overall agreement, of the four classes also
        without thin cloud.

    Raises
    ------
    ValueError
        If no pixel was counted.
    """
    lead = [dim for dim in counts["counts"].dims if dim not in ("reference", "predicted")]
    pixels = counts["counts"].sum(lead).transpose("reference", "predicted").values
    if not pixels.any():
        raise ValueError("no pixel is labelled by both: there is nothing to draw")
    rows, columns = ([str(n).replace("_", " ") for n in counts[dim].values] for dim in ("reference", "predicted"))
    figure = Figure(figsize=(2.2 + 1.25 * len(columns), 1.5 + 1.25 * len(rows)), layout="constrained")
    axes: Any = figure.subplots()
    shares = pixels / pixels.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    by_row, by_column = evaluation.producers_accuracy(pixels), evaluation.users_accuracy(pixels)
    pa, ua = (by_row, by_column) if producers == "reference" else (by_column, by_row)
    for row, column in np.ndindex(*pixels.shape):
        text = f"{pixels[row, column] / pixels.sum():.2%}\n{pixels[row, column]:,}"
        if row == column:
            text += f"\nUA {_percent(float(ua[row]))}\nPA {_percent(float(pa[row]))}"
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(f"predicted: {counts.attrs.get('predicted', '?')}")
    axes.set_ylabel(f"reference: {counts.attrs.get('reference', '?')}")
    title = f"overall agreement {evaluation.overall_agreement(pixels):.2%}"
    if "thin cloud" in rows:
        thin = evaluation.overall_agreement(pixels, without=[rows.index("thin cloud")])
        title += f", {thin:.2%} without thin cloud"
    axes.set_title(f"{title}\n{pixels.sum():,} pixels", fontsize=10)
    return figure


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"


def accuracy_figure(per_patch: pd.DataFrame, scheme: Scheme = "cloud") -> Figure:
    """Draw the distribution over patches: BOA as a density for each algorithm, PA and UA as heat lines.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        Result of `per_patch`.
    scheme : {"cloud", "shadow", "valid"}
        Scheme that is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Above, a curve per layer with lines at the quartiles, filled by the tail probability 0.5 - |0.5 - ecdf|. Below,
        a line per layer: the darker, the more patches have this accuracy, a hundred bins, darkest at 5 % of the
        patches, or at four of them if that is more; a star at the median, whiskers at the quartiles. Where a layer has
        fewer than 20 patches, each is a dot.

    Raises
    ------
    ValueError
        If no row is of the scheme.
    """
    rows = per_patch[per_patch["scheme"] == scheme]
    if rows.empty:
        raise ValueError(f"the table has no scheme {scheme!r}; it has {', '.join(sorted(set(per_patch['scheme'])))}")
    groups = {name: rows[rows["layer"] == name] for name in sort_layers(rows["layer"].unique())}
    height = 0.42 * len(groups)
    figure = Figure(figsize=(9, 3 + 2 * height), layout="constrained")
    figure.suptitle(f"{scheme_title(scheme)}: {max(map(len, groups.values()))} patches", fontsize=11)
    grid = figure.add_gridspec(2, 2, height_ratios=[height + 0.6, height])
    upper = figure.add_subplot(grid[0, :])
    fill = _densities(upper, {name: _defined(rows, "boa") for name, rows in groups.items()})
    for column, metric in enumerate(("pa", "ua")):
        values = {name: _defined(rows, metric) for name, rows in groups.items()}
        _heat_lines(figure, figure.add_subplot(grid[1, column]), values, metric)
    figure.colorbar(fill, ax=upper, label="tail probability")
    handles = [
        Line2D([], [], color=_STAR, marker="*", linestyle="", markersize=9, label="median"),
        Line2D([], [], color=_LINE, marker="|", linewidth=1, label="quartiles"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _defined(rows: pd.DataFrame, metric: str) -> npt.NDArray[np.float64]:
    return rows[metric].dropna().to_numpy(dtype=np.float64)


def _densities(axes: Any, groups: Mapping[str, npt.NDArray[np.float64]]) -> PolyCollection:
    """Draw one curve above the other, all in the same scale; the highest is one and a half lines high."""
    curves = {name: _density(values) for name, values in groups.items()}
    top = max((curve.max() for curve in curves.values()), default=0) or 1
    for place, (name, curve) in enumerate(reversed(curves.items())):
        line, values = place + 1.5 * curve / top, np.sort(groups[name])
        ecdf = np.searchsorted(values, _GRID, side="right") / max(values.size, 1)
        corners = [_GRID, line], [_GRID, np.full_like(line, place)]
        quads = [
            [(x[i], y[i]) for (x, y), i in zip((*corners, *reversed(corners)), (k, k, k + 1, k + 1), strict=True)]
            for k in range(_GRID.size - 1)
        ]
        fill = PolyCollection(quads, cmap=_TAIL, zorder=-place, linewidth=0, antialiased=False)
        fill.set_array((0.5 - np.abs(0.5 - ecdf))[:-1])
        fill.set_clim(0, 0.5)
        axes.add_collection(fill)
        axes.plot(_GRID, line, color=_LINE, linewidth=1, zorder=-place)
        for quantile in np.quantile(values, _QUARTILES) if values.size else ():
            axes.vlines(quantile, place, np.interp(quantile, _GRID, line), color=_LINE, linewidth=1.2, zorder=-place)
        if values.size < _FEW:
            axes.scatter(values, np.full(values.size, place), s=9, color=_LINE, zorder=1)
    axes.set_yticks(range(len(curves)), [layer_title(name) for name in reversed(curves)])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.1, len(curves) + 0.7)
    axes.set_xlabel("balanced overall accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    return fill


def _density(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Estimate the density on 0..1 with Gaussian kernels of Silverman's width, reflected at 0 and 1."""
    if not values.size:
        return np.zeros_like(_GRID)
    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(), (high - low) / 1.34) or values.std()
    width = max(0.9 * spread * values.size**-0.2, 0.005)
    mirrored = np.concatenate([values, -values, 2 - values])
    kernels = np.exp(-0.5 * ((_GRID[:, None] - mirrored) / width) ** 2)
    return np.asarray(kernels.sum(axis=1) / (values.size * width * np.sqrt(2 * np.pi)))


def _heat_lines(figure: Figure, axes: Any, groups: Mapping[str, npt.NDArray[np.float64]], metric: str) -> None:
    edges = np.linspace(0, 1, _BINS + 1)
    fewest = min((values.size for values in groups.values() if values.size), default=1)
    full = 100 * max(_FULL, min(_LEAST / fewest, 1))
    for place, values in enumerate(groups.values()):
        shares = np.histogram(values, bins=_BINS, range=(0, 1))[0] / max(values.size, 1)
        image = axes.pcolormesh(
            edges, [place - 0.3, place + 0.3], 100 * shares[None], cmap=_HEAT, vmin=_WHITE, vmax=full
        )
        if values.size < _FEW:
            axes.plot(values, np.full(values.size, place + 0.3), color=_LINE, marker=".", linestyle="", markersize=4)
        if values.size:
            low, middle, high = np.quantile(values, _QUARTILES)
            axes.plot([low, high], [place, place], color=_LINE, linewidth=1, marker="|")
            axes.plot(middle, place, color=_STAR, marker="*", markersize=9, clip_on=False)
    axes.set_yticks(range(len(groups)), [layer_title(name) for name in groups] if metric == "pa" else [])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel({"pa": "producer's accuracy", "ua": "user's accuracy"}[metric])
    if metric == "ua":
        figure.colorbar(image, ax=axes, label="patches, %", extend="max")


def versions_figure(cube: xr.DataTree, split: str | None = "test") -> Figure:
    """Draw how many patches each version of Sen2Cor processed, the paper's figure S3.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    split : {"train", "validation", "test", "all"} or None
        Split whose patches are counted; None and ``all`` take all.

    Returns
    -------
    matplotlib.figure.Figure
        One bar per version, with its number of patches.
    """
    versions = evaluation.sen2cor_versions(cube, split)
    figure = Figure(figsize=(6, 0.9 + 0.35 * len(versions)), layout="constrained")
    axes: Any = figure.subplots()
    bars = axes.barh(versions.index, versions.to_numpy(), color="#6BAED6")
    axes.bar_label(bars, [f"{count:,} ({count / versions.sum():.1%})" for count in versions], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("patches")
    axes.set_title(f"Sen2Cor versions, {f'split {split}' if split else 'all patches'}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure

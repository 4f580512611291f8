"""Pictures of an evaluation: the paper's confusion matrix of two experts (figure 7), and how algorithms do (figure 9).

Drawn from counts and from the table by patch, so that they cost nothing once these are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure

from cloudsen12_cube.evaluation import (
    layer_title,
    overall_agreement,
    producers_accuracy,
    scheme_title,
    sort_layers,
    users_accuracy,
)
from cloudsen12_cube.schema import Scheme

_BINS = 100
_FULL = 0.05
"""Share of the patches in one bin of a heat line that gets the darkest colour, as in the paper."""
_FEWEST = 4
"""Patches that the darkest colour stands for at least: where there are few, one of them is not the most."""
_HEAT = colormaps["YlGnBu"].with_extremes(under="white")
_NONE = 1e-6
"""Bins below this share stay white: so few values say nothing about the distribution."""
_GRID = np.linspace(0, 1, 401)
_QUARTILES = (0.25, 0.5, 0.75)
_STAR = "#D7191C"
_LINE = "#404040"


def confusion_figure(counts: xr.Dataset) -> Figure:
    """Draw a confusion matrix: shares of all pixels, and on the diagonal the user's and the producer's accuracy.

    Parameters
    ----------
    counts : xarray.Dataset
        As `confusion` gives it; what is left of roi and time is summed.

    Returns
    -------
    matplotlib.figure.Figure
        Reference down, prediction across, in per cent; the title gives the overall agreement.

    Raises
    ------
    ValueError
        If no pixel was counted.
    """
    lead = [dim for dim in counts["counts"].dims if dim not in ("reference", "predicted")]
    pixels = counts["counts"].sum(lead).transpose("reference", "predicted").values
    if not pixels.any():
        raise ValueError("no pixel is labelled by both: there is nothing to draw")
    names = [str(name).replace("_", " ") for name in counts["reference"].values]
    size = 1.5 + 1.15 * len(names)
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes: Any = figure.subplots()
    shares = pixels / pixels.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _write_cells(axes, pixels, shares)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"predicted: {counts.attrs.get('predicted', '?')}")
    axes.set_ylabel(f"reference: {counts.attrs.get('reference', '?')}")
    axes.set_title(f"overall agreement {overall_agreement(pixels):.1%}, {pixels.sum():,} pixels", fontsize=10)
    return figure


def _write_cells(axes: Any, pixels: npt.NDArray[Any], shares: npt.NDArray[Any]) -> None:
    pa, ua = producers_accuracy(pixels), users_accuracy(pixels)
    for row, column in np.ndindex(*pixels.shape):
        text = f"{pixels[row, column] / pixels.sum():.2%}"
        if row == column:
            text += f"\nUA {_percent(float(ua[row]))}\nPA {_percent(float(pa[row]))}"
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"


def accuracy_figure(per_patch: pd.DataFrame, scheme: Scheme = "cloud") -> Figure:
    """Draw how the patches are spread: BOA as a density for each algorithm, PA and UA as heat lines.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        As `per_patch` of ``accuracy`` gives it.
    scheme : {"cloud", "shadow", "valid"}

    Returns
    -------
    matplotlib.figure.Figure
        Above, a curve a layer with lines at the quartiles. Below, a line a layer: the darker, the more patches have
        this accuracy, a hundred bins, darkest at 5 % of the patches, or at four of them if that is more; a star at the
        median, whiskers at the quartiles.

    Raises
    ------
    ValueError
        If no row is of the scheme.
    """
    rows = per_patch[per_patch["scheme"] == scheme]
    if rows.empty:
        raise ValueError(f"the table has no scheme {scheme!r}; it has {', '.join(sorted(set(per_patch['scheme'])))}")
    layers = sort_layers(rows["layer"].unique())
    groups = {name: rows[rows["layer"] == name] for name in layers}
    height = 0.42 * len(layers)
    figure = Figure(figsize=(9, 2.6 + 2 * height), layout="constrained")
    figure.suptitle(f"{scheme_title(scheme)}: {max(map(len, groups.values()))} patches", fontsize=11)
    grid = figure.add_gridspec(2, 2, height_ratios=[height + 0.6, height])
    _densities(figure.add_subplot(grid[0, :]), groups)
    for column, metric in enumerate(("pa", "ua")):
        _heat_lines(figure, figure.add_subplot(grid[1, column]), groups, metric)
    return figure


def _densities(axes: Any, groups: dict[str, pd.DataFrame]) -> None:
    """Draw one curve above the other; all have the same scale, and the highest is one and a half lines high."""
    curves = {name: _density(rows["boa"].dropna().to_numpy()) for name, rows in groups.items()}
    top = max((curve.max() for curve in curves.values()), default=0) or 1
    for place, (name, curve) in enumerate(reversed(curves.items())):
        line = place + 1.5 * curve / top
        axes.fill_between(_GRID, place, line, color="#6BAED6", alpha=0.8, linewidth=0, zorder=-place)
        axes.plot(_GRID, line, color=_LINE, linewidth=1, zorder=-place)
        values = groups[name]["boa"].dropna()
        for quantile in values.quantile(list(_QUARTILES)) if len(values) else ():
            axes.vlines(quantile, place, np.interp(quantile, _GRID, line), color=_LINE, linewidth=1.2, zorder=-place)
    axes.set_yticks(range(len(curves)), [layer_title(name) for name in reversed(curves)])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.1, len(curves) + 0.7)
    axes.set_xlabel("balanced overall accuracy")
    axes.spines[["top", "right"]].set_visible(False)


def _density(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Estimate the density on 0..1 with Gaussian kernels, Silverman's width; what would leave 0..1 is reflected."""
    if not values.size:
        return np.zeros_like(_GRID)
    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(), (high - low) / 1.34) or values.std()
    width = max(0.9 * spread * values.size**-0.2, 0.005)
    mirrored = np.concatenate([values, -values, 2 - values])
    kernels = np.exp(-0.5 * ((_GRID[:, None] - mirrored) / width) ** 2)
    density: npt.NDArray[np.float64] = kernels.sum(axis=1) / (values.size * width * np.sqrt(2 * np.pi))
    return density


def _heat_lines(figure: Figure, axes: Any, groups: dict[str, pd.DataFrame], metric: str) -> None:
    edges = np.linspace(0, 1, _BINS + 1)
    fewest = min((count for count in (rows[metric].count() for rows in groups.values()) if count), default=1)
    full = 100 * max(_FULL, min(_FEWEST / fewest, 1))
    for place, rows in enumerate(groups.values()):
        values = rows[metric].dropna()
        heat = 100 * _shares(values.to_numpy())[None]
        image = axes.pcolormesh(edges, [place - 0.3, place + 0.3], heat, cmap=_HEAT, vmin=_NONE, vmax=full)
        if len(values):
            low, middle, high = values.quantile(list(_QUARTILES))
            axes.plot([low, high], [place, place], color=_LINE, linewidth=1, marker="|")
            axes.plot(middle, place, color=_STAR, marker="*", markersize=9, clip_on=False)
    axes.set_yticks(range(len(groups)), [layer_title(name) for name in groups] if metric == "pa" else [])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel({"pa": "producer's accuracy", "ua": "user's accuracy"}[metric])
    if metric == "ua":
        figure.colorbar(image, ax=axes, label="patches, %", extend="max")


def _shares(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Share of the values in each of a hundred bins."""
    counts = np.histogram(values, bins=_BINS, range=(0, 1))[0]
    shares: npt.NDArray[np.float64] = counts / max(values.size, 1)
    return shares

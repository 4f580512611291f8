"""The paper's benchmark on a cube: accuracies by patch, table 6 of them, and where two runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import full_scale
from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.evaluation.counts import (
    GROUPS,
    Found,
    Source,
    by_patch,
    counted,
    found,
    labels_of,
    models_of,
    name_of,
    resolves,
)
from cloudsen12_cube.evaluation.metrics import ALGORITHMS, BINARY, MEMBERS, Counts, binary_accuracies, coarsened
from cloudsen12_cube.evaluation.split import hexagons
from cloudsen12_cube.evaluation.table import Table, build_table
from cloudsen12_cube.schema import Scheme, layer

Predictions = Source | Sequence[str] | Mapping[str, Source] | None
"""Label layers by name, an array, a folder of tifs, or several of them by the name to print; None: all algorithms."""


def evaluate(
    cube: xr.DataTree,
    reference: Source = "manual_hq",
    split: str | None = "test",
    predicted: Predictions = None,
    by: str | Sequence[str] | None = None,
) -> Table:
    """Make the paper's table 6: how well algorithms find cloud, shadow, and what is either.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``labels``.
    reference : str, xarray.DataArray or Path
        What is held for true.
    split : str or None
        Patches that count; None takes all.
    predicted : optional
        What is evaluated: names of label layers, class codes (roi, time, y, x) as an array, a folder of tifs as a Path
        (see `from_folder`), or a mapping of names to these. By default the algorithms of the archive that the cube has,
        and what models have added to it.
    by : str or sequence of str, optional
        Columns of the catalogue, or ``hexagon``: a table for each of their values.

    Returns
    -------
    Table
        A DataFrame in full precision, index ``by``, scheme, layer; the columns are those of `summarise`. A layer stands
        in the schemes that it can resolve. It prints like the paper's table; `written` gives CSV, Markdown and LaTeX.

    Raises
    ------
    SelectionError
        If no patch is in the split and has a label of the reference.
    KeyError
        If a layer or a column is unknown.
    ValueError
        If an array does not fit the cube.
    """
    groups = [by] if isinstance(by, str) else list(by or ())
    patches = per_patch(cube, reference, split, predicted, groups)
    return build_table(patches, groups, patches.attrs["notes"])


def per_patch(
    cube: xr.DataTree,
    reference: Source = "manual_hq",
    split: str | None = "test",
    predicted: Predictions = None,
    columns: Sequence[str] = (),
) -> pd.DataFrame:
    """Make the table behind table 6: a row a patch, scheme and layer.

    Parameters
    ----------
    cube, reference, split, predicted
        As in `evaluate`.
    columns : sequence of str
        Further columns of the catalogue.

    Returns
    -------
    pandas.DataFrame
        ``roi_id``, ``time``, ``s2_id_gee``, the columns to group by, ``scheme``, ``layer``; ``pa``, ``ua``, ``boa`` as
        `summarise` takes them; pixels ``tp``, ``fn``, ``fp``, ``tn``, and ``unlabelled`` by the prediction alone, which
        are in none of these; ``cloudy``, whether the reference holds any cloud. Save it with ``to_parquet``.
        ``attrs["notes"]`` says what was left out.

    Raises
    ------
    SelectionError, KeyError, ValueError
        As in `evaluate`.
    """
    table = _catalogue(cube, columns)
    against = found(cube, reference)
    sources, notes = _sources(cube, predicted, against)
    if not sources:
        raise SelectionError("nothing is to be evaluated: name a layer, or give an array or a folder")
    counts = counted(cube, sources, against, _wanted(cube, split)).load()
    rows, times = np.nonzero(counts.values[:, :, 0].sum(axis=(-2, -1)))
    if not rows.size:
        raise SelectionError(f"no patch of {_told(split)} has a label of {name_of(reference)}: {_splits(cube)}")
    pixels = counts.values[rows, times]
    chosen = table.loc[list(zip(map(str, counts["roi"].values[rows]), counts["time"].values[times], strict=True))]
    parts = [
        chosen.reset_index().assign(scheme=scheme, layer=name, **_columns(pixels[:, index], scheme))
        for scheme in BINARY
        for index, (name, source) in enumerate(sources.items())
        if resolves(source, scheme) and resolves(against, scheme)
    ]
    made = pd.concat(parts, ignore_index=True)
    made.attrs["notes"] = [*_notes(made, reference, split), *notes]
    return made


def differences(one: pd.DataFrame, other: pd.DataFrame, metric: Literal["boa", "pa", "ua"] = "boa") -> pd.DataFrame:
    """Compare two runs: the patches on which they differ most come first.

    Parameters
    ----------
    one, other : pandas.DataFrame
        As `per_patch` gives them. If each has a single layer, these two are compared, else layers of the same name.
    metric : {"boa", "pa", "ua"}

    Returns
    -------
    pandas.DataFrame
        ``roi_id``, ``time``, ``s2_id_gee``, ``scheme``, (``layer``,) ``one``, ``other`` and ``difference``, other minus
        one. Patches where either is undefined come last.

    Raises
    ------
    KeyError
        If a column is missing.
    SelectionError
        If the two have no patch, scheme and layer in common.
    """
    if metric not in ("boa", "pa", "ua"):
        raise KeyError(f"no metric {metric!r}; there are boa, pa, ua")
    keys = ["roi_id", "time", "s2_id_gee", "scheme"]
    if one["layer"].nunique() > 1 or other["layer"].nunique() > 1:
        keys.append("layer")
    sides = [run[[*keys, metric]].rename(columns={metric: name}) for run, name in ((one, "one"), (other, "other"))]
    both = sides[0].merge(sides[1], on=keys, validate="one_to_one")
    if both.empty:
        raise SelectionError("the two runs have no patch in common: evaluate the same split, and layers of one name")
    both["difference"] = both["other"] - both["one"]
    order = both["difference"].abs().sort_values(ascending=False, kind="stable", na_position="last").index
    return both.loc[order].reset_index(drop=True)


def save(patches: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV, as the name of the file ends.

    Raises
    ------
    CubeError
        If it ends otherwise, or pyarrow, which Parquet needs, is not installed.
    """
    if path.suffix == ".csv":
        patches.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        try:
            patches.to_parquet(path, index=False)
        except ImportError:
            raise CubeError(f"{path}: Parquet needs pyarrow: install it, or name the file .csv") from None
    else:
        raise CubeError(f"{path} ends in {path.suffix or 'nothing'}: name the file .parquet or .csv")


def _catalogue(cube: xr.DataTree, columns: Sequence[str]) -> pd.DataFrame:
    """Give what is known of each patch, indexed by (roi_id, time)."""
    root = cube.to_dataset()
    names = list(dict.fromkeys(["s2_id_gee", *GROUPS, *(c for c in columns if c != "hexagon")]))
    for name in names:
        if name not in root or not set(root[name].dims) <= {"roi", "time"}:
            there = [str(n) for n in root.data_vars if set(root[n].dims) <= {"roi", "time"}]
            raise KeyError(f"no column {name!r}; there are {', '.join(['hexagon', *there])}")
    index = pd.MultiIndex.from_product([[str(r) for r in root["roi"].values], root["time"].values])
    flat = {name: by_patch(root, name).values.ravel() for name in (*names, "longitude", "latitude")}
    place = hexagons(flat.pop("longitude"), flat.pop("latitude"))
    texts = {name: values.astype(object) if values.dtype.kind == "T" else values for name, values in flat.items()}
    return pd.DataFrame({**texts, "hexagon": place}, index=index).rename_axis(["roi_id", "time"])


def _sources(cube: xr.DataTree, predicted: Predictions, reference: Found) -> tuple[dict[str, Found], list[str]]:
    """Name what is evaluated; and say what is not, and why."""
    if predicted is None:
        sources, notes = _algorithms(labels_of(cube)["labels"], reference)
        return {name: source for name, source in models_of(cube).items() if name != name_of(reference)} | sources, notes
    if isinstance(predicted, str | Path | xr.DataArray):
        predicted = {name_of(predicted): predicted}
    named = predicted if isinstance(predicted, Mapping) else {name: name for name in predicted}
    return {name: found(cube, source) for name, source in named.items()}, []


def _algorithms(labels: xr.DataArray, reference: Found) -> tuple[dict[str, Found], list[str]]:
    there = {str(band) for band in labels["band"].values}
    sources: dict[str, Found] = {}
    notes: list[str] = []
    for name in ALGORITHMS:
        if name in there and name != name_of(reference):
            try:
                if layer(name).probability and layer(name).full_scale is None:
                    full_scale(labels, name)
                sources[name] = name
            except ValueError as error:
                notes.append(f"{name} is left out: {error}")
    return sources, notes


def _wanted(cube: xr.DataTree, split: str | None) -> xr.DataArray | None:
    if split is None:
        return None
    labels = labels_of(cube)
    chosen = np.array([str(value) == split for value in labels["split"].values])
    if not chosen.any():
        raise SelectionError(f"no ROI is in split {split!r}: {_splits(cube)}")
    grid = np.repeat(chosen[:, None], labels.sizes["time"], axis=1)
    return xr.DataArray(grid, dims=("roi", "time"), coords={"roi": labels["roi"].values, "time": labels["time"].values})


def _told(split: str | None) -> str:
    return "the cube" if split is None else f"split {split!r}"


def _splits(cube: xr.DataTree) -> str:
    there = sorted({str(value) or "none" for value in labels_of(cube)["split"].values})
    return f"the cube's ROIs are in {', '.join(there)}; None (on the command line: all) takes all"


def _columns(pixels: Counts, scheme: Scheme) -> dict[str, Any]:
    """Make the columns of one layer and scheme of its pixels, shape (patch, 4, 5)."""
    binary = coarsened(pixels[:, :, :-1], scheme)
    cloudy = pixels.sum(axis=-1) @ np.array(MEMBERS["cloud"]) > 0
    (tn, fp), (fn, tp) = np.moveaxis(binary, 0, -1)
    beside = {"tp": tp, "fn": fn, "fp": fp, "tn": tn, "unlabelled": pixels[:, :, -1].sum(axis=-1), "cloudy": cloudy}
    return {**binary_accuracies(binary, cloudy), **beside}


def _notes(made: pd.DataFrame, reference: Source, split: str | None) -> list[str]:
    """Say how many patches stand behind the numbers, and where a prediction is missing."""
    lacking = []
    layers = made[made["scheme"] == "cloud"].groupby("layer", sort=False)
    for name, rows in layers:
        empty = int((rows[["tp", "fn", "fp", "tn"]].sum(axis=1) == 0).sum())
        if empty:
            lacking.append(f"{name}: no prediction for {empty} of {len(rows)} patches; they do not count")
    _, rows = next(iter(layers))
    text = f"{len(rows)} patches of {_told(split)} with a label of {name_of(reference)}; "
    return [f"{text}PA and UA over the {int(rows['cloudy'].sum())} with cloud", *lacking]

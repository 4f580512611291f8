"""The paper's benchmark on a cube: accuracies per patch, table 6, and the patches on which two runs differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import full_scale
from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.evaluation import counts as counting
from cloudsen12_cube.evaluation.counts import GROUPS, ResolvedSource, Source, labels_dataset, source_name
from cloudsen12_cube.evaluation.metrics import (
    ALGORITHMS,
    BINARY,
    MEMBERS,
    Counts,
    Unclassified,
    aggregate_counts,
    binary_accuracies,
    check_unclassified,
)
from cloudsen12_cube.evaluation.table import AccuracyTable, build_table
from cloudsen12_cube.schema import Scheme, layer

Predictions = Source | Sequence[str] | Mapping[str, Source] | None
"""Names of label layers, an array, a folder of tifs, or several of them by the name to print; None: all algorithms."""

_UNCLASSIFIED_NOTES = {
    "negative": "pixels without a predicted class count as negative, as in the paper",
    "exclude": "pixels without a predicted class are left out",
}


def evaluate(
    cube: xr.DataTree,
    reference: Source = "manual_hq",
    split: str | None = "test",
    predicted: Predictions = None,
    by: str | Sequence[str] | None = None,
    unclassified: Unclassified = "negative",
) -> AccuracyTable:
    """Compute the paper's table 6: how well algorithms detect cloud, shadow, and either of them.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with the group ``labels``.
    reference : str, xarray.DataArray or Path
        Source that is taken as the truth; as a single source of ``predicted``.
    split : {"train", "validation", "test", "all"} or None
        Split whose patches are evaluated; None and ``all`` take all patches.
    predicted : str, sequence of str, xarray.DataArray, Path or mapping, optional
        What is evaluated: names of label layers, class codes (roi, time, y, x) as an array, a folder of tifs as a Path
        (see `from_folder`), or a mapping of names to these. By default the algorithms of the archive that the cube has,
        and the layers that models have added to it.
    by : str or sequence of str, optional
        Columns of the catalogue, or ``hexagon``: a table for each of their values.
    unclassified : {"negative", "exclude"}
        What a labelled reference pixel without a predicted class counts as: ``negative``, as in the paper (not cloud,
        not shadow, not invalid), or ``exclude`` to leave it out.

    Returns
    -------
    AccuracyTable
        A DataFrame in full precision, index ``by``, scheme, layer; the columns are those of `summarise`. A layer is
        listed in the schemes that it distinguishes. It prints like the paper's table; `format_table` gives CSV,
        Markdown and LaTeX. ``attrs`` holds ``unclassified``, ``thresholds`` (layer -> threshold of its probability),
        ``reference``, ``split``, ``version`` of the package and ``notes``.

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
    return build_table(per_patch(cube, reference, split, predicted, groups, unclassified), groups)


def per_patch(
    cube: xr.DataTree,
    reference: Source = "manual_hq",
    split: str | None = "test",
    predicted: Predictions = None,
    columns: Sequence[str] = (),
    unclassified: Unclassified = "negative",
) -> pd.DataFrame:
    """Compute the accuracies behind table 6: one row per patch, scheme and layer.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with the group ``labels``.
    reference : str, xarray.DataArray or Path
        Source that is taken as the truth.
    split : {"train", "validation", "test", "all"} or None
        Split whose patches are evaluated; None and ``all`` take all patches.
    predicted : str, sequence of str, xarray.DataArray, Path or mapping, optional
        What is evaluated, as in `evaluate`.
    columns : sequence of str
        Further columns of the catalogue.
    unclassified : {"negative", "exclude"}
        What a labelled reference pixel without a predicted class counts as, as in `evaluate`.

    Returns
    -------
    pandas.DataFrame
        ``roi_id``, ``time``, ``s2_id_gee``, the columns to group by, ``scheme``, ``layer``; ``pa``, ``ua``, ``boa`` as
        `summarise` takes them; pixels ``tp``, ``fn``, ``fp``, ``tn``; ``unlabelled``, pixels without a predicted class,
        which are among ``fn`` and ``tn`` if they count as negative; ``cloudy``, whether the reference holds any cloud.
        A patch without a prediction of a layer has no row of it: its file is absent or failed, an array does not cover
        it, or a model left it unlabelled as a whole. ``attrs`` as in `evaluate`. Save it with ``to_parquet``.

    Raises
    ------
    SelectionError, KeyError, ValueError
        As in `evaluate`.
    """
    check_unclassified(unclassified)
    split = None if split == "all" else split  # other names are those of splits that the caller assigned
    table = _catalogue(cube, columns)
    truth = counting.resolve_source(cube, reference)
    sources, notes = _sources(cube, predicted, truth)
    if not sources:
        raise SelectionError("there is nothing to evaluate: name a layer, or give an array or a folder")
    # The reference is counted against itself, too: that tells its labels where other layers are missing.
    counts = counting.confusion_counts(cube, {"": truth, **sources}, truth, _in_split(cube, split)).load()
    rows, times = np.nonzero(counts.values[:, :, 0].any(axis=(-2, -1)))
    if not rows.size:
        raise SelectionError(
            f"no patch of {_split_text(split)} has a label of {source_name(reference)}: {_splits(cube)}"
        )
    labels, pixels = counts.values[rows, times, 0].sum(axis=-1), counts.values[rows, times, 1:]
    table = table.loc[list(zip(map(str, counts["roi"].values[rows]), counts["time"].values[times], strict=True))]
    table = table.reset_index().assign(cloudy=labels @ np.array(MEMBERS["cloud"]) > 0)
    models = counting.predicted_layers(cube)
    parts: list[pd.DataFrame] = []
    for scheme, (index, (name, source)) in itertools.product(BINARY, enumerate(sources.items())):
        if counting.supports_scheme(source, scheme) and counting.supports_scheme(truth, scheme):
            # A model that left a patch out wrote nothing but 255 there, which its layer cannot tell from a prediction.
            classes = slice(-1) if name in models else slice(None)
            predicted_there = pixels[:, index, :, classes].any(axis=(-2, -1))
            rows_of = table[predicted_there].assign(scheme=scheme, layer=name)
            parts.append(rows_of.assign(**_accuracies(pixels[predicted_there, index], scheme, unclassified, rows_of)))
    patches = pd.concat(parts, ignore_index=True)
    patches["cloudy"] = patches.pop("cloudy")  # to the end
    patches.attrs = {
        "reference": source_name(reference),
        "split": split,
        "unclassified": unclassified,
        "thresholds": _thresholds(sources),
        "version": version("cloudsen12-cube"),
    }
    patches.attrs["notes"] = [*_notes(table, patches, list(sources)), *notes]
    return patches


def differences(one: pd.DataFrame, other: pd.DataFrame, metric: Literal["boa", "pa", "ua"] = "boa") -> pd.DataFrame:
    """Compare two runs: list the patches by how much they differ.

    Parameters
    ----------
    one, other : pandas.DataFrame
        Results of `per_patch`. If each has a single layer, these two are compared, else layers of the same name.
    metric : {"boa", "pa", "ua"}
        Accuracy that is compared.

    Returns
    -------
    pandas.DataFrame
        ``roi_id``, ``time``, ``s2_id_gee``, ``scheme``, (``layer``,) ``one``, ``other`` and ``difference``, other minus
        one; the largest absolute difference first. Patches where either is undefined come last.

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
    """Write a table as Parquet or CSV, depending on the suffix of the file.

    Parameters
    ----------
    patches : pandas.DataFrame
        Result of `per_patch`.
    path : pathlib.Path
        File to write; ``.parquet`` or ``.csv``.

    Raises
    ------
    CubeError
        If the suffix is another, or pyarrow, which Parquet needs, is not installed.
    """
    if path.suffix == ".csv":
        patches.to_csv(path.absolute(), index=False)  # pandas takes ``file:a`` for a URL
    elif path.suffix == ".parquet":
        try:
            patches.to_parquet(path.absolute(), index=False)
        except ImportError:
            raise CubeError(f"{path}: Parquet needs pyarrow: install it, or name the file .csv") from None
    else:
        raise CubeError(f"{path} ends in {path.suffix or 'nothing'}: name the file .parquet or .csv")


def _catalogue(cube: xr.DataTree, columns: Sequence[str]) -> pd.DataFrame:
    """Return the columns of the catalogue, one row per patch, indexed by (roi_id, time)."""
    root = cube.to_dataset()
    available = [str(name) for name in root.variables if set(root[name].dims) <= {"roi", "time"}]
    names = list(dict.fromkeys(["s2_id_gee", *GROUPS, *(name for name in columns if name != "hexagon")]))
    for name in names:
        if name not in available:
            raise KeyError(f"no column {name!r}; there are {', '.join(['hexagon', *available])}")
    flat = {name: column.values.ravel() for name, column in counting.patch_columns(cube, names).items()}
    # numpy's variable-width texts, which pandas does not take
    flat = {name: values.astype(object) if values.dtype.kind == "T" else values for name, values in flat.items()}
    index = pd.MultiIndex.from_product([[str(roi) for roi in root["roi"].values], root["time"].values])
    return pd.DataFrame(flat, index=index).rename_axis(["roi_id", "time"])


def _sources(
    cube: xr.DataTree, predicted: Predictions, reference: ResolvedSource
) -> tuple[dict[str, ResolvedSource], list[str]]:
    """Return the sources to evaluate by name; and notes on those that are left out."""
    if predicted is None:
        algorithms, notes = _algorithms(counting.labels_array(cube))
        sources = {**counting.predicted_layers(cube), **algorithms}
        return {name: source for name, source in sources.items() if name != source_name(reference)}, notes
    if isinstance(predicted, str | Path | xr.DataArray):
        predicted = {source_name(predicted): predicted}
    named = predicted if isinstance(predicted, Mapping) else {name: name for name in predicted}
    return {name: counting.resolve_source(cube, source) for name, source in named.items()}, []


def _algorithms(labels: xr.DataArray) -> tuple[dict[str, ResolvedSource], list[str]]:
    """Return the algorithms of table 6 that the cube has; and notes on those whose full scale is unknown."""
    bands = {str(band) for band in labels["band"].values}
    sources: dict[str, ResolvedSource] = {}
    notes: list[str] = []
    for name in (name for name in ALGORITHMS if name in bands):
        try:
            if layer(name).probability and layer(name).full_scale is None:
                full_scale(labels, name)
            sources[name] = name
        except ValueError as error:
            notes.append(f"{name} is left out: {error}")
    return sources, notes


def _in_split(cube: xr.DataTree, split: str | None) -> xr.DataArray | None:
    """Return which ROIs are in a split; None if all are."""
    if split is None:
        return None
    chosen = [str(value) == split for value in labels_dataset(cube)["split"].values]
    if not any(chosen):
        raise SelectionError(f"no ROI is in split {split!r}: {_splits(cube)}")
    return xr.DataArray(chosen, dims="roi")


def _split_text(split: str | None) -> str:
    return "the cube" if split is None else f"split {split!r}"


def _splits(cube: xr.DataTree) -> str:
    found = sorted({str(value) or "none" for value in labels_dataset(cube)["split"].values})
    return f"the cube's ROIs are in {', '.join(found)}; 'all' takes all of them"


def _thresholds(sources: Mapping[str, ResolvedSource]) -> dict[str, dict[str, float]]:
    """Return the threshold of each layer that is a probability."""
    rows = {name: layer(source) for name, source in sources.items() if isinstance(source, str)}
    return {name: asdict(row.threshold) for name, row in rows.items() if row.threshold}


def _accuracies(
    pixels: Counts, scheme: Scheme, unclassified: Unclassified, patches: pd.DataFrame
) -> dict[str, npt.NDArray[Any]]:
    """Compute the columns of one layer and scheme from its counts, shape (patch, 4, 5)."""
    binary = aggregate_counts(pixels, scheme, unclassified)
    (tn, fp), (fn, tp) = np.moveaxis(binary, 0, -1)
    counts = {"tp": tp, "fn": fn, "fp": fp, "tn": tn, "unlabelled": pixels[:, :, -1].sum(axis=-1)}
    return {**binary_accuracies(binary, patches["cloudy"].to_numpy(dtype=bool)), **counts}


def _notes(table: pd.DataFrame, patches: pd.DataFrame, layers: Sequence[str]) -> list[str]:
    """State how many patches the numbers rest on, what unclassified pixels count as, and which layers lack patches."""
    about = patches.attrs
    text = f"{len(table)} patches of {_split_text(about['split'])} with a label of {about['reference']}; "
    counts = patches.loc[patches["scheme"] == "cloud", "layer"].value_counts()
    missing = {name: len(table) - int(counts.get(name, 0)) for name in layers}
    return [
        f"{text}PA and UA over the {int(table['cloudy'].sum())} with cloud",
        _UNCLASSIFIED_NOTES[about["unclassified"]],
        *(
            f"{name}: no prediction for {n} of {len(table)} patches; they do not count"
            for name, n in missing.items()
            if n
        ),
    ]

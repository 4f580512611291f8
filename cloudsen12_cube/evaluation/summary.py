"""Facts about the dataset that the paper states, computed from a cube: table 1, figure S3, and checks of its claims."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.errors import SelectionError
from cloudsen12_cube.evaluation.counts import confusion_counts, labels_dataset, patch_columns
from cloudsen12_cube.schema import CLASSES

COVERAGE_PERCENT = {
    "cloud-free": (0.0, 0.0),
    "almost-clear": (0.0, 25.0),
    "low-cloudy": (25.0, 45.0),
    "mid-cloudy": (45.0, 65.0),
    "cloudy": (65.0, 100.0),
}
"""Class of cloud coverage -> share of cloud in per cent, lowest and highest, by the paper's text."""

_S1_DAYS = 2.5
_DAY = np.timedelta64(1, "D")


def table_one(cube: xr.DataTree) -> pd.Series[float]:
    """Compute the row of a cube in the paper's table 1: scenes, annotated pixels, and shares of the classes.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with the group ``labels``.

    Returns
    -------
    pandas.Series
        ``scenes``, patches with a label of an expert; ``pixels``, their annotated pixels; ``clear``, ``thick_cloud``,
        ``thin_cloud``, ``cloud_shadow``, shares of these pixels in per cent. A patch counts with ``manual_hq``, or, if
        that is empty, with its scribbles, ``manual_sc``.

    Raises
    ------
    SelectionError
        If the cube has neither layer.
    """
    bands = labels_dataset(cube).indexes["band"]
    layers = [_class_counts(cube, name) for name in ("manual_hq", "manual_sc") if name in bands]
    if not layers:
        raise SelectionError(f"the cube has no label of an expert: its label layers are {', '.join(bands)}")
    counts = layers[0]
    for scribbles in layers[1:]:
        counts = np.where(counts.any(axis=1, keepdims=True), counts, scribbles)
    pixels = counts.sum()
    shares = 100 * counts.sum(axis=0) / max(int(pixels), 1)
    row = {"scenes": counts.any(axis=1).sum(), "pixels": pixels}
    return pd.Series(row | dict(zip([c.name for c in CLASSES], shares, strict=True)), dtype=np.float64, name="cube")


def sen2cor_versions(cube: xr.DataTree, split: str | None = "test") -> pd.Series[int]:
    """Count the patches that each version of Sen2Cor processed, the paper's figure S3.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    split : {"train", "validation", "test", "all"} or None
        Split whose patches are counted; None and ``all`` take all.

    Returns
    -------
    pandas.Series of int
        Index: version; the most frequent first, ``unknown`` for patches without one.

    Raises
    ------
    SelectionError
        If the split has no patch.
    """
    split = None if split == "all" else split
    names = ("split", "s2_sen2cor_version", "s2_id_gee")
    columns = patch_columns(cube, names)
    splits, versions, ids = (columns[name].values.astype(object) for name in names)
    chosen = ids != ""
    if split is not None:
        chosen &= splits == split
    if not chosen.any():
        found = ", ".join(sorted({str(name) or "none" for name in splits.flat}))
        raise SelectionError(f"no patch is in split {split!r}; the cube's are in {found}")
    return pd.Series([str(version) or "unknown" for version in versions[chosen]], name="patches").value_counts()


def claims(cube: xr.DataTree) -> pd.DataFrame:
    """Compare a cube with what the paper claims of the dataset; numbers only, nothing is judged.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube; the claims on cloud coverage need the group ``labels``.

    Returns
    -------
    pandas.DataFrame
        Index ``claim``: that Sentinel-1 is within 2.5 days of Sentinel-2, and for each class of cloud coverage that the
        share of cloud in ``manual_hq`` is in its range. Columns ``patches``, ``within`` (patches for which it holds),
        ``lowest``, ``median`` and ``highest`` of the value: days, or per cent of cloud.
    """
    root = cube.to_dataset()
    days = np.abs((root["s1_datetime"] - root["datetime"]).values / _DAY).ravel()
    rows = {f"Sentinel-1 within {_S1_DAYS:g} days": _claim(days[~np.isnan(days)], (0.0, _S1_DAYS))}
    if "labels" in cube.children and "manual_hq" in labels_dataset(cube).indexes["band"]:
        counts = _class_counts(cube, "manual_hq")
        cloud, total = counts[:, [row.cloud for row in CLASSES]].sum(axis=1), counts.sum(axis=1)
        percent = np.divide(100 * cloud, total, out=np.full(len(total), np.nan), where=total > 0)
        columns = patch_columns(cube, ("label_type", "cloud_coverage"))
        high, coverage = columns["label_type"].values.ravel() == "high", columns["cloud_coverage"].values.ravel()
        for name, (low, most) in COVERAGE_PERCENT.items():
            chosen = percent[high & (coverage == name) & ~np.isnan(percent)]
            text = f"{name}: {low:g} %" if low == most else f"{name}: {low:g} to {most:g} %"
            rows[f"{text} cloud"] = _claim(chosen, (low, most))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim")


def _claim(values: npt.NDArray[np.float64], limits: tuple[float, float]) -> dict[str, float]:
    within = int(((values >= limits[0]) & (values <= limits[1])).sum())
    low, median, high = (float(np.quantile(values, q)) if values.size else np.nan for q in (0, 0.5, 1))
    return {"patches": values.size, "within": within, "lowest": low, "median": median, "highest": high}


def _class_counts(cube: xr.DataTree, layer: str) -> npt.NDArray[np.int64]:
    """Count the pixels of each class of a layer, shape (patch, class), in the order (roi, time) of the cube."""
    counts = confusion_counts(cube, {layer: layer}, layer).isel(layer=0).sum("predicted").load()
    every = counts.reindex(roi=cube["roi"].values, fill_value=0)
    return every.transpose("roi", "time", "reference").values.reshape(-1, len(CLASSES))

"""Counting: how many pixels of a patch each pair of classes has, for many layers against one reference.

A layer becomes masks, one a class, packed to a bit a pixel; the pixels that are in two masks are the bits that are set
in both. That is exact, and several times as fast as a look-up and a histogram by pixel. All schemes of classes follow
from these counts, so the labels are read once, whatever is asked of them.

Confusion counts of a cube: for each patch, how many pixels of each reference class were predicted as each class.

One pass over the label bytes gives the counts of all layers that are asked for, in four classes; coarser schemes are
sums of these. What is held against the reference may be a label layer or an array in the caller's hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset import Reduction, full_scale, reduced
from cloudsen12_cube.evaluation.metrics import (
    CLASS_NAMES,
    Counts,
    balanced_overall_accuracy,
    coarsened,
    f1,
    iou,
    overall_agreement,
    producers_accuracy,
    users_accuracy,
)
from cloudsen12_cube.evaluation.split import hexagons
from cloudsen12_cube.evaluation.tif_predictions import from_folder
from cloudsen12_cube.format import DONE
from cloudsen12_cube.schema import CLASSES, LAYERS, UNLABELLED, Mask, Scheme, class_masks, layer

PlaneCounts = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

CLASS_COUNT = len(CLASSES)


@dataclass(frozen=True)
class Counting:
    """What is counted against what. Picklable, so that a cluster can do it."""

    bands: tuple[str, ...]
    """Label layers of the block, by position; arrays in the caller's hands follow as further sources."""
    scales: tuple[int | None, ...]
    """Stored value of probability 1 of each of them, where it is needed."""
    reference: int
    """Position of the reference among the sources."""
    predicted: tuple[int, ...]
    """Positions of the layers that are held against it."""

    def __call__(self, wanted: Mask, *arrays: npt.NDArray[Any]) -> PlaneCounts:
        """Count pixels.

        Parameters
        ----------
        wanted : numpy.ndarray of bool, shape (roi, time)
            Patches to count; the others get 0.
        *arrays : numpy.ndarray
            The block of stored labels, shape (roi, time, band, y, x), if there are bands; then one array of class
            codes, shape (roi, time, y, x), a further source.

        Returns
        -------
        numpy.ndarray of int64, shape (roi, time, layer, 4, 5)
            Reference class and predicted class of labelled reference pixels; column 4 is unlabelled by the prediction.
        """
        shape = (*wanted.shape, len(self.predicted), CLASS_COUNT, CLASS_COUNT + 1)
        counts = np.zeros(shape, dtype=np.int64)
        for patch in map(tuple, np.argwhere(wanted)):
            self._count([array[patch] for array in arrays], counts[patch])
        return counts

    def _count(self, planes: list[npt.NDArray[Any]], counts: PlaneCounts) -> None:
        """Count one patch; classes that are nowhere in the reference cost nothing."""
        bits = packed(self._masks(self.reference, planes))
        there = np.flatnonzero(bits.any(axis=1))
        rows = np.array(self._classes(self.reference))[there]
        every = np.bitwise_count(bits[there]).sum(axis=1, dtype=np.int64)
        for index, source in enumerate(self.predicted if rows.size else ()):
            both = joint(bits[there], packed(self._masks(source, planes)))
            counts[index][np.ix_(rows, self._classes(source))] = both
            counts[index][rows, CLASS_COUNT] = every - both.sum(axis=1)

    def _classes(self, source: int) -> list[int]:
        """Class codes that a source can give, in the order of its masks."""
        return sorted(layer(self.bands[source]).classes) if source < len(self.bands) else list(range(CLASS_COUNT))

    def _masks(self, source: int, planes: list[npt.NDArray[Any]]) -> Iterable[Mask]:
        if source < len(self.bands):
            return class_masks(planes[0][source], self.bands[source], self.scales[source])
        return _own(planes[source - len(self.bands) + bool(self.bands)])


def _own(codes: npt.NDArray[Any]) -> Iterable[Mask]:
    """Mask the classes of an array in the caller's hands, if it holds class codes and nothing else."""
    strange = ((codes < 0) | (codes >= CLASS_COUNT)) & (codes != UNLABELLED)
    if strange.any():
        raise ValueError(
            f"the predictions hold {codes[strange].flat[0]}: give 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud "
            f"shadow, and {UNLABELLED} where there is no prediction"
        )
    return (codes == code for code in range(CLASS_COUNT))


def packed(masks: Iterable[Mask]) -> Words:
    """Pack masks to a bit a pixel.

    Parameters
    ----------
    masks : iterable of numpy.ndarray of bool
        Of the same shape.

    Returns
    -------
    numpy.ndarray of uint64, shape (mask, words)
        Bits behind the last pixel are 0.
    """
    rows = [np.packbits(mask) for mask in masks]
    words = np.zeros((len(rows), -(-rows[0].size // 8)), dtype=np.uint64)
    words.view(np.uint8)[:, : rows[0].size] = rows
    return words


def joint(reference: Words, predicted: Words) -> PlaneCounts:
    """Count the pixels that are in each pair of masks.

    Parameters
    ----------
    reference, predicted : numpy.ndarray of uint64, shape (n, words) and (m, words)
        Packed masks of patches of fewer than 2**32 pixels.

    Returns
    -------
    numpy.ndarray of int64, shape (n, m)
    """
    bits = np.bitwise_count(reference[:, None] & predicted)
    return bits.sum(axis=-1, dtype=np.uint32).astype(np.int64)  # half the time of a sum in 64 bits


Found = str | xr.DataArray
"""A label layer of the archive by its name, or class codes (roi, time, y, x)."""

Source = Found | Path
"""What a caller may give: the same, the name of a layer that a model added, or a folder of class codes as tifs."""

PREDICTIONS = "predictions"
"""Group of a cube in which a model's layers stand, as class codes (roi, time, y, x)."""

GROUPS = ("label_type", "split", "land_cover", "difficulty", "cloud_coverage", "annotator_name")
"""Columns of the catalogue that stand beside the counts, to sum them by; ``hexagon`` is made of the place."""


def confusion(
    cube: xr.DataTree, predicted: Source, reference: Source = "manual_hq", scheme: Scheme = "four"
) -> xr.Dataset:
    """Count pixels by reference class and predicted class.

    Parameters
    ----------
    cube : xarray.DataTree
        With ``labels``.
    predicted, reference : str, xarray.DataArray or Path
        A label layer, one that a model added, or class codes (roi, time, y, x): 0 clear, 1 thick cloud, 2 thin cloud,
        3 cloud shadow, 255 unlabelled, or a folder of tifs of these (see `from_folder`). An array without coordinates
        must have the cube's ROIs and dates.
    scheme : {"four", "cloud", "shadow", "valid"}
        Which classes are told apart.

    Returns
    -------
    xarray.Dataset
        ``counts`` (roi, time, reference, predicted), int64, lazy: nothing is read before a value is asked for, and then
        once. A pixel that either side leaves unlabelled is in none; a patch that is not in the cube has 0 everywhere.
        The coordinates say what counts can be summed by: ``counts.groupby("cloud_coverage").sum()``.

    Raises
    ------
    KeyError
        If the cube has no labels, or no such layer.
    ValueError
        If a layer cannot tell the classes of the scheme, or an array does not fit the cube.
    """
    if scheme not in CLASS_NAMES:
        raise ValueError(f"no scheme {scheme!r}; there are {', '.join(CLASS_NAMES)}")
    what, against = found(cube, predicted), found(cube, reference)
    for source in (what, against):
        if not resolves(source, scheme):
            able = ", ".join(row.band for row in LAYERS if scheme in row.resolves)
            raise ValueError(f"{name_of(source)} knows no shadow: it takes part in scheme='cloud'; these can: {able}")
    counting, arrays = _prepared(cube, {name_of(what): what}, against, _done(cube))
    names = list(CLASS_NAMES[scheme])
    reduction = Reduction(
        partial(_pair, counting, scheme),
        np.dtype(np.int64),
        {"time": arrays[0].sizes["time"], "reference": len(names), "predicted": len(names)},
    )
    counts = reduced(reduction, *arrays).assign_coords(reference=names, predicted=names)
    about = {"scheme": scheme, "reference": name_of(against), "predicted": name_of(what)}
    counts.attrs = {"long_name": "pixels by reference class and predicted class", "units": "1"}
    return xr.Dataset({"counts": counts}, attrs=about).assign_coords(_groups(cube))


def accuracies(counts: xr.Dataset) -> xr.Dataset:
    """Make every metric of counts; those of a region or a split are made of their summed counts, not averaged.

    Parameters
    ----------
    counts : xarray.Dataset
        As `confusion` gives it, summed over what should be summed.

    Returns
    -------
    xarray.Dataset
        ``producers_accuracy``, ``users_accuracy``, ``f1``, ``iou`` by ``class``, and ``balanced_overall_accuracy``,
        ``overall_agreement``, over all other dims; NaN where there is nothing to divide by.
    """
    pixels = counts["counts"].transpose(..., "reference", "predicted").load()
    lead = pixels.dims[:-2]
    kept = {name: c for name, c in pixels.coords.items() if set(c.dims) <= set(lead)}
    made = xr.Dataset(coords={**kept, "class": pixels["reference"].values}, attrs=counts.attrs)
    for by_class in (producers_accuracy, users_accuracy, f1, iou):
        made[by_class.__name__] = (*lead, "class"), by_class(pixels.values)
    for overall in (balanced_overall_accuracy, overall_agreement):
        made[overall.__name__] = lead, overall(pixels.values)
    return made


def _pair(counting: Counting, scheme: Scheme, *arrays: npt.NDArray[Any]) -> Counts:
    """Count one layer in one scheme; what the prediction leaves unlabelled is left out."""
    return coarsened(counting(*arrays)[:, :, 0, :, :CLASS_COUNT], scheme)


def counted(
    cube: xr.DataTree, predicted: Mapping[str, Found], reference: Found, wanted: xr.DataArray | None = None
) -> xr.DataArray:
    """Count many layers against one reference, in one pass.

    Parameters
    ----------
    cube : xarray.DataTree
    predicted : mapping of str to (str or xarray.DataArray)
        By the name that each gets in ``layer``.
    reference : str or xarray.DataArray
    wanted : xarray.DataArray of bool, (roi, time), optional
        Patches to count; by default all that are in the cube. ROIs without one are left out, unread.

    Returns
    -------
    xarray.DataArray
        (roi, time, layer, reference, predicted), int64, lazy. ``predicted`` has the four classes and ``unlabelled``.
    """
    wanted = _done(cube) if wanted is None else wanted & _done(cube)
    wanted = wanted.isel(roi=np.flatnonzero(wanted.any("time").values))
    counting, arrays = _prepared(cube, predicted, reference, wanted)
    names = list(CLASS_NAMES["four"])
    sizes = {"time": wanted.sizes["time"], "layer": len(predicted), "reference": CLASS_COUNT}
    made = reduced(Reduction(counting, np.dtype(np.int64), {**sizes, "predicted": CLASS_COUNT + 1}), *arrays)
    return made.rename("counts").assign_coords(
        roi=wanted["roi"], time=wanted["time"], layer=list(predicted), reference=names, predicted=[*names, "unlabelled"]
    )


def models_of(cube: xr.DataTree) -> dict[str, Found]:
    """Find the layers that models have added to a cube, by name."""
    if PREDICTIONS not in cube.children:
        return {}
    layers = cube.children[PREDICTIONS].to_dataset()
    return {str(name): layers[name] for name in layers.data_vars}


def found(cube: xr.DataTree, source: Source) -> Found:
    """Find what a name stands for, a layer that a model added or else one of the archive; see a folder as an array."""
    if isinstance(source, Path):
        return from_folder(labels_of(cube), source)
    return models_of(cube).get(source, source) if isinstance(source, str) else source


def resolves(source: Found, scheme: Scheme) -> bool:
    """Tell whether a source can take part in a scheme.

    An array can, unless its attribute ``flag_meanings`` names its classes and cloud_shadow is not among them.
    """
    if isinstance(source, str):
        return scheme in layer(source).resolves
    meanings = str(source.attrs.get("flag_meanings", "")).split()
    return scheme == "cloud" or not meanings or "cloud_shadow" in meanings


def name_of(source: Source) -> str:
    """Name of a layer, an array or a folder."""
    if isinstance(source, Path):
        return source.resolve().name
    return source if isinstance(source, str) else str(source.name or "prediction")


def labels_of(cube: xr.DataTree) -> xr.Dataset:
    """Find the labels of a cube, with their coordinates.

    Raises
    ------
    KeyError
        If the cube has none.
    """
    if "labels" not in cube.children:
        raise KeyError(f"an evaluation needs the group labels; the cube has {', '.join(cube.children)}")
    return cube["labels"].to_dataset()


def _done(cube: xr.DataTree) -> xr.DataArray:
    status = labels_of(cube)["status"].transpose("roi", "time")
    coords = {dim: status[dim].variable for dim in ("roi", "time")}
    return xr.DataArray(status.values == DONE, dims=("roi", "time"), coords=coords)


def _beside(array: xr.DataArray) -> list[Any]:
    """Coordinates other than the indexes."""
    return [name for name in array.coords if name not in ("roi", "time")]


def _prepared(
    cube: xr.DataTree, predicted: Mapping[str, Found], reference: Found, wanted: xr.DataArray
) -> tuple[Counting, list[xr.DataArray]]:
    """Say what is counted, and gather the arrays: what is wanted, the bands in one block, then the caller's own."""
    labels = labels_of(cube)["labels"]
    sources = [reference, *predicted.values()]
    layers = [source for source in sources if isinstance(source, str)]
    bands = _block(layers, labels)
    own = [source for source in sources if not isinstance(source, str)]
    names = [str(band) for band in labels["band"].values[bands]]
    place = [names.index(s) if isinstance(s, str) else len(names) + _index(own, s) for s in sources]
    scales = tuple(_scale(labels, name) if name in layers else None for name in names)
    arrays = [wanted, labels.isel(band=bands).sel(roi=wanted["roi"])] if names else [wanted]
    arrays += [_fitting(array, labels, wanted) for array in own]
    return Counting(tuple(names), scales, place[0], tuple(place[1:])), arrays


def _index(arrays: list[xr.DataArray], wanted: xr.DataArray) -> int:
    return next(i for i, array in enumerate(arrays) if array is wanted)


def _block(names: list[str], labels: xr.DataArray) -> slice:
    """Find the run of bands that holds all the layers: a read of neighbours is twenty times as fast as a choice."""
    there = [str(band) for band in labels["band"].values]
    for name in names:
        if name not in there:
            raise KeyError(f"no label layer {name!r} in the cube; it has {', '.join(there)}")
    places = [there.index(name) for name in names]
    return slice(min(places), max(places) + 1) if places else slice(0, 0)


def _scale(labels: xr.DataArray, name: str) -> int | None:
    row = layer(name)
    return full_scale(labels, name) if row.probability and row.full_scale is None else row.full_scale


def _fitting(array: xr.DataArray, labels: xr.DataArray, wanted: xr.DataArray) -> xr.DataArray:
    """Check an array in the caller's hands, and bring it to the ROIs and dates that are wanted.

    Those that it lacks are unlabelled.
    """
    name, dims = name_of(array), ("roi", "time", "y", "x")
    if set(array.dims) != set(dims) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype} {array.dims}: give class codes as integers, dims {', '.join(dims)}")
    array = array.transpose(*dims)
    array = array.drop_vars(_beside(array))
    for dim in dims:
        if dim not in array.coords and array.sizes[dim] != labels.sizes[dim]:
            way = ": say which by coordinates" if dim in ("roi", "time") else ""
            raise ValueError(f"{name} has {array.sizes[dim]} along {dim}, the cube has {labels.sizes[dim]}{way}")
    array = array.assign_coords({dim: labels[dim] for dim in ("roi", "time") if dim not in array.coords})
    # Texts of ROI ids come in three types, which do not find each other in an index.
    array = array.drop_vars(_beside(array)).assign_coords(roi=[str(roi) for roi in array["roi"].values])
    rois, times = [str(roi) for roi in wanted["roi"].values], wanted["time"].values
    if set(rois) <= set(array["roi"].values.tolist()) and np.isin(times, array["time"].values).all():
        return array.sel(roi=rois, time=times)
    lazy = array if array.chunks is not None or array.variable._in_memory else array.chunk({"roi": 1})
    return lazy.reindex(roi=rois, time=times, fill_value=UNLABELLED)


def _groups(cube: xr.DataTree) -> dict[str, Any]:
    """Coordinates that counts can be summed by."""
    root = cube.to_dataset()
    columns = {name: by_patch(root, name) for name in (*GROUPS, "s2_id_gee")}
    names = hexagons(by_patch(root, "longitude").values, by_patch(root, "latitude").values)
    hexagon = xr.Variable(("roi", "time"), names.astype(str))
    return {"roi": root["roi"], "time": root["time"], **columns, "hexagon": hexagon}


def by_patch(root: xr.Dataset, name: str) -> xr.Variable:
    """Give a column of the catalogue as (roi, time), also where it belongs to the whole ROI."""
    return root[name].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").variable

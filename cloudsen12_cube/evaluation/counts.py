"""Confusion counts of a cube: for each patch, how many pixels of each reference class were predicted as each class.

One pass over the labels gives the counts of all requested layers in the four classes; coarser schemes are sums of
these, so the labels are read once for all of table 6. A layer becomes one mask per class, packed to one bit per pixel,
and the pixels in two masks are the bits set in both: exact, and several times as fast as a histogram over pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset import GROUP, Reduction, find_layer, full_scale, product_array, reduce_per_roi
from cloudsen12_cube.evaluation import metrics
from cloudsen12_cube.evaluation.metrics import CLASS_NAMES, Counts, Unclassified, aggregate_counts, check_unclassified
from cloudsen12_cube.evaluation.split import hexagons
from cloudsen12_cube.evaluation.tif_predictions import from_folder
from cloudsen12_cube.format import DONE, fill_value
from cloudsen12_cube.schema import CLASSES, LAYERS, UNLABELLED, Mask, Scheme, class_masks, layer

PixelCounts = npt.NDArray[np.int64]
PackedMasks = npt.NDArray[np.uint64]
ResolvedSource = str | xr.DataArray
"""A label layer of the archive by its name, or class codes (roi, time, y, x)."""
Source = ResolvedSource | Path
"""The name of a label layer or of a layer that a model added, class codes as an array, or a folder of tifs of these."""

GROUPS = ("label_type", "split", "land_cover", "difficulty", "cloud_coverage", "annotator_name")
"""Columns of the catalogue that become coordinates of the counts; ``hexagon`` is computed from the location."""

_CLASS_COUNT = len(CLASSES)
# Variables of `accuracies`; their names are part of the public result and do not follow those of functions.
_METRICS = {
    "producers_accuracy": metrics.producers_accuracy,
    "users_accuracy": metrics.users_accuracy,
    "f1": metrics.f1,
    "iou": metrics.iou,
    "balanced_overall_accuracy": metrics.balanced_overall_accuracy,
    "overall_agreement": metrics.overall_agreement,
}


@dataclass(frozen=True)
class ConfusionCounter:
    """Count several sources against one reference. Picklable, so that a cluster can run it.

    Parameters
    ----------
    bands : tuple[str, ...]
        Label layers of the block, in order; the class-code arrays follow as further sources.
    scales : tuple[int | None, ...]
        For each band, the stored value of probability 1, where the layer is a probability.
    reference : int
        Index of the reference among the sources.
    predicted : tuple[int, ...]
        Indices of the sources that are compared with it.
    """

    bands: tuple[str, ...]
    scales: tuple[int | None, ...]
    reference: int
    predicted: tuple[int, ...]

    def __call__(self, wanted: Mask, *arrays: npt.NDArray[Any]) -> PixelCounts:
        """Count pixels.

        Parameters
        ----------
        wanted : numpy.ndarray of bool, shape (roi, time, layer)
            Patches to count, and which layers have a prediction there; all other counts are 0.
        *arrays : numpy.ndarray
            The block of stored labels, shape (roi, time, band, y, x), if there are bands; then one array of class
            codes, shape (roi, time, y, x), for each further source.

        Returns
        -------
        numpy.ndarray of int64, shape (roi, time, layer, 4, 5)
            Reference class and predicted class of labelled reference pixels; column 4 is unclassified by the
            prediction. All 0 where a layer is missing from a patch: none of its pixels holds a stored value.
        """
        counts = np.zeros((*wanted.shape, _CLASS_COUNT, _CLASS_COUNT + 1), dtype=np.int64)
        for patch in map(tuple, np.argwhere(wanted.any(axis=-1))):
            self._count(wanted[patch], [array[patch] for array in arrays], counts[patch])
        return counts

    def _count(self, wanted: Mask, planes: list[npt.NDArray[Any]], counts: PixelCounts) -> None:
        bits = pack_masks(self._masks(self.reference, planes))
        present = np.flatnonzero(bits.any(axis=1))  # a class that the reference does not hold costs nothing below
        rows = np.array(self._classes(self.reference))[present]
        totals = np.bitwise_count(bits[present]).sum(axis=1, dtype=np.int64)
        for index, source in enumerate(self.predicted if rows.size else ()):
            if not wanted[index] or (source < len(self.bands) and _is_missing(planes[0][source])):
                continue
            predicted = bits if source == self.reference else pack_masks(self._masks(source, planes))
            pixels = intersection_counts(bits[present], predicted)
            counts[index][np.ix_(rows, self._classes(source))] = pixels
            counts[index][rows, _CLASS_COUNT] = totals - pixels.sum(axis=1)

    def _classes(self, source: int) -> list[int]:
        """Class codes of a source, in the order of its masks."""
        return sorted(layer(self.bands[source]).classes) if source < len(self.bands) else list(range(_CLASS_COUNT))

    def _masks(self, source: int, planes: list[npt.NDArray[Any]]) -> Iterable[Mask]:
        if source < len(self.bands):
            return class_masks(planes[0][source], self.bands[source], self.scales[source])
        codes = planes[source - len(self.bands) + bool(self.bands)]  # the block of bands is one plane, if there is one
        invalid = codes[((codes < 0) | (codes >= _CLASS_COUNT)) & (codes != UNLABELLED)]
        if invalid.size:
            raise ValueError(
                f"the predictions hold {invalid[0]}: give 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, and "
                f"{UNLABELLED} where there is no prediction"
            )
        return (codes == code for code in range(_CLASS_COUNT))


def _is_missing(plane: npt.NDArray[Any]) -> bool:
    """Return whether a patch lacks a label layer: all of its pixels are the fill value, which no layer uses."""
    fill = fill_value("labels", str(plane.dtype))
    return bool(plane.flat[0] == fill and (plane == fill).all())


def pack_masks(masks: Iterable[Mask]) -> PackedMasks:
    """Pack masks to one bit per pixel.

    Parameters
    ----------
    masks : iterable of numpy.ndarray of bool
        Masks of one shape.

    Returns
    -------
    numpy.ndarray of uint64, shape (mask, words)
        Bits after the last pixel are 0.
    """
    rows = [np.packbits(mask) for mask in masks]
    words = np.zeros((len(rows), -(-rows[0].size // 8)), dtype=np.uint64)
    words.view(np.uint8)[:, : rows[0].size] = rows
    return words


def intersection_counts(reference: PackedMasks, predicted: PackedMasks) -> PixelCounts:
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


def confusion(
    cube: xr.DataTree,
    predicted: Source,
    reference: Source = "manual_hq",
    scheme: Scheme = "four",
    unclassified: Unclassified = "negative",
) -> xr.Dataset:
    """Count pixels by reference class and predicted class.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with the group ``labels``.
    predicted, reference : str, xarray.DataArray or Path
        Name of a label layer or of a layer added by a model; class codes (roi, time, y, x): 0 clear, 1 thick cloud,
        2 thin cloud, 3 cloud shadow, 255 unlabelled; or a folder of tifs of these (see `from_folder`). An array without
        coordinates must have the cube's ROIs and dates.
    scheme : {"four", "cloud", "shadow", "valid"}
        Classes that are distinguished.
    unclassified : {"negative", "exclude"}
        What a labelled reference pixel without a predicted class counts as. ``negative``, the paper's rule: not cloud,
        not shadow, not invalid; in the scheme ``four`` a fifth column of ``predicted``, "unlabelled" (code 255).
        ``exclude``: it is not counted.

    Returns
    -------
    xarray.Dataset
        ``counts`` (roi, time, reference, predicted), int64, lazy: computed once, when values are needed. A pixel that
        the reference leaves unlabelled is not counted; a patch that is not in the cube, or has no prediction, has 0
        everywhere. Coordinates ``reference_code`` and ``predicted_code`` hold the codes of the classes. Sum the counts
        by any coordinate: ``counts.groupby("cloud_coverage").sum()``.

    Raises
    ------
    KeyError
        If the cube has no labels, or no such layer.
    ValueError
        If a layer does not distinguish the classes of the scheme, or an array does not fit the cube.
    """
    if scheme not in CLASS_NAMES:
        raise ValueError(f"no scheme {scheme!r}; there are {', '.join(CLASS_NAMES)}")
    check_unclassified(unclassified)
    prediction, truth = resolve_source(cube, predicted), resolve_source(cube, reference)
    for source in (prediction, truth):
        if not supports_scheme(source, scheme):
            able = ", ".join(row.band for row in LAYERS if scheme in row.resolves)
            raise ValueError(
                f"{source_name(source)} does not distinguish cloud shadow: give scheme='cloud' or a layer that does, "
                f"one of {able}"
            )
    counter, arrays = _prepare(cube, {source_name(prediction): prediction}, truth, _stored_patches(cube))
    names, codes = list(CLASS_NAMES[scheme]), list(range(len(CLASS_NAMES[scheme])))
    extra = scheme == "four" and unclassified == "negative"
    classes: dict[str, Any] = {
        "reference": names,
        "predicted": [*names, "unlabelled"] if extra else names,
        "reference_code": ("reference", codes),
        "predicted_code": ("predicted", [*codes, UNLABELLED] if extra else codes),
    }
    sizes = {"time": arrays[0].sizes["time"], **{dim: len(classes[dim]) for dim in ("reference", "predicted")}}
    function = partial(_count_scheme, counter, scheme, unclassified)
    counts = reduce_per_roi(Reduction(function, np.dtype(np.int64), sizes), *arrays)
    counts.attrs = {"long_name": "pixels by reference class and predicted class", "units": "1"}
    root = cube.to_dataset()
    about = {"reference": source_name(truth), "predicted": source_name(prediction), "unclassified": unclassified}
    coords = {"roi": root["roi"], "time": root["time"], **classes, **patch_columns(cube)}
    return xr.Dataset({"counts": counts}, coords, {"scheme": scheme, **about})


def accuracies(counts: xr.Dataset) -> xr.Dataset:
    """Compute every metric of counts; those of a region or a split come from its summed counts, not from a mean.

    Parameters
    ----------
    counts : xarray.Dataset
        Result of `confusion`, summed over the dims that are not of interest.

    Returns
    -------
    xarray.Dataset
        ``producers_accuracy``, ``users_accuracy``, ``f1``, ``iou`` by ``class``, and ``balanced_overall_accuracy``,
        ``overall_agreement``, over all other dims; NaN where the denominator is 0.
    """
    pixels = counts["counts"].transpose(..., "reference", "predicted").load()
    lead = pixels.dims[:-2]
    coords = {name: coord for name, coord in pixels.coords.items() if set(coord.dims) <= set(lead)}
    values = {name: metric(pixels.values) for name, metric in _METRICS.items()}
    variables = {name: ((*lead, "class")[: array.ndim], array) for name, array in values.items()}
    return xr.Dataset(variables, {**coords, "class": pixels["reference"].values}, counts.attrs)


def _count_scheme(
    counter: ConfusionCounter, scheme: Scheme, unclassified: Unclassified, *arrays: npt.NDArray[Any]
) -> Counts:
    """Count one layer in one scheme."""
    return aggregate_counts(counter(*arrays)[:, :, 0], scheme, unclassified)


def confusion_counts(
    cube: xr.DataTree,
    predicted: Mapping[str, ResolvedSource],
    reference: ResolvedSource,
    wanted: xr.DataArray | None = None,
) -> xr.DataArray:
    """Count many layers against one reference, in one pass.

    Parameters
    ----------
    cube : xarray.DataTree
        Cube with the group ``labels``.
    predicted : mapping of str to (str or xarray.DataArray)
        Sources by the name that each gets in ``layer``.
    reference : str or xarray.DataArray
        Source that is taken as the truth.
    wanted : xarray.DataArray of bool, (roi, time) or (roi,), optional
        Patches to count; by default all patches of the cube. ROIs without such a patch are left out and not read.

    Returns
    -------
    xarray.DataArray
        (roi, time, layer, reference, predicted), int64, lazy. ``predicted`` has the four classes and ``unlabelled``.
        All 0 where a layer is missing from a patch.
    """
    wanted = _stored_patches(cube) if wanted is None else wanted & _stored_patches(cube)
    wanted = wanted.isel(roi=np.flatnonzero(wanted.any("time").values))
    counter, arrays = _prepare(cube, predicted, reference, wanted)
    names = [*CLASS_NAMES["four"], "unlabelled"]
    coords = {"layer": list(predicted), "reference": names[:-1], "predicted": names}
    sizes = {"time": wanted.sizes["time"], **{dim: len(labels) for dim, labels in coords.items()}}
    counts = reduce_per_roi(Reduction(counter, np.dtype(np.int64), sizes), *arrays).rename("counts")
    return counts.assign_coords({"roi": wanted["roi"], "time": wanted["time"], **coords})


def predicted_layers(cube: xr.DataTree) -> dict[str, ResolvedSource]:
    """List the layers that models have added to a cube, by name."""
    layers = cube.children[GROUP].to_dataset() if GROUP in cube.children else xr.Dataset()
    return {str(name): array for name, array in layers.data_vars.items()}


def resolve_source(cube: xr.DataTree, source: Source) -> ResolvedSource:
    """Resolve a name to the layer that a model added, if there is one, and a folder to an array."""
    if isinstance(source, Path):
        return from_folder(labels_dataset(cube), source)
    added = find_layer(cube, source) if isinstance(source, str) else None
    return source if added is None else added


def supports_scheme(source: ResolvedSource, scheme: Scheme) -> bool:
    """Return whether a source distinguishes the classes of a scheme.

    An array does, unless its attribute ``flag_meanings`` lists its classes without cloud_shadow.
    """
    if isinstance(source, str):
        return scheme in layer(source).resolves
    meanings = str(source.attrs.get("flag_meanings", "")).split()
    return scheme == "cloud" or not meanings or "cloud_shadow" in meanings


def source_name(source: Source) -> str:
    """Name of a layer, an array or a folder."""
    if isinstance(source, Path):
        return source.resolve().name
    return source if isinstance(source, str) else str(source.name or "prediction")


def labels_dataset(cube: xr.DataTree) -> xr.Dataset:
    """Return the group ``labels`` of a cube as a Dataset.

    Raises
    ------
    KeyError
        If the cube has no such group.
    """
    if "labels" not in cube.children:
        raise KeyError(f"an evaluation needs the group labels; the cube has {', '.join(cube.children)}")
    return cube["labels"].to_dataset()


def labels_array(cube: xr.DataTree) -> xr.DataArray:
    """Return the stored labels with the dims (roi, time, band, y, x), also where a user has transposed them."""
    labels_dataset(cube)
    return product_array(cube, "labels").transpose("roi", "time", "band", "y", "x")


def patch_columns(cube: xr.DataTree, names: Sequence[str] = (*GROUPS, "s2_id_gee")) -> dict[str, xr.Variable]:
    """Return columns of the catalogue and ``hexagon`` as (roi, time), also those that belong to a whole ROI."""
    root = cube.to_dataset()

    def column(name: str) -> xr.Variable:
        return root[name].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").variable

    hexagon = hexagons(column("longitude").values, column("latitude").values).astype(str)
    return {**{name: column(name) for name in names}, "hexagon": xr.Variable(("roi", "time"), hexagon)}


def _stored_patches(cube: xr.DataTree) -> xr.DataArray:
    status = labels_dataset(cube)["status"].transpose("roi", "time")
    return (status == DONE).drop_vars(_non_index_coords(status)).drop_attrs(deep=False)


def _non_index_coords(array: xr.DataArray) -> list[Any]:
    return [name for name in array.coords if name not in ("roi", "time")]


def _prepare(
    cube: xr.DataTree, predicted: Mapping[str, ResolvedSource], reference: ResolvedSource, wanted: xr.DataArray
) -> tuple[ConfusionCounter, list[xr.DataArray]]:
    """Build the counter and gather its arrays: the wanted patches, the bands in one block, the class-code arrays."""
    labels = labels_array(cube)
    sources = [reference, *predicted.values()]
    layers = [source for source in sources if isinstance(source, str)]
    bands = _band_slice(layers, labels)
    names = [str(band) for band in labels["band"].values[bands]]
    block = [labels.isel(band=bands).sel(roi=wanted["roi"])] if names else []
    positions: list[int] = []
    arrays: list[xr.DataArray] = []
    covered = np.ones((*wanted.shape, len(sources)), dtype=bool)
    for index, source in enumerate(sources):
        if positions and source is reference:
            positions.append(positions[0])
        elif isinstance(source, str):
            positions.append(names.index(source))
        else:
            positions.append(len(names) + len(arrays))
            covered[..., index] = _coverage(source, wanted)
            arrays.append(_align(source, labels, wanted))
    covered &= wanted.values[..., None] & covered[..., :1]  # a patch without the reference is not counted at all
    by_layer = xr.DataArray(covered[..., 1:], dims=(*wanted.dims, "layer"))
    scales = tuple(_scale(labels, name) if name in layers else None for name in names)
    counter = ConfusionCounter(tuple(names), scales, positions[0], tuple(positions[1:]))
    return counter, [by_layer, *block, *arrays]


def _band_slice(names: list[str], labels: xr.DataArray) -> slice:
    """Find the run of bands that holds all layers: reading a slice is twenty times as fast as reading a list."""
    bands = [str(band) for band in labels["band"].values]
    for name in names:
        if name not in bands:
            raise KeyError(f"no label layer {name!r} in the cube; it has {', '.join(bands)}")
    positions = [bands.index(name) for name in names]
    return slice(min(positions), max(positions) + 1) if positions else slice(0, 0)


def _scale(labels: xr.DataArray, name: str) -> int | None:
    row = layer(name)
    return full_scale(labels, name) if row.probability and row.full_scale is None else row.full_scale


def _same_pixels(array: xr.DataArray, labels: xr.DataArray) -> xr.DataArray:
    """Select the rows and columns of the labels by their numbers, where an array states its own."""
    for dim in ("y", "x"):
        mine, wanted = array.indexes.get(dim), labels.indexes.get(dim)
        if mine is None or wanted is None or mine.equals(wanted):
            continue
        positions = mine.get_indexer(wanted) if mine.is_unique else np.array([-1])
        if (positions < 0).any():
            raise ValueError(
                f"{source_name(array)} has {dim} from {mine[0]} to {mine[-1]}, the cube's labels from {wanted[0]} to "
                f"{wanted[-1]}: give an array of the same pixels, or drop its coordinate {dim} to compare by position"
            )
        array = array.isel({dim: positions})
    return array


def _coverage(array: xr.DataArray, wanted: xr.DataArray) -> Mask:
    """Return which wanted patches an array has a prediction of: its own ROIs and dates, and those that have a file."""
    covered = np.ones(wanted.shape, dtype=bool)
    if "roi" in array.coords:
        covered &= np.isin(_texts(wanted["roi"]), _texts(array["roi"]))[:, None]
    if "time" in array.coords:
        covered &= np.isin(wanted["time"].values, array["time"].values)
    if "has_file" in array.coords:
        files = array["has_file"].transpose("roi", "time").assign_coords(roi=_texts(array["roi"]))
        covered &= files.reindex(roi=_texts(wanted["roi"]), time=wanted["time"].values, fill_value=False).values
    return covered


def _texts(array: xr.DataArray) -> list[str]:
    """Return ROI ids as str: fixed-width, variable-width and object texts do not match each other."""
    return [str(value) for value in array.values]


def _align(array: xr.DataArray, labels: xr.DataArray, wanted: xr.DataArray) -> xr.DataArray:
    """Check an array of class codes, and select the wanted ROIs and dates; those that it lacks are unlabelled."""
    name, dims = source_name(array), ("roi", "time", "y", "x")
    if set(array.dims) != set(dims) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype} {array.dims}: give class codes as integers, dims {', '.join(dims)}")
    array = _same_pixels(array.transpose(*dims), labels).drop_vars(_non_index_coords(array))
    for dim in dims:
        if dim not in array.coords and array.sizes[dim] != labels.sizes[dim]:
            hint = ": add coordinates that say which" if dim in ("roi", "time") else ""
            raise ValueError(f"{name} has {array.sizes[dim]} along {dim}, the cube has {labels.sizes[dim]}{hint}")
    array = array.assign_coords({dim: labels[dim].values for dim in ("roi", "time") if dim not in array.coords})
    array = array.assign_coords(roi=_texts(array["roi"]))
    rois, times = _texts(wanted["roi"]), wanted["time"].values
    if set(rois) <= set(array["roi"].values.tolist()) and np.isin(times, array["time"].values).all():
        return array.sel(roi=rois, time=times)
    lazy = array if array.chunks is not None or array.variable._in_memory else array.chunk({"roi": 1})
    return lazy.reindex(roi=rois, time=times, fill_value=UNLABELLED)

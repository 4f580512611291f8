"""Label layers as classes, superclasses and masks: xarray in, xarray out, with CF flag attributes.

``schema.labels`` computes the values. Here a layer is found by its name, classes that it does not distinguish are
refused, and the result is described. Nothing is read before values are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset.lazy import Kernel, lazy_apply
from cloudsen12_cube.format import attribute_mapping
from cloudsen12_cube.schema import (
    CLASSES,
    LAYERS,
    SUPERCLASSES,
    UNLABELLED,
    ClassName,
    Layer,
    Superclass,
    Threshold,
    layer,
)
from cloudsen12_cube.schema import labels as label_values

_UINT8, _BOOL = np.dtype("uint8"), np.dtype(bool)
_PLANE = ("y", "x")
_CODE = {row.name: row.code for row in CLASSES}
_NON_CLOUD = frozenset(row.code for row in CLASSES if not row.cloud)
_CLOUD = frozenset(row.code for row in CLASSES if row.cloud)


def classes(
    labels: xr.DataArray, name: str | None = None, threshold: Threshold | None = None, scale: int | None = None
) -> xr.DataArray:
    """View a label layer as the four classes.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``, with its ``band`` dim, or one band of it; or class codes already, as a prediction is.
    name : str, optional
        Label layer; by default the only band of ``labels``.
    threshold : Threshold, optional
        For a layer of probabilities; by default as in the paper's benchmark.
    scale : int, optional
        Stored value of probability 1 of CD-FCNN, where the cube does not state it.

    Returns
    -------
    xarray.DataArray of uint8
        0 clear, 1 thick_cloud, 2 thin_cloud, 3 cloud_shadow, 255 unlabelled; without ``band``.

    Raises
    ------
    KeyError
        If there is no such layer in the array; the message lists those that are.
    ValueError
        If a threshold is given for a layer of codes, or the full scale is unknown.
    """
    if is_codes(labels, name):
        return labels
    plane, row = _plane(labels, name)
    if threshold is not None and not row.probability:
        raise ValueError(f"{row.band} holds codes, no probability: omit the threshold")
    full = full_scale(labels, row.band, scale) if row.probability and not row.full_scale else None
    function = partial(label_values.to_classes, name=row.band, scale=full, threshold=threshold)
    core = _PLANE if row.probability else ()
    codes = lazy_apply(Kernel(function, _UINT8, core, core), plane)
    return _described(codes, row.band, f"classes of {row.band}", [c.name for c in CLASSES])


def is_codes(labels: xr.DataArray, name: str | None = None) -> bool:
    """Return whether an array holds class codes already: a result of `classes`, or a predicted layer."""
    stated = labels.attrs.get("layer")
    return "band" not in labels.dims and labels.dtype == _UINT8 and stated is not None and name in (None, stated)


def _row(name: str) -> Layer:
    """Return the row of a layer; a predicted one distinguishes all four classes."""
    if name in {row.band for row in LAYERS}:
        return layer(name)
    return Layer(name, {}, {row.code: row.code for row in CLASSES})


def _plane(labels: xr.DataArray, name: str | None) -> tuple[xr.DataArray, Layer]:
    """Find a layer in an array, without the coordinates that describe bands."""
    there = [str(band) for band in np.atleast_1d(labels["band"].values)] if "band" in labels.coords else []
    if name is None:
        if len(there) != 1:
            raise KeyError(f"give the name of a layer: the array has {', '.join(there) or 'no coordinate band'}")
        name = there[0]
    known = [row.band for row in LAYERS]
    if (there and name not in there) or name not in known:
        raise KeyError(f"no label layer {name!r} here; there are {', '.join(b for b in there or known if b in known)}")
    plane = labels.sel(band=name) if "band" in labels.dims else labels
    about = [key for key, c in labels.coords.items() if key == "band" or c.dims == ("band",)]
    scalars = [key for key in ("band_long_name", "units", "scale", "offset", "nodata") if key in plane.coords]
    return plane.drop_vars({*about, *scalars}, errors="ignore"), layer(name)


def full_scale(labels: xr.DataArray, name: str, scale: int | None = None) -> int:
    """Find the full scale of a layer of probabilities.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``.
    name : str
        CD-FCNN-RGBI or CD-FCNN-RGBISWIR.
    scale : int or None
        Value that the caller gives; by default the one that the conversion found in the whole cube.

    Returns
    -------
    int
        Stored value of probability 1.

    Raises
    ------
    ValueError
        If it is unknown, or the cube states another one.
    """
    recorded = attribute_mapping(labels.attrs.get("layers", {})).get(name, {}).get("valid_max")
    if scale is not None and recorded is not None and scale != recorded:
        raise ValueError(
            f"scale is {scale}, but the full scale of {name} is {recorded} in this cube: omit the argument"
        )
    if scale is None and recorded is None:
        raise ValueError(
            f"the full scale of {name} is unknown (all values fit both 0 to 100 and 0 to 10000): "
            "give scale=100, scale=10000, or scale=1 for a mask"
        )
    return int(recorded if scale is None else scale)


def _described(codes: xr.DataArray, name: str, text: str, meanings: Sequence[str]) -> xr.DataArray:
    """Describe codes by CF flags; 255 is a flag of its own, since 0 is a class."""
    values = np.array([*range(len(meanings)), UNLABELLED], dtype=np.uint8)
    codes.attrs = {
        "long_name": text,
        "standard_name": "status_flag",
        "flag_values": values,
        "flag_meanings": " ".join([*meanings, "unlabelled"]),
        "layer": name,
        "_FillValue": np.uint8(UNLABELLED),  # by which rioxarray declares nodata
    }
    return codes.rename(name)


def superclass(
    labels: xr.DataArray,
    scheme: Superclass,
    name: str | None = None,
    threshold: Threshold | None = None,
    scale: int | None = None,
) -> xr.DataArray:
    """View a label layer as a superclass.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``, with its ``band`` dim, or one band of it; or class codes already, as a prediction is.
    scheme : {"cloud", "valid"}
        ``cloud``: 0 non_cloud, 1 cloud. ``valid``: 0 valid, 1 invalid.
    name : str, optional
        Label layer; by default the only band of ``labels``.
    threshold : Threshold, optional
        For a layer of probabilities; by default as in the paper's benchmark.
    scale : int, optional
        Stored value of probability 1 of CD-FCNN, where the cube does not state it.

    Returns
    -------
    xarray.DataArray of uint8
        255 where unlabelled.

    Raises
    ------
    ValueError
        If there is no such superclass, or the layer does not distinguish it; the message lists those that do.
    """
    codes = classes(labels, name, threshold, scale)
    row = _row(codes.attrs["layer"])
    check_resolves(row, scheme)
    view = lazy_apply(Kernel(partial(label_values.to_superclass, scheme=scheme), _UINT8), codes)
    return _described(view, row.band, f"superclass {scheme} of {row.band}", SUPERCLASSES[scheme])


def check_resolves(row: Layer, scheme: Superclass) -> None:
    """Refuse an unknown superclass, and one that a layer does not distinguish.

    Parameters
    ----------
    row : Layer
        Row of the layer in the table of layers.
    scheme : {"cloud", "valid"}
        Superclass.

    Raises
    ------
    ValueError
        The message lists the superclasses, or the layers that distinguish this one.
    """
    if scheme not in SUPERCLASSES:
        raise ValueError(f"unknown superclass {scheme!r}; the superclasses are {', '.join(SUPERCLASSES)}")
    if scheme not in row.resolves:
        able = ", ".join(other.band for other in LAYERS if scheme in other.resolves)
        raise ValueError(
            f"{row.band} does not distinguish {scheme} from in{scheme}, it has no shadow; layers that do: {able}"
        )


def mask(
    labels: xr.DataArray,
    names: Sequence[ClassName],
    name: str | None = None,
    threshold: Threshold | None = None,
    scale: int | None = None,
) -> xr.DataArray:
    """Mask the pixels of some classes.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``, with its ``band`` dim, or one band of it; or class codes already, as a prediction is.
    names : sequence of str
        Any of ``clear``, ``thick_cloud``, ``thin_cloud``, ``cloud_shadow``.
    name : str, optional
        Label layer; by default the only band of ``labels``.
    threshold : Threshold, optional
        For a layer of probabilities; by default as in the paper's benchmark.
    scale : int, optional
        Stored value of probability 1 of CD-FCNN, where the cube does not state it.

    Returns
    -------
    xarray.DataArray of bool
        Its coordinate ``labelled`` is False where the layer has no label. Such a pixel is not in the mask, nor is it in
        the complement, which is ``~mask & mask.labelled``.

    Raises
    ------
    ValueError
        If a class is unknown, none is given, or the layer does not distinguish one; the message lists those that do.
    """
    wanted = _codes_of(names)
    codes = classes(labels, name, threshold, scale)
    _check_distinguished(wanted, codes.attrs["layer"])
    mask = lazy_apply(Kernel(partial(label_values.in_classes, wanted=wanted), _BOOL), codes)
    labelled = lazy_apply(Kernel(label_values.is_labelled, _BOOL), codes)
    mask.attrs = {"long_name": f"{' or '.join(names)} of {codes.attrs['layer']}", "layer": codes.attrs["layer"]}
    # Rasters have no bool: rioxarray writes the type of the encoding, and the attribute lets xarray read bool again.
    mask.encoding["dtype"], mask.attrs["dtype"] = "uint8", "bool"
    labelled.attrs = {"long_name": f"whether {codes.attrs['layer']} has a label"}
    return mask.assign_coords(labelled=labelled.variable)


def _codes_of(names: Sequence[str]) -> frozenset[int]:
    unknown = [name for name in names if name not in _CODE]
    if unknown or not names:
        found = f"no class {unknown[0]!r}" if unknown else "no class is given"
        raise ValueError(f"{found}; the classes are {', '.join(get_args(ClassName))}")
    return frozenset(_CODE[name] for name in names)


def _check_distinguished(wanted: frozenset[int], name: str) -> None:
    """Refuse classes that a layer does not distinguish from others."""
    unable = wanted - _distinguished(_row(name).classes, wanted)
    if unable:
        text = CLASSES[min(unable)].name
        able = ", ".join(row.band for row in LAYERS if not wanted - _distinguished(row.classes, wanted))
        pair = "clear and cloud_shadow" if unable & _NON_CLOUD else "thick_cloud and thin_cloud"
        raise ValueError(f"{name} does not distinguish {text}; layers that do: {able}. It has {pair} only together")


def _distinguished(given: frozenset[int], wanted: frozenset[int]) -> frozenset[int]:
    """Classes that a layer distinguishes: those it has, but clear only with shadow; a whole superclass always."""
    single = given if _CODE["cloud_shadow"] in given else given - _NON_CLOUD
    pairs = [pair for pair in (_NON_CLOUD, _CLOUD) if pair <= wanted]
    return single.union(*pairs)


def priority_merge(
    labels: xr.DataArray, names: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
) -> xr.DataArray:
    """Merge label layers: where they differ, the class of the highest priority in the paper's table 3 wins.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``, with its ``band`` dim.
    names : sequence of str
        Label layers; their order does not matter.
    threshold : Threshold, optional
        For all layers of probabilities among them; by default each one's own.
    scale : int, optional
        Stored value of probability 1 of CD-FCNN, where the cube does not state it.

    Returns
    -------
    xarray.DataArray of uint8
        Class codes: thick cloud before cloud shadow before thin cloud before clear; 255 where no layer has a label.
    """
    if not names:
        raise KeyError("no layer is given: give at least one, such as manual_hq")
    views = [classes(labels, name, threshold if layer(name).probability else None, scale) for name in names]
    codes = lazy_apply(Kernel(_merged, _UINT8), *views)
    return _described(codes, "+".join(names), f"classes of {', '.join(names)} by priority", [c.name for c in CLASSES])


def _merged(*codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return label_values.merge(np.stack(codes))

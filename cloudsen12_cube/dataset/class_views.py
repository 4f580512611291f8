"""Label layers seen as classes, superclasses and masks: xarray in, xarray out, with CF's flag attributes.

The values are made by ``labels``; here a layer is found by its name, what it cannot tell is refused, and what comes out
says what it means. Nothing is read before somebody asks for values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudsen12_cube.dataset.lazy import Kernel, lazy_apply
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
    """See a label layer as the four classes.

    Parameters
    ----------
    labels : xarray.DataArray
        A cube's ``labels``, with its ``band`` dim, or one band of it; or class codes already, as a prediction is.
    name : str, optional
        Label layer; by default the one band that ``labels`` is.
    threshold : Threshold, optional
        For a layer of probabilities; by default as the paper's benchmark did it.
    scale : int, optional
        Stored value of probability 1 of CD-FCNN, where the cube could not tell it.

    Returns
    -------
    xarray.DataArray of uint8
        0 clear, 1 thick_cloud, 2 thin_cloud, 3 cloud_shadow, 255 unlabelled; without ``band``.

    Raises
    ------
    KeyError
        If there is no such layer in the array; the message lists those that are.
    """
    if is_codes(labels, name):
        return labels
    plane, row = _plane(labels, name)
    if threshold is not None and not row.probability:
        raise ValueError(f"{row.band} holds codes, no probability: leave the threshold out")
    full = full_scale(labels, row.band, scale) if row.probability and not row.full_scale else None
    function = partial(label_values.to_classes, name=row.band, scale=full, threshold=threshold)
    core = _PLANE if row.probability else ()
    made = lazy_apply(Kernel(function, _UINT8, core, core), plane)
    return _described(made, row.band, f"classes of {row.band}", [c.name for c in CLASSES])


def is_codes(labels: xr.DataArray, name: str | None = None) -> bool:
    """Tell whether an array holds class codes already: what `classes` gave, or a predicted layer."""
    told = labels.attrs.get("layer")
    return "band" not in labels.dims and labels.dtype == _UINT8 and told is not None and name in (None, told)


def _row(name: str) -> Layer:
    """Row of a layer; a predicted one tells all four classes."""
    if name in {row.band for row in LAYERS}:
        return layer(name)
    return Layer(name, {}, {row.code: row.code for row in CLASSES})


def _plane(labels: xr.DataArray, name: str | None) -> tuple[xr.DataArray, Layer]:
    """Find a layer in an array, and take away what is said of bands alone."""
    there = [str(band) for band in np.atleast_1d(labels["band"].values)] if "band" in labels.coords else []
    if name is None:
        if len(there) != 1:
            raise KeyError(f"say which layer: the array has {', '.join(there) or 'no coordinate band'}")
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
        The caller's word; by default what the conversion found in the whole cube.

    Raises
    ------
    ValueError
        If the cube does not know, or knows better.
    """
    recorded = labels.attrs.get("layers", {}).get(name, {}).get("valid_max")
    if scale is not None and recorded is not None and scale != recorded:
        raise ValueError(
            f"scale is {scale}, but the cube found {recorded} to be the full scale of {name}: leave it out"
        )
    if scale is None and recorded is None:
        raise ValueError(
            f"the full scale of {name} is unknown (no value of the cube tells 0 to 100 from 0 to 10000): "
            "give scale=100, scale=10000, or scale=1 for a mask"
        )
    return int(recorded if scale is None else scale)


def _described(made: xr.DataArray, name: str, text: str, meanings: Sequence[str]) -> xr.DataArray:
    """Say in CF's words what the codes mean; 255 is a flag of its own, since 0 means something."""
    values = np.array([*range(len(meanings)), UNLABELLED], dtype=np.uint8)
    made.attrs = {
        "long_name": text,
        "standard_name": "status_flag",
        "flag_values": values,
        "flag_meanings": " ".join([*meanings, "unlabelled"]),
        "layer": name,
    }
    return made.rename(name)


def superclass(
    labels: xr.DataArray,
    scheme: Superclass,
    name: str | None = None,
    threshold: Threshold | None = None,
    scale: int | None = None,
) -> xr.DataArray:
    """See a label layer as a superclass.

    Parameters
    ----------
    labels, name, threshold, scale
        As in `classes`.
    scheme : {"cloud", "valid"}
        ``cloud``: 0 non_cloud, 1 cloud. ``valid``: 0 valid, 1 invalid.

    Returns
    -------
    xarray.DataArray of uint8
        255 where unlabelled.

    Raises
    ------
    ValueError
        If there is no such superclass, or the layer cannot tell it; the message lists those that can.
    """
    codes = classes(labels, name, threshold, scale)
    row = _row(codes.attrs["layer"])
    check_resolves(row, scheme)
    made = lazy_apply(Kernel(partial(label_values.to_superclass, scheme=scheme), _UINT8), codes)
    return _described(made, row.band, f"superclass {scheme} of {row.band}", SUPERCLASSES[scheme])


def check_resolves(row: Layer, scheme: Superclass) -> None:
    """Refuse a superclass that is none, or that a layer cannot tell.

    Raises
    ------
    ValueError
        The message lists what can be asked for.
    """
    if scheme not in SUPERCLASSES:
        raise ValueError(f"no superclass {scheme!r}; there are {', '.join(SUPERCLASSES)}")
    if scheme not in row.resolves:
        able = ", ".join(other.band for other in LAYERS if scheme in other.resolves)
        raise ValueError(f"{row.band} cannot tell {scheme} from in{scheme}, it knows no shadow; these can: {able}")


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
    labels, name, threshold, scale
        As in `classes`.
    names : sequence of str
        Any of ``clear``, ``thick_cloud``, ``thin_cloud``, ``cloud_shadow``.

    Returns
    -------
    xarray.DataArray of bool
        Its coordinate ``labelled`` is False where the layer has no label. Such a pixel is not in the mask, nor is it in
        the complement, which is ``~mask & mask.labelled``.

    Raises
    ------
    ValueError
        If a class is unknown, none is given, or the layer cannot tell one; the message lists those that can.
    """
    wanted = _codes_of(names)
    codes = classes(labels, name, threshold, scale)
    _resolved(wanted, codes.attrs["layer"])
    made = lazy_apply(Kernel(partial(label_values.in_classes, wanted=wanted), _BOOL), codes)
    labelled = lazy_apply(Kernel(label_values.is_labelled, _BOOL), codes)
    made.attrs = {"long_name": f"{' or '.join(names)} of {codes.attrs['layer']}", "layer": codes.attrs["layer"]}
    labelled.attrs = {"long_name": f"whether {codes.attrs['layer']} has a label"}
    return made.assign_coords(labelled=labelled.variable)


def _codes_of(names: Sequence[str]) -> frozenset[int]:
    unknown = [name for name in names if name not in _CODE]
    if unknown or not names:
        found = f"no class {unknown[0]!r}" if unknown else "no class is named"
        raise ValueError(f"{found}; the classes are {', '.join(get_args(ClassName))}")
    return frozenset(_CODE[name] for name in names)


def _resolved(wanted: frozenset[int], name: str) -> None:
    """Refuse classes that a layer cannot tell from their neighbours."""
    unable = wanted - _told(_row(name).classes, wanted)
    if unable:
        text = CLASSES[min(unable)].name
        able = ", ".join(row.band for row in LAYERS if not wanted - _told(row.classes, wanted))
        pair = "clear and cloud_shadow" if unable & _NON_CLOUD else "thick_cloud and thin_cloud"
        raise ValueError(f"{name} cannot tell {text}; these layers can: {able}. It does tell {pair} together")


def _told(given: frozenset[int], wanted: frozenset[int]) -> frozenset[int]:
    """Classes that a layer tells: those it gives, but clear only if it knows shadow; a whole superclass always."""
    single = given if _CODE["cloud_shadow"] in given else given - _NON_CLOUD
    pairs = [pair for pair in (_NON_CLOUD, _CLOUD) if pair <= wanted]
    return single.union(*pairs)


def priority_merge(
    labels: xr.DataArray, names: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
) -> xr.DataArray:
    """Merge label layers: where they differ, the class of the highest priority in the paper's table 3 wins.

    Parameters
    ----------
    labels, scale
        As in `classes`.
    names : sequence of str
        Label layers; their order does not matter.
    threshold : Threshold, optional
        For all layers of probabilities among them; by default each one's own.

    Returns
    -------
    xarray.DataArray of uint8
        Class codes: thick cloud before cloud shadow before thin cloud before clear; 255 where no layer has a label.
    """
    if not names:
        raise KeyError("no layer is named: give at least one, such as manual_hq")
    views = [classes(labels, name, threshold if layer(name).probability else None, scale) for name in names]
    made = lazy_apply(Kernel(_merged, _UINT8), *views)
    return _described(made, "+".join(names), f"classes of {', '.join(names)} by priority", [c.name for c in CLASSES])


def _merged(*codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return label_values.merge(np.stack(codes))

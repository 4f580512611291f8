"""The metadata arrays of a cube as plain numpy: which there are, their values, dims and attributes.

One list feeds the store, and nothing here knows how it is stored. The full table stands at the root; every product's
group repeats the columns that a reader needs with its pixels, since Zarr readers of a group see nothing of the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.assets import assets_of
from cloudsen12_cube.classes import LAYERS
from cloudsen12_cube.grid import parse_transform
from cloudsen12_cube.properties import PLUS, PROPERTIES, ROI_WIDE, Property

CORE = (
    "s2_id_gee",
    "datetime",
    "s1_datetime",
    "label_type",
    "split",
    "cloud_coverage",
    "difficulty",
    "longitude",
    "latitude",
    "proj_epsg",
    "proj_transform",
)
"""Properties that stand beside the pixels of every product."""

STATUS = ("absent", "done", "failed")
"""Meaning of the codes 0, 1 and 2 of ``status``."""

NAT = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Column:
    """One metadata array."""

    name: str
    dims: tuple[str, ...]
    values: npt.NDArray[Any]
    """Text as an object array of str; times as int64 microseconds since 1970."""
    fill: str | int | float = 0
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """The catalogue laid out on (roi, time), in the order of the disk."""

    order: tuple[str, ...]
    times: int
    table: pd.DataFrame
    """Rows in any order, with ``roi_id`` and ``time``."""

    def place(self, values: Any, fill: Any, dtype: Any) -> npt.NDArray[Any]:
        """Scatter one value a row to (roi, time); what no row names is the fill."""
        position = {roi: index for index, roi in enumerate(self.order)}
        grid = np.full((len(self.order), self.times), fill, dtype=dtype)
        grid[self.table["roi_id"].map(position).to_numpy(), self.table["time"].to_numpy()] = values
        return grid


def dimensions(frame: Frame) -> Iterator[Column]:
    """Yield the coordinates of the dims that all groups share."""
    yield Column("roi", ("roi",), np.array(frame.order, dtype=object), "", {"long_name": "region of interest"})
    text = "rank of the image in its ROI by acquisition; see datetime"
    yield Column("time", ("time",), np.arange(frame.times, dtype="int64"), 0, {"long_name": text})


def properties(frame: Frame) -> Iterator[Column]:
    """Yield the columns of the catalogue."""
    for row in (*PROPERTIES, *(row for row in PLUS if row.name in frame.table)):
        yield _transform(frame, row) if row.name == "proj_transform" else _property(frame, row)


def _property(frame: Frame, row: Property) -> Column:
    attributes: dict[str, Any] = {"long_name": row.description}
    if row.units:
        attributes["units"] = row.units
    values, fill = _values(frame, row)
    if row.kind == "time":
        attributes |= {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian", "_FillValue": NAT}
    if row.name in ROI_WIDE:
        return Column(row.name, ("roi",), values[:, 0], fill, attributes)
    return Column(row.name, ("roi", "time"), values, fill, attributes)


def _values(frame: Frame, row: Property) -> tuple[npt.NDArray[Any], Any]:
    column = frame.table[row.name]
    if row.kind == "text":
        return frame.place(column.to_numpy(dtype=object), "", object), ""
    if row.kind == "time":
        micro = column.to_numpy(dtype="datetime64[us]").astype("int64")
        return frame.place(micro, NAT, "int64"), NAT
    if row.kind == "float":
        return frame.place(column.to_numpy(), np.nan, "float64"), float("nan")
    return frame.place(column.to_numpy(), row.missing, "int32"), row.missing


def _transform(frame: Frame, row: Property) -> Column:
    grid = np.full((len(frame.order), frame.times, 6), np.nan)
    position = {roi: index for index, roi in enumerate(frame.order)}
    for roi, time, text in zip(*(frame.table[c] for c in ("roi_id", "time", "proj_transform")), strict=True):
        grid[position[roi], time] = parse_transform(text) or np.nan
    attributes = {"long_name": row.description, "units": row.units}
    return Column(row.name, ("roi", "time", "affine"), grid, float("nan"), attributes)


def bands(product: str) -> Iterator[Column]:
    """Yield what is known of each band: name, meaning, scale, units, nodata and, where it has one, wavelength."""
    rows = assets_of(product)
    yield _band("band", [a.band for a in rows], "band, named as in the archive")
    yield _band("band_long_name", [a.long_name for a in rows], "meaning of the band")
    yield _band("units", [a.units for a in rows], "units of the physical value")
    yield _band("scale", [a.scale for a in rows], "physical value = scale x stored value + offset")
    yield _band("offset", [0.0 for _ in rows], "physical value = scale x stored value + offset")
    yield _band("nodata", [np.nan if a.nodata is None else a.nodata for a in rows], "stored value that means no data")
    if any(a.wavelength for a in rows):
        yield _band("common_name", [a.common_name or "" for a in rows], "STAC common name")
        for index, satellite in enumerate(("s2a", "s2b")):
            values = [a.wavelength[index] if a.wavelength else np.nan for a in rows]
            yield _band(f"wavelength_{satellite}", values, "central wavelength", {"units": "nm"})


def _band(name: str, values: list[Any], text: str, more: dict[str, Any] | None = None) -> Column:
    is_text = isinstance(values[0], str)
    array = np.array(values, dtype=object if is_text else "float64")
    return Column(name, ("band",), array, "" if is_text else float("nan"), {"long_name": text} | (more or {}))


def status(values: npt.NDArray[np.uint8]) -> Column:
    """Make the column that says which patches are there.

    Parameters
    ----------
    values : numpy.ndarray of uint8, shape (roi, time)
    """
    attributes = {
        "long_name": "whether the pixels of this patch are in the cube",
        "standard_name": "status_flag",
        "flag_values": list(range(len(STATUS))),
        "flag_meanings": " ".join(STATUS),
    }
    return Column("status", ("roi", "time"), values, 0, attributes)


def label_flags(scale: int | None) -> dict[str, Any]:
    """Meaning of the stored values of each label layer, by band: CF's flag attributes, one set a layer.

    Parameters
    ----------
    scale : int, optional
        Full scale of CD-FCNN's probability, where the values of the whole cube tell it.
    """
    flags: dict[str, Any] = {}
    for layer in LAYERS:
        if layer.meanings:
            kind = "flag_masks" if layer.bits else "flag_values"
            meanings = {v: m for v, m in layer.meanings.items() if not layer.bits or v in (1024, 2048)}
            flags[layer.band] = {kind: list(meanings), "flag_meanings": " ".join(meanings.values())}
        else:
            flags[layer.band] = {"long_name": "cloud probability", "valid_min": 0}
            full = layer.full_scale or scale
            flags[layer.band] |= {"valid_max": full} if full else {}
    return flags

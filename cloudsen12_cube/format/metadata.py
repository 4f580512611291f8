"""The metadata of a cube: a pure function of its catalogue, records and settings, and back.

First as plain numpy columns, then as the objects of a Zarr v3 store. The full table stands at the root; the group of
every product repeats the columns that are needed beside its pixels, since Zarr readers of a group see nothing of the
root. A cube that was interrupted and continued ends with the same bytes, since nothing but the contents decides them.

Pixels do not pass here: `shard` encodes them. This is the only module of the room that imports zarr.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
import zarr_cm
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype

from cloudsen12_cube.errors import ReadError, RemoteError, StoreError
from cloudsen12_cube.format.cube import State, StoredCube
from cloudsen12_cube.format.guard import checked_view
from cloudsen12_cube.format.layout import (
    BLOCKS,
    DEFAULT,
    DIMS,
    KEY,
    ROOT_KEY,
    Layout,
    ProductLayout,
    array_path,
    roi_chunk,
)
from cloudsen12_cube.format.record import STATUS, StatusGrid
from cloudsen12_cube.schema import (
    LAYERS,
    PLUS,
    PROPERTIES,
    ROI_WIDE,
    UNKNOWN,
    Property,
    assets_of,
    enclosing_box,
    is_legal_key,
    parse_transform,
    transform_text,
)
from cloudsen12_cube.storage import ObjectStore, each, list_once

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

    def scatter(self, values: Any, fill: Any, dtype: Any, more: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        """Scatter the values of rows to (roi, time, ...); the fill stands where there is no row."""
        position = {roi: index for index, roi in enumerate(self.order)}
        grid = np.full((len(self.order), self.times, *more), fill, dtype=dtype)
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
        attributes: dict[str, Any] = {"long_name": row.description} | ({"units": row.units} if row.units else {})
        values, fill = _column_values(frame, row)
        dims: tuple[str, ...] = ("roi", "time")
        if row.kind == "time":
            attributes |= {
                "units": "microseconds since 1970-01-01",
                "calendar": "proleptic_gregorian",
                "_FillValue": NAT,
            }
        if row.name == "proj_transform":
            dims = ("roi", "time", "affine")
        elif row.name in ROI_WIDE:
            values, dims = values[:, 0], ("roi",)
        yield Column(row.name, dims, values, fill, attributes)


def _column_values(frame: Frame, row: Property) -> tuple[npt.NDArray[Any], Any]:
    column = frame.table[row.name]
    if row.name == "proj_transform":
        six = [parse_transform(text) or (np.nan,) * 6 for text in column]
        return frame.scatter(np.array(six).reshape(-1, 6), np.nan, "float64", (6,)), float("nan")
    if row.kind == "text":
        return frame.scatter(column.to_numpy(dtype=object), "", object), ""
    if row.kind == "time":
        return frame.scatter(column.to_numpy(dtype="datetime64[us]").astype("int64"), NAT, "int64"), NAT
    if row.kind == "float":
        return frame.scatter(column.to_numpy(), np.nan, "float64"), float("nan")
    return frame.scatter(column.to_numpy(), row.missing, "int32"), row.missing


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


ABOUT = {
    "title": "CloudSEN12: Sentinel-2 image patches with cloud and cloud-shadow labels",
    "references": "https://doi.org/10.1038/s41597-022-01878-2",
    "citation": "Aybar, C. et al. CloudSEN12, a global dataset for semantic understanding of cloud and cloud shadow in "
    "Sentinel-2. Scientific Data 9, 782 (2022).",
    "institution": "contains modified Copernicus Sentinel data",
}
"""Root attributes of every cube."""

_LICENSE: Any = zarr_cm.license.create_convention_attrs(spdx="CC-BY-4.0")


@dataclass(frozen=True)
class Contents:
    """All that a cube's metadata follows from."""

    frame: Frame
    layouts: tuple[ProductLayout, ...]
    status: dict[str, npt.NDArray[np.uint8]]
    """Product -> (roi, time) of 0 absent, 1 done, 2 failed."""
    settings: dict[str, Any]
    """Written to the root attribute ``cloudsen12``."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Other root attributes: title, licence, provenance."""
    scale: int | None = None
    """Full scale of CD-FCNN's probability; None where it is not known."""


def metadata_objects(contents: Contents) -> dict[str, bytes]:
    """Make every metadata object of a cube.

    Parameters
    ----------
    contents : Contents

    Returns
    -------
    dict of str to bytes
        Key -> object; ``zarr.json`` of the root, with the consolidated metadata, is the last.
    """
    memory: dict[str, Any] = {}
    root = zarr.create_group(store=zarr.storage.MemoryStore(memory), zarr_format=3)
    _write(root, [*dimensions(contents.frame), *properties(contents.frame)])
    for layout in contents.layouts:
        group = root.create_group(layout.product, attributes=_LICENSE)
        _write(group, bands(layout.product))
        _write_mutable(group, layout, contents)
    made = {key: value.to_bytes() for key, value in memory.items()}
    for layout in contents.layouts:
        made |= _copied(made, layout.product)
    return _with_root(made, contents)


def rebuild_metadata(made: Mapping[str, bytes], contents: Contents) -> dict[str, bytes]:
    """Make the metadata objects again after a change of nothing but the status and the settings.

    Parameters
    ----------
    made : mapping of str to bytes
        What `metadata_objects` gave for the same frame and layouts.
    contents : Contents

    Returns
    -------
    dict of str to bytes
        Equal to ``metadata_objects(contents)``, in a tenth of the time.
    """
    memory: dict[str, Any] = {}
    root = zarr.create_group(store=zarr.storage.MemoryStore(memory), zarr_format=3)
    for layout in contents.layouts:
        _write_mutable(root.create_group(layout.product), layout, contents)
    mutable = tuple(key for layout in contents.layouts for key in _mutable_prefixes(layout.product))
    fresh = {key: value.to_bytes() for key, value in memory.items() if key.startswith(mutable)}
    return _with_root({**made, **fresh}, contents)


def write_metadata(
    store: ObjectStore, contents: Contents, before: Mapping[str, bytes] | None = None, is_new: bool = False
) -> dict[str, bytes]:
    """Write the metadata objects of a cube that changed, the root's last.

    Parameters
    ----------
    store : ObjectStore
    contents : Contents
    before : mapping of str to bytes, optional
        What this function returned before, for the same frame and layouts: then only what can have changed is made.
    is_new : bool
        Whether hardly an object is there yet: one listing is cheaper then than asking for each.

    Returns
    -------
    dict of str to bytes
        All metadata objects.
    """
    before = before or {}
    made = rebuild_metadata(before, contents) if before else metadata_objects(contents)
    there = list_once(store) if is_new else store

    def write(item: tuple[str, bytes]) -> None:
        key, data = item
        if before.get(key) == data:
            return
        with suppress(ReadError):  # what the disk cannot read is replaced
            if there.get(key) == data:
                return
        store.put(key, data, sync=key == ROOT_KEY)

    *others, root = made.items()
    list(each(store, write, others))
    write(root)
    return made


def contents_of(cube: StoredCube, state: State) -> Contents:
    """Derive the contents of a cube from its catalogue and records alone, as its conversion does.

    Parameters
    ----------
    cube : StoredCube
    state : {"converting", "final"}
        What its settings are to state.
    """
    layouts = tuple(cube.layouts.values())
    grid = StatusGrid.empty(layouts, len(cube.order), cube.stated.full_scale)
    for layout in layouts:
        for _, record in cube.records(layout.product):
            if record is not None:
                grid.add(record)
    settings = cube.settings | {"state": state}
    frame = Frame(cube.order, layouts[0].times, cube.table)
    return Contents(frame, layouts, grid.status, settings, root_attributes(settings), grid.scale)


def root_attributes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a cube is, and by which steps it was made.

    Parameters
    ----------
    settings : mapping
        The root attribute ``cloudsen12``.
    """
    steps, before = settings.get("subsets", []), settings.get("resharded_from")
    line = f"{settings['created']}: converted by {settings['tool']}"
    if before:
        line = f"{before['history']}\n{settings['created']}: re-sharded from {before['cube']} by {settings['tool']}"
    lines = [line, *(f"{step['created']}: subset of {step['cube']} by {step['tool']}" for step in steps)]
    return ABOUT | {
        "source": settings["source"],
        "history": "\n".join(lines).strip(),
        "date_created": steps[-1]["created"] if steps else settings["created"],
    }


def _mutable_prefixes(product: str) -> tuple[str, str]:
    """Return the beginnings of the keys that change with the records: the status, and the attributes of the pixels."""
    return f"{product}/status/", f"{array_path(product)}/zarr.json"


def _copied(made: dict[str, bytes], product: str) -> dict[str, bytes]:
    """Repeat in a product's group the arrays of the root that every reader of pixels needs."""
    names = {"roi", "time", *CORE}
    return {f"{product}/{key}": data for key, data in made.items() if key.partition("/")[0] in names}


def _with_root(made: dict[str, bytes], contents: Contents) -> dict[str, bytes]:
    """Write the root last: its attributes, and every node's metadata inline (consolidated, as in the v3.1 text)."""
    nodes = {key.removesuffix("/zarr.json"): key for key in sorted(made) if key.endswith("/zarr.json")}
    inline = {path: json.loads(made[key]) for path, key in nodes.items()}
    root = {
        "attributes": _root_attributes(contents),
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": inline},
        "node_type": "group",
    }
    ordered = {key: made[key] for key in sorted(made) if key != ROOT_KEY}
    return ordered | {ROOT_KEY: json.dumps(root).encode()}


def _root_attributes(contents: Contents) -> dict[str, Any]:
    attributes = {"Conventions": "CF-1.12", **contents.attributes, KEY: contents.settings}
    parts: list[Any] = [_LICENSE, zarr_cm.proj.create_convention_attrs(code="EPSG:4326")]
    box = bounding_box(contents.frame.table)
    if box:
        spatial = zarr_cm.spatial.create_convention_attrs(dimensions=["latitude", "longitude"], bbox=box)
        parts.append(spatial)
    for part in parts:
        attributes |= part
    return attributes | {"zarr_conventions": [entry for part in parts for entry in part["zarr_conventions"]]}


def bounding_box(table: pd.DataFrame) -> list[float] | None:
    """West, south, east, north of all patch centres in degrees, as `enclosing_box`; None where no centre is known."""
    points = table[["longitude", "latitude"]].to_numpy(dtype=np.float64)
    return enclosing_box(np.hstack([points, points]))


def _write_mutable(group: Any, layout: ProductLayout, contents: Contents) -> None:
    """Write what depends on the records: the status, and the description of the array of the pixels."""
    _write(group, [status(contents.status[layout.product])])
    beside = [column.name for column in bands(layout.product) if column.name != "band"]
    names = " ".join([*beside, "status", *CORE])
    attributes: dict[str, Any] = {"long_name": f"CloudSEN12 {layout.product}", "coordinates": names}
    if layout.product == "labels":
        attributes |= {"layers": label_flags(contents.scale), "missing_label": layout.fill}
    group.create_array(
        layout.product,
        shape=layout.shape(len(contents.frame.order)),
        chunks=layout.chunk,
        shards=layout.shard,
        dtype=layout.dtype,
        fill_value=layout.fill,
        compressors=_codecs(layout.form),
        filters=None,
        dimension_names=DIMS,
        attributes=attributes,
    )


def _codecs(form: Layout) -> list[Any]:
    if form.codec == "none":
        return [Crc32cCodec()]
    block = BLOCKS[form.codec]
    return [BloscCodec(cname=form.codec, clevel=form.level or 0, shuffle="shuffle", blocksize=block), Crc32cCodec()]


def _write(group: Any, columns: Iterable[Column]) -> None:
    """Store columns, each in one chunk with room for more ROIs than there are."""
    for column in columns:
        is_text = column.values.dtype == object
        array = group.create_array(
            column.name,
            shape=column.values.shape,
            chunks=tuple(
                roi_chunk(size) if dim == "roi" else max(size, 1)
                for dim, size in zip(column.dims, column.values.shape, strict=True)
            ),
            dtype="string" if is_text else column.values.dtype,
            fill_value=column.fill,
            compressors=[ZstdCodec(level=3, checksum=False), Crc32cCodec()],
            filters=None,
            dimension_names=column.dims,
            attributes=column.attributes,
            config={"write_empty_chunks": True},
        )
        array[...] = column.values.astype(np.dtypes.StringDType()) if is_text else column.values


def prediction_encoding(times: int, height: int, width: int) -> dict[str, Any]:
    """Return the encoding of a predicted layer for xarray: a shard an ROI and a chunk a date, whatever the cube has."""
    return {
        "chunks": (1, 1, height, width),
        "shards": (1, times, height, width),
        "compressors": _codecs(DEFAULT),
        "filters": (),
        "_FillValue": None,
        "fill_value": 255,
    }


def reference_codec(layout: ProductLayout) -> ShardingCodec:
    """Codec that the product's array declares, for tests that compare shards with zarr-python's own."""
    return ShardingCodec(
        chunk_shape=layout.chunk, codecs=[BytesCodec(), *_codecs(layout.form)], subchunk_write_order="lexicographic"
    )


def memory_store(objects: Mapping[str, bytes]) -> Any:
    """Return what zarr and xarray open of a cube's metadata that lie nowhere but in memory."""
    held: dict[str, Any] = {key: default_buffer_prototype().buffer.from_bytes(data) for key, data in objects.items()}
    return zarr.storage.MemoryStore(held, read_only=True)


def open_group(cube: StoredCube) -> Any:
    """Open a cube by zarr, read-only; all that is read is checked."""
    return zarr.open_group(checked_view(cube), mode="r")


def read_table(cube: StoredCube) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Read the catalogue back out of a cube.

    Returns
    -------
    order : tuple of str
        ROIs as they lie on disk.
    table : pandas.DataFrame
        One row a patch, in the order of the disk: ``roi_id``, ``time``, every column of ``PROPERTIES``, and
        those of ``PLUS`` that are there.
    """
    root = cube.group
    order = read_order(cube)
    images = _values(root, "s2_id_gee")
    index, time = np.nonzero(images != "")
    columns: dict[str, Any] = {"roi_id": np.array(order, dtype=object)[index], "time": time}
    for row in (*PROPERTIES, *(row for row in PLUS if row.name in root)):
        values = _values(root, row.name)
        picked = values[index] if values.ndim == 1 else values[index, time]
        columns[row.name] = _typed(row.name, row.kind, picked)
    return order, pd.DataFrame(columns)


def read_order(cube: StoredCube) -> tuple[str, ...]:
    """Read the ROIs as they lie on disk: the position of one is the number of its shards."""
    rois = tuple(str(roi) for roi in _values(cube.group, "roi"))
    for roi in rois:
        if not is_legal_key(roi, "image"):
            raise StoreError(
                f"{cube.store.root}: roi is damaged (it has the value {roi[:40]!r}, expected ROI_ and at most nine "
                "digits): restore its files from a copy, or convert again into a new place"
            )
    return rois


def read_status(cube: StoredCube) -> dict[str, npt.NDArray[np.uint8]]:
    """Read which patches readers may take for done: product -> (roi, time) in the order of the disk."""
    root = cube.group
    found: dict[str, npt.NDArray[np.uint8]] = {
        product: _values(root, f"{product}/status").astype(np.uint8) for product in cube.layouts
    }
    for product, values in found.items():
        if values.max(initial=0) >= len(STATUS):
            raise StoreError(
                f"{cube.store.root}: {product}/status is damaged (it has the value {values.max()}, expected 0 to "
                f"{len(STATUS) - 1}): run the same convert with --repair"
            )
    return found


def _values(root: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(root[name][...])
    except RemoteError:
        raise
    except Exception as error:  # whatever a damaged chunk makes a codec raise
        place = str(root.store_path).removeprefix("file://")
        raise StoreError(f"{place}: {name} is damaged ({error}): run the same convert with --repair") from None


def damaged_tables(cube: StoredCube) -> list[str]:
    """Read every array but the pixels; give a line for each that cannot be read."""
    found = []
    for name, array in cube.group.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim < len(DIMS):
            try:
                array[...]
            except RemoteError:
                raise
            except Exception as error:  # whatever a damaged chunk makes a codec raise
                found.append(f"{name}: cannot be read ({error})")
    return sorted(found)


def _typed(name: str, kind: str, values: npt.NDArray[Any]) -> Any:
    if name == "proj_transform":
        return ["" if np.isnan(six[0]) else transform_text(six) for six in values]
    if kind == "time":
        return values.astype("datetime64[us]").astype("datetime64[ns]")  # the fill is numpy's own NaT
    if kind == "text" and name != "s2_id_gee":
        # Cubes of before this release may hold another notation of an unknown text.
        return np.array(["" if text in UNKNOWN else text for text in values.astype(object)], dtype=object)
    return values


def read_shard(cube: StoredCube, product: str, index: int) -> npt.NDArray[Any]:
    """Read all pixels of one ROI through zarr-python's own reader.

    Returns
    -------
    numpy.ndarray, shape (time, band, y, x)
    """
    return np.asarray(cube.group[array_path(product)][index])

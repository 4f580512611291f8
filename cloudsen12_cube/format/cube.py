"""A cube on disk, opened without xarray: its settings, layouts, catalogue and records.

Everything that reads a cube other than through an xarray tree begins here. Opening reads one object, the root's
``zarr.json``; the catalogue and the records are read when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.document import Natural, attribute_mapping, load_json, parse
from cloudsen12_cube.format.layout import (
    KEY,
    ROOT_KEY,
    ProductLayout,
    array_path,
    check_version,
    layout_of,
    records_path,
)
from cloudsen12_cube.format.record import UNSCALED, AcceptedFailure, ShardRecord, agreeing, load
from cloudsen12_cube.schema import ProductName, Selection, TestMeaning
from cloudsen12_cube.storage import ObjectStore, each, list_names, list_once, open_store

State = Literal["creating", "converting", "final"]
"""What the last run has said of itself: no metadata yet; shards are being written; finished."""


@dataclass(frozen=True)
class CubeSettings:
    """The root attribute ``cloudsen12``, as far as readers use it; what else stands there is kept as it is."""

    layout_version: int
    tool: str
    created: str
    source: str
    metadata: str
    test_meaning: TestMeaning
    selection: Selection
    products: dict[ProductName, dict[str, Any]]
    """Product -> layout, which `layout_of` reads."""
    state: State
    patches: Natural = 0
    """Patches that a cube is to have, stated while it is being created."""
    accepted: tuple[AcceptedFailure, ...] = ()
    full_scale: Natural | None = None
    subsets: tuple[dict[str, Any], ...] = ()
    resharded_from: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a cube of nothing."""
        if not self.products:
            raise ValueError("products is empty, expected at least one")


@dataclass(frozen=True)
class StoredCube:
    """A cube on disk. Made by `open_stored_cube`."""

    store: ObjectStore
    document: Mapping[str, Any]
    """The root's ``zarr.json``."""
    stated: CubeSettings
    """Its settings, validated."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as they stand in the root."""
        settings: dict[str, Any] = self.document["attributes"][KEY]
        return settings

    @property
    def state(self) -> State:
        """``creating``, ``converting`` or ``final``."""
        return self.stated.state

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root other than the settings."""
        return {name: value for name, value in self.document["attributes"].items() if name != KEY}

    @property
    def full_scale(self) -> int | None:
        """Full scale of CD-FCNN's probability, if the cube states it."""
        try:
            nodes = self.document["consolidated_metadata"]["metadata"]
            flags = attribute_mapping(nodes[array_path("labels")]["attributes"]["layers"])
            return int(next(flags[band]["valid_max"] for band in UNSCALED if flags[band].get("valid_max")))
        except (KeyError, TypeError, ValueError, StopIteration):  # no labels, or none whose scale is known
            return self.stated.full_scale

    @cached_property
    def layouts(self) -> dict[ProductName, ProductLayout]:
        """Product -> its array.

        Raises
        ------
        StoreError
            If this release cannot read a product's layout.
        """
        return {product: layout_of(product, row) for product, row in self.stated.products.items()}

    @cached_property
    def group(self) -> Any:
        """The cube as zarr opens it; its metadata are checked once.

        Raises
        ------
        StoreError
            If it describes an array that this package does not write.
        """
        from cloudsen12_cube.format.metadata import open_group  # imports zarr

        return open_group(self)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """ROIs as they lie on disk; empty while the cube is being created.

        Raises
        ------
        StoreError
            If the array of the ROIs is damaged.
        """
        from cloudsen12_cube.format.metadata import read_order

        return () if self.state == "creating" else read_order(self)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Catalogue, a row a patch in the order of the disk; empty while the cube is being created.

        Raises
        ------
        StoreError
            If one of its arrays is damaged.
        """
        from cloudsen12_cube.format.metadata import read_table

        return pd.DataFrame() if self.state == "creating" else read_table(self)[1]

    @property
    def patches(self) -> int:
        """Patches that the cube has, or is to have while it is being created."""
        return self.stated.patches if self.state == "creating" else len(self.table)

    @cached_property
    def status(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Product -> what readers see of its patches, (roi, time) in the order of the disk: 0, 1 or 2."""
        from cloudsen12_cube.format.metadata import read_status

        return read_status(self)

    @cached_property
    def listed(self) -> ObjectStore:
        """The store with its objects listed once, so that asking for the size of each costs no request."""
        return list_once(self.store)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {roi: index for index, roi in enumerate(self.order)}

    @property
    def has_records(self) -> bool:
        """Whether any ROI has a record; tools that copy what zarr lists leave them out."""
        return any(True for product in self.layouts for _ in self.listed.list(records_path(product)))

    def record(self, product: ProductName, roi_id: str) -> ShardRecord | None:
        """Read the record of an ROI; None if it is missing or damaged, or does not fit the cube."""
        return self._load(self.store, product, roi_id)

    def _load(self, store: ObjectStore, product: ProductName, roi_id: str) -> ShardRecord | None:
        record = load(store, self.layouts[product], roi_id)
        return record if record and record.index == self._position.get(roi_id, record.index) else None

    def records(self, product: ProductName) -> Iterator[tuple[str, ShardRecord | None]]:
        """Yield each ROI and its record; None if it is missing, or the shard's object has another length.

        While the cube is being created, the ROIs are those that have a record.
        """
        layout, store, rois = self.layouts[product], self.listed, self.order or self._recorded(product)

        def read(roi_id: str) -> ShardRecord | None:
            record = self._load(store, product, roi_id)
            return record if record and record.size == (store.size(layout.place(record.index)[0]) or 0) else None

        found = each(store, read, rois)
        shared = layout.form.rois_per_shard
        yield from zip(rois, found if shared == 1 else agreeing(list(found), shared), strict=True)

    def _recorded(self, product: str) -> tuple[str, ...]:
        return tuple(name.removesuffix(".json") for name in list_names(self.store, records_path(product)))


def open_stored_cube(place: Any, least: State = "converting") -> StoredCube:
    """Open a cube without xarray.

    Parameters
    ----------
    place : path, URL, `Url` or ObjectStore
        Where the cube lies.
    least : {"creating", "converting", "final"}
        State that it must have reached: ``creating`` takes a cube that has nothing but settings and perhaps records,
        ``converting`` one whose catalogue is there, and ``final`` a finished one.

    Raises
    ------
    StoreError
        If there is no cube at the place, or it has not got so far.
    """
    store = open_store(place)
    cube = find_stored_cube(store)
    if cube is None:
        raise StoreError(f"{store.root} is no cube: there is no {ROOT_KEY} in it")
    if cube.state == "creating" and least != "creating":
        raise StoreError(
            f"{store.root} is being created, or its creation was cut short: run the same convert command again"
        )
    if least == "final" and cube.state != "final":
        raise StoreError(f"{store.root} is not finished: end its conversion first, by the same command or `finalise`")
    return cube


def find_stored_cube(store: ObjectStore) -> StoredCube | None:
    """Open the cube in a store, whatever its state; None if there is no root object.

    Raises
    ------
    StoreError
        If the root is that of something else, or of a cube that another release laid out.
    """
    root = store.get(ROOT_KEY)
    if root is None:
        return None
    document = read_root(root, store.root)
    settings = document["attributes"][KEY]
    known = {field.name for field in fields(CubeSettings)}  # a newer release may state more
    try:
        stated = parse(CubeSettings, {name: value for name, value in settings.items() if name in known})
    except ValueError as error:
        raise StoreError(
            f"{store.root}: the attribute {KEY!r} of {ROOT_KEY} is damaged, {error}: restore the file from a copy, or "
            "convert again into a new place"
        ) from None
    return StoredCube(store, document, stated)


def read_root(data: bytes, place: str) -> dict[str, Any]:
    """Read the root object of a cube.

    Raises
    ------
    StoreError
        If it is no Zarr v3 group, or one that is no cube of CloudSEN12.
    """
    try:
        document: dict[str, Any] = load_json(data)
        settings = document["attributes"][KEY]
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{place} is a Zarr store, but no CloudSEN12 cube: its root lacks the attribute {KEY!r}"
        ) from None
    try:
        settings = document["attributes"][KEY] = attribute_mapping(settings)  # a text in what xarray has copied
    except ValueError as error:
        raise StoreError(f"{place}: the root attribute {KEY!r} {error}") from None
    check_version(settings, place)
    return document


def is_cube(place: str | os.PathLike[str]) -> bool:
    """Return whether there is a cube at a place, finished or not, of this release or another."""
    try:
        root = open_store(place).get(ROOT_KEY)
        return root is not None and KEY in load_json(root)["attributes"]
    except (ValueError, KeyError, TypeError):
        return False

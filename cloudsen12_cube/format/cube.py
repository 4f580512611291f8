"""cube."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudsen12_cube.errors import DestinationError, StoreError
from cloudsen12_cube.format.layout import ProductLayout, layout_of
from cloudsen12_cube.format.metadata import KEY, ROOT_KEY, read_table, settings_of, stated_scale
from cloudsen12_cube.storage import ObjectStore, open_store


@dataclass(frozen=True)
class SourceCube:
    """A finished cube."""

    place: ObjectStore
    settings: dict[str, Any]
    order: tuple[str, ...]
    """ROIs as they lie on disk."""
    table: pd.DataFrame
    """Its catalogue, a row a patch."""
    attributes: dict[str, Any]
    """Of its root."""
    scale: int | None
    """Full scale of CD-FCNN's probability, if it knows it."""

    @property
    def layouts(self) -> dict[str, ProductLayout]:
        """Product -> its array."""
        return {product: layout_of(product, row) for product, row in self.settings["products"].items()}


def is_cube(source: str | os.PathLike[str]) -> bool:
    """Tell whether there is a cube at a place, finished or not."""
    try:
        root = open_store(source).get(ROOT_KEY)
        return root is not None and KEY in json.loads(root)["attributes"]
    except (DestinationError, ValueError, KeyError, TypeError):
        return False


def open_source_cube(source: str | os.PathLike[str]) -> SourceCube:
    """Open a cube to make another one from it.

    Raises
    ------
    StoreError
        If it is not finished.
    """
    place = open_store(source)
    root = place.get(ROOT_KEY)
    settings = settings_of(root, place.root)
    if settings.get("state") != "final" or root is None:
        raise StoreError(f"{place.root} is not finished: end its conversion first, by the same command or `finalise`")
    order, table = read_table(place.root, place.access)
    document = json.loads(root)
    attributes = {name: value for name, value in document["attributes"].items() if name != KEY}
    return SourceCube(place.portable(), settings, order, table, attributes, stated_scale(root))

"""A cube equals the cube that it was made from: every pixel, status and property of the patches that both are to have.

Both are read by zarr-python, whatever their layouts; which date is which follows from the image ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.errors import RemoteError
from cloudsen12_cube.place import Place
from cloudsen12_cube.store import read_shard, read_status, read_table

_KEY = ["roi_id", "s2_id_gee"]
_COUNTED_ANEW = {"time", *_KEY}


@dataclass(frozen=True)
class Other:
    """A cube to compare with."""

    place: Place
    settings: dict[str, Any]

    @cached_property
    def _read(self) -> tuple[tuple[str, ...], pd.DataFrame]:
        return read_table(self.place.root, self.place.access)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Its catalogue by patch."""
        return self._read[1].set_index(_KEY, drop=False)

    @cached_property
    def disk(self) -> dict[str, int]:
        """ROI -> position on disk."""
        return {roi: index for index, roi in enumerate(self._read[0])}

    @cached_property
    def status(self) -> dict[str, Any]:
        """Product -> (roi, time) of 0 absent, 1 done, 2 failed."""
        return read_status(self.place.root, self.settings["products"], self.place.access)


def compare_tables(table: pd.DataFrame, other: Other) -> tuple[int, list[str]]:
    """Compare the catalogue of a cube with that of another.

    Returns
    -------
    compared : int
        Values.
    differences : list of str
    """
    compared, differences = 0, []
    for record in table.to_dict("records"):
        key = record["roi_id"], record["s2_id_gee"]
        if key not in other.rows.index:
            differences.append(f"metadata of {key[0]}/{key[1]}: in the cube, but not in {other.place.root}")
            continue
        theirs = other.rows.loc[key]
        for name in (str(name) for name in record if name not in _COUNTED_ANEW):
            compared += 1
            if not _same(record[name], theirs.get(name)):
                found, expected = f"{name} is {record[name]!r}", f"{theirs.get(name)!r}"
                differences.append(f"metadata of {key[0]}/{key[1]}: {found}, {other.place.root} says {expected}")
    return compared, differences


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or bool(pd.isna(a) and pd.isna(b))


def compare_pixels(
    place: Place, product: str, index: int, rows: pd.DataFrame, status: Any, other: Other
) -> tuple[int, list[str]]:
    """Compare the patches of one ROI and product with those of another cube.

    Parameters
    ----------
    place : Place
    product : str
    index : int
        Position of the ROI on disk.
    rows : pandas.DataFrame
        Its patches.
    status : numpy.ndarray of uint8, shape (time,)
    other : Other

    Returns
    -------
    compared : int
        Pixels.
    differences : list of str
    """
    roi = str(rows["roi_id"].iloc[0])
    if product not in other.settings["products"] or roi not in other.disk:
        return 0, [f"{product} of {roi}: not in {other.place.root}"]
    try:
        mine = read_shard(place.root, product, index, place.access)
        theirs = read_shard(other.place.root, product, other.disk[roi], other.place.access)
    except RemoteError:
        raise
    except Exception as error:  # whatever a damaged shard makes a codec raise is a finding
        return 0, [f"{product} of {roi}: cannot be read ({error})"]
    found = list(_patches(product, rows, other, (mine, status), theirs))
    return mine[: len(rows)].size, found


def _patches(product: str, rows: pd.DataFrame, other: Other, mine: tuple[Any, Any], theirs: Any) -> Iterator[str]:
    pixels, status = mine
    for roi, image, time in zip(rows["roi_id"], rows["s2_id_gee"], rows["time"], strict=True):
        if (roi, image) not in other.rows.index:
            continue  # the catalogues' difference says so
        name, when = f"{product} of {roi}/{image}", int(other.rows.loc[(roi, image), "time"])
        stated = int(other.status[product][other.disk[roi], when])
        if status[time] != stated:
            yield f"{name}: status {status[time]}, in {other.place.root} {stated}"
        elif not np.array_equal(pixels[time], theirs[when], equal_nan=pixels.dtype.kind == "f"):
            yield f"{name}: differs from {other.place.root}"

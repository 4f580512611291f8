"""Statistics of a cube: mean, deviation and percentiles of every band, and how many pixels of each class a patch has.

They are computed once, over the split that is trained on, and stored beside the pixels with what they were computed
from. They lie under an array, where no Zarr reader lists, as the records do.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format.document import Natural, load_json, parse
from cloudsen12_cube.format.layout import array_path
from cloudsen12_cube.schema import ProductName, bands_of
from cloudsen12_cube.storage import ObjectStore

PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
COUNTED = (0, 1, 2, 3, 255)
"""Class codes that are counted."""

_STEP = 0.01  # of a float band's histogram: decibels or degrees
_HALF = 20_000  # steps on either side of 0


@dataclass(frozen=True)
class BandStatistics:
    """One band, in stored values; what is no data is left out."""

    band: str
    pixels: Natural
    mean: float
    std: float
    percentiles: dict[str, float]
    """Per cent -> value: exact for integers, to 0.01 for floats."""


@dataclass(frozen=True)
class StatisticsSource:
    """What statistics were computed from."""

    split: str | None
    """None is all."""
    rois: Natural
    patches: Natural
    computed: str
    """UTC time."""
    tool: str


def statistics_key(product: str) -> str:
    """Key of the statistics of a product's bands."""
    return f"{array_path(product)}/statistics.json"


COUNTS_KEY = f"{array_path('labels')}/class_counts.npz"


class Histogram:
    """Counts of a band's values; adding patches in any order, or in parts, gives the same."""

    def __init__(self, dtype: str) -> None:
        kind = np.dtype(dtype)
        self.floating = kind.kind == "f"
        self.low, high = -_HALF, _HALF
        if not self.floating:  # wider integers hold a mixture of files with and without a sign, all of 16 bits
            self.low, high = max(int(np.iinfo(kind).min), -(2**15)), min(int(np.iinfo(kind).max), 2**16 - 1)
        self.counts = np.zeros(high - self.low + 1, dtype=np.int64)
        self.sum = self.squares = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count values; they are of any shape, and without what is no data."""
        if self.floating:
            exact = values.astype(np.float64)
            self.sum += float(exact.sum())
            self.squares += float((exact**2).sum())
            values = np.clip(np.rint(exact / _STEP), -_HALF, _HALF).astype(np.int64)
        self.counts += np.bincount(values.ravel().astype(np.int64) - self.low, minlength=len(self.counts))

    def statistics(self, band: str) -> BandStatistics:
        """Draw the figures from the counts."""
        pixels = int(self.counts.sum())
        if not pixels:
            return BandStatistics(band, 0, float("nan"), float("nan"), {})
        values = np.arange(self.low, self.low + len(self.counts)) * (_STEP if self.floating else 1)
        total = self.sum if self.floating else float((values * self.counts).sum())
        mean = total / pixels
        if self.floating:
            variance = max(self.squares / pixels - mean**2, 0.0)
        else:
            variance = float((self.counts * (values - mean) ** 2).sum()) / pixels
        ends = np.cumsum(self.counts)
        ranks = [max(int(np.ceil(pixels * p / 100)), 1) for p in PERCENTILES]
        found = values[np.searchsorted(ends, ranks)]
        return BandStatistics(
            band, pixels, mean, variance**0.5, dict(zip(map(str, PERCENTILES), found.tolist(), strict=True))
        )


def write_bands(sink: ObjectStore, product: str, bands: list[BandStatistics], origin: StatisticsSource) -> None:
    """Store the statistics of a product's bands."""
    document = {"product": product, "from": asdict(origin), "bands": [asdict(band) for band in bands]}
    sink.put(statistics_key(product), json.dumps(document, indent=1).encode())


def read_bands(objects: ObjectStore, product: ProductName) -> tuple[dict[str, BandStatistics], StatisticsSource] | None:
    """Read the statistics of a product's bands, or None if none were computed.

    Raises
    ------
    StoreError
        If the object is damaged.
    """
    data = objects.get(statistics_key(product))
    if data is None:
        return None
    try:
        document = load_json(data)
        rows = {row.band: row for row in parse(tuple[BandStatistics, ...], document["bands"])}
        if set(rows) != set(bands_of(product)):
            raise ValueError(f"bands are {', '.join(rows)}, expected {', '.join(bands_of(product))}")
        return rows, parse(StatisticsSource, document["from"])
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(statistics_key(product), error) from None


def _damaged(key: str, error: Exception) -> StoreError:
    return StoreError(f"{key} is damaged ({error}): run `stats` again")


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of each class in every patch and label layer."""

    patches: pd.DataFrame
    """``roi``, ``time`` and ``s2_id_gee`` of each patch."""
    layers: tuple[str, ...]
    counts: npt.NDArray[np.uint32]
    """Shape (patch, layer, class), classes as in `COUNTED`."""

    def of(self, table: pd.DataFrame, layer: str) -> npt.NDArray[np.int64] | None:
        """Look up a layer in the patches of a table, shape (patch, class); None if a patch or layer has no counts."""
        if layer not in self.layers:
            return None
        keys = list(zip(self.patches["roi"], self.patches["time"], self.patches["s2_id_gee"], strict=True))
        position = {key: number for number, key in enumerate(keys)}
        wanted = zip(table["roi"], table["time"], table["s2_id_gee"], strict=True)
        rows = [position.get(key, -1) for key in wanted]
        if -1 in rows:
            return None
        return self.counts[rows, self.layers.index(layer)].astype(np.int64)


def write_counts(sink: ObjectStore, counts: ClassCounts) -> None:
    """Store the class counts."""
    buffer = io.BytesIO()
    columns = {name: np.array([str(v) for v in counts.patches[name]]) for name in ("roi", "s2_id_gee")}
    columns["time"] = counts.patches["time"].to_numpy(np.int64)
    arrays: dict[str, Any] = columns | {"counts": counts.counts, "layers": np.array(counts.layers)}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    sink.put(COUNTS_KEY, buffer.getvalue())


_LARGEST = 2**29  # bytes of all arrays: a million patches; the archive of a stranger may claim more than memory holds


def read_counts(objects: ObjectStore) -> ClassCounts | None:
    """Read the class counts, or None if none were computed.

    Raises
    ------
    StoreError
        If the object is damaged.
    """
    data = objects.get(COUNTS_KEY)
    if data is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > _LARGEST:
            raise ValueError(f"its arrays have {size} bytes, expected at most {_LARGEST}")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            columns = {name: stored[name].tolist() for name in ("roi", "time", "s2_id_gee")}
            layers, counts = tuple(map(str, stored["layers"])), stored["counts"]
        if counts.dtype.kind not in "iu" or counts.shape != (len(columns["roi"]), len(layers), len(COUNTED)):
            raise ValueError(f"counts are {counts.dtype} of shape {counts.shape}")
        return ClassCounts(pd.DataFrame(columns), layers, counts)
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for bytes that are no .npz
        raise _damaged(COUNTS_KEY, error) from None

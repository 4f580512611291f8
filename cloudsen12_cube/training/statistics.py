"""Statistics of a cube: one pass over its pixels gives those of every band, and the class counts of every patch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube import format as stored_format
from cloudsen12_cube.dataset import PatchSource, full_scale, open_cube, parse_split, patch_table, stored_cube
from cloudsen12_cube.format import COUNTED, BandStatistics, ChunkReader, ClassCounts, Histogram, StatisticsSource
from cloudsen12_cube.schema import CLASSES, ProductName, assets_of, layer, now_text
from cloudsen12_cube.schema import labels as label_values
from cloudsen12_cube.storage import ObjectStore, open_store, write_lock


def balanced_weights(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Compute weights of patches that balance the four classes.

    Parameters
    ----------
    counts : numpy.ndarray, shape (patch, class)
        Pixels of each class of `COUNTED`.

    Returns
    -------
    numpy.ndarray, shape (patch,)
        Mean, over the labelled pixels of a patch, of the reciprocal share of the pixel's class; 0 without a label.
    """
    labelled = counts[:, :4].astype(np.float64)
    total = labelled.sum(axis=0)
    rarity = np.divide(total.sum(), total, out=np.zeros(4), where=total > 0)
    return np.asarray(labelled @ rarity / np.maximum(labelled.sum(axis=1), 1))


def even_weights(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute weights of patches with which each value of a property comes equally often; missing counts as a value."""
    codes = pd.factorize(values, use_na_sentinel=False)[0]
    return np.asarray(1.0 / np.bincount(codes)[codes])


@dataclass(frozen=True)
class CubeStatistics:
    """Statistics of a cube.

    Attributes
    ----------
    origin : StatisticsSource
        What the statistics of the bands were computed from.
    bands : dict of str to list of BandStatistics
        Statistics of the bands of each product, in stored values.
    classes : dict of str to list of int
        Label layer -> pixels of each code of `COUNTED` in the split.
    """

    origin: StatisticsSource
    bands: dict[str, list[BandStatistics]]
    classes: dict[str, list[int]]

    def __repr__(self) -> str:
        bands = ", ".join(f"{len(rows)} bands of {product}" for product, rows in self.bands.items()) or "no bands"
        patches = f"{self.origin.patches} patches of split {self.origin.split or 'all'}"
        return f"<CubeStatistics: {bands}, classes of {len(self.classes)} label layers, {patches}>"

    def _repr_html_(self) -> str:
        rows = [(product, row.band, row.mean, row.std) for product, bands in self.bands.items() for row in bands]
        bands = pd.DataFrame(rows, columns=["product", "band", "mean", "std"]).to_html(index=False)
        names = [*(row.name for row in CLASSES), "unlabelled"]
        return bands + pd.DataFrame.from_dict(self.classes, orient="index", columns=names).to_html()


def stats(
    cube: str | os.PathLike[str], split: str | None = "train", products: Sequence[str] | None = None
) -> CubeStatistics:
    """Compute the statistics of a cube and store them in it.

    Parameters
    ----------
    cube : path or Url
        Cube to compute and store the statistics of.
    split : {"train", "validation", "test", "all"}, optional
        Split whose patches the statistics of the bands are computed from; None and ``all`` take all. Classes are
        counted in every patch.
    products : sequence of str, optional
        Products to compute; by default all.

    Returns
    -------
    CubeStatistics

    Raises
    ------
    CubeError
        If the split has no patch, another process is writing the cube, or the cube cannot be written to.
    """
    split = parse_split(split)
    tree = open_cube(cube, products)
    store = open_store(cube)
    with write_lock(store):  # a cube must not change while it is counted
        return _compute(tree, store, split)


def _compute(tree: Any, store: ObjectStore, split: str | None) -> CubeStatistics:
    stored = stored_cube(tree)
    origin = _origin(patch_table(tree, [], split), split)
    products: list[Any] = [name for name in tree.children if name != "labels"]
    bands = {name: _band_statistics(stored, name, patch_table(tree, [name], split)) for name in products}
    for product, rows in bands.items():
        stored_format.write_bands(store, product, rows, origin)
    classes: dict[str, list[int]] = {}
    if "labels" in tree.children:
        counts = _class_counts(tree, stored, patch_table(tree, ["labels"], None))
        stored_format.write_counts(store, counts)
        in_split = np.array([split in (None, value) for value in counts.patches["split"]])
        totals = counts.counts[in_split].sum(axis=0, dtype=np.int64)
        classes = dict(zip(counts.layers, totals.tolist(), strict=True))
    return CubeStatistics(origin, bands, classes)


def _origin(table: pd.DataFrame, split: str | None) -> StatisticsSource:
    tool = f"cloudsen12-cube {version('cloudsen12-cube')}"
    return StatisticsSource(split, table["roi"].nunique(), len(table), now_text(), tool)


def _band_statistics(stored: PatchSource, product: ProductName, table: pd.DataFrame) -> list[BandStatistics]:
    """Compute those of a product; each band has a histogram that one thread at a time adds to, so no lock is needed."""
    chunks = ChunkReader(stored.objects, stored.layout(product))
    bands = range(len(chunks.layout.bands))
    # Where a chunk holds all bands it is decoded once, else each thread reads a band of its own.
    groups = [list(bands)] if chunks.layout.form.chunk == "bands" else [[band] for band in bands]
    with ThreadPoolExecutor(os.cpu_count()) as outer, ThreadPoolExecutor(os.cpu_count()) as inner:
        found = outer.map(partial(_group_statistics, chunks, table, inner), groups)
        return [row for rows in found for row in rows]


def _group_statistics(
    chunks: ChunkReader, table: pd.DataFrame, threads: ThreadPoolExecutor, bands: list[int]
) -> list[BandStatistics]:
    """Compute those of some bands, patch by patch; a plane that is not stored is left out."""
    layout = chunks.layout
    histograms = [Histogram(layout.dtype) for _ in bands]
    pixels = np.empty((len(bands), layout.height, layout.width), dtype=layout.dtype)
    for disk, time in zip(table["disk"].tolist(), table["time"].tolist(), strict=True):
        fetched = chunks.fetch(disk, time, bands)
        stored = [position for position in range(len(bands)) if chunks.decode(fetched, position, pixels[position])]

        def add(position: int) -> None:
            _add(chunks, histograms[position], bands[position], pixels[position])

        list(threads.map(add, stored) if len(stored) > 1 else map(add, stored))
    return [histogram.statistics(layout.bands[band]) for band, histogram in zip(bands, histograms, strict=True)]


def _add(chunks: ChunkReader, histogram: Histogram, band: int, plane: npt.NDArray[Any]) -> None:
    """Add the pixels of a plane that hold data to a histogram."""
    name = chunks.layout.bands[band]
    nodata = next(asset.unmeasured for asset in assets_of(chunks.layout.product) if asset.band == name)
    known = plane == plane  # not NaN
    if nodata is not None:
        known &= plane != nodata
    histogram.add(plane[known])


def _class_counts(tree: Any, stored: PatchSource, table: pd.DataFrame) -> ClassCounts:
    chunks = ChunkReader(stored.objects, stored.layout("labels"))
    scales = _scales(tree["labels"]["labels"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(partial(_count_patch, chunks, scales), table["disk"].tolist(), table["time"].tolist()))
    counts = np.stack(rows).astype(np.uint32)
    return ClassCounts(table[["roi", "time", "s2_id_gee", "split"]], tuple(scales), counts)


def _scales(labels: Any) -> dict[str, int | None]:
    """Return the layers that can be read as classes, with the full scale of those that need one."""
    scales: dict[str, int | None] = {}
    for name in (str(band) for band in labels["band"].values):
        row = layer(name)
        try:
            scales[name] = full_scale(labels, name) if row.probability and not row.full_scale else None
        except ValueError:
            continue  # a probability of unknown scale has no classes
    return scales


def _count_patch(chunks: ChunkReader, scales: Mapping[str, int | None], disk: int, time: int) -> npt.NDArray[np.int64]:
    """Count the pixels of each class in each layer of a patch, shape (layer, class)."""
    plane = np.empty((chunks.layout.height, chunks.layout.width), dtype=chunks.layout.dtype)
    fetched = chunks.fetch(disk, time, [chunks.layout.bands.index(name) for name in scales])
    rows = []
    for position, (name, scale) in enumerate(scales.items()):
        chunks.decode(fetched, position, plane)
        codes = label_values.to_classes(plane, name, scale)
        rows.append(np.bincount(codes.ravel(), minlength=256)[list(COUNTED)])
    return np.stack(rows)

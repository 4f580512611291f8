"""Counting a cube: one pass over its pixels gives the statistics of every band and the classes of every patch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.dataset import PatchSource, full_scale, open_cube, patch_table, stored_cube
from cloudsen12_cube.format import (
    COUNTED,
    BandStatistics,
    ChunkReader,
    ClassCounts,
    Histogram,
    StatisticsSource,
    write_bands,
    write_counts,
)
from cloudsen12_cube.schema import ProductName, assets_of, layer
from cloudsen12_cube.schema import labels as label_values
from cloudsen12_cube.storage import ObjectStore, open_store, write_lock


def balanced(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weigh patches so that the four classes come more evenly.

    Parameters
    ----------
    counts : numpy.ndarray, shape (patch, class)
        Classes as in `COUNTED`.

    Returns
    -------
    numpy.ndarray, shape (patch,)
        Mean, over a patch's labelled pixels, of one over the share of the pixel's class; 0 without a label.
    """
    labelled = counts[:, :4].astype(np.float64)
    total = labelled.sum(axis=0)
    rarity = np.divide(total.sum(), total, out=np.zeros(4), where=total > 0)
    pixels = labelled.sum(axis=1)
    weights: npt.NDArray[np.float64] = labelled @ rarity / np.maximum(pixels, 1)
    return weights


def even(values: Mapping[Any, Any] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Weigh patches so that each value of a property comes equally often; a missing value counts as one of its own."""
    codes = pd.factorize(np.asarray(values), use_na_sentinel=False)[0]
    return np.asarray(1.0 / np.bincount(codes)[codes])


@dataclass(frozen=True)
class CubeStatistics:
    """What was counted."""

    origin: StatisticsSource
    bands: dict[str, list[BandStatistics]]
    """By product."""
    classes: dict[str, list[int]]
    """Label layer -> pixels of each code of `COUNTED` in the split."""


def stats(
    cube: str | os.PathLike[str], split: str | None = "train", products: Sequence[str] | None = None
) -> CubeStatistics:
    """Compute the statistics of a cube and store them in it.

    Parameters
    ----------
    cube : path or Url
        The statistics are written into it.
    split : str, optional
        Patches that the bands' statistics are computed from; None takes all. Classes are counted in every patch.
    products : sequence of str, optional
        By default all.

    Returns
    -------
    Census

    Raises
    ------
    CubeError
        If the split has no patch, another process is writing the cube, or the place cannot be written.
    """
    tree = open_cube(cube, products)
    sink = open_store(cube)
    with write_lock(sink):  # a cube that is being written is not counted, nor written while it is
        return _counted(tree, sink, split)


def _counted(tree: Any, sink: ObjectStore, split: str | None) -> CubeStatistics:
    stored = stored_cube(tree)
    chosen: list[Any] = list(tree.children)
    origin = _origin(patch_table(tree, [], split), split)
    bands = {p: _count_bands(stored, p, patch_table(tree, [p], split)) for p in chosen if p != "labels"}
    for product, found in bands.items():
        write_bands(sink, product, found, origin)
    classes: dict[str, list[int]] = {}
    if "labels" in chosen:
        counts = _count_classes(tree, stored, patch_table(tree, ["labels"], None))
        write_counts(sink, counts)
        classes = _totals(counts, split)
    return CubeStatistics(origin, bands, classes)


def _origin(table: pd.DataFrame, split: str | None) -> StatisticsSource:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    tool = f"cloudsen12-cube {version('cloudsen12-cube')}"
    return StatisticsSource(split, table["roi"].nunique(), len(table), now, tool)


def _count_bands(stored: PatchSource, product: ProductName, table: pd.DataFrame) -> list[BandStatistics]:
    """Count a product; each thread has histograms of a band of its own, so none waits for another."""
    chunks = ChunkReader(stored.objects, stored.layout(product))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if chunks.layout.form.chunk == "bands":
            return _count_together(chunks, table, pool)
        return list(pool.map(partial(_count_band, chunks, table), range(len(chunks.layout.bands))))


def _count_band(chunks: ChunkReader, table: pd.DataFrame, band: int) -> BandStatistics:
    histogram = Histogram(chunks.layout.dtype)
    for plane in _planes(chunks, table, band):
        _add(chunks, histogram, band, plane)
    return histogram.statistics(chunks.layout.bands[band])


def _count_together(chunks: ChunkReader, table: pd.DataFrame, pool: ThreadPoolExecutor) -> list[BandStatistics]:
    """Count all bands of a patch, which are one chunk, before the next is decoded."""
    layout = chunks.layout
    bands = range(len(layout.bands))
    histograms = [Histogram(layout.dtype) for _ in bands]
    pixels = np.empty(layout.shard[2:], dtype=layout.dtype)
    for disk, time in zip(table["disk"], table["time"], strict=True):
        fetched = chunks.fetch(int(disk), int(time), bands)
        there = [chunks.decode(fetched, band, pixels[band]) for band in bands]
        known = [band for band in bands if there[band]]
        list(pool.map(lambda band: _add(chunks, histograms[band], band, pixels[band]), known))
    return [histograms[band].statistics(layout.bands[band]) for band in bands]


def _add(chunks: ChunkReader, histogram: Histogram, band: int, plane: npt.NDArray[Any]) -> None:
    """Count a plane, without what is no data."""
    name = chunks.layout.bands[band]
    nodata = next(asset.nodata for asset in assets_of(chunks.layout.product) if asset.band == name)
    there = plane == plane if nodata in (None, 0) else plane != nodata  # elevation 0 is the sea, too
    histogram.add(plane[there & (plane == plane)])


def _planes(chunks: ChunkReader, table: pd.DataFrame, band: int) -> Iterator[npt.NDArray[Any]]:
    """Yield a band of each patch; a plane that is not stored is left out."""
    plane = np.empty((chunks.layout.height, chunks.layout.width), dtype=chunks.layout.dtype)
    for disk, time in zip(table["disk"], table["time"], strict=True):
        if chunks.decode(chunks.fetch(int(disk), int(time), (band,)), 0, plane):
            yield plane


def _count_classes(tree: Any, stored: PatchSource, table: pd.DataFrame) -> ClassCounts:
    chunks = ChunkReader(stored.objects, stored.layout("labels"))
    layers, scales = _layers(tree)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = partial(_count_patch, chunks, layers, scales)
        rows = list(pool.map(count, table["disk"], table["time"]))
    counts = np.stack(rows).astype(np.uint32)
    return ClassCounts(table[["roi", "time", "s2_id_gee", "split"]], layers, counts)


def _layers(tree: Any) -> tuple[tuple[str, ...], dict[str, int | None]]:
    """Layers that can be read as classes, with the full scale of those that need one."""
    labels = tree["labels"]["labels"]
    scales: dict[str, int | None] = {}
    for name in (str(band) for band in labels["band"].values):
        row = layer(name)
        try:
            scales[name] = full_scale(labels, name) if row.probability and not row.full_scale else None
        except ValueError:
            continue  # a probability of unknown scale has no classes
    return tuple(scales), scales


def _count_patch(
    chunks: ChunkReader, layers: tuple[str, ...], scales: dict[str, int | None], disk: int, time: int
) -> npt.NDArray[np.int64]:
    plane = np.empty((chunks.layout.height, chunks.layout.width), dtype=chunks.layout.dtype)
    bands = [chunks.layout.bands.index(name) for name in layers]
    fetched = chunks.fetch(int(disk), int(time), bands)
    rows = []
    for position, name in enumerate(layers):
        chunks.decode(fetched, position, plane)
        codes = label_values.to_classes(plane, name, scales[name])
        rows.append(np.bincount(codes.ravel(), minlength=256)[list(COUNTED)])
    return np.stack(rows)


def _totals(counts: ClassCounts, split: str | None) -> dict[str, list[int]]:
    rows = np.ones(len(counts.patches), dtype=bool) if split is None else (counts.patches["split"] == split).to_numpy()
    total = counts.counts[rows].sum(axis=0, dtype=np.int64)
    return {name: total[number].tolist() for number, name in enumerate(counts.layers)}

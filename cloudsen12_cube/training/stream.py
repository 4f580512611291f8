"""Streams of batches for training, read straight from the shards.

`make_stream` turns inputs, target and options into a recipe (what a patch becomes), a table of patches, and an order;
`Stream` iterates over it. Threads read and decode the patches into the batch itself, without dask. The order depends on
seed, epoch and rank alone, never on the threads.
"""

from __future__ import annotations

import hashlib
import html
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import (
    OPTICAL,
    PatchSource,
    band_positions,
    check_resolves,
    full_scale,
    patch_table,
    stored_cube,
)
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format import BandStatistics, read_bands, read_counts
from cloudsen12_cube.schema import Asset, ProductName, Superclass, Threshold, assets_of, layer
from cloudsen12_cube.schema import labels as label_values
from cloudsen12_cube.training.batch import ChannelGroup, Recipe, TargetLayer
from cloudsen12_cube.training.explanation import Explanation, explain
from cloudsen12_cube.training.order import FILLER, Floats, Last, Order, make_epoch
from cloudsen12_cube.training.prefetch import Batch, BufferPool, Limits, Work, batch_bytes, peak_bytes, run
from cloudsen12_cube.training.statistics import balanced_weights, even_weights
from cloudsen12_cube.training.transform import CropAt, PadAt, PadMode, PatchTransform, Scaling

Normalise = Literal["raw", "physical", "standard"]
Inputs = Mapping[str, Sequence[str] | None]
"""Product -> its bands; None for all."""
Weights = str | Mapping[str, Mapping[Any, float]] | None

_PROPERTIES = ("difficulty", "cloud_coverage")
_CONCURRENT_INDICES = 32  # shard indices of a remote cube that are read at a time


@dataclass(frozen=True)
class StreamOptions:
    """Options of a stream.

    Parameters
    ----------
    crop : int or (int, int), optional
        Rows and columns to crop from each patch; by default the whole patch.
    crop_at : {"random", "centre"}
        Position of the crop: ``random`` for training, ``centre`` for evaluation.
    pad : int, optional
        Pad to a multiple of this: 32 makes 512 of 509. Padding is unlabelled in the target.
    pad_mode : {"reflect", "constant"}
        How input is padded; ``constant`` writes zeros.
    pad_at : {"both", "end"}
        ``both``: half of the padding before and half after, an odd row or column after; 509 gets one before and two
        after, as in the authors' code. ``end``: all of it below and to the right.
    augment : bool
        Flip and rotate at random, input and target alike.
    normalise : {"raw", "physical", "standard"}
        ``raw``: stored values. ``physical``: float32 reflectance, decibels, metres ... ``standard``: float32 of mean 0
        and deviation 1 by the cube's statistics. Missing data is NaN in ``physical``, and 0, the mean, in ``standard``.
    superclass : {"cloud", "valid"}, optional
        Superclass as target instead of the four classes.
    threshold : Threshold, optional
        For a target that is a probability; by default that of the paper.
    scale : int, optional
        Stored value of probability 1 of a CD-FCNN target, if the cube does not record it.
    labelled_only : bool
        Leave out patches without a label, if the target is ``manual_hq`` or ``manual_sc``.
    weights : str or mapping, optional
        How often patches come: ``class`` balances the classes of the target, ``difficulty`` and ``cloud_coverage`` the
        values of that property; a mapping such as ``{"difficulty": {5: 3.0}}`` multiplies. By default each comes once.
    shuffle : bool
        Shuffle the patches; else they come by ROI and date.
    window : int, optional
        Number of ROIs whose patches are mixed with each other; None mixes all.
    last : {"keep", "drop", "pad"}
        What to do with a short last batch; ``pad`` fills it up with rows whose roi is "".
    rank, world_size : int
        Number of this process, and how many there are, in distributed training.
    threads : int, optional
        Threads that decode; by default one per core.
    connections : int
        Concurrent requests, if the cube is remote.
    prefetch_bytes : int, optional
        Memory of all batches that exist, the consumer's included; by default three batches, and more if small batches
        of a remote cube would not keep all connections busy.
    """

    crop: int | tuple[int, int] | None = None
    crop_at: CropAt = "random"
    pad: int | None = None
    pad_mode: PadMode = "reflect"
    pad_at: PadAt = "both"
    augment: bool = False
    normalise: Normalise = "raw"
    superclass: Superclass | None = None
    threshold: Threshold | None = None
    scale: int | None = None
    labelled_only: bool = True
    weights: Weights = None
    shuffle: bool = True
    window: int | None = 1024
    last: Last = "keep"
    rank: int = 0
    world_size: int = 1
    threads: int | None = None
    connections: int = 32
    prefetch_bytes: int | None = None


class Stream:
    """An iterable of batches; every ``iter`` is the next epoch, or the rest of the one that a state was loaded for.

    Each batch is a dict: ``pixels`` (batch, band, y, x), ``target`` (batch, y, x) uint8 unless there is no target,
    ``roi`` and ``time`` (batch).

    Attributes
    ----------
    patches : pandas.DataFrame
        The patches of an epoch, by ROI and date.
    bands : tuple of (str, str)
        Product and band of each channel.
    """

    def __init__(
        self, recipe: Recipe, patches: pd.DataFrame, order: Order, options: StreamOptions, weights: Floats | None = None
    ) -> None:
        self.recipe, self.patches, self.order, self.options = recipe, patches, order, options
        self.weights = weights
        layouts = [(chunks.layout, bands) for chunks, bands in recipe.reads[: len(recipe.groups)]]
        self.bands = tuple((layout.product, layout.bands[band]) for layout, bands in layouts for band in bands)
        self.limits = _limits(recipe, order, options)
        self.waited = self.consumed = 0.0
        self._idle: list[BufferPool] = []
        self._at, self._next = (-1, 0), (0, 0)  # epoch and batches of it: current position, start of the next `iter`

    def __len__(self) -> int:
        """Count the batches of an epoch, the same on every rank."""
        return self.order.steps(len(self.patches))

    def __repr__(self) -> str:
        rows, columns = self.recipe.transform.shape
        shape = (self.order.batch_size, self.recipe.channels, rows, columns)
        rank = f", rank {self.order.rank} of {self.order.world_size}" if self.order.world_size > 1 else ""
        target = "with target" if self.recipe.target else "without target"
        about = f"{len(self)} batches {shape} {self.recipe.dtype} of {len(self.patches)} patches, {target}"
        return f"<Stream: {about}, epoch {self.epoch}{rank}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of a batch that are no padding, without augmentation: of its predictions, those to keep."""
        return self.recipe.transform.inner

    @property
    def epoch(self) -> int:
        """Number of the current epoch, or, before the first, of the next."""
        return max(self._at[0], 0)

    @property
    def begins(self) -> tuple[int, int]:
        """Epoch and batch that the next ``iter`` begins with."""
        return self._next

    def begin_at(self, number: int, batch: int = 0) -> None:
        """Start the next ``iter`` at a batch of an epoch.

        Parameters
        ----------
        number : int
            Number of the epoch, from 0.
        batch : int
            Number of the batch, from 0.
        """
        self._next = (number, batch)

    def work(self, number: int) -> Work:
        """Compute an epoch: its patches in order, and where they are stored."""
        disk, time = (self.patches[name].to_numpy(np.int64) for name in ("disk", "time"))
        rois = pd.factorize(self.patches["roi"])[0].astype(np.int64)  # the order is independent of that on disk
        return Work(self.recipe, make_epoch(self.order, number, rois, self.weights), disk, time)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of the next epoch."""
        yield from self.steps(1, 0)

    def steps(self, every: int, first: int) -> Iterator[dict[str, Any]]:
        """Yield every n-th batch of the next epoch, for one of several worker processes.

        Parameters
        ----------
        every : int
            Number of workers.
        first : int
            Number of this worker.
        """
        number, start = self._next
        self._at, self._next = (number, start), (number + 1, 0)
        self.waited = self.consumed = 0.0
        steps = range(start + first, len(self), every)
        clock = perf_counter()
        with closing(self._run(number, steps)) as batches:
            for step in steps:
                arrays = self._arrays(next(batches))
                self._at = (number, step + 1)
                clock, self.waited = perf_counter(), self.waited + perf_counter() - clock
                yield arrays
                del arrays  # else its memory would be held while the next batch is prepared
                clock, self.consumed = perf_counter(), self.consumed + perf_counter() - clock

    def _pool(self) -> BufferPool:
        return BufferPool(batch_bytes(self.recipe, self.order.batch_size), self.limits.buffers)

    def _run(self, number: int, steps: range) -> Generator[Batch]:
        """Yield some batches of an epoch; their memory is kept for the next one, and freed with the stream."""
        pool = self._idle.pop() if self._idle else self._pool()
        try:
            yield from run(self.work(number), steps, self.limits, pool)
        except GeneratorExit:
            self._idle = [pool]
            raise
        self._idle = [pool]  # not after an error: a batch that failed has not returned its buffer

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the memory: another process allocates its own."""
        return self.__dict__ | {"_idle": []}

    def _arrays(self, batch: Batch) -> dict[str, Any]:
        known = batch.patches != FILLER
        rows = self.patches.iloc[batch.patches]  # the last patch stands in for a filler, and is masked
        arrays = {
            "pixels": batch.pixels,
            "target": batch.target,
            "roi": np.where(known, rows["roi"].to_numpy(object), "").astype(str),
            "time": np.where(known, rows["time"].to_numpy(np.int64), -1),
        }
        return {name: values for name, values in arrays.items() if values is not None}

    def explain(self, seconds: float = 2.0) -> Explanation:
        """Report what is read, how much memory that takes, how fast it is on this machine, and what limits it.

        Parameters
        ----------
        seconds : float
            Length of the measurement.

        Returns
        -------
        Explanation
            Prints as a few lines.
        """
        return explain(self.work(self.epoch), self.limits, self._pool(), seconds, self.waited, self.consumed)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the stream, after the batch that was yielded last.

        Returns
        -------
        dict
            For `load_state_dict`; of plain numbers and texts.
        """
        number, batches = self._at
        return {"epoch": max(number, 0), "batches": batches, "stream": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the batch after the one at which `state_dict` was called.

        Parameters
        ----------
        state : mapping
            Result of `state_dict`, of any rank.

        Raises
        ------
        ValueError
            If the state belongs to a stream of other patches, or another order.
        """
        if state["stream"] != self._fingerprint():
            raise ValueError(
                "the state is of another stream: patches, batch_size, seed, window, weights, last or world_size "
                "differ; create the stream with the same arguments, or start without the state"
            )
        epoch, batches = int(state["epoch"]), int(state["batches"])
        self._next = (epoch, batches) if batches < len(self) else (epoch + 1, 0)
        self._at = self._next

    def _fingerprint(self) -> str:
        """Hash what decides the order. The text is part of saved states: write it out, independent of class names."""
        order = self.order
        fields = (
            f"batch_size={order.batch_size!r}, seed={order.seed!r}, shuffle={order.shuffle!r}, "
            f"window={order.window!r}, rank=0, world_size={order.world_size!r}, last={order.last!r}"
        )
        rows = [*map(repr, self.patches["roi"].tolist()), *map(repr, self.patches["time"].tolist())]
        text = f"({', '.join([f'Order({fields})', *rows])})"
        weights = b"" if self.weights is None else self.weights.tobytes()
        return hashlib.sha256(text.encode() + weights).hexdigest()[:16]


def make_stream(
    cube: xr.DataTree,
    inputs: Inputs,
    target: str | None = None,
    split: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
    options: StreamOptions | None = None,
) -> Stream:
    """Create a stream of batches of a cube, or of a query on it.

    Parameters
    ----------
    cube : xarray.DataTree
        Opened cube.
    inputs : mapping of str to sequence of str or None
        Product -> its bands, None for all that the tree has: ``{"s2l1c": None, "s1": ["VV", "VH"]}``. They become
        the channels, in this order.
    target : str, optional
        Label layer; by default the batches have no target.
    split : {"train", "validation", "test", "all"}, optional
        Published split; by default all patches.
    batch_size : int
        Patches per batch.
    seed : int
        Seed of order, crops and augmentation; equal seeds give equal batches.
    options : StreamOptions, optional
        Crops, padding, augmentation, scaling, order, ranks and memory.

    Returns
    -------
    Stream

    Raises
    ------
    KeyError
        If there is no such product, band or layer; the message lists those that exist.
    SelectionError
        If no patch is left, or the split is not a published one.
    """
    options = options or StreamOptions()
    stored = stored_cube(cube)
    products = _products(cube, inputs, target)
    table = patch_table(cube, products, split)
    aim = None if target is None else _target(cube, stored, target, options)
    if aim and target in ("manual_hq", "manual_sc") and options.labelled_only:
        table = _labelled(table, stored, aim, target)
    groups = _channel_groups(cube, stored, inputs, options.normalise)
    layout = stored.layout(products[0])
    crop = (options.crop, options.crop) if isinstance(options.crop, int) else options.crop
    transform = PatchTransform(
        layout.height,
        layout.width,
        crop,
        options.crop_at,
        options.pad,
        options.pad_mode,
        options.augment,
        options.pad_at,
    )
    recipe = Recipe(groups, aim, transform, _dtype(groups))
    order = Order(batch_size, seed, options.shuffle, options.window, options.rank, options.world_size, options.last)
    return Stream(recipe, table, order, options, _weights(table, options.weights, stored, target))


def _products(cube: xr.DataTree, inputs: Inputs, target: str | None) -> list[ProductName]:
    """List the products that are read, in the order of the schema."""
    if not inputs:
        raise ValueError('inputs is empty: give product and bands, such as {"s2l1c": None} for all bands of s2l1c')
    available = [name for name in get_args(ProductName) if name in cube.children]
    wanted = [*inputs, *(["labels"] if target else [])]
    for name in wanted:
        if name not in available:
            raise KeyError(f"no product {name!r} in this cube; it has {', '.join(available)}")
    return [name for name in available if name in wanted]


def _channel_groups(
    cube: xr.DataTree, stored: PatchSource, inputs: Inputs, normalise: Normalise
) -> tuple[ChannelGroup, ...]:
    """Look up the bands of each product, and how they are scaled."""
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise is {normalise!r}: give one of {', '.join(get_args(Normalise))}")
    return tuple(_channel_group(cube, stored, product, bands, normalise) for product, bands in inputs.items())


def _channel_group(
    cube: xr.DataTree, stored: PatchSource, product: Any, bands: Sequence[str] | None, normalise: Normalise
) -> ChannelGroup:
    available = band_positions(cube, stored.layout(product))
    names = [bands] if isinstance(bands, str) else list(available if bands is None else bands)
    for name in names:
        if name not in available:
            raise KeyError(f"no band {name!r} in {product}; it has {', '.join(available)}")
    if not names:
        raise ValueError(f"the bands of {product} are empty: give some of {', '.join(available)}, or None for all")
    if normalise != "raw":
        scalings: tuple[Scaling, ...] | None = _scalings(stored, product, names, normalise)
    elif product in OPTICAL and stored.layout(product).dtype == "float32":
        spectral = {asset.band for asset in assets_of(product) if asset.is_reflectance}
        scalings = tuple(Scaling(missing=0.0 if name in spectral else np.nan) for name in names)  # 0, never NaN
    else:
        scalings = None
    return ChannelGroup(stored.chunks(product), tuple(available[name] for name in names), scalings)


def _scalings(
    stored: PatchSource, product: ProductName, names: Sequence[str], normalise: Normalise
) -> tuple[Scaling, ...]:
    assets = {asset.band: asset for asset in assets_of(product)}
    if normalise == "physical":
        return tuple(_physical(assets[name]) for name in names)
    statistics = read_bands(stored.objects, product)
    if statistics is None:
        raise StoreError(
            f"{stored.objects.root} has no statistics of {product}: run `cloudsen12-cube stats` on it once, "
            "or stream normalise='physical'"
        )
    return tuple(_standard(statistics[0][name], assets[name]) for name in names)


def _standard(band: BandStatistics, asset: Asset) -> Scaling:
    """Scale to mean 0 and deviation 1; a constant band becomes 0."""
    gain = 1.0 / band.std if band.std > 0 else 0.0
    return Scaling(gain, -band.mean * gain if band.pixels else 0.0, asset.unmeasured, 0.0)


def _physical(asset: Asset) -> Scaling:
    """Scale to physical units; reflectance without data is 0, which networks take, and never NaN."""
    if asset.is_reflectance:
        return Scaling(asset.scale, missing=0.0)
    return Scaling(asset.scale, 0.0, asset.unmeasured)


def _dtype(groups: Sequence[ChannelGroup]) -> np.dtype[Any]:
    """Choose the data type of a batch: float32 if scaled, else the smallest that holds the values of all groups."""
    if any(group.scalings is not None for group in groups):
        return np.dtype(np.float32)
    return np.result_type(*(np.dtype(group.chunks.layout.dtype) for group in groups))


def _target(cube: xr.DataTree, stored: PatchSource, name: str, options: StreamOptions) -> TargetLayer:
    """Look up a label layer, and how its values become classes, or a superclass."""
    row, threshold = layer(name), options.threshold
    if threshold is not None and not row.probability:
        raise ValueError(f"{name} holds codes, not a probability: leave the threshold out")
    if options.superclass is not None:
        check_resolves(row, options.superclass)
    unknown = row.probability and not row.full_scale
    scale = full_scale(cube["labels"].to_dataset()["labels"], name, options.scale) if unknown else None
    codes = partial(_codes, name=name, scale=scale, threshold=threshold, scheme=options.superclass)
    available = band_positions(cube, stored.layout("labels"))
    if name not in available:
        raise KeyError(f"no label layer {name!r} in this cube; it has {', '.join(available)}")
    return TargetLayer(stored.chunks("labels"), available[name], codes)


def _codes(
    plane: npt.NDArray[Any], name: str, scale: int | None, threshold: Threshold | None, scheme: Superclass | None
) -> npt.NDArray[np.uint8]:
    codes = label_values.to_classes(plane, name, scale, threshold)
    return codes if scheme is None else label_values.to_superclass(codes, scheme)


def _labelled(table: pd.DataFrame, stored: PatchSource, target: TargetLayer, name: str) -> pd.DataFrame:
    """Keep the patches that have a label in a layer.

    Uses the stored class counts, if they cover all patches; else the shards' indices, most of which a stream reads
    anyway: they tell that a patch has no such layer, but not that all of its pixels are "unlabelled". Where a chunk
    holds all layers, each chunk is read, which `stats` avoids.
    """
    counts = read_counts(stored.objects)
    known = counts.of(table, name) if counts else None
    if known is not None:
        kept = known[:, :4].sum(axis=1) > 0
    else:
        with ThreadPoolExecutor(_CONCURRENT_INDICES if target.chunks.objects.concurrency > 1 else 2) as threads:
            stored_layer = partial(target.chunks.is_there, band=target.band)
            kept = np.array(list(threads.map(stored_layer, table["disk"].tolist(), table["time"].tolist())))
    if not kept.any():
        raise SelectionError(
            f"none of the {len(table)} patches has a label in {name}: choose another target or split, or give "
            "labelled_only=False to read them as unlabelled"
        )
    return table[kept].reset_index(drop=True)


def _weights(table: pd.DataFrame, weights: Weights, stored: PatchSource, target: str | None) -> Floats | None:
    """Compute how often each patch comes, relative to the others; None if each comes once."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        return _value_weights(table, weights)
    if weights in _PROPERTIES:
        return even_weights(table[weights].to_numpy())
    if weights != "class":
        raise ValueError(f"weights is {weights!r}: give class, {', '.join(_PROPERTIES)} or a mapping")
    if target is None:
        raise ValueError("weights='class' balances the classes of a target: give one")
    counts = read_counts(stored.objects)
    known = counts.of(table, target) if counts else None
    if known is None:
        raise StoreError(
            f"{stored.objects.root} has no class counts of {target} for all {len(table)} patches: "
            "run `cloudsen12-cube stats` on it once"
        )
    return balanced_weights(known)


def _value_weights(table: pd.DataFrame, weights: Mapping[str, Mapping[Any, float]]) -> Floats:
    total = np.ones(len(table))
    for name, factors in weights.items():
        if name not in (*_PROPERTIES, "label_type"):
            raise KeyError(
                f"patches have no property {name!r} to weight by; there are label_type, difficulty, cloud_coverage"
            )
        total *= np.array([float(factors.get(value, 1.0)) for value in table[name]])
    return total


def _limits(recipe: Recipe, order: Order, options: StreamOptions) -> Limits:
    connections = max(options.connections, 1) if recipe.remote else 0
    cost = peak_bytes(recipe, order.batch_size)
    busy = 1 + -(-2 * connections // order.batch_size)  # batches that keep all connections at work
    buffers = max(3, busy) if options.prefetch_bytes is None else options.prefetch_bytes // cost
    if buffers < 2:
        raise ValueError(
            f"prefetch_bytes is {options.prefetch_bytes}, but two batches need {2 * cost} bytes, one for the consumer "
            "and one in preparation: give at least that, or smaller batches"
        )
    return Limits(buffers, options.threads or os.cpu_count() or 1, connections)

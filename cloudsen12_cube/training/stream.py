"""What a stream reads: bands as channels, scaled or not, and a label layer as target.

Which patches of a stream have a label, and how often each comes: from class counts that were stored once.

Batches for training, straight from the shards: what to read, in which order, what becomes of it.

No dask inside. A batch's patches are read and decoded by threads into the batch itself; the order is that of
``samples``, so it depends on seed, epoch and rank alone, never on the threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import PatchSource, check_resolves, full_scale, patch_table, stored_cube
from cloudsen12_cube.errors import SelectionError, StoreError
from cloudsen12_cube.format import BandStatistics, read_bands, read_counts
from cloudsen12_cube.schema import LAYERS, Asset, ProductName, Superclass, Threshold, assets_of, layer
from cloudsen12_cube.schema import labels as label_values
from cloudsen12_cube.training.batch import ChannelGroup, Recipe, TargetLayer
from cloudsen12_cube.training.explanation import Explanation, explain
from cloudsen12_cube.training.order import FILLER, Last, Order, make_epoch
from cloudsen12_cube.training.prefetch import Batch, BufferPool, Limits, Work, buffer_cost, run
from cloudsen12_cube.training.statistics import balanced, even
from cloudsen12_cube.training.transform import CropAt, PadMode, PatchTransform, Scaling

Normalise = Literal["raw", "physical", "standard"]


def make_parts(
    stored: PatchSource, inputs: Mapping[str, Sequence[str] | None], normalise: Normalise
) -> tuple[ChannelGroup, ...]:
    """Find the wanted bands of each product, and how they are scaled."""
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise is {normalise!r}: give one of {', '.join(get_args(Normalise))}")
    return tuple(_part(stored, product, bands, normalise) for product, bands in inputs.items())


def _part(stored: PatchSource, product: Any, bands: Sequence[str] | None, normalise: Normalise) -> ChannelGroup:
    layout = stored.layout(product)
    names = [bands] if isinstance(bands, str) else layout.bands if bands is None else list(bands)
    for name in names:
        if name not in layout.bands:
            raise KeyError(f"no band {name!r} in {product}; it has {', '.join(layout.bands)}")
    if not names:
        raise ValueError(f"no band of {product} is named: give some of {', '.join(layout.bands)}, or None for all")
    scalings = None if normalise == "raw" else _scalings(stored, product, names, normalise)
    return ChannelGroup(stored.chunks(product), tuple(layout.bands.index(name) for name in names), scalings)


def _scalings(
    stored: PatchSource, product: ProductName, names: Sequence[str], normalise: Normalise
) -> tuple[Scaling, ...]:
    assets = {asset.band: asset for asset in assets_of(product)}
    if normalise == "physical":
        return tuple(Scaling(assets[name].scale, 0.0, _nodata(assets[name])) for name in names)
    found = read_bands(stored.objects, product)
    if found is None:
        raise StoreError(
            f"{stored.objects.root} has no statistics of {product}: run `cloudsen12-cube stats` on it once, "
            "or stream normalise='physical'"
        )
    return tuple(_standard(found[0][name], assets[name]) for name in names)


def _standard(band: BandStatistics, asset: Asset) -> Scaling:
    """Mean 0, deviation 1; a band of one value becomes 0."""
    gain = 1.0 / band.std if band.std > 0 else 0.0
    return Scaling(gain, -band.mean * gain if band.pixels else 0.0, _nodata(asset), 0.0)


def _nodata(asset: Asset) -> float | None:
    """Value of no data. That of the elevation is 0, which is the height of the sea, too: it stays."""
    return None if asset.nodata == 0 else asset.nodata


def pixel_type(parts: Sequence[ChannelGroup]) -> np.dtype[Any]:
    """Tell the data type of a batch: float32 if scaled, else the smallest that holds the stored values of all parts."""
    if any(part.scalings is not None for part in parts):
        return np.dtype(np.float32)
    return np.result_type(*(np.dtype(part.chunks.layout.dtype) for part in parts))


def make_target(
    cube: xr.DataTree,
    stored: PatchSource,
    name: str | None,
    reading: tuple[Superclass | None, Threshold | None, int | None],
) -> TargetLayer | None:
    """Find a label layer, and how its values become classes, or a superclass.

    Parameters
    ----------
    cube, stored
        Opened, and where it lies.
    name : str or None
        Label layer.
    reading : tuple
        Superclass, threshold and full scale, None for the default of each.
    """
    if name is None:
        return None
    scheme, threshold, scale = reading
    known = [row.band for row in LAYERS]
    if name not in known:
        raise KeyError(f"no label layer {name!r}; there are {', '.join(known)}")
    row = layer(name)
    if threshold is not None and not row.probability:
        raise ValueError(f"{name} holds codes, no probability: leave the threshold out")
    if scheme is not None:
        check_resolves(row, scheme)
    unknown = row.probability and not row.full_scale
    full = full_scale(cube["labels"].to_dataset()["labels"], name, scale) if unknown else None
    codes = partial(_codes, name=name, full=full, threshold=threshold, scheme=scheme)
    return TargetLayer(stored.chunks("labels"), stored.layout("labels").bands.index(name), codes)


def _codes(
    plane: npt.NDArray[Any], name: str, full: int | None, threshold: Threshold | None, scheme: Superclass | None
) -> npt.NDArray[np.uint8]:
    codes = label_values.to_classes(plane, name, full, threshold)
    return codes if scheme is None else label_values.to_superclass(codes, scheme)


Weights = str | Mapping[str, Mapping[Any, float]] | None

_PROPERTIES = ("difficulty", "cloud_coverage")
_AT_ONCE = 32  # indices that are read at a time


def labelled(table: pd.DataFrame, stored: PatchSource, target: TargetLayer, name: str) -> pd.DataFrame:
    """Keep the patches that have a label in a layer.

    The stored class counts tell, if they know all patches; else the shards' indices do, of which a stream needs most
    anyway: they tell that a patch has no such layer, but not that all of it says "unlabelled". Where a chunk holds all
    layers, each is read: `stats` spares that.
    """
    counts = read_counts(stored.objects)
    known = counts.of(table, name) if counts else None
    there = known[:, :4].sum(axis=1) > 0 if known is not None else _stored(table, target)
    if not there.any():
        raise SelectionError(
            f"none of the {len(table)} patches has a label in {name}: choose another target or split, or give "
            "labelled_only=False to read them as unlabelled"
        )
    return table[there].reset_index(drop=True)


def _stored(table: pd.DataFrame, target: TargetLayer) -> npt.NDArray[np.bool_]:
    with ThreadPoolExecutor(_AT_ONCE if target.chunks.objects.concurrency > 1 else 2) as pool:
        rows = (table["disk"].tolist(), table["time"].tolist())
        return np.array(list(pool.map(lambda disk, time: target.chunks.is_there(disk, time, target.band), *rows)))


def weigh(
    table: pd.DataFrame, weights: Weights, stored: PatchSource, target: str | None
) -> npt.NDArray[np.float64] | None:
    """Find how often each patch comes, relative to the others; None if each comes once."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        return _by_value(table, weights)
    if weights in _PROPERTIES:
        return even(table[weights].to_numpy())
    if weights != "class":
        raise ValueError(f"weights is {weights!r}: give class, {', '.join(_PROPERTIES)} or a mapping")
    if target is None:
        raise ValueError("weights='class' evens out the classes of a target: name one")
    counts = read_counts(stored.objects)
    known = counts.of(table, target) if counts else None
    if known is None:
        raise StoreError(
            f"{stored.objects.root} has no class counts of {target} for all {len(table)} patches: "
            "run `cloudsen12-cube stats`"
        )
    return balanced(known)


def _by_value(table: pd.DataFrame, weights: Mapping[str, Mapping[Any, float]]) -> npt.NDArray[np.float64]:
    total = np.ones(len(table))
    for name, factors in weights.items():
        if name not in (*_PROPERTIES, "label_type"):
            raise KeyError(
                f"patches have no property {name!r} to weigh by; there are label_type, difficulty, cloud_coverage"
            )
        total *= np.array([float(factors.get(value, 1.0)) for value in table[name]])
    return total


Inputs = Mapping[str, Sequence[str] | None]


@dataclass(frozen=True)
class StreamOptions:
    """What a stream can be told beside inputs, target, split, batch size and seed."""

    crop: int | tuple[int, int] | None = None
    """Rows and columns to cut out of each patch; None takes it whole."""
    crop_at: CropAt = "random"
    """``random`` for training, ``centre`` for evaluation."""
    pad: int | None = None
    """Pad, below and to the right, to a multiple of this: 32 makes 512 of 509. Padding is unlabelled in the target."""
    pad_mode: PadMode = "reflect"
    augment: bool = False
    """Flip and rotate at random, input and target alike."""
    normalise: Normalise = "raw"
    """``raw``: stored values. ``physical``: float32 of reflectance, decibels, metres ... ``standard``: float32 with the
    mean 0 and the deviation 1 of the cube's statistics; what is no data becomes 0, the mean (in ``physical`` NaN)."""
    superclass: Superclass | None = None
    """Superclass as target instead of the four classes."""
    threshold: Threshold | None = None
    """For a target that is a probability; by default the paper's."""
    scale: int | None = None
    """Stored value of probability 1 of a CD-FCNN target, where the cube does not know it."""
    labelled_only: bool = True
    """Leave out patches without a label in ``manual_hq`` or ``manual_sc``, if that is the target."""
    weights: Weights = None
    """How often patches come: ``class`` evens out the target's classes, ``difficulty`` and ``cloud_coverage`` the
    values of that property; a mapping such as ``{"difficulty": {5: 3.0}}`` multiplies. By default each comes once."""
    shuffle: bool = True
    window: int | None = 1024
    """ROIs whose patches are mixed with each other; None mixes all."""
    last: Last = "keep"
    """Short last batch: ``keep`` it, ``drop`` it, or ``pad`` it with rows whose roi is ""."""
    rank: int = 0
    world_size: int = 1
    threads: int | None = None
    """That decode; by default the cores of the machine."""
    connections: int = 32
    """Requests under way at a time, where the cube is remote."""
    prefetch_bytes: int | None = None
    """Memory of all batches that exist, the consumer's included; by default three batches, and more where small ones
    from a remote cube would not keep all connections at work."""


class Stream:
    """An iterable of batches; every ``iter`` is the next epoch, or the rest of the one that was loaded.

    Attributes
    ----------
    patches : pandas.DataFrame
        The patches of an epoch, by ROI and date.
    bands : tuple of (str, str)
        Product and band of each channel.
    """

    def __init__(
        self, recipe: Recipe, patches: pd.DataFrame, order: Order, options: StreamOptions, weights: Any = None
    ) -> None:
        self.recipe, self.patches, self.order, self.options = recipe, patches, order, options
        self.weights: npt.NDArray[np.float64] | None = weights
        self.bands = tuple((p.chunks.layout.product, p.chunks.layout.bands[b]) for p in recipe.parts for b in p.bands)
        self.limits = _limits(recipe, order, options)
        self.waited = self.consumed = 0.0
        self._idle: list[BufferPool] = []
        self._at, self._next = (-1, 0), (0, 0)  # epoch and batches of it: where we are, where `iter` begins

    def __len__(self) -> int:
        """Count the batches of an epoch, the same on every rank."""
        return self.order.steps(len(self.patches))

    @property
    def epoch(self) -> int:
        """Number of the epoch under way, or, before the first, of the next."""
        return max(self._at[0], 0)

    @property
    def begins(self) -> tuple[int, int]:
        """Epoch and batch that the next ``iter`` begins with."""
        return self._next

    def begin_at(self, number: int, batch: int = 0) -> None:
        """Let the next ``iter`` begin at a batch of an epoch."""
        self._next = (number, batch)

    def work(self, number: int) -> Work:
        """Lay out an epoch: which patches, in which order, and where they lie."""
        disk, time = (self.patches[name].to_numpy(np.int64) for name in ("disk", "time"))
        rois = pd.factorize(self.patches["roi"])[0].astype(np.int64)  # the order does not depend on the disk's
        return Work(self.recipe, make_epoch(self.order, number, rois, self.weights), disk, time)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches: ``pixels`` (batch, band, y, x), ``target`` (batch, y, x) uint8, ``roi`` and ``time`` (batch).

        Without a target there is no key ``target``.
        """
        yield from self.steps(1, 0)

    def steps(self, every: int, first: int) -> Iterator[dict[str, Any]]:
        """Yield each so-many-th batch of the next epoch, for one of several worker processes."""
        number, start = self._next
        self._at, self._next = (number, start), (number + 1, 0)
        self.waited = self.consumed = 0.0
        steps = range(start + first, len(self), every)
        clock = perf_counter()
        with closing(self._run(number, steps)) as batches:
            for step in steps:
                named = self._named(next(batches))
                self._at = (number, step + 1)
                clock, self.waited = perf_counter(), self.waited + perf_counter() - clock
                yield named
                del named  # or its memory would be held while the next is made
                clock, self.consumed = perf_counter(), self.consumed + perf_counter() - clock

    @property
    def _slab(self) -> int:
        """Bytes of a batch."""
        return self.order.batch_size * (self.recipe.pixel_bytes + self.recipe.target_bytes)

    def _run(self, number: int, steps: range) -> Generator[Batch]:
        """Yield some batches of an epoch; their memory is kept for the next one, and freed with the stream."""
        slabs = self._idle.pop() if self._idle else BufferPool(self._slab, self.limits.slabs)
        try:
            yield from run(self.work(number), steps, self.limits, slabs)
        except GeneratorExit:
            self._idle = [slabs]
            raise
        self._idle = [slabs]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory behind: another process has its own."""
        return self.__dict__ | {"_idle": []}

    def _named(self, batch: Batch) -> dict[str, Any]:
        known = batch.patches != FILLER
        rows = self.patches.iloc[batch.patches]  # of a filler, any
        named = {
            "pixels": batch.pixels,
            "target": batch.target,
            "roi": np.where(known, rows["roi"].to_numpy(object), "").astype(str),
            "time": np.where(known, rows["time"].to_numpy(np.int64), -1),
        }
        return {name: values for name, values in named.items() if values is not None}

    def explain(self, seconds: float = 2.0) -> Explanation:
        """Say what is read, how much memory that takes, how fast it is here and what limits it.

        Parameters
        ----------
        seconds : float
            Length of the probe.
        """
        waits = (self.waited, self.consumed)
        return explain(self.work(self.epoch), self.limits, BufferPool(self._slab, self.limits.slabs), seconds, waits)

    def state_dict(self) -> dict[str, Any]:
        """Say where the stream is: after the batch that was handed out last."""
        number, batches = self._at
        return {"epoch": max(number, 0), "batches": batches, "stream": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next ``iter`` go on after the batch at which `state_dict` was called.

        Raises
        ------
        ValueError
            If the state belongs to a stream of other patches, or another order. That of one rank suits all.
        """
        if state["stream"] != self._fingerprint():
            raise ValueError(
                "the state is of another stream: patches, batch_size, seed, window, weights, last or world_size "
                "differ; make the stream as it was, or begin a new one"
            )
        epoch, batches = int(state["epoch"]), int(state["batches"])
        self._next = (epoch, batches) if batches < len(self) else (epoch + 1, 0)
        self._at = self._next

    def _fingerprint(self) -> str:
        text = repr((replace(self.order, rank=0), *self.patches["roi"], *self.patches["time"]))
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
    """Make a stream of batches of a cube, or of what a query left of it.

    Parameters
    ----------
    cube : xarray.DataTree
    inputs : mapping of str to sequence of str or None
        Product -> its bands, None for all; they become the channels in this order.
    target : str, optional
        Label layer.
    split : {"train", "validation", "test"}, optional
        None takes all patches.
    batch_size : int
    seed : int
        Equal seeds give equal orders.
    options : StreamOptions, optional

    Returns
    -------
    Stream

    Raises
    ------
    KeyError
        If there is no such product, band or layer; the message lists those that are.
    SelectionError
        If no patch is left, or the split is no published one.
    """
    options = options or StreamOptions()
    stored = stored_cube(cube)
    products = _products(cube, inputs, target)
    table = patch_table(cube, products, split)
    aim = make_target(cube, stored, target, (options.superclass, options.threshold, options.scale))
    if aim and target and options.labelled_only and layer(target).band.startswith("manual"):
        table = labelled(table, stored, aim, target)
    parts = make_parts(stored, inputs, options.normalise)
    layout = stored.layout(products[0])
    crop = (options.crop, options.crop) if isinstance(options.crop, int) else options.crop
    cutout = PatchTransform(
        layout.height, layout.width, crop, options.crop_at, options.pad, options.pad_mode, options.augment
    )
    recipe = Recipe(parts, aim, cutout, pixel_type(parts))
    order = Order(batch_size, seed, options.shuffle, options.window, options.rank, options.world_size, options.last)
    return Stream(recipe, table, order, options, weigh(table, options.weights, stored, target))


def _products(cube: xr.DataTree, inputs: Inputs, target: str | None) -> list[ProductName]:
    """Name the products that are read, the target's among them."""
    if not inputs:
        raise ValueError('inputs is empty: give product and bands, such as {"s2l1c": None} for all bands of s2l1c')
    there = [name for name in get_args(ProductName) if name in cube.children]
    wanted = [*inputs, *(["labels"] if target else [])]
    for name in wanted:
        if name not in there:
            raise KeyError(f"no product {name!r} in this cube; it has {', '.join(there)}")
    return [name for name in there if name in wanted]


def _limits(recipe: Recipe, order: Order, options: StreamOptions) -> Limits:
    connections = max(options.connections, 1) if recipe.parts[0].chunks.objects.concurrency > 1 else 0
    cost = buffer_cost(recipe, order.batch_size)
    busy = 1 + -(-2 * connections // order.batch_size)  # batches that keep all connections at work
    slabs = max(3, busy) if options.prefetch_bytes is None else options.prefetch_bytes // cost
    if slabs < 2:
        raise ValueError(
            f"prefetch_bytes is {options.prefetch_bytes}, but two batches need {2 * cost} bytes, one for the consumer "
            "and one under way: give at least that, or smaller batches"
        )
    return Limits(slabs, options.threads or os.cpu_count() or 1, connections)

"""Batches for training, straight from the shards: what to read, in which order, what becomes of it.

No dask inside. A batch's patches are read and decoded by threads into the batch itself; the order is that of
``samples``, so it depends on seed, epoch and rank alone, never on the threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.assets import ProductName
from cloudsen12_cube.classes import Superclass, Threshold, layer
from cloudsen12_cube.cutout import CropAt, Cutout, PadMode
from cloudsen12_cube.explain import Explanation, explain
from cloudsen12_cube.patches import patch_table, stored_cube
from cloudsen12_cube.pipeline import Batch, Limits, Slabs, Work, run, slab_cost
from cloudsen12_cube.recipe import Recipe
from cloudsen12_cube.samples import FILLER, Last, Order, make_epoch
from cloudsen12_cube.stream_inputs import Normalise, make_parts, make_target, pixel_type
from cloudsen12_cube.stream_weights import Weights, labelled, weigh

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
        self._idle: list[Slabs] = []
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
        slabs = self._idle.pop() if self._idle else Slabs(self._slab, self.limits.slabs)
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
        return explain(self.work(self.epoch), self.limits, Slabs(self._slab, self.limits.slabs), seconds, waits)

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
    cutout = Cutout(layout.height, layout.width, crop, options.crop_at, options.pad, options.pad_mode, options.augment)
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
    connections = max(options.connections, 1) if recipe.parts[0].chunks.objects.remote else 0
    cost = slab_cost(recipe, order.batch_size)
    busy = 1 + -(-2 * connections // order.batch_size)  # batches that keep all connections at work
    slabs = max(3, busy) if options.prefetch_bytes is None else options.prefetch_bytes // cost
    if slabs < 2:
        raise ValueError(
            f"prefetch_bytes is {options.prefetch_bytes}, but two batches need {2 * cost} bytes, one for the consumer "
            "and one under way: give at least that, or smaller batches"
        )
    return Limits(slabs, options.threads or os.cpu_count() or 1, connections)

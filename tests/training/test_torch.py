"""The PyTorch adapter. Torch is optional for users, never for these tests: a suite without it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import cloudsen12_cube as c12
from cloudsen12_cube.training.stream import StreamOptions
from cloudsen12_cube.training.torch import TorchStream, loader

RGB = {"s2l1c": ["B4", "B3", "B2"]}


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


def dataset(tree: xr.DataTree, **options: Any) -> TorchStream:
    return tree.cloudsen12.torch_dataset(RGB, "fmask", None, 3, 5, StreamOptions(augment=True, crop=16, **options))


def told(batch: dict[str, Any]) -> tuple[Any, ...]:
    return (
        batch["pixels"].numpy().tobytes(),
        batch["target"].numpy().tobytes(),
        tuple(batch["roi"]),
        batch["time"].tolist(),
    )


def epochs(tree: xr.DataTree, count: int) -> list[list[Any]]:
    """What the numpy stream gives."""
    made = tree.cloudsen12.stream(RGB, "fmask", None, 3, 5, StreamOptions(augment=True, crop=16))
    return [
        [(b["pixels"].tobytes(), b["target"].tobytes(), tuple(b["roi"]), b["time"].tolist()) for b in made]
        for _ in range(count)
    ]


def test_tensors_are_the_streams_arrays(tree: xr.DataTree) -> None:
    made = dataset(tree)
    batch = next(iter(made))
    assert batch["pixels"].shape == (3, 3, 16, 16)
    assert (batch["pixels"].dtype, batch["target"].dtype, batch["time"].dtype) == (
        torch.int16,
        torch.uint8,
        torch.int64,
    )
    assert isinstance(made, torch.utils.data.IterableDataset)


def test_a_loader_without_workers(tree: xr.DataTree) -> None:
    made = loader(dataset(tree))
    assert len(made) == 7
    assert [[told(batch) for batch in made] for _ in range(2)] == epochs(tree, 2)


def test_a_loader_with_spawned_workers(tree: xr.DataTree) -> None:
    """Workers that live for one epoch: the epoch moves on all the same, and the order is that of no workers."""
    made = loader(dataset(tree), workers=2)
    assert len(made) == 7
    assert [[told(batch) for batch in made] for _ in range(2)] == epochs(tree, 2)


def test_forked_workers_read_a_local_cube(tree: xr.DataTree) -> None:
    """A path without locks or connections: every epoch starts its own threads, in the worker."""
    made = torch.utils.data.DataLoader(dataset(tree), batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert [told(batch) for batch in made] == epochs(tree, 1)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_mid_epoch(tree: xr.DataTree, workers: int) -> None:
    first, second = epochs(tree, 2)
    state = dataset(tree).state_dict(batches=4)
    fresh = dataset(tree)
    fresh.load_state_dict(state)
    made = loader(fresh, workers=workers)
    assert [told(batch) for batch in made] == first[4:]
    if not workers:
        assert [told(batch) for batch in made] == second


def test_the_state_in_process_is_exact(tree: xr.DataTree) -> None:
    made = dataset(tree)
    for number, _ in enumerate(made, 1):
        if number == 2:
            state = made.state_dict()
            break
    fresh = dataset(tree)
    fresh.load_state_dict(state)
    assert [told(batch) for batch in fresh] == epochs(tree, 1)[0][2:]


def test_ranks_need_no_sampler(tree: xr.DataTree) -> None:
    made = [loader(dataset(tree, rank=rank, world_size=2, last="drop")) for rank in range(2)]
    assert len(made[0]) == len(made[1]) == 3
    seen = [(roi, time) for one in made for b in one for roi, time in zip(b["roi"], b["time"].tolist(), strict=True)]
    assert len(seen) == len(set(seen)) == 18


def test_a_model_learns_from_it(tree: xr.DataTree) -> None:
    torch.manual_seed(0)
    options = StreamOptions(normalise="physical")
    made = loader(tree.cloudsen12.torch_dataset(RGB, "fmask", None, 10, 0, options))
    model = torch.nn.Conv2d(3, 4, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    losses = []
    for _ in range(6):
        for batch in made:
            loss = torch.nn.functional.cross_entropy(model(batch["pixels"]), batch["target"].long(), ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.8 * losses[0]

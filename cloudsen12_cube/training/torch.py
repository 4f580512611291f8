"""Streams for PyTorch. The only module that imports torch, which is an optional dependency.

Threads in the training process are the fastest: they decode straight into the batch, while a worker process has to send
every batch to the training process. Workers are supported all the same, started by spawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cloudsen12_cube.training.stream import Stream

_MAX_WORKERS = 256


class TorchStream(IterableDataset[dict[str, Any]]):  # type: ignore[misc]  # torch is optional, to mypy it is Any
    """Batches of a stream as tensors; ``roi`` is a list of str.

    Pass it to a ``DataLoader`` with ``batch_size=None``, or use `loader`. The stream's options hold rank and world
    size, so no sampler is needed. Each iteration is the next epoch, also in worker processes that end with an epoch.

    Parameters
    ----------
    stream : Stream
        Stream of numpy batches.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        # For each worker the epoch and batch to start with; in shared memory, since workers end with an epoch.
        self._next = torch.zeros((_MAX_WORKERS, 2), dtype=torch.int64).share_memory_()
        self._next[:] = torch.tensor(stream.begins)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.stream)

    def set_epoch(self, number: int) -> None:
        """Start the next iteration with an epoch."""
        self._next[:] = torch.tensor([number, 0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches; of several workers, each yields every n-th."""
        info = get_worker_info()
        number, count = (0, 1) if info is None else (info.id, info.num_workers)
        if count > _MAX_WORKERS:
            raise ValueError(f"workers is {count}: give {_MAX_WORKERS} or fewer; 0 is the fastest")
        if info is not None:  # the workers share the cores
            threads = max(1, self.stream.limits.threads // count)
            self.stream.limits = replace(self.stream.limits, threads=threads)
        epoch, batch = self._next[number].tolist()
        self._next[number] = torch.tensor([epoch + 1, 0])
        self.stream.begin_at(epoch, batch)
        for tensors in map(_tensors, self.stream.steps(count, number)):
            yield tensors
            del tensors  # else its memory would be held while the next batch is prepared

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return the position of the stream.

        Parameters
        ----------
        batches : int, optional
            Number of batches of this epoch that were consumed. Required where a loader prefetches, as one with workers
            or pinned memory does.

        Returns
        -------
        dict
            For `load_state_dict`.
        """
        state = self.stream.state_dict()
        if batches is None:
            return state
        return state | {"epoch": max(int(self._next[0, 0]) - 1, 0), "batches": batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the batch after the one at which the state was saved.

        Parameters
        ----------
        state : mapping
            Result of `state_dict`.

        Raises
        ------
        ValueError
            If the state belongs to another stream.
        """
        self.stream.load_state_dict(state)
        self._next[:] = torch.tensor(self.stream.begins)


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """View arrays as tensors, without a copy."""
    tensors = {name: torch.from_numpy(values) for name, values in batch.items() if name != "roi"}
    return tensors | {"roi": batch["roi"].tolist()}


def loader(dataset: TorchStream, workers: int = 0, pin_memory: bool = False) -> DataLoader[dict[str, Any]]:
    """Create a ``DataLoader`` for a stream: without batching of its own, and with workers by spawn.

    Parameters
    ----------
    dataset : TorchStream
        Result of ``cube.cloudsen12.torch_dataset``.
    workers : int
        Number of worker processes; 0, with threads of this process, is the fastest.
    pin_memory : bool
        Copy batches to pinned memory, for a GPU.

    Returns
    -------
    torch.utils.data.DataLoader
        Iterable of dicts of tensors; its length is the number of batches of an epoch.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if workers else None,
    )

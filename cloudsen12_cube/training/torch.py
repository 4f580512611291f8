"""Streams for PyTorch. The only file that imports torch, which the package does without.

Threads in the training process are the better way: they decode straight into the batch, while a worker process has to
hand every batch across a process border. Workers work all the same, started by spawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cloudsen12_cube.training.stream import Stream

_MOST_WORKERS = 256


class TorchStream(IterableDataset[dict[str, Any]]):  # type: ignore[misc]  # torch is optional, to mypy it is Any
    """Batches of a stream as tensors; ``roi`` is a list of str.

    Give it to a ``DataLoader`` with ``batch_size=None``, or use `loader`. Ranks are told apart by the stream's options,
    so no sampler is needed. Each pass is the next epoch, also in worker processes that live for one pass only.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        # One number for each worker: the epoch it begins next and the batch; shared, since workers may not live on.
        self._next = torch.zeros((_MOST_WORKERS, 2), dtype=torch.int64).share_memory_()
        self._next[:] = torch.tensor(stream.begins)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.stream)

    def set_epoch(self, number: int) -> None:
        """Let the next pass begin this epoch."""
        self._next[:] = torch.tensor([number, 0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches; of several workers, each yields every n-th."""
        info = get_worker_info()
        number, count = (0, 1) if info is None else (info.id, info.num_workers)
        if count > _MOST_WORKERS:
            raise ValueError(f"{count} workers: use {_MOST_WORKERS} or fewer; none is faster than some")
        stream = self.stream if info is None else _shared(self.stream, count)
        epoch, batch = self._next[number].tolist()
        self._next[number] = torch.tensor([epoch + 1, 0])
        stream.begin_at(epoch, batch)
        for found in map(_tensors, stream.steps(count, number)):
            yield found
            del found  # or its memory would be held while the next is made

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Say where the stream is.

        Parameters
        ----------
        batches : int, optional
            Batches of this epoch that were taken. It must be given where a loader fetches ahead of its consumer, as
            one with workers or pinned memory does.
        """
        state = self.stream.state_dict()
        if batches is None:
            return state
        return state | {"epoch": max(int(self._next[0, 0]) - 1, 0), "batches": batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on after the batch at which the state was taken."""
        self.stream.load_state_dict(state)
        self._next[:] = torch.tensor(self.stream.begins)


def _shared(stream: Stream, workers: int) -> Stream:
    """Give a worker its part of the cores."""
    threads = max(1, stream.limits.threads // workers)
    stream.limits = replace(stream.limits, threads=threads)
    return stream


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """View arrays as tensors, without a copy."""
    made = {name: torch.from_numpy(values) for name, values in batch.items() if name != "roi"}
    return made | {"roi": batch["roi"].tolist()}


def torch_dataset(stream: Stream) -> TorchStream:
    """Make an ``IterableDataset`` of a stream."""
    return TorchStream(stream)


def loader(dataset: TorchStream, workers: int = 0, pin_memory: bool = False) -> DataLoader[dict[str, Any]]:
    """Make a ``DataLoader`` as a stream needs it: no batching of its own, and workers by spawn.

    Parameters
    ----------
    dataset : TorchStream
    workers : int
        Processes; 0, in which threads of this process decode, is the fastest.
    pin_memory : bool
        Copy batches to pinned memory, for a GPU.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if workers else None,
    )

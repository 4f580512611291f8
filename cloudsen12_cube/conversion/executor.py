"""A dask cluster that makes the shards: what travels is a path and a shard's place, what comes back is a small record.

Workers read the archive and write the cube themselves, so they must be able to reach both.

Who makes the shards: threads, the caller, or somebody's executor; how many, and never far ahead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from cloudsen12_cube.conversion.planning import Plan
from cloudsen12_cube.errors import ClusterError, CubeError

_CONNECT_SECONDS = 5
_AGAIN = "run the same command again, it continues"


@contextmanager
def cluster(scheduler: str) -> Iterator[Executor]:
    """Give the executor of a running dask cluster.

    Parameters
    ----------
    scheduler : str
        Its address, ``tcp://HOST:PORT``.

    Raises
    ------
    ClusterError
        If there is no scheduler, if it goes, or if a shard has ended several workers.
    """
    client = _connected(scheduler)
    try:
        with _explained(scheduler):
            yield client.get_executor(pure=False)
    finally:
        with suppress(Exception):  # a scheduler that is gone cannot say good-bye
            client.close(timeout=5)


def _connected(scheduler: str) -> Any:
    try:
        from distributed import Client

        connect: Any = Client  # without types
    except ImportError:
        raise ClusterError(
            "a dask cluster needs the package distributed: pip install 'cloudsen12-cube[dask]'"
        ) from None
    try:
        return connect(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ClusterError(
            f"no dask scheduler answers at {scheduler} ({_line(error)}): start one, or give its address"
        ) from None


@contextmanager
def _explained(scheduler: str) -> Iterator[None]:
    """Say in one line what dask says in many."""
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"a shard has ended several workers, most likely for want of memory ({_line(error)}): give the workers "
            f"fewer threads or more memory, then {_AGAIN}"
        ) from None
    except (CancelledError, CommClosedError) as error:
        raise ClusterError(f"the scheduler {scheduler} is gone ({_line(error)}): start it, then {_AGAIN}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_AHEAD = 512
"""Shards that are handed to somebody's executor at a time."""


def worker_count(made: Plan, wanted: int | None, memory: int | None, waiting: bool = False) -> int:
    """Threads that a run may use: those asked for, as far as the memory allows.

    Parameters
    ----------
    made : Plan
    wanted : int, optional
        By default the cores of the machine.
    memory : int, optional
        Bytes that may be used.
    waiting : bool
        Whether they wait for a bucket at times: then twice as many keep the cores busy.

    Raises
    ------
    CubeError
        If not even one fits.
    """
    if wanted is None:
        wanted = (os.cpu_count() or 1) * (2 if waiting else 1)
    if memory is None:
        return wanted
    for workers in range(max(wanted, 1), 0, -1):
        if made.memory_need(workers) <= memory:
            return min(workers, wanted)
    need = made.memory_need(1) / 2**20
    raise CubeError(f"{memory / 2**20:.0f} MiB do not suffice: one worker needs {need:.0f} MiB")


@contextmanager
def submitting[T, R](
    make: Callable[[T], R], executor: Executor | None, workers: int
) -> Iterator[tuple[Callable[[T], Future[R]], int]]:
    """Give a function that sets somebody to make a shard, and how many to ask for at a time.

    Parameters
    ----------
    make : callable
        Makes one shard.
    executor : concurrent.futures.Executor, optional
    workers : int
        Threads where there is no executor; with 0 the caller makes each shard at once.
    """
    if executor is not None:
        yield lambda task: executor.submit(make, task), _AHEAD
    elif workers:
        with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
            yield lambda task: pool.submit(make, task), workers + 1
    else:
        yield lambda task: _at_once(make, task), 1


def _at_once[T, R](make: Callable[[T], R], task: T) -> Future[R]:
    future: Future[R] = Future()
    future.set_result(make(task))
    return future


def started[T, R](tasks: Iterable[T], submit: Callable[[T], Future[R]], ahead: int) -> Generator[R, None, None]:
    """Yield results as shards are done, and keep as many under way: few, so that a stop loses little.

    The first shards are set off at once, not when the first result is asked for.
    """
    queue = iter(tasks)
    running = {submit(task) for task in islice(queue, ahead)}
    return _finished(running, queue, submit)


def _finished[T, R](
    running: set[Future[R]], queue: Iterator[T], submit: Callable[[T], Future[R]]
) -> Generator[R, None, None]:
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            running -= done
            running |= {submit(task) for task in islice(queue, len(done))}
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()

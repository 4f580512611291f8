"""Who makes the shards: threads, the calling thread, a given executor or a dask cluster; and never far ahead.

What travels to a cluster is a task, what comes back is a small record. Its workers read the source and write the cube
themselves, so they must be able to reach both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cloudsen12_cube.conversion.planning import Plan
from cloudsen12_cube.errors import ClusterError, CubeError

_CONNECT_SECONDS = 5
_CONTINUE = "run the same command again, it continues"
_AHEAD = 512
"""Tasks that are handed to a given executor or a cluster at a time."""


class CallingThread(Executor):
    """Runs each task at once, in the thread that submits it."""

    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> Future[R]:
        """Run a task; an error is raised here and now."""
        future: Future[R] = Future()
        future.set_result(fn(*args, **named))
        return future


@dataclass(frozen=True)
class TaskRunner:
    """An executor, and how many tasks it is given at a time. Made by `open_runner`."""

    executor: Executor
    ahead: int

    def run[T, R](self, function: Callable[[T], R], tasks: Iterable[T]) -> Generator[tuple[T, R]]:
        """Yield each task with its result as it is done, and keep as many under way: few, so that a stop loses little.

        The first tasks are submitted at once, not when the first result is asked for. Closing the generator cancels
        those that have not begun.

        Parameters
        ----------
        function : callable
            Takes a task; picklable if the executor has processes.
        tasks : iterable
        """
        queue = iter(tasks)
        running = {self.executor.submit(function, task): task for task in islice(queue, self.ahead)}
        return self._results(function, queue, running)

    def _results[T, R](
        self, function: Callable[[T], R], queue: Iterator[T], running: dict[Future[R], T]
    ) -> Generator[tuple[T, R]]:
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                finished = [(running.pop(future), future) for future in done]
                running |= {self.executor.submit(function, task): task for task in islice(queue, len(done))}
                for task, future in finished:
                    yield task, future.result()
        finally:
            for future in running:
                future.cancel()


@contextmanager
def open_runner(workers: int, executor: Executor | None = None, scheduler: str | None = None) -> Iterator[TaskRunner]:
    """Make what runs tasks; threads end with the context, a given executor does not.

    Parameters
    ----------
    workers : int
        Threads where there is neither executor nor scheduler; with 0 the calling thread does all.
    executor : concurrent.futures.Executor, optional
    scheduler : str, optional
        Address of a dask scheduler, ``tcp://HOST:PORT``.

    Raises
    ------
    ClusterError
        If there is no scheduler, if it goes, or if a task has ended several workers.
    """
    if scheduler:
        with _cluster(scheduler) as cluster:
            yield TaskRunner(cluster, _AHEAD)
    elif executor is not None:
        yield TaskRunner(executor, _AHEAD)
    elif workers:
        with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
            yield TaskRunner(pool, workers + 1)
    else:
        yield TaskRunner(CallingThread(), 1)


def worker_count(plan: Plan, wanted: int | None, memory: int | None, waiting: bool = False) -> int:
    """Choose the number of threads: those asked for, as far as the memory allows.

    Parameters
    ----------
    plan : Plan
    wanted : int, optional
        By default the cores of the machine.
    memory : int, optional
        Bytes that may be used.
    waiting : bool
        Whether they wait for a bucket at times: then twice as many keep the cores busy.

    Returns
    -------
    int

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
        if plan.memory_need(workers) <= memory:
            return min(workers, wanted)
    need = plan.memory_need(1) / 2**20
    raise CubeError(f"{memory / 2**20:.0f} MiB do not suffice: one worker needs {need:.0f} MiB")


@contextmanager
def _cluster(scheduler: str) -> Iterator[Executor]:
    """Return the executor of a running dask cluster; an error of dask becomes one line."""
    client = _connected(scheduler)
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        yield client.get_executor(pure=False)
    except KilledWorker as error:
        raise ClusterError(
            f"a shard has ended several workers, most likely for want of memory ({_line(error)}): give the workers "
            f"fewer threads or more memory, then {_CONTINUE}"
        ) from None
    except (CancelledError, CommClosedError) as error:
        raise ClusterError(f"the scheduler {scheduler} is gone ({_line(error)}): start it, then {_CONTINUE}") from None
    finally:
        with suppress(Exception):  # a scheduler that is gone cannot close the connection
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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

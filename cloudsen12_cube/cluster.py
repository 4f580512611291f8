"""A dask cluster that makes the shards: what travels is a path and a shard's place, what comes back is a small record.

Workers read the archive and write the cube themselves, so they must be able to reach both.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager, suppress
from typing import Any

from cloudsen12_cube.errors import ClusterError

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

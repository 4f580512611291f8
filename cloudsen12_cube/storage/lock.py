"""The lock of writers.

Without it two runs that convert into one cube would each count their own shards alone, and the metadata that the last
one writes would call the other's patches absent.

A local disk has ``flock``: the system frees it when its process dies. Elsewhere a writer creates a lock object. A whole
run creates its lock object on the condition that it does not exist (``If-None-Match: *``), a part creates one with a
name of its own; then each looks for lock objects of the other kind. A store that lists what was just written admits no
two writers. The lock object of a writer that died stays: a process of the same machine is recognised by its number,
any other is named with its age.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.storage.local import LocalStore, reason
from cloudsen12_cube.storage.store import INTERNAL, WAY_OUT, ObjectStore

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FOLDER = INTERNAL[1]
_WHOLE = f"{_FOLDER}whole.json"
_RUNNING: set[str] = set()
"""Runs of this process that hold a lock object, or are about to."""


@contextmanager
def write_lock(store: ObjectStore, shared: bool = False, force: bool = False) -> Iterator[None]:
    """Keep other writers out of a cube for as long as this one runs, or until it dies.

    Machines that do not share the locks of a disk cannot be kept out. They damage no shard: objects are whole, and
    equal sources give equal ones.

    Parameters
    ----------
    store : ObjectStore
    shared : bool
        Allow others that lock it shared, too, as the parts of one conversion do.
    force : bool
        Remove the lock objects that are there: their writers are dead. ``flock`` needs no such force.

    Raises
    ------
    DestinationError
        If another writer holds the cube, or the store cannot be written.
    """
    if isinstance(store, LocalStore):
        with _flock(store.root, shared) if fcntl else _lock_object(store, shared, force):
            if not shared:
                store.remove_partial()
            try:
                yield
            finally:
                if not shared:
                    with suppress(DestinationError):  # what is left blocks no other writer
                        store.remove_partial()
    elif store.atomic_create:
        with _lock_object(store, shared, force):
            yield
    else:
        raise DestinationError(
            f"{store.root} is read-only here: without an atomic create two writers cannot be kept apart; {WAY_OUT}"
        )


@contextmanager
def _flock(root: str, shared: bool) -> Iterator[None]:
    try:
        os.makedirs(root, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise DestinationError(reason(error, root)) from None
    try:
        _acquire(handle, root, shared)
        yield
        if not _is_at(handle, root):
            raise _replaced(root)
    finally:
        os.close(handle)


def _is_at(handle: int, root: str) -> bool:
    """Return whether an open folder still has its path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(root))
    except OSError:
        return False


def _replaced(root: str) -> DestinationError:
    """Make the error of a writer whose lock is gone at its end: it cannot know what is left of its objects."""
    return DestinationError(
        f"{root} was removed or replaced, or its lock was broken, while this run wrote to it: remove what is left of "
        "it, or give another place"
    )


def _acquire(handle: int, root: str, shared: bool) -> None:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DestinationError(f"another process is writing {root}: wait for it or stop it") from None
    except OSError as error:
        raise DestinationError(reason(error, root)) from None


@dataclass(frozen=True)
class LockNote:
    """The content of a lock object: the writer."""

    run: str
    host: str
    boot: str
    """Tells a machine from another of the same name."""
    pid: int
    since: str

    def __post_init__(self) -> None:
        """Refuse what no writer has written."""
        texts = (self.run, self.host, self.boot, self.since)
        if not all(type(text) is str and len(text) < 256 for text in texts) or type(self.pid) is not int:
            raise ValueError("a field has another type")
        if not 0 < self.pid < 2**31 or datetime.fromisoformat(self.since).tzinfo is None:
            raise ValueError("the process or the time is out of range")

    @classmethod
    def of_this_process(cls) -> LockNote:
        """Describe the writer that runs here."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, socket.gethostname(), _boot(), os.getpid(), now)

    def is_dead(self) -> bool:
        """Return whether its run has ended: its process ran on this machine and is gone, or it is this one."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        if self.pid == os.getpid():
            return self.run not in _RUNNING  # its lock object could not be removed when it ended
        if os.name == "nt":
            return False  # there ``os.kill`` with 0 does not ask for a process, it interrupts one
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def __str__(self) -> str:
        begun = datetime.fromisoformat(self.since)
        minutes = max(0.0, (datetime.now(UTC) - begun).total_seconds() / 60)  # the clock may have gone back
        return f"process {self.pid} on {self.host}, begun {self.since}, {minutes:.0f} min ago"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@contextmanager
def _lock_object(store: ObjectStore, shared: bool, force: bool) -> Iterator[None]:
    note = LockNote.of_this_process()
    data = json.dumps(asdict(note)).encode()
    key = f"{_FOLDER}part-{note.run}.json" if shared else _WHOLE
    _remove(store, everything=force)
    _RUNNING.add(note.run)
    try:
        if not store.put(key, data, if_absent=True):  # it may be there though its reply was lost
            raise _held(store, key)
        others = [name for name in _lock_keys(store) if name != key and (not shared or name == _WHOLE)]
        if others:
            raise _held(store, others[0])
        yield
        if store.get(key) != data:
            raise _replaced(store.root)
    finally:
        _RUNNING.discard(note.run)
        with suppress(Exception):  # another error says what failed, and a lock object that stays is recognised as dead
            if store.get(key) == data:
                store.delete(key)


def _lock_keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list(_FOLDER)]


def _remove(store: ObjectStore, everything: bool) -> None:
    for key in _lock_keys(store):
        note = _read(store, key)
        if everything or (note and note.is_dead()):
            store.delete(key)


def _read(store: ObjectStore, key: str) -> LockNote | None:
    data = store.get(key)
    try:
        return LockNote(**json.loads(data)) if data else None
    except (ValueError, TypeError, RecursionError):
        return None


def _held(store: ObjectStore, key: str) -> DestinationError:
    note = _read(store, key)
    writer = str(note) if note else f"a lock object {key} that cannot be read"
    return DestinationError(
        f"another run is writing {store.root} ({writer}): wait for it or stop it; if it is dead, add --break-lock"
    )

"""Who writes a cube in a bucket: a note a writer, made first and looked at then, taken away at the end.

A bucket knows no locks. A whole run makes its note on the condition that there is none (``If-None-Match: *``), a part
makes one of its own; then each looks for a note of the other kind. Stores that list what was just written let no two
pass. A writer that died leaves its note: one of the same machine is seen to be dead, any other is told with its age.
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
from cloudsen12_cube.storage.retry import RetryingStore

FOLDER = ".writers"
_WHOLE = f"{FOLDER}/whole.json"


@dataclass(frozen=True)
class LockNote:
    """What a writer says of itself."""

    run: str
    host: str
    boot: str
    """Tells a machine from another of the same name."""
    pid: int
    since: str

    def is_dead(self) -> bool:
        """Tell whether its process ran on this machine and is gone."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()) or self.pid == os.getpid():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def __str__(self) -> str:
        begun = datetime.fromisoformat(self.since)
        minutes = (datetime.now(UTC) - begun).total_seconds() / 60
        return f"process {self.pid} on {self.host}, begun {self.since}, {minutes:.0f} min ago"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@contextmanager
def held(store: RetryingStore, shared: bool, force: bool) -> Iterator[None]:
    """Keep other writers out of a cube.

    Parameters
    ----------
    store : Patient
    shared : bool
        Let in others that ask for a share, too, as the parts of one conversion do.
    force : bool
        Take away the notes that are there: their writers are dead.

    Raises
    ------
    DestinationError
        If another writer's note is there.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run = uuid.uuid4().hex
    data = json.dumps(asdict(LockNote(run, socket.gethostname(), _boot(), os.getpid(), now))).encode()
    key = f"{FOLDER}/part-{run}.json" if shared else _WHOLE
    _clear(store, everything=force)
    if not store.create(key, data):
        _stop(store, key)
    try:
        others = [name for name in _notes(store) if name != key and (not shared or name == _WHOLE)]
        if others:
            _stop(store, others[0])
        yield
    finally:
        with suppress(Exception):  # what has failed stands in another error; a note that stays is seen to be dead
            if store.get(key) == data:
                store.delete(key)


def _notes(store: RetryingStore) -> list[str]:
    return [key for key, _ in store.listed(f"{FOLDER}/") if key.startswith(f"{FOLDER}/")]


def _clear(store: RetryingStore, everything: bool) -> None:
    for key in _notes(store):
        note = _read(store, key)
        if everything or (note and note.is_dead()):
            store.delete(key)


def _read(store: RetryingStore, key: str) -> LockNote | None:
    data = store.get(key)
    try:
        return LockNote(**json.loads(data)) if data else None
    except (ValueError, TypeError):
        return None


def _stop(store: RetryingStore, key: str) -> None:
    note = _read(store, key)
    who = str(note) if note else f"a note {key} that cannot be read"
    raise DestinationError(
        f"another run is writing {store.url} ({who}): wait for it or stop it; if it is dead, add --break-lock"
    )

"""A cube's place in an object store: every object is put whole, and a note in the bucket keeps two writers apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cloudsen12_cube.access import NOTHING, Access
from cloudsen12_cube.lease import FOLDER, held
from cloudsen12_cube.patient import Patient, open_patient


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket, or whatever else a URL leads to. It holds no open client and may be sent anywhere."""

    root: str
    access: Access = NOTHING
    known: dict[str, int] | None = field(default=None, repr=False, compare=False)
    """Key -> bytes of all objects, where they were listed: nobody is asked for what was not among them."""
    readers: int = 16
    """Requests that are worth having under way at a time."""

    def _client(self) -> Patient:
        return open_patient(self.root, self.access)

    def portable(self) -> Bucket:
        """Give what a worker anywhere needs."""
        return replace(self, known=None)

    def put(self, key: str, data: bytes, durable: bool = True) -> None:
        """Write one object; a store has it for good when it says so."""
        del durable
        self._client().put(key, data)

    def get(self, key: str) -> bytes | None:
        """Read one object, or None if there is none."""
        if self.known is not None and key not in self.known:
            return None
        return self._client().get(key)

    def size(self, key: str) -> int | None:
        """Bytes of one object, or None if there is none."""
        return self._client().size(key) if self.known is None else self.known.get(key)

    def delete(self, key: str) -> None:
        """Remove one object if it is there."""
        self._client().delete(key)

    def names(self, prefix: str) -> list[str]:
        """Last parts of the keys directly under a prefix, in order; none where nothing is."""
        start = f"{prefix.rstrip('/')}/"
        found = self.known if self.known is not None else (key for key, _ in self._client().listed(start))
        below = (key[len(start) :] for key in found if key.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def empty(self) -> bool:
        """Tell whether no object is there yet but the notes of writers."""
        return all(key.partition("/")[0] == FOLDER for key, _ in self._client().listed())

    def listed(self) -> Bucket:
        """List everything once: the one that is given answers from that list what it can."""
        return replace(self, known=dict(self._client().listed()))

    @contextmanager
    def locked(self, shared: bool = False, force: bool = False) -> Iterator[None]:
        """Keep other writers out for as long as this one runs; see `lease`."""
        with held(self._client(), shared, force):
            yield

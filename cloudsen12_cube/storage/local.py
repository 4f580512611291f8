"""Where the objects of a cube are put: whole, or not at all.

An object is written under a name of its own in ``.partial``, flushed to the disk and renamed into its place: a reader
sees the old one or the new one, and two writers of one object never share a file. What a writer that died has left in
``.partial`` blocks nobody; the next one that has the cube to itself takes it away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.storage.config import StorageConfig

_PARTIAL = ".partial"


@dataclass(frozen=True)
class LocalStore:
    """A cube's folder on a disk."""

    root: str

    @property
    def access(self) -> StorageConfig:
        """Nothing is needed to get to a disk."""
        return StorageConfig()

    @property
    def readers(self) -> int:
        """One read after another is as fast as several."""
        return 1

    def listed(self) -> LocalStore:
        """Give itself: to ask a disk for an object costs nothing."""
        return self

    def portable(self) -> LocalStore:
        """Give what a worker needs that has another working directory."""
        return LocalStore(os.path.abspath(self.root))

    def put(self, key: str, data: bytes, durable: bool = True) -> None:
        """Write one object.

        Parameters
        ----------
        key : str
        data : bytes
        durable : bool
            Wait until the disk has it. What the next run makes anew, such as metadata, need not be waited for.

        Raises
        ------
        DestinationError
            If the disk is full or the place cannot be written.
        """
        path = Path(self.root, key)
        partial = Path(self.root, _PARTIAL, uuid.uuid4().hex)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise DestinationError(_reason(error, self.root)) from None

    def get(self, key: str) -> bytes | None:
        """Read one object, or None if there is none."""
        try:
            return Path(self.root, key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None

    def size(self, key: str) -> int | None:
        """Bytes of one object, or None if there is none."""
        try:
            return os.stat(os.path.join(self.root, key)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, key: str) -> None:
        """Remove one object if it is there."""
        try:
            Path(self.root, key).unlink(missing_ok=True)
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None

    def names(self, prefix: str) -> list[str]:
        """Last parts of the keys directly under a prefix, in order; none where nothing is."""
        try:
            return sorted(os.listdir(os.path.join(self.root, prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def empty(self) -> bool:
        """Tell whether no object is there yet; what a writer that died has left is none."""
        try:
            return set(os.listdir(self.root)) <= {_PARTIAL}
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return False

    @contextmanager
    def locked(self, shared: bool = False, force: bool = False) -> Iterator[None]:
        """Keep other writers out for as long as this one runs, or dies.

        Machines that do not share their locks cannot be kept out so. They do no harm: objects are whole, and equal
        sources give equal ones.

        Parameters
        ----------
        shared : bool
            Let in others that ask for a share, too, as the parts of one conversion do.
        force : bool
            Without meaning here: the lock of a process that died is free.

        Raises
        ------
        DestinationError
            If another process holds the cube.
        """
        del force
        try:
            os.makedirs(self.root, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None
        try:
            self._lock(handle, shared)
            if not shared:
                self._sweep()
            yield
            if not shared:
                self._sweep()
        finally:
            os.close(handle)

    def _lock(self, handle: int, shared: bool) -> None:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DestinationError(f"another process is writing {self.root}: wait for it or stop it") from None
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None

    def _sweep(self) -> None:
        """Take away what was never finished; nobody else writes now."""
        folder = Path(self.root, _PARTIAL)
        try:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None


def _reason(error: OSError, root: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {root} is full: free some space and run the same command again, it continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {error.filename or root}: choose another place for the cube or change its rights"
    return f"cannot use {error.filename or root}: {error.strerror}"

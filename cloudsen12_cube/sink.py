"""Where the objects of a cube are put: whole, or not at all.

An object is written beside its place, flushed to the disk and renamed: a reader sees the old one or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudsen12_cube.errors import DestinationError

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Sink:
    """A cube's folder on a local disk."""

    root: str

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
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
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

    def empty(self) -> bool:
        """Tell whether nothing is there yet."""
        try:
            return not os.listdir(self.root)
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second writer out for as long as this one runs, or dies.

        Raises
        ------
        DestinationError
            If another process holds the cube.
        """
        try:
            os.makedirs(self.root, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise DestinationError(_reason(error, self.root)) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise DestinationError(f"another process is writing {self.root}: wait for it or stop it") from None
        finally:
            os.close(handle)


def _reason(error: OSError, root: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {root} is full: free some space and run the same command again, it continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {error.filename or root}: choose another place for the cube or change its rights"
    return f"cannot use {error.filename or root}: {error.strerror}"

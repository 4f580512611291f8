"""What can go wrong, as types: the command line turns them into one line and an exit code.

What must not be told: user names, passwords and signatures in URLs.
"""

from __future__ import annotations

import errno
import os
import re


class CubeError(Exception):
    """Nothing could be done; the message names the thing, the value found and the way out (exit code 2)."""


class ArchiveError(CubeError):
    """The source is no CloudSEN12 archive, or its metadata contradicts itself."""


class SelectionError(CubeError, ValueError):
    """A condition that cannot be read, or one that nothing fulfils."""


class DestinationError(CubeError):
    """The cube's place holds something else, or cannot be written."""


class StoreError(CubeError):
    """A cube that cannot be read as one."""


class ReadError(CubeError, OSError):
    """A file or folder on a disk that cannot be read.

    Attributes
    ----------
    path : str
    reason : str
        The system's reason.
    """

    def __init__(self, path: str, reason: str) -> None:
        denied = reason == os.strerror(errno.EACCES)
        what = f"no permission to read {path}" if denied else f"{path} cannot be read ({reason})"
        super().__init__(f"{what}: change its rights or give another place")
        self.path = path
        self.reason = self.strerror = reason

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, str]]:
        """Cross process borders whole: the default would hand back the message alone."""
        return type(self), (self.path, self.reason)


class RemoteError(CubeError):
    """A bucket or a server did not do what it was asked for, however often it was asked."""


class ClusterError(CubeError):
    """There is no cluster, or it went away."""


class PatchError(Exception):
    """One asset of one patch cannot go into the cube.

    Attributes
    ----------
    path : str
        File in the archive.
    found, expected : str
        What the file holds, and what it should.
    """

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(f"{path}: found {found}, expected {expected}")
        self.path, self.found, self.expected = path, found, expected

    def __reduce__(self) -> tuple[type[PatchError], tuple[str, str, str]]:
        """Cross process borders whole: the default would hand back the message alone."""
        return type(self), (self.path, self.found, self.expected)


_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/\s]*@)?([^\s?#]*)(?:[?#][^\s'\")]*)?", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Take user information, query and fragment out of every URL in a text; the rest of it stays as it is."""
    return _URL.sub(r"\1\2", text)

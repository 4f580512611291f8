"""Exceptions of the package, which the command line prints as one line.

Messages never contain user names, passwords or signatures of URLs.
"""

from __future__ import annotations

import errno
import os
import re


class CubeError(Exception):
    """Base class; the message states the object, the value found and the remedy. Exit code 2 on the command line."""


class ArchiveError(CubeError):
    """The source is not an archive of CloudSEN12, or its metadata are inconsistent."""


class SelectionError(CubeError, ValueError):
    """An invalid condition, or a selection without patches."""


class DestinationError(CubeError):
    """The location of a new cube has other content, or is not writable."""


class StoreError(CubeError):
    """A store that is not a cube, or a damaged cube."""


class DamagedBytesError(StoreError, ValueError):
    """Bytes of a cube that do not have their checksum, or do not fit the array; zarr raises ValueError for these."""


class ReadError(CubeError, OSError):
    """A local file or folder that is not readable.

    Attributes
    ----------
    path : str
        File or folder.
    reason : str
        Reason of the operating system.
    """

    def __init__(self, path: str, reason: str) -> None:
        denied = reason == os.strerror(errno.EACCES)
        what = f"no permission to read {path}" if denied else f"{path} cannot be read ({reason})"
        super().__init__(f"{what}: {'change its rights' if denied else 'check the disk'} or give another place")
        self.path = path
        self.reason = self.strerror = reason

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, str]]:
        """Pickle all attributes; the default would pass only the message to the constructor."""
        return type(self), (self.path, self.reason)


class RemoteError(CubeError):
    """A request to a bucket or server that failed repeatedly."""


class ClusterError(CubeError):
    """The dask cluster is not available, or was lost during a run."""


class PatchError(CubeError):
    """An asset of a patch that cannot be converted; the message is one line, whatever a file or its name contains.

    Attributes
    ----------
    path : str
        File in the archive.
    found, expected : str
        Content of the file, and the expected content.
    """

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(" ".join(f"{path}: found {found}, expected {expected}".split()))
        self.path, self.found, self.expected = path, found, expected

    def __reduce__(self) -> tuple[type[PatchError], tuple[str, str, str]]:
        """Pickle all attributes; the default would pass only the message to the constructor."""
        return type(self), (self.path, self.found, self.expected)


# A scheme has a bounded length here: without it, the time grows with the square of the length of a word.
_URL = re.compile(
    r"([a-z][a-z0-9+.-]{0,31}://)"
    r"(?:[^/\s]*@|[^/\s:@]*:(?!\d+(?:/|$))[^\s@]*@)?"  # the second: a password with a slash, which is no port
    r"([^\s?#]*)(?:[?#][^\s'\")]*)?",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Remove user information, query and fragment from every URL in a text."""
    return _URL.sub(r"\1\2", text)


def printable(text: str) -> str:
    r"""Escape what is not printable, such as the control sequences of a terminal: ``\x1b[31m`` in place of red.

    Parameters
    ----------
    text : str
        One line: a newline is escaped, too, since it could forge another line.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

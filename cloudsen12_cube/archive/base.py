"""What every published format of the dataset is to the rest of the package: patches, their metadata, and a decoder.

A format is one module with an `Archive`, a `Decoder` and a `FormatDetector`, which is shown the files that were listed.
The table of formats in `archive.open` names the detector; no other module knows the layout of the files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.archive.metadata import decode_text, from_csv
from cloudsen12_cube.archive.tiff import Header, directory_inside, read_header
from cloudsen12_cube.errors import ArchiveError, PatchError, ReadError
from cloudsen12_cube.schema import TestMeaning
from cloudsen12_cube.storage import LocalStore, ObjectInfo, ObjectStore, open_store, parent_store

SUFFIXES = (".tif", ".csv", ".json", ".dat", ".taco", ".aux.xml", ".msk")
"""Endings of the files of all formats; other files are ignored."""
_DEPTH = 7  # one level on top, label folder, ROI, patch, labels; no file of a format is deeper


def read_range(store: ObjectStore, path: str, start: int = 0, length: int | None = None) -> bytes:
    """Read a file of an archive, whole or a part of it.

    Raises
    ------
    ReadError
        If it is not there any more or cannot be read.
    RemoteError
        If a bucket does not answer.
    """
    data = store.get(path, start, length)
    if data is None:
        raise ReadError(f"{store.root}/{path}", "it is not there any more")
    return data


def list_files(root: Any) -> tuple[ObjectStore, Iterator[ObjectInfo]]:
    """List the files of a folder, a bucket or a single TACO file that may belong to an archive; nothing is opened.

    Raises
    ------
    ArchiveError
        If there is no such place.
    """
    store = open_store(root)
    above = parent_store(store) if store.root.endswith(".taco") else None
    if above and not (isinstance(store, LocalStore) and os.path.isdir(store.root)):
        store, name = above
        size = store.size(name)
        if size is None:
            raise ArchiveError(f"{root} does not exist: give the folder of the .taco files, or one of them")
        return store, iter([ObjectInfo(name, size)])
    if isinstance(store, LocalStore) and not os.path.isdir(store.root):
        found = "is a file" if os.path.exists(store.root) else "does not exist"
        raise ArchiveError(f"{root} {found}: give the folder that holds high/, scribble/ or nolabel/, or .taco files")
    return store, (i for i in store.list() if i.key.endswith(SUFFIXES) and i.key.count("/") <= _DEPTH)


def csv_records(data: bytes) -> Iterator[dict[str, str]]:
    """Read a CSV table by the csv module alone, blank lines left out."""
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    for row in csv.DictReader(io.StringIO(text, newline=None)):
        if any(isinstance(value, str) and value.strip() for value in row.values()):
            yield row


Pixels = npt.NDArray[Any]

_HEAD = 32 * 1024
_MOST = 2**28  # larger than any patch; of what is larger still, the header is not looked for
_UNSTATED = 2**62  # bytes of a file whose server does not state its length

PatchKey = tuple[str, str]
"""(roi_id, s2_id_gee): the image id alone repeats across ROIs."""


@dataclass(frozen=True)
class PatchFiles:
    """Where the assets of one patch lie."""

    folder: str
    """Path of the patch inside the archive, ``high/ROI_0001/...``, or of the folder of files that hold many patches."""
    label_type: str
    """As the archive states it."""
    names: dict[str, str] = field(default_factory=dict)
    """Asset file (``labels/fmask``) -> name inside the folder (``labels/fmask.tif``), as the decoder reads it."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Asset file -> bytes; -1 where a server does not state them."""
    outside: frozenset[str] = frozenset()
    """Asset files that are links out of the archive: known, never followed."""
    starts: dict[str, int] = field(default_factory=dict)
    """Asset file -> its first byte, where a file holds several."""
    sidecars: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Asset file -> suffixes of the files beside it that say something of its bands, ``.aux.xml`` and ``.msk``."""
    number: int = 0
    """Position of the patch in files that hold one patch after another."""
    rows: int = 0
    """Rows (and columns) of a patch that lies in a larger, padded image; 0 where nothing is padded."""
    corner: tuple[int, int] = (0, 0)
    """Row and column of a padded image at which the patch begins."""


class ByteRange(NamedTuple):
    """Some bytes of a file."""

    path: str
    """Below the archive's root."""
    start: int = 0
    length: int | None = None
    """Bytes; None for the whole file."""


class Decoder(Protocol):
    """How the bytes of an asset become pixels: small, picklable, and sent with each task."""

    def path(self, files: PatchFiles, name: str) -> str:
        """Name an asset of a patch in a message and in the record of a shard."""

    def byte_ranges(self, files: PatchFiles, name: str) -> tuple[ByteRange, ...]:
        """List the bytes that make an asset, in order.

        Raises
        ------
        PatchError
            If some of them are not there.
        """

    def header(self, store: ObjectStore, files: PatchFiles, name: str) -> Header | None:
        """Read what an asset says of itself, or None if it is damaged."""

    def decode(self, data: bytes, files: PatchFiles, name: str, limit: int) -> tuple[Header, Pixels]:
        """Turn the bytes of all ranges into pixels of shape (count, height, width).

        Raises
        ------
        PatchError
            If they are damaged, or would take more than ``limit`` bytes.
        """

    def decode_independently(self, store: ObjectStore, files: PatchFiles, name: str) -> ReferencePixels:
        """Read an asset by other libraries than `decode` does: what a verification compares with."""


@dataclass(frozen=True)
class ReferencePixels:
    """Pixels as another reader sees them."""

    pixels: Pixels
    """(count, height, width)."""
    descriptions: Sequence[str]
    nodata: float | None = None
    """Value that the file declares, None if it declares none."""


class Archive:
    """A listed archive in one of the published formats: nothing is opened but its metadata. Made by `open_archive`."""

    store: ObjectStore
    decoder: Decoder
    foreign: tuple[str, ...]
    """Listed files that belong to no archive, such as those that macOS adds."""

    @cached_property
    def patches(self) -> dict[PatchKey, PatchFiles]:
        """Where the assets of each patch lie."""
        raise NotImplementedError

    @cached_property
    def test_meaning(self) -> TestMeaning | None:
        """What the codes of ``test`` mean, where the archive states it."""
        return None

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """Names of layers that it has and a cube has no place for."""
        return ()

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Files that are read as none of its own; complete after `table`."""
        return self.foreign

    @property
    def root(self) -> str:
        """Folder or URL."""
        return self.store.root

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return not isinstance(self.store, LocalStore)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Path of each CSV table that `table` has read -> its sha256."""
        return {}

    def read_csv(self, path: str) -> pd.DataFrame:
        """Read a CSV table of the metadata."""
        data = read_range(self.store, path)
        self.digests[path] = hashlib.sha256(data).hexdigest()
        return from_csv(decode_text(data, path), path)

    def catalogue_source(self, metadata: str, texts: pd.DataFrame) -> str:
        """Return the name and sha256 of what `table` has read: the source that a cube states, wherever it lay.

        The sha256 is that of the CSV table; where there are several or none, that of all rows.
        """
        names = {path.rpartition("/")[2] for path in self.digests}
        digest = next(iter(self.digests.values()), "")
        if len(self.digests) != 1:
            digest = hashlib.sha256(texts.to_csv(index=False).encode()).hexdigest()
        return f"{names.pop() if names else metadata} sha256:{digest}"

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata.

        Returns
        -------
        source : {"csv", "stac", "folders", "taco"}
            Where they come from.
        table : pandas.DataFrame
            Texts, one row a patch, columns named as in ``PROPERTIES``.
        """
        raise NotImplementedError

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of each patch as the files state them, read independently of `table`."""
        raise NotImplementedError

    def read(self, files: PatchFiles, name: str) -> bytes:
        """Read the bytes of one asset.

        Parameters
        ----------
        files : PatchFiles
            Files of the patch.
        name : str
            Asset file, ``labels/fmask``.

        Raises
        ------
        ReadError, RemoteError
            If they cannot be read.
        PatchError
            If some of them are not there.
        """
        return b"".join(read_range(self.store, *part) for part in self.decoder.byte_ranges(files, name))


class FormatDetector(Protocol):
    """Recognise a format from one entry of the listing after another: a full archive has 1.2 million of them."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files that it is shown, ``.tif``."""

    passed_over: Sequence[str]
    """Files that `detect` has found to be of no format, though their names look like it."""

    def add(self, entry: ObjectInfo) -> None:
        """Count a file."""

    def detect(self, store: ObjectStore) -> Archive | None:
        """Return the archive, or None if its files have another format."""


def header_in_front(read: Callable[[int], bytes], path: str, size: int) -> Header | None:
    """Read the header of a tif; most files have it in front, the others are read whole.

    Parameters
    ----------
    read : callable
        Gives so many bytes from the file's first one on, or all where there are fewer.
    path : str
        For messages.
    size : int
        Bytes of the file; -1 where a server does not state them.

    Returns
    -------
    Header or None
        None if it is damaged, or cannot be read.
    """
    for length in (_HEAD, _MOST):
        try:
            data = read(length)
            if length == _MOST or len(data) < length or directory_inside(data):
                return read_header(data, path, size if size >= 0 else _UNSTATED)
        except PatchError:
            continue
        except ReadError:
            return None
    return None


def crop(pixels: Pixels, files: PatchFiles) -> Pixels:
    """Cut a patch out of a padded image, (count, height, width)."""
    (row, column), rows = files.corner, files.rows
    return np.ascontiguousarray(pixels[:, row : row + rows, column : column + rows])


def padding_pixels(pixels: Pixels, files: PatchFiles) -> Pixels:
    """Return the pixels around a patch, (count, n)."""
    (row, column), rows = files.corner, files.rows
    around = np.ones(pixels.shape[1:], dtype=bool)
    around[row : row + rows, column : column + rows] = False
    outside: Pixels = pixels[:, around]
    return outside

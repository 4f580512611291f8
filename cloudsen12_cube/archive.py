"""Where the assets of each patch lie: one listing of the archive, and the bytes of a file.

The published layout is ``{high|scribble|nolabel}/ROI_*/<s2_id_gee>/[extra/|labels/]<asset>.tif``; copies spell the
third folder in other ways or put everything one level deeper.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import pandas as pd

from cloudsen12_cube import metadata
from cloudsen12_cube.access import NOTHING, Access, access_of, clean, is_url
from cloudsen12_cube.assets import ASSETS, SPELLINGS
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.metadata import LABEL_FOLDERS
from cloudsen12_cube.patient import open_patient

PatchKey = tuple[str, str]
"""(roi_id, s2_id_gee): the image id alone repeats across ROIs."""

_FOLDERS = "|".join(LABEL_FOLDERS)
_PATCH = re.compile(rf"(?:[^/]+/)?({_FOLDERS})/(ROI_\d+)/([\w.-]+)/((?:extra/|labels/)?[\w-]+)\.tif")
_STEMS = frozenset(asset.file for asset in ASSETS)
_TABLES = ("cloudsen12_metadata.csv", "metadata.csv")
_DEPTH = 7  # one level on top, label folder, ROI, patch, labels: deeper lies nothing of ours


@dataclass(frozen=True)
class PatchFiles:
    """The files of one patch."""

    folder: str
    """Path of the patch inside the archive, ``high/ROI_0001/...``."""
    label_type: str
    """What the folder's name says."""
    names: dict[str, str] = field(default_factory=dict)
    """Asset file (``labels/fmask``) -> name on disk inside the folder (``labels/fmask.tif``)."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Asset file -> bytes; -1 where a server does not tell."""
    outside: frozenset[str] = frozenset()
    """Asset files that are links out of the archive: known, never followed."""


@dataclass(frozen=True)
class Archive:
    """A listed archive: nothing is opened but its metadata."""

    root: str
    patches: dict[PatchKey, PatchFiles]
    tables: tuple[str, ...]
    """CSV files with metadata, the shallowest first."""
    documents: tuple[str, ...]
    """JSON files, any of which may be a STAC item."""
    access: Access = NOTHING
    """How to get there, if it is a URL."""

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return is_url(self.root)

    def read(self, path: str, size: int = -1) -> bytes:
        """Read a file of the archive, whole or its beginning.

        Parameters
        ----------
        path : str
            Path inside the archive.
        size : int
            Bytes to read; all by default.

        Raises
        ------
        OSError
            If it cannot be read, or is no file: who opens a pipe waits for ever.
        RemoteError
            If a bucket does not give it.
        """
        if self.is_remote:
            data = open_patient(self.root, self.access).get(path, None if size < 0 else (0, size))
            if data is None:
                raise FileNotFoundError(errno.ENOENT, "it is not there any more", f"{self.root}/{path}")
            return data
        place = os.path.join(self.root, path)
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError(errno.EINVAL, "no regular file", place)
        with open(place, "rb") as file:
            return file.read(size)

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata: from the CSV, else from STAC items, else from the folders.

        Returns
        -------
        source : str
            ``csv``, ``stac`` or ``folders``.
        table : pandas.DataFrame
            Texts, one row a patch.
        """
        if self.tables:
            path = self.tables[0]
            return "csv", metadata.from_csv(_text(self.read(path), path), path)
        items = metadata.from_stac((p, metadata.parse_json(_text(self.read(p), p), p)) for p in self.documents)
        if len(items):
            return "stac", items
        keys = [(files.label_type, *key) for key, files in sorted(self.patches.items())]
        return "folders", metadata.from_folders(keys)


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path} is no UTF-8 text: {error}") from None


def open_archive(root: str | os.PathLike[str]) -> Archive:
    """List an archive once.

    Parameters
    ----------
    root : path
        Folder or URL that holds ``high``, ``scribble`` and ``nolabel`` (any of them), or one level above it.

    Raises
    ------
    ArchiveError
        If there is no such folder, or neither patches nor metadata are in it.
    """
    access, root = access_of(root), clean(root)
    if not is_url(root) and not os.path.isdir(root):
        found = "is a file" if os.path.exists(root) else "does not exist"
        raise ArchiveError(f"{root} {found}: give the folder that holds high/, scribble/ or nolabel/")
    entries = _listed(root, access) if is_url(root) else _walk(os.path.realpath(root), "", 0)
    archive = replace(_sort(root, entries), access=access)
    if not archive.patches and not archive.tables and not archive.documents:
        raise ArchiveError(
            f"{root} is no CloudSEN12 archive: no metadata and no {{high,scribble,nolabel}}/ROI_*/<id>/*.tif in it"
        )
    return archive


@dataclass(frozen=True)
class _Entry:
    path: str
    size: int
    outside: bool


def _listed(url: str, access: Access) -> Iterator[_Entry]:
    """List a bucket once; nothing is asked of a single file."""
    for path, size in open_patient(url, access).listed():
        if path.endswith((".tif", ".csv", ".json")) and path.count("/") <= _DEPTH:
            yield _Entry(path, size, outside=False)


def _walk(root: str, folder: str, depth: int) -> Iterator[_Entry]:
    """List files below a folder, in the order of their names, without following links that lead out of the root."""
    try:
        with os.scandir(os.path.join(root, folder)) as scan:
            entries = sorted(scan, key=lambda e: e.name)
    except PermissionError:
        raise ArchiveError(f"no permission to list {os.path.join(root, folder)}") from None
    for entry in entries:
        path = f"{folder}{entry.name}"
        outside = entry.is_symlink() and _leaves(entry.path, root)
        if not outside and entry.is_dir():
            if depth < _DEPTH:
                yield from _walk(root, f"{path}/", depth + 1)
        elif path.endswith((".tif", ".csv", ".json")):
            size = 0 if outside or not entry.is_file() else entry.stat().st_size
            yield _Entry(path, size, outside)


def _leaves(path: str, root: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), root]) != root


def _sort(root: str, entries: Iterable[_Entry]) -> Archive:
    """Tell patches from metadata, one entry at a time: a full archive has 1.2 million of them."""
    patches: dict[PatchKey, PatchFiles] = {}
    tables, documents = [], []
    for entry in entries:
        match = _PATCH.fullmatch(entry.path)
        stem = SPELLINGS.get(match[4], match[4]) if match else ""
        if match and stem in _STEMS:
            _add(patches, match, sys.intern(stem), entry)
        elif os.path.basename(entry.path) in _TABLES and not entry.outside:
            tables.append(entry.path)
        elif entry.path.endswith(".json") and not entry.outside:
            documents.append(entry.path)
    by_depth = sorted(tables, key=lambda p: (p.count("/"), _TABLES.index(os.path.basename(p)), p))
    return Archive(root, patches, tuple(by_depth), tuple(sorted(documents)))


def _add(patches: dict[PatchKey, PatchFiles], match: re.Match[str], stem: str, entry: _Entry) -> None:
    label_type, roi, image = LABEL_FOLDERS[match[1]], match[2], match[3]
    folder = entry.path[: match.end(3)]
    files = patches.setdefault((roi, image), PatchFiles(folder, label_type))
    if files.folder != folder:
        raise ArchiveError(f"{roi}/{image} is there twice, as {files.folder} and {folder}: move one of them away")
    files.names[stem] = sys.intern(entry.path[len(folder) + 1 :])
    files.sizes[stem] = entry.size
    if entry.outside:
        patches[roi, image] = replace(files, outside=files.outside | {stem})

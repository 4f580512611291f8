"""What an exported folder says of itself, in ``cloudsen12_export.json`` beside its table.

The published table cannot say what the codes of ``test`` mean: 0 and 1 alone read as train and test, yet in a part of
the newer set they are train and validation. So the folder says it, and a conversion of the folder believes it.

The folder of an export: whose it is, and which of its files are whole.

A file comes into its place by a rename, so none is there in part, and a journal, a line a patch and product, says after
that which files with how many bytes were made from which shard. A file is whole if its size is the journal's and the
shard is still the same. What lies in the way and is not in the journal stays as it is: it is reported, unless it has
the very bytes that were to be written, as after a run that died between the rename and the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cloudsen12_cube.archive import NOTE_NAME, TABLE_NAME
from cloudsen12_cube.errors import DestinationError, ReadError
from cloudsen12_cube.format import Digest, Natural, load_json, parse
from cloudsen12_cube.schema import LABEL_FOLDERS, ProductName, TestMeaning, files_of, is_legal_key
from cloudsen12_cube.storage import LocalStore, clean, is_empty, is_url, write_lock

NOTE_VERSION = 1


@dataclass(frozen=True)
class LeftOut:
    """A product of a patch that was not written, and why."""

    roi_id: str
    s2_id_gee: str
    product: str
    reason: str

    def __str__(self) -> str:
        return f"{self.roi_id}/{self.s2_id_gee} {self.product}: {self.reason}"


@dataclass(frozen=True)
class ExportNote:
    """What the folder was made from, and how far the last run came.

    Parameters
    ----------
    test_meaning : TestMeaning
        What the codes of ``test`` in the table mean.
    cube : dict of str to str
        Which cube: when it was created, and from what.
    tool : str
    table_sha256 : str
        Of the table as it was written.
    state : str
        ``final`` when the last run has ended.
    left_out : tuple of LeftOut
        By the last run.
    export_version : int
    """

    test_meaning: TestMeaning
    cube: dict[str, str]
    tool: str
    table_sha256: str
    state: str = "exporting"
    left_out: tuple[LeftOut, ...] = ()
    export_version: int = NOTE_VERSION

    def as_bytes(self) -> bytes:
        """Serialise."""
        return json.dumps(asdict(self), indent=1).encode()


def read_note(data: bytes, place: str) -> ExportNote:
    """Read the note of a folder.

    Raises
    ------
    DestinationError
        If it cannot be read, or a later release wrote it.
    """
    try:
        document: dict[str, Any] = load_json(data)
        if document["export_version"] != NOTE_VERSION:
            raise DestinationError(
                f"{place} was exported by another release (version {document['export_version']}, this one writes "
                f"{NOTE_VERSION}): give another folder"
            )
        return parse(ExportNote, document)
    except (ValueError, TypeError, KeyError):
        raise DestinationError(f"{place} has a damaged {NOTE_NAME}: remove that folder, or give another one") from None


JOURNAL = ".cloudsen12-export.jsonl"

Unit = tuple[str, str, ProductName]
"""roi_id, s2_id_gee, product."""


@dataclass(frozen=True)
class ExportEntry:
    """A line of the journal: the files of one product of one patch.

    Parameters
    ----------
    roi_id : str
    s2_id_gee : str
    product : str
    shard : str
        sha256 of the shard that the pixels come from.
    files : dict of str to int
        Path in the folder -> bytes.
    """

    roi_id: str
    s2_id_gee: str
    product: ProductName
    shard: str
    files: dict[str, int]

    @property
    def unit(self) -> Unit:
        """What it speaks of."""
        return self.roi_id, self.s2_id_gee, self.product

    def could_write(self, path: str) -> bool:
        """Return whether an export gives a file of this patch such a name; no other file is ever removed."""
        kind, _, name = path.partition(f"/{self.roi_id}/{self.s2_id_gee}/")
        return kind in LABEL_FOLDERS.values() and name.removesuffix(".tif") in files_of(self.product)


@dataclass(frozen=True)
class ExportFolder:
    """A folder that is ours, while it is being written.

    Parameters
    ----------
    store : LocalStore
    note : ExportNote
        As this run leaves it, but for its end.
    earlier : ExportNote, optional
        As an earlier run has left it.
    entries : dict of Unit to ExportEntry
    """

    store: LocalStore
    note: ExportNote
    earlier: ExportNote | None = None
    entries: dict[Unit, ExportEntry] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def whole(self, unit: Unit, shard: str) -> ExportEntry | None:
        """Return the entry of a unit whose files all exist and are of this shard; None if it must be written."""
        entry = self.entries.get(unit)
        if entry is None or entry.shard != shard:
            return None
        return entry if all(self.store.size(path) == size for path, size in entry.files.items()) else None

    def in_the_way(self, unit: Unit, path: str, data: bytes) -> bool:
        """Return whether a file must not be replaced: it exists, no journal lists it, and its content differs."""
        entry = self.entries.get(unit)
        if entry is not None and path in entry.files:
            return False
        return os.path.lexists(os.path.join(self.store.root, path)) and self._read(path) != data

    def _read(self, path: str) -> bytes | None:
        with suppress(ReadError):
            data: bytes | None = self.store.get(path)
            return data
        return None

    def put(self, unit: Unit, shard: str, files: dict[str, bytes]) -> list[str]:
        """Write the files of a unit and record them; delete files of an earlier run that this one does not write.

        Returns
        -------
        list of str
            Paths of files of an earlier run that were incomplete, or belong to an older state of the cube.
        """
        before = self.entries.get(unit)
        old = [path for path in (before.files if before else {}) if self.store.size(path) is not None]
        for path, data in files.items():
            self.store.put(path, data, sync=False)
        for path in set(old) - files.keys():
            self.store.delete(path)
        self._note(ExportEntry(*unit, shard, {path: len(data) for path, data in files.items()}))
        return old

    def _note(self, entry: ExportEntry) -> None:
        line = json.dumps([*entry.unit, entry.shard, entry.files]) + "\n"
        with self._lock:
            _append(self.store, line.encode())
            self.entries[entry.unit] = entry

    def begin(self, table: bytes) -> list[str]:
        """Write the note and the table.

        Returns
        -------
        list of str
            The table's name if it has changed since it was written.
        """
        there = self.store.get(TABLE_NAME)
        ours = there is None or (self.earlier is not None and _sha256(there) == self.earlier.table_sha256)
        self.store.put(NOTE_NAME, replace(self.note, table_sha256=_sha256(table)).as_bytes())
        if there != table:
            self.store.put(TABLE_NAME, table)
        return [] if ours or there == table else [TABLE_NAME]

    def end(self, note: ExportNote) -> None:
        """Write the last word."""
        table, there = self.store.get(TABLE_NAME), self.store.get(NOTE_NAME)
        if table is None or there is None or read_note(there, self.store.root).cube != note.cube:
            raise DestinationError(
                f"{self.store.root} was emptied or replaced while this run wrote to it: remove what is left "
                "of it, or give another folder"
            )
        self.store.put(NOTE_NAME, replace(note, table_sha256=_sha256(table), state="final").as_bytes())


@contextmanager
def open_folder(folder: str | os.PathLike[str], note: ExportNote) -> Iterator[ExportFolder]:
    """Open a folder, and make it where it does not exist.

    Parameters
    ----------
    folder : path
    note : Note
        What the folder is to say of itself.

    Raises
    ------
    DestinationError
        If the place is no local folder, holds something else or the export of another cube, or another process writes.
    """
    root = clean(folder)
    if is_url(root):
        raise DestinationError(f"{root} is a URL: export writes to a local folder; copy that to the bucket afterwards")
    if os.path.exists(root) and not os.path.isdir(root):
        raise DestinationError(f"{root} is a file: give the folder to write to")
    store = LocalStore(os.path.abspath(root))
    _earlier_note(store, note)
    with write_lock(store):
        earlier = _earlier_note(store, note)
        yield ExportFolder(store, note, earlier, _journal(store))


def _earlier_note(store: LocalStore, note: ExportNote) -> ExportNote | None:
    """Return the note that lies there, None in an empty folder."""
    data = store.get(NOTE_NAME)
    if data is None:
        if not is_empty(store):
            raise DestinationError(
                f"{store.root} holds something else ({_first(store)}) and no earlier export: give a folder of its own"
            )
        return None
    found = read_note(data, store.root)
    for name in ("cube", "test_meaning"):
        if getattr(found, name) != getattr(note, name):
            raise DestinationError(
                f"{store.root} holds the export of another cube ({_describe(found)}; this one: {_describe(note)}): "
                "give another folder"
            )
    return found


def _describe(note: ExportNote) -> str:
    return f"of {note.cube.get('created')}, from {note.cube.get('source')}, test {note.test_meaning}"


def _first(store: LocalStore) -> str:
    try:
        return min(os.listdir(store.root))
    except OSError:
        return "unreadable"


def _journal(store: LocalStore) -> dict[Unit, ExportEntry]:
    """Read the journal; the last line of a unit counts, and a truncated line is ignored."""
    data = store.get(JOURNAL) or b""
    if data and not data.endswith(b"\n"):
        _append(store, b"\n")
    entries: dict[Unit, ExportEntry] = {}
    for line in data.splitlines():
        with suppress(ValueError):
            entry = ExportEntry(*parse(tuple[str, str, ProductName, Digest, dict[str, Natural]], load_json(line)))
            if is_legal_key(entry.roi_id, entry.s2_id_gee) and all(map(entry.could_write, entry.files)):
                entries[entry.unit] = entry
    return entries


def _append(store: LocalStore, line: bytes) -> None:
    """Add to the journal; a link in its place is not followed, and a pipe is not waited for."""
    path, flags = store.path(JOURNAL), os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        with open(
            os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666), "ab"
        ) as file:
            file.write(line)
    except OSError as error:
        raise DestinationError(f"cannot write {path}: {error.strerror}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""The published layout: a folder a patch, with a tif for each of its assets.

``{high|scribble|nolabel}/ROI_*/<s2_id_gee>/[extra/|labels/]<asset>.tif``; copies spell the third folder in other ways
or put everything one level deeper.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from cloudsen12_cube.archive import metadata
from cloudsen12_cube.archive.base import (
    Archive,
    ByteRange,
    PatchFiles,
    PatchKey,
    Pixels,
    ReferencePixels,
    csv_records,
    header_in_front,
    read_range,
)
from cloudsen12_cube.archive.tiff import Header, read
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.schema import ASSETS, LABEL_FOLDERS, SPELLINGS, TestMeaning
from cloudsen12_cube.storage import LocalStore, ObjectInfo, ObjectStore

NOTE_NAME = "cloudsen12_export.json"


def exported_test_meaning(store: ObjectStore, table: str, documents: Sequence[str]) -> TestMeaning | None:
    """Read what the codes of ``test`` mean in an exported folder; None for any other archive.

    Raises
    ------
    ArchiveError
        If the note beside the table is damaged: to guess could turn validation into test.
    """
    path = posixpath.join(posixpath.dirname(table), NOTE_NAME)
    if path not in documents:
        return None
    try:
        meaning = json.loads(read_range(store, path))["test_meaning"]
    except (ValueError, TypeError, KeyError):
        meaning = None
    for known in get_args(TestMeaning):
        if meaning == known:
            return known  # type: ignore[no-any-return]  # one of the literals
    raise ArchiveError(
        f"{path} does not say what the codes of `test` mean (one of {', '.join(get_args(TestMeaning))}): "
        "remove it and give --test-meaning"
    )


_FOLDERS = "|".join(LABEL_FOLDERS)
_PATCH = re.compile(rf"(?:[^/]+/)?({_FOLDERS})/(ROI_\d+)/([\w.-]+)/((?:extra/|labels/)?[\w-]+)\.tif")
_STEMS = frozenset(asset.file for asset in ASSETS)
_SIDECAR = re.compile(rf"({_PATCH.pattern})(\.aux\.xml|\.msk)")
"""Files of GDAL beside a tif: descriptions, scales and nodata of its bands, and a mask."""
_TABLES = ("cloudsen12_metadata.csv", "metadata.csv")


@dataclass(frozen=True)
class GeotiffDecoder:
    """A whole file is an asset."""

    def path(self, files: PatchFiles, name: str) -> str:
        """Name the file."""
        return f"{files.folder}/{files.names[name]}"

    def byte_ranges(self, files: PatchFiles, name: str) -> tuple[ByteRange, ...]:
        """Return the whole file."""
        return (ByteRange(self.path(files, name)),)

    def header(self, store: ObjectStore, files: PatchFiles, name: str) -> Header | None:
        """Read the header of the file."""
        path = self.path(files, name)
        return header_in_front(lambda length: read_range(store, path, 0, length), path, files.sizes[name])

    def decode(self, data: bytes, files: PatchFiles, name: str, limit: int) -> tuple[Header, Pixels]:
        """Decode the file."""
        return read(data, self.path(files, name), limit)

    def decode_independently(self, store: ObjectStore, files: PatchFiles, name: str) -> ReferencePixels:
        """Read the file by GDAL."""
        path = self.path(files, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the catalogue states where it lies
            # An absolute `Path`, since rasterio parses a text, or what begins with ``file:``, as a URL.
            # No other driver: a file of another format may refer to files and servers elsewhere.
            if isinstance(store, LocalStore):
                with rasterio.open(Path(os.path.abspath(store.path(path))), driver="GTiff") as file:
                    return _reference(file)
            with ExitStack() as stack:
                folder = uuid.uuid4().hex
                for suffix in (*files.sidecars.get(name, ()), ""):
                    data = read_range(store, path + suffix)
                    memory = stack.enter_context(MemoryFile(data, dirname=folder, filename=f"a.tif{suffix}"))
                return _reference(stack.enter_context(memory.open(driver="GTiff")))


def _reference(file: Any) -> ReferencePixels:
    return ReferencePixels(file.read(), [text or "" for text in file.descriptions], file.nodata)


TIFS = GeotiffDecoder()


@dataclass(frozen=True)
class GeotiffArchive(Archive):
    """A listed archive of tifs."""

    store: ObjectStore
    patches: dict[PatchKey, PatchFiles] = field()  # known from the listing
    tables: tuple[str, ...]
    """CSV files with metadata, the shallowest first."""
    documents: tuple[str, ...]
    """JSON files, any of which may be a STAC item."""
    decoder: GeotiffDecoder = TIFS
    foreign: tuple[str, ...] = ()
    _no_items: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Files of macOS, and JSON files that are no items; the latter are known once `table` has read them."""
        return (*self.foreign, *self._no_items.values())

    @cached_property
    def test_meaning(self) -> TestMeaning | None:
        """As an exported folder states it."""
        return exported_test_meaning(self.store, self.tables[0], self.documents) if self.tables else None

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata: from the CSV, else from STAC items, else from the folders."""
        if self.tables:
            return "csv", self.read_csv(self.tables[0])
        items = metadata.from_stac((p, self._document(p)) for p in self.documents)
        if len(items):
            return "stac", items
        keys = [(files.label_type, *key) for key, files in sorted(self.patches.items())]
        if not keys:
            raise ArchiveError(f"{self.store.root} is no CloudSEN12 archive: its JSON files are no items of it")
        return "folders", metadata.from_folders(keys)

    def _document(self, path: str) -> Any:
        document = metadata.parse_json(read_range(self.store, path), path)
        if document is None:
            self._no_items[path] = f"{path} (no STAC item)"
        return document

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the metadata by the csv and json modules alone."""
        if self.tables:
            yield from csv_records(read_range(self.store, self.tables[0]))
            return
        found = False
        for path in self.documents:
            try:
                document = json.loads(read_range(self.store, path))
            except (ValueError, RecursionError):
                continue  # no item: the cube's patches are looked up among the others
            properties = document.get("properties") if isinstance(document, dict) else None
            if isinstance(properties, dict) and {"roi_id", "s2_id_gee"} <= properties.keys():
                found = True
                yield document["properties"]
        if not found:
            for (roi, image), files in self.patches.items():
                yield {"roi_id": roi, "s2_id_gee": image, "label_type": files.label_type}


class GeotiffDetector:
    """Tells patches from metadata."""

    suffixes = (".tif", ".csv", ".json", ".xml", ".msk", ".dat", ".taco")
    # The last two: metadata may be of another format.
    passed_over: Sequence[str] = ()

    def __init__(self) -> None:
        self.patches: dict[PatchKey, PatchFiles] = {}
        self.tables: list[str] = []
        self.documents: list[str] = []
        self.sidecars: list[re.Match[str]] = []
        self.others = False

    def add(self, entry: ObjectInfo) -> None:
        """Count a file."""
        match = _PATCH.fullmatch(entry.key)
        stem = SPELLINGS.get(match[4], match[4]) if match else ""
        if match and stem in _STEMS:
            self._add(match, sys.intern(stem), entry)
        elif os.path.basename(entry.key) in _TABLES and not entry.outside:
            self.tables.append(entry.key)
        elif entry.key.endswith(".json") and not entry.outside:
            self.documents.append(entry.key)
        elif entry.key.endswith((".dat", ".taco")):
            self.others = True
        elif (beside := _SIDECAR.fullmatch(entry.key)) and not entry.outside:
            self.sidecars.append(beside)

    def _attach_sidecars(self) -> None:
        """Note the files beside tifs with their patches, which are all known by now."""
        for match in self.sidecars:
            files = self.patches.get((match[3], match[4]))
            stem = SPELLINGS.get(match[5], match[5])
            if files and files.names.get(stem) == match[1][len(files.folder) + 1 :]:
                files.sidecars[stem] = (*files.sidecars.get(stem, ()), match[6])

    def _add(self, match: re.Match[str], stem: str, entry: ObjectInfo) -> None:
        label_type, roi, image = LABEL_FOLDERS[match[1]], match[2], match[3]
        folder = entry.key[: match.end(3)]
        files = self.patches.setdefault((roi, image), PatchFiles(folder, label_type))
        if files.folder != folder:
            raise ArchiveError(f"{roi}/{image} is there twice, as {files.folder} and {folder}: move one of them away")
        files.names[stem] = sys.intern(entry.key[len(folder) + 1 :])
        files.sizes[stem] = entry.size
        if entry.outside:
            self.patches[roi, image] = replace(files, outside=files.outside | {stem})

    def detect(self, store: ObjectStore) -> GeotiffArchive | None:
        """Return the archive; metadata alone are one, too, unless they belong to another format."""
        if not self.patches and (self.others or not (self.tables or self.documents)):
            return None
        if not self.patches and "zarr.json" in self.documents:
            raise ArchiveError(f"{store.root} is a Zarr store, and an archive is asked for here")
        self._attach_sidecars()
        by_depth = sorted(self.tables, key=lambda p: (p.count("/"), _TABLES.index(os.path.basename(p)), p))
        return GeotiffArchive(store, self.patches, tuple(by_depth), tuple(sorted(self.documents)))

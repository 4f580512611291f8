"""Hugging Face's memory maps: headerless little-endian files, one a band, that hold one patch after another.

``[high/]train/{metadata.csv,L1C_B1.dat,...,LABEL_fmask.dat}``: shape (N, 512, 512), N rows in the metadata.csv beside
them, in its order; the patch lies in [1:510, 1:510] and zeros around it. A folder is a split (``train``, ``val``,
``test``), or a class of cloud coverage where nothing is labelled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudsen12_cube.archive.base import (
    Archive,
    ByteRange,
    PatchFiles,
    PatchKey,
    Pixels,
    ReferencePixels,
    crop,
    csv_records,
    padding_pixels,
    read_range,
)
from cloudsen12_cube.archive.tiff import Header
from cloudsen12_cube.errors import ArchiveError, PatchError
from cloudsen12_cube.schema import ASSETS, LABEL_FOLDERS, SPELLINGS, TestMeaning, files_of
from cloudsen12_cube.storage import LocalStore, ObjectInfo, ObjectStore

_SIDE, _ROWS, _CORNER = 512, 509, (1, 1)
_PLANE = _SIDE * _SIDE
_PREFIXES = {"s2l1c": "L1C", "s2l2a": "L2A", "s1": "S1", "extra": "EXTRA", "labels": "LABEL"}
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_TABLE = "metadata.csv"


def _normalize(name: str) -> str:
    """``cd_fcnn_rgbi_swir`` and ``CD-FCNN-RGBISWIR`` alike."""
    return "".join(c for c in name.casefold() if c.isalnum())


_BANDS = {_normalize(f"{_PREFIXES[a.product]}_{a.band}"): (a.file, a.band) for a in ASSETS}
_BANDS |= {_normalize(f"EXTRA_{old}"): ("extra/" + new, new) for old, new in SPELLINGS.items() if "/" not in old}
"""Name of a memory map -> asset file and band."""
_WANTED = {file: (product, bands) for product in _PREFIXES for file, bands in files_of(product).items()}


@dataclass(frozen=True)
class MemmapDecoder:
    """An asset is a plane of each of its bands' files."""

    def path(self, files: PatchFiles, name: str) -> str:
        """Name the files in short, and the position in them: ``high/val/L1C_*.dat[3]``."""
        stems = [stem for stem in files.names[name].split("|") if stem]
        short = stems[0] if len(_WANTED[name][1]) == 1 else f"{_PREFIXES[_WANTED[name][0]]}_*.dat"
        return f"{_below(files.folder, short)}[{files.number}]"

    def byte_ranges(self, files: PatchFiles, name: str) -> tuple[ByteRange, ...]:
        """Return a plane of each file."""
        stems = files.names[name].split("|")
        for band, stem in zip(_WANTED[name][1], stems, strict=True):
            if not stem:
                missing = _below(files.folder, f"{_PREFIXES[_WANTED[name][0]]}_{band}.dat")
                raise PatchError(missing, "no such file", f"a file for each of {len(stems)} bands")
        size = files.sizes[name] // len(stems)
        return tuple(ByteRange(_below(files.folder, stem), files.number * size, size) for stem in stems)

    def header(self, store: ObjectStore, files: PatchFiles, name: str) -> Header | None:
        """Derive it: the files have none."""
        del store
        bands = _WANTED[name][1]
        return Header(len(bands), _ROWS, _ROWS, _dtype(files, name), None, None, None, bands)

    def decode(self, data: bytes, files: PatchFiles, name: str, limit: int) -> tuple[Header, Pixels]:
        """Cut the padding off, which must be nothing but zeros: a file of another shape is seen by that."""
        path, bands, dtype = self.path(files, name), _WANTED[name][1], _dtype(files, name)
        if len(data) != len(bands) * _PLANE * dtype.itemsize or len(data) > limit:
            raise PatchError(path, f"{len(data)} bytes", f"{len(bands)} x {_SIDE} x {_SIDE} pixels of {dtype}")
        planes = np.frombuffer(data, dtype.newbyteorder("<")).reshape(len(bands), _SIDE, _SIDE)
        if padding_pixels(planes, files).any():
            raise PatchError(path, "pixels that are not 0 around the patch", "zeros outside [1:510, 1:510]")
        header = Header(len(bands), _ROWS, _ROWS, dtype, None, None, None, bands)
        return header, crop(planes, files).astype(dtype, copy=False)

    def decode_independently(self, store: ObjectStore, files: PatchFiles, name: str) -> ReferencePixels:
        """Read the files by numpy's memory map, whole ones; a remote one plane by plane."""
        dtype = _dtype(files, name).newbyteorder("<")
        planes = []
        for part in self.byte_ranges(files, name):
            if isinstance(store, LocalStore):
                whole = np.memmap(store.path(part.path), dtype, mode="r")
                plane = whole.reshape(-1, _SIDE, _SIDE)[files.number]
            else:
                plane = np.frombuffer(read_range(store, *part), dtype).reshape(_SIDE, _SIDE)
            planes.append(np.array(plane[1:510, 1:510]))
        return ReferencePixels(np.stack(planes), _WANTED[name][1])


def _dtype(files: PatchFiles, name: str) -> np.dtype[Any]:
    """Bytes of a pixel and the product tell the type. No label is negative: its 16 bits are read as the COGs' are."""
    product, bands = _WANTED[name]
    width = files.sizes[name] // len(bands) // _PLANE
    kind = "f" if product == "s1" else "u" if width == 1 or product == "labels" else "i"
    return np.dtype(f"{kind}{width}")


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


@dataclass(frozen=True)
class MemmapArchive(Archive):
    """A listed archive of memory maps."""

    store: ObjectStore
    folders: dict[str, dict[str, ObjectInfo]]
    """Folder -> name -> file: memory maps and the metadata.csv."""
    decoder: MemmapDecoder = MemmapDecoder()
    ignored: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Folder -> its metadata, in the order of the memory maps."""
        return {folder: self._read(folder, files) for folder, files in self.folders.items()}

    def _read(self, folder: str, files: dict[str, ObjectInfo]) -> pd.DataFrame:
        path = _below(folder, _TABLE)
        if _TABLE not in files:
            raise ArchiveError(f"{self.store.root} has memory maps, but no {path}: it says which patches they hold")
        return self._with_folder_names(folder, self.read_csv(path))

    def _with_folder_names(self, folder: str, texts: pd.DataFrame) -> pd.DataFrame:
        """Add the split and the label type that the names of the folders state."""
        kind = next((LABEL_FOLDERS[part] for part in folder.split("/") if part in LABEL_FOLDERS), "")
        split = self._split(folder)
        if split:
            texts = texts.assign(split=split)
        if kind and "label_type" not in texts:
            texts = texts.assign(label_type=kind)
        return texts

    def _split(self, folder: str) -> str:
        """Split that the name of a folder states; the root itself may be that folder."""
        whole = os.path.abspath(self.store.root) if isinstance(self.store, LocalStore) else self.store.root
        return _SPLITS.get(os.path.basename(folder or whole.rstrip("/")), "")

    @cached_property
    def test_meaning(self) -> TestMeaning | None:
        """Only v1.1 has validation patches."""
        return "v1.1" if any(self._split(f) == "validation" for f in self.folders) else None

    @cached_property
    def patches(self) -> dict[PatchKey, PatchFiles]:
        """Number the patches of each folder; the size of every file must be that of its rows.

        Raises
        ------
        ArchiveError
            If it is not, or a patch is there twice.
        """
        found: dict[PatchKey, PatchFiles] = {}
        for folder, texts in self.tables.items():
            names, sizes = _assets(self.store.root, folder, self.folders[folder], len(texts))
            kinds = texts["label_type"] if "label_type" in texts else [""] * len(texts)
            keys = zip(texts["roi_id"], texts["s2_id_gee"], strict=True)
            for number, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
                other = found.get(key)
                if other and other.folder != folder:
                    raise ArchiveError(f"{'/'.join(key)} is there twice, in {other.folder} and {folder}: remove one")
                files = PatchFiles(folder, kind, names, sizes, number=number, rows=_ROWS, corner=_CORNER)
                found.setdefault(key, files)
        return found

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata of all folders."""
        return "csv", pd.concat(self.tables.values(), ignore_index=True).fillna("")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the metadata by the csv module alone."""
        for folder in self.folders:
            split = self._split(folder)
            for row in csv_records(read_range(self.store, _below(folder, _TABLE))):
                yield row | ({"split": split} if split else {})


def _assets(root: str, folder: str, files: dict[str, ObjectInfo], count: int) -> tuple[dict[str, str], dict[str, int]]:
    """Sort the memory maps of a folder by asset: their names in the order of its bands, and bytes a patch."""
    maps = {_BANDS[key]: e for name, e in files.items() if (key := _normalize(name.removesuffix(".dat"))) in _BANDS}
    names, sizes = {}, {}
    for file, (product, bands) in _WANTED.items():
        there = [maps.get((file, band)) for band in bands]
        widths = {e.key: _width(root, e, count, product) for e in there if e}
        if len(set(widths.values())) > 1:
            raise ArchiveError(f"{root}: the memory maps of {_below(folder, file)} differ in size: {widths}")
        if widths:
            names[file] = "|".join(os.path.basename(e.key) if e else "" for e in there)
            sizes[file] = len(bands) * _PLANE * next(iter(widths.values()))
    return names, sizes


def _width(root: str, entry: ObjectInfo, count: int, product: str) -> int:
    """Bytes of a pixel, if the file holds as many patches as its metadata has rows."""
    legal: Sequence[int] = (4,) if product == "s1" else (1, 2)
    width, rest = divmod(entry.size, count * _PLANE) if count else (0, 1)
    if rest or width not in legal:
        one = " or ".join(f"{count * _PLANE * n:,}" for n in legal)
        raise ArchiveError(
            f"{root}/{entry.key} has {entry.size:,} bytes; {count} patches, as the metadata.csv beside it has rows, "
            f"take {one}: it is cut short, or one of the two is of another release"
        )
    return width


class MemmapDetector:
    """Gathers memory maps by folder."""

    suffixes = (".dat", ".csv")
    passed_over: Sequence[str] = ()

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, ObjectInfo]] = {}

    def add(self, entry: ObjectInfo) -> None:
        """Count a file."""
        folder, _, name = entry.key.rpartition("/")
        if not entry.outside and (name == _TABLE or name.endswith(".dat")):
            self.folders.setdefault(folder, {})[name] = entry

    def detect(self, store: ObjectStore) -> MemmapArchive | None:
        """Return the folders that hold memory maps as one archive."""
        folders = {f: files for f, files in sorted(self.folders.items()) if any(n.endswith(".dat") for n in files)}
        names = {name.removesuffix(".dat") for files in folders.values() for name in files if name.endswith(".dat")}
        unknown = tuple(sorted(name for name in names if _normalize(name) not in _BANDS))
        return MemmapArchive(store, folders, ignored=unknown) if folders else None

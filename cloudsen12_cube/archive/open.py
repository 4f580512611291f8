"""An archive in any of its published forms: which patches it has, their metadata, and their bytes.

To add a form, write its file and name its finder in ``FORMS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudsen12_cube.archive import geotiff as form_tif
from cloudsen12_cube.archive import memmap as form_dat
from cloudsen12_cube.archive import taco as form_taco
from cloudsen12_cube.archive.base import (
    ArchiveFormat,
    Decoder,
    FormatDetector,
    Meaning,
    PatchFiles,
    PatchKey,
    list_files,
    read_range,
)
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.storage import NOTHING, LocalStore, ObjectStore, StorageConfig

FORMS: dict[str, Callable[[], FormatDetector]] = {
    "COGs": form_tif.GeotiffDetector,
    "memory maps": form_dat.MemmapDetector,
    "TACO files": form_taco.TacoDetector,
}
"""What a form's files are called -> what recognises it."""


@dataclass(frozen=True)
class Archive:
    """A listed archive: nothing is opened but its metadata."""

    store: ObjectStore
    form: ArchiveFormat

    @property
    def root(self) -> str:
        """Folder or URL."""
        return self.store.root

    @property
    def access(self) -> StorageConfig:
        """How to get there, if it is a URL."""
        config: StorageConfig = getattr(self.store, "config", NOTHING)
        return config

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return not isinstance(self.store, LocalStore)

    @property
    def patches(self) -> dict[PatchKey, PatchFiles]:
        """Where the assets of each patch lie."""
        return self.form.patches

    @property
    def decoder(self) -> Decoder:
        """How an asset is read."""
        return self.form.decoder

    @property
    def meaning(self) -> Meaning:
        """What the codes of ``test`` mean, where the archive tells."""
        return self.form.meaning

    def table(self) -> tuple[str, pd.DataFrame]:
        """Read the metadata.

        Returns
        -------
        source : str
            Where they come from: ``csv``, ``stac``, ``folders`` or ``taco``.
        table : pandas.DataFrame
            Texts, one row a patch.
        """
        return self.form.table()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of each patch as they stand in the files, read apart from `table`."""
        return self.form.again()

    def read(self, files: PatchFiles, name: str) -> bytes:
        """Read the bytes of one asset.

        Raises
        ------
        OSError, RemoteError
            If they cannot be read.
        PatchError
            If some of them are not there.
        """
        return b"".join(read_range(self.store, *piece) for piece in self.decoder.pieces(files, name))


def open_archive(root: Any) -> Archive:
    """List an archive once.

    Parameters
    ----------
    root : path
        Folder or URL that holds ``high``, ``scribble`` and ``nolabel`` (any of them), or one level above it; or
        Hugging Face's memory maps (``.dat`` beside a metadata.csv); or TACO files, or a single one of them.

    Raises
    ------
    ArchiveError
        If there is no such folder, neither patches nor metadata are in it, or more than one form.
    """
    store, entries = list_files(root)
    finders = {name: make() for name, make in FORMS.items()}
    wanting: dict[str, list[FormatDetector]] = {}
    for finder in finders.values():
        for suffix in finder.suffixes:
            wanting.setdefault(suffix, []).append(finder)
    for entry in entries:
        for finder in wanting.get(entry.key[entry.key.rfind(".") :], ()):
            finder.add(entry)
    found = {name: form for name, finder in finders.items() if (form := finder.found(store))}
    if len(found) > 1:
        raise ArchiveError(f"{store.root} holds {' and '.join(found)}: give the folder of one of them")
    if not found:
        raise ArchiveError(
            f"{store.root} is no CloudSEN12 archive: no metadata, no {{high,scribble,nolabel}}/ROI_*/<id>/*.tif, "
            "no .dat beside a metadata.csv, and no .taco in it"
        )
    return Archive(store, next(iter(found.values())))

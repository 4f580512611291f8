"""What an archive has become since it was converted: files that changed, went or came.

How far a cube is, from its records alone: done, missing, failed, accepted; and what its archive has become since.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cloudsen12_cube.archive import Archive, Decoder, PatchFiles, build, open_archive
from cloudsen12_cube.errors import CubeError, SelectionError
from cloudsen12_cube.format import (
    DONE,
    FAILED,
    Fault,
    PatchRecord,
    ShardRecord,
    Source,
    StoredCube,
    faults_of,
    open_stored_cube,
)
from cloudsen12_cube.inspection import accepted as accept
from cloudsen12_cube.schema import ProductName, Selection, catalogue, files_of


@dataclass(frozen=True)
class Change:
    """One file that is no longer as it was."""

    path: str
    found: str
    expected: str
    """What the record of the shard says."""

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, converted was {self.expected}"


def here(product: ProductName, files: PatchFiles | None, decoder: Decoder) -> dict[str, int]:
    """Path -> bytes of the files that a patch has now for one product."""
    if files is None:
        return {}
    return {decoder.path(files, f): files.sizes[f] for f in files_of(product) if f in files.names}


def changes(product: ProductName, patch: PatchRecord, files: PatchFiles | None, decoder: Decoder) -> Iterator[Change]:
    """Compare the files that went into a finished patch with those of the archive, by name and size.

    The time of a file is not compared: a copy of an archive has others, and the record of a shard would not be the
    same for the same pixels. Who does not trust the size asks for the sha256.
    """
    was: dict[str, Source] = {source.path: source for source in patch.sources}
    now = here(product, files, decoder)
    for path, source in was.items():
        if path not in now:
            yield Change(path, "gone", f"{source.size} bytes")
        elif now[path] not in (source.size, -1):  # a web server may not tell
            yield Change(path, f"{now[path]} bytes", f"{source.size} bytes")
    for path, size in now.items():
        if path not in was:
            yield Change(path, f"a new file of {size} bytes", "none")


def outdated(product: ProductName, record: ShardRecord, files: dict[int, PatchFiles | None], decoder: Decoder) -> bool:
    """Tell whether a finished patch of a shard has other files now. Files that went are no reason to lose its pixels.

    Parameters
    ----------
    product : str
    record : ShardRecord
    files : dict
        By ``time``.
    decoder : Decoder
        Of the archive.
    """
    done = (patch for patch in record.patches if patch.status == DONE)
    found = (c for patch in done for c in changes(product, patch, files.get(patch.time), decoder))
    return any(change.found != "gone" for change in found)


@dataclass(frozen=True)
class ProductStatus:
    """How far one product is; patches are counted."""

    product: str
    done: int
    """Patches whose pixels are in the cube."""
    missing: int
    """Patches that are not in the cube: not converted yet, or without files."""
    failed: int
    """Patches with a damaged file."""
    accepted: int
    """Patches that are missing or failed and whose failure is accepted; not counted in the two fields before."""
    bytes: int
    """Stored bytes."""


@dataclass(frozen=True)
class Status:
    """How far a cube is."""

    place: str
    state: str
    """``creating``, ``converting`` or ``final``: what the last run has said of itself."""
    products: tuple[ProductStatus, ...]
    missing: tuple[tuple[str, str], ...]
    """(product, roi_id) of the shards that are not there."""
    failures: tuple[Fault, ...]
    """What could not be converted, less what is accepted."""
    changes: tuple[Change, ...] = ()
    """Files of the archive that are no longer as they were."""
    new_rois: tuple[str, ...] = ()
    """ROIs of the archive that the cube's own conditions select, and that it does not have yet."""

    @property
    def exit_code(self) -> int:
        """0 if all is done and nothing has changed, else 1."""
        unfinished = any(row.missing or row.failed for row in self.products)
        begun = self.state == "creating"
        return 1 if begun or unfinished or self.missing or self.changes or self.new_rois else 0


def status(
    cube: str | os.PathLike[str], source: str | os.PathLike[str] | None = None, checksum: bool = False
) -> Status:
    """Look how far a cube is, while a run goes on or after it died.

    Parameters
    ----------
    cube : path
    source : path, optional
        The archive: tells which of its files have changed, gone or come since they were converted.
    checksum : bool
        Compare the sha256 of every file, not the size alone: all of the archive is read.

    Raises
    ------
    StoreError
        If there is no cube at the place.
    """
    if checksum and source is None:
        raise CubeError("checksums are compared with an archive: give a source, too")
    stored = open_stored_cube(cube, "creating")
    found = look(stored)
    if source is None:
        return found
    archive = open_archive(source)
    changed = (*_changes(stored, archive, checksum), *_changed_gaps(stored, archive))
    return replace(found, changes=changed, new_rois=_new_rois(stored, archive))


def look(cube: StoredCube) -> Status:
    """Sum up the records."""
    accepted = frozenset(gap.key for gap in accept.in_settings(cube.settings))
    rows, missing, faulty = [], [], []
    for product, layout in cube.layouts.items():
        codes: Counter[str] = Counter()
        sizes: dict[int, int] = {}
        for roi, record in cube.records(product):
            if record is None:
                missing.append((product, roi))
                continue
            sizes[record.index // layout.form.rois_per_shard] = record.size
            codes.update(_words(record, accepted))
            if record.faults:
                faulty.append(record.without_sources())
        rest = max(cube.patches - codes["done"] - codes["failed"] - codes["accepted"], 0)
        stored = sum(sizes.values())
        rows.append(ProductStatus(product, codes["done"], rest, codes["failed"], codes["accepted"], stored))
    state = cube.state
    faults = tuple(fault for fault in faults_of(faulty) if accept.key_of(fault) not in accepted)
    return Status(cube.store.root, state, tuple(rows), tuple(missing), faults)


def _words(record: ShardRecord, accepted: frozenset[accept.FailureKey]) -> Iterator[str]:
    for patch in record.patches:
        if patch.status == DONE:
            yield "done"
        elif patch.faults and all(accept.key_of(fault) in accepted for fault in patch.faults):
            yield "accepted"
        elif patch.status == FAILED:
            yield "failed"


def _changes(cube: StoredCube, archive: Archive, checksum: bool) -> Iterator[Change]:
    for product in cube.layouts:
        for roi, record in cube.records(product):
            for patch in record.patches if record else ():
                if patch.status == DONE:
                    files = archive.patches.get((roi, patch.s2_id_gee))
                    found = list(changes(product, patch, files, archive.decoder))
                    yield from found
                    if checksum and files and not found:
                        yield from _read(patch, archive, files)


def _read(patch: PatchRecord, archive: Archive, files: PatchFiles) -> Iterator[Change]:
    """Compare the bytes of files whose names and sizes are as they were."""
    names = {archive.decoder.path(files, name): name for name in files.names}
    for source in patch.sources:
        try:
            digest = hashlib.sha256(archive.read(files, names[source.path])).hexdigest()
        except OSError as error:
            yield Change(source.path, f"cannot be read ({error.strerror})", f"{source.size} bytes")
            continue
        if digest != source.sha256:
            yield Change(source.path, f"sha256 {digest[:12]}...", f"{source.sha256[:12]}...")


def _changed_gaps(cube: StoredCube, archive: Archive) -> Iterator[Change]:
    for gap in sorted(accept.in_settings(cube.settings)):
        now = accept.size_of(archive, gap.key)
        if now != gap.size:
            yield Change(gap.path, f"{now} bytes", f"{gap.size} bytes, a gap that was accepted")


def _new_rois(cube: StoredCube, archive: Archive) -> tuple[str, ...]:
    asked = cube.settings["selection"]
    selection = Selection(tuple(asked["where"]), asked["bbox"] and tuple(asked["bbox"]), tuple(asked["rois"]))
    table = build(archive.table()[1], cube.settings["test_meaning"])
    try:
        rois = catalogue.select(table, selection).rois
    except SelectionError:  # what was selected is gone, and each of its files is named as such
        return ()
    known = set(cube.order)
    return tuple(roi for roi in rois if roi not in known)

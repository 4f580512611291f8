"""How complete a cube is, by its records alone, and which files of its archive have changed since the conversion."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from cloudsen12_cube.archive import Archive, Decoder, PatchFiles, build, open_archive
from cloudsen12_cube.errors import CubeError, SelectionError, StoreError
from cloudsen12_cube.format import (
    DONE,
    FAILED,
    FailureKey,
    Fault,
    PatchRecord,
    ShardRecord,
    StoredCube,
    faults_of,
    open_stored_cube,
)
from cloudsen12_cube.inspection.accepted import archive_size
from cloudsen12_cube.schema import ProductName, files_of, select


@dataclass(frozen=True)
class Change:
    """A file of the archive that has changed since the conversion."""

    path: str
    found: str
    """Its state now."""
    expected: str
    """Its state in the record of the shard."""

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, converted was {self.expected}"


def find_changes(
    product: ProductName, patch: PatchRecord, files: PatchFiles | None, decoder: Decoder
) -> Iterator[Change]:
    """Compare the files that a finished patch was made from with those of the archive, by name and size.

    Modification times are not compared: a copy of an archive has other ones, and records would differ for equal
    pixels. `status` with ``checksum=True`` compares the sha256.
    """
    now: dict[str, int] = {}
    if files is not None:
        now = {decoder.path(files, name): files.sizes[name] for name in files_of(product) if name in files.names}
    before = {source.path: source.size for source in patch.sources}
    for path, size in before.items():
        if path not in now:
            yield Change(path, "gone", f"{size} bytes")
        elif now[path] not in (size, -1):  # a web server may not state a size
            yield Change(path, f"{now[path]} bytes", f"{size} bytes")
    for path, size in now.items():
        if path not in before:
            yield Change(path, f"a new file of {size} bytes", "none")


def sources_changed(
    product: ProductName, record: ShardRecord, files: dict[int, PatchFiles | None], decoder: Decoder
) -> bool:
    """Return whether a finished patch has new or changed files. A deleted file is no reason to drop its pixels.

    Parameters
    ----------
    product : {"s2l1c", "s2l2a", "s1", "extra", "labels"}
        Product of the shard.
    record : ShardRecord
        Record of the shard.
    files : dict of int to PatchFiles
        Files of the archive by ``time``.
    decoder : Decoder
        Decoder of the archive, which names the files.
    """
    done = (patch for patch in record.patches if patch.status == DONE)
    found = (change for patch in done for change in find_changes(product, patch, files.get(patch.time), decoder))
    return any(change.found != "gone" for change in found)


@dataclass(frozen=True)
class ProductStatus:
    """Patches of one product by their state."""

    product: str
    done: int
    """Patches whose pixels are in the cube."""
    missing: int
    """Patches that are not in the cube: not converted yet, or without files."""
    failed: int
    """Patches with a damaged file."""
    accepted: int
    """Patches that are missing or failed, and accepted; neither ``missing`` nor ``failed`` counts them."""
    bytes: int
    """Stored bytes."""


class MissingShard(NamedTuple):
    """An ROI of a product without a valid record and object."""

    product: str
    roi_id: str


@dataclass(frozen=True, repr=False)
class Status:
    """How complete a cube is."""

    place: str
    """Path or URL."""
    state: str
    """``creating``, ``converting`` or ``final``, as the last run left it."""
    products: tuple[ProductStatus, ...]
    missing: tuple[MissingShard, ...]
    """Shards that are not in the cube."""
    failures: tuple[Fault, ...]
    """What could not be converted, without accepted failures."""
    changes: tuple[Change, ...] = ()
    """Files of the archive that have changed since the conversion."""
    new_rois: tuple[str, ...] = ()
    """ROIs of the archive that the cube's own selection includes, and that are not in the cube."""
    compared: Literal["", "size", "sha256"] = ""
    """What was compared of the files of the archive; a change that leaves the size as it was needs ``sha256``."""

    def __repr__(self) -> str:
        done = sum(row.done for row in self.products)
        counts = f"{done} patches done, {len(self.missing)} shards missing, {len(self.failures)} failures"
        changes = f", {len(self.changes)} changes" if self.changes else ""
        return f"<Status of {self.place}: {self.state}, {counts}{changes}>"

    @property
    def exit_code(self) -> int:
        """0 if the cube is complete and the archive unchanged, else 1."""
        incomplete = self.state == "creating" or any(row.missing or row.failed for row in self.products)
        return 1 if incomplete or self.missing or self.changes or self.new_rois else 0


def status(cube: Any, source: Any = None, checksum: bool = False) -> Status:
    """Count what a cube has of its patches, also during a run or after one that died.

    Parameters
    ----------
    cube : path, URL, `Url` or store
        The cube.
    source : path, URL or `Url`, optional
        The archive: reports which of its files have changed since they were converted, and ROIs that are new.
    checksum : bool
        Compare the sha256 of every file instead of its size alone: the whole archive is read. Without it, a change
        that leaves the size of a file as it was is not seen; times are never compared.

    Returns
    -------
    Status
        Counts of each product, missing shards, failures and changes.

    Raises
    ------
    StoreError
        If there is no cube at the location, or a finished one without records.
    CubeError
        If ``checksum`` is given without a source.
    """
    if checksum and source is None:
        raise CubeError("checksum=True compares files with an archive: give a source, too")
    stored = open_stored_cube(cube, "creating")
    found = summarise(stored)
    if source is None:
        return found
    archive = open_archive(source)
    changed = (*_changed_files(stored, archive, checksum), *_changed_failures(stored, archive))
    return replace(
        found, changes=changed, new_rois=_new_rois(stored, archive), compared="sha256" if checksum else "size"
    )


def require_records(cube: StoredCube) -> None:
    """Refuse a finished cube without records: tools that copy what zarr lists leave them out.

    Raises
    ------
    StoreError
        If there is no cube.
    """
    if cube.state == "final" and not cube.has_records:
        raise StoreError(
            f"{cube.store.root} has no records, which say what was converted: copy them from the original "
            "(PRODUCT/PRODUCT/records), or convert again into a new place; open_cube needs none"
        )


def summarise(cube: StoredCube) -> Status:
    """Count the patches of each product by the cube's records."""
    require_records(cube)
    accepted = frozenset(failure.key for failure in cube.stated.accepted)
    rows, missing, faulty = [], [], []
    for product, layout in cube.layouts.items():
        counts: Counter[str] = Counter()
        sizes: dict[str, int] = {}
        for roi, record in cube.records(product):
            if record is None:
                missing.append(MissingShard(product, roi))
                continue
            sizes[layout.place(record.index)[0]] = record.size
            counts.update(_state(patch, accepted) for patch in record.patches)
            if record.faults:
                faulty.append(record.without_sources())
        done, failed, known = counts["done"], counts["failed"], counts["accepted"]
        rest = max(cube.patches - done - failed - known, 0)
        rows.append(ProductStatus(product, done, rest, failed, known, sum(sizes.values())))
    failures = tuple(fault for fault in faults_of(faulty) if fault.key not in accepted)
    return Status(cube.store.root, cube.state, tuple(rows), tuple(missing), failures)


def _state(patch: PatchRecord, accepted: frozenset[FailureKey]) -> str:
    if patch.status == DONE:
        return "done"
    if is_accepted(patch, accepted):
        return "accepted"
    return "failed" if patch.status == FAILED else "missing"


def is_accepted(patch: PatchRecord, accepted: frozenset[FailureKey]) -> bool:
    """Return whether all failures of a patch are accepted."""
    return bool(patch.faults) and all(fault.key in accepted for fault in patch.faults)


def _changed_files(cube: StoredCube, archive: Archive, checksum: bool) -> Iterator[Change]:
    for product in cube.layouts:
        for roi, record in cube.records(product):
            for patch in record.patches if record else ():
                if patch.status == DONE:
                    files = archive.patches.get((roi, patch.s2_id_gee))
                    found = list(find_changes(product, patch, files, archive.decoder))
                    yield from found
                    if checksum and files and not found:
                        yield from _changed_bytes(patch, archive, files)


def _changed_bytes(patch: PatchRecord, archive: Archive, files: PatchFiles) -> Iterator[Change]:
    """Compare the sha256 of files whose names and sizes have not changed."""
    names = {archive.decoder.path(files, name): name for name in files.names}
    for source in patch.sources:
        try:
            digest = hashlib.sha256(archive.read(files, names[source.path])).hexdigest()
        except OSError as error:
            yield Change(source.path, f"cannot be read ({error.strerror})", f"{source.size} bytes")
            continue
        if digest != source.sha256:
            yield Change(source.path, f"sha256 {digest[:12]}...", f"{source.sha256[:12]}...")


def _changed_failures(cube: StoredCube, archive: Archive) -> Iterator[Change]:
    for failure in sorted(cube.stated.accepted):
        size = archive_size(archive, failure.key)
        if size != failure.size:
            yield Change(failure.path, f"{size} bytes", f"{failure.size} bytes, a gap that was accepted")


def _new_rois(cube: StoredCube, archive: Archive) -> tuple[str, ...]:
    try:
        rois = select(build(archive.table()[1], cube.stated.test_meaning), cube.stated.selection).rois
    except SelectionError:  # nothing that was selected exists any more; each of the files is a change
        return ()
    known = set(cube.order)
    return tuple(roi for roi in rois if roi not in known)

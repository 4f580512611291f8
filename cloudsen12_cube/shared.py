"""One shard of a cube that is made from a cube: its ROIs read and checked, decoded, encoded, committed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cloudsen12_cube.errors import PatchError
from cloudsen12_cube.layout import record_key
from cloudsen12_cube.origin import Piece, read_piece, recoded
from cloudsen12_cube.place import Place
from cloudsen12_cube.record import DONE, Fault, PatchRecord, ShardRecord
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.resharding import Member, SharedTask
from cloudsen12_cube.shard import assemble


@dataclass(frozen=True)
class Made:
    """What became of a shard."""

    task: SharedTask
    records: tuple[ShardRecord, ...]
    """One for each ROI that is in it, as they were stored."""
    faults: tuple[Fault, ...] = ()
    """Shards of the source that are damaged."""

    @property
    def whole(self) -> ShardRecord | None:
        """All of it as one record."""
        if not self.records:
            return None
        return replace(self.records[0], patches=tuple(patch for row in self.records for patch in row.patches))


def write_shared(task: SharedTask, sink: Place) -> Made:
    """Make one shard: read its ROIs from the source, encode them date by date, commit it and then their records.

    Old records go first: whenever this stops, what is on disk has the records that belong to it, or too few of them.
    Nothing is touched before all of the source has been read.

    Returns
    -------
    Made
        Damaged shards of the source are in it; they raise nothing. An ROI that cannot be had there is taken from the
        old shard, if that is whole, and else left out.
    """
    chunks: list[bytes] = []
    kept: list[tuple[Member, tuple[PatchRecord, ...]]] = []
    faults: list[Fault] = []
    for member in task.members:
        own: list[bytes] = []
        try:
            own, patches = _from_source(task, member)
            kept.append((member, patches))
        except PatchError as error:
            faults.append(_fault(task, member, error))
            before = _from_old(task, member, sink)
            if before:
                own = [bytes(chunk) for date in before.chunks for chunk in date]
                kept.append((member, before.record.patches))
        chunks += own or [b""] * (task.layout.times * task.layout.chunks_a_date)
    if not kept:
        return Made(task, (), tuple(faults))
    lacking = task.layout.form.rois_per_shard - len(task.members)
    chunks += [b""] * (lacking * task.layout.times * task.layout.chunks_a_date)
    return Made(task, _commit(task, assemble(chunks) if any(chunks) else b"", kept, sink), tuple(faults))


def _commit(
    task: SharedTask, data: bytes, kept: list[tuple[Member, tuple[PatchRecord, ...]]], sink: Place
) -> tuple[ShardRecord, ...]:
    digest, product = hashlib.sha256(data).hexdigest(), task.layout.product
    made = tuple(ShardRecord(product, m.roi_id, m.index, len(data), digest, patches) for m, patches in kept)
    for member in task.members:
        sink.delete(record_key(product, member.roi_id))
    if data:
        sink.put(task.key, data)
    else:
        sink.delete(task.key)
    for record in made:
        sink.put(record_key(product, record.roi_id), record.as_bytes())
    return made


def _from_source(task: SharedTask, member: Member) -> tuple[list[bytes], tuple[PatchRecord, ...]]:
    """Read an ROI from the source, in the form that it will have."""
    piece = read_piece(task.source, task.origin, member.roi_id, member.source)
    patches = patches_of(piece.record, member)
    dates = [(b"",) * task.layout.chunks_a_date] * task.layout.times
    for patch, (time, _, source) in zip(patches, member.patches, strict=True):
        if patch.status == DONE:
            try:
                dates[time] = recoded(piece.chunks[source], task.origin, task.layout)
            except ValueError as error:
                key = task.origin.place(member.source)[0]
                raise PatchError(f"{task.source.root}/{key}", str(error), "chunks of its layout") from None
    return [chunk for date in dates for chunk in date], patches


def _from_old(task: SharedTask, member: Member, sink: Place) -> Piece | None:
    """Read what the shard has of an ROI before it is written again; None if that is not whole."""
    try:
        piece = read_piece(sink, task.layout, member.roi_id, member.index)
    except PatchError:
        return None
    stated = [(patch.time, patch.s2_id_gee) for patch in piece.record.patches]
    return piece if stated == [(time, image) for time, image, _ in member.patches] else None


def _fault(task: SharedTask, member: Member, error: PatchError) -> Fault:
    told = (without_secrets(text) for text in (error.path, error.found, error.expected))
    return Fault(member.roi_id, "", task.layout.product, "", *told)


def patches_of(record: ShardRecord, member: Member) -> tuple[PatchRecord, ...]:
    """Give the source's records of an ROI's patches the times that they have here."""
    known = {patch.time: patch for patch in record.patches}
    made = []
    for time, image, source in member.patches:
        patch = known.get(source)
        if patch is None or patch.s2_id_gee != image:
            has = patch.s2_id_gee if patch else "nothing"
            raise PatchError(record_key(record.product, record.roi_id), f"{has} at time {source}", image)
        made.append(replace(patch, time=time))
    return tuple(made)

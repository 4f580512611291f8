"""The cube that an excerpt becomes: created or continued, and filled with the shards that it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cloudsen12_cube import record as records
from cloudsen12_cube.copying import Copied, copy_shard, is_there
from cloudsen12_cube.cube import about, publish
from cloudsen12_cube.errors import DestinationError, RemoteError, StoreError
from cloudsen12_cube.excerpt import Excerpt, Piece
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.opening import claim, room_of, settings_at
from cloudsen12_cube.options import Progress, Step
from cloudsen12_cube.place import Place, each
from cloudsen12_cube.provenance import continued, settings_for
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.store import Contents, read_order
from cloudsen12_cube.tables import Frame
from cloudsen12_cube.tally import Tally
from cloudsen12_cube.workers import started, submitting


@dataclass(frozen=True)
class Target:
    """The cube that an excerpt becomes."""

    excerpt: Excerpt
    sink: Place
    order: tuple[str, ...]
    """ROIs as they lie on disk."""
    settings: dict[str, Any]

    @property
    def layouts(self) -> tuple[ProductLayout, ...]:
        """Of the products in this cube."""
        return tuple(replace(layout, times=room_of(self.settings)) for layout in self.excerpt.layouts)

    def surveyed(self) -> tuple[list[ShardRecord], list[Piece]]:
        """Find the records of the shards that are there, and the shards that are not."""
        source, listed = self.excerpt.source, self.sink.listed()
        pieces = list(self.excerpt.pieces(self.order, room_of(self.settings)))

        def look(piece: Piece) -> ShardRecord | None:
            mine = records.load(listed, piece.layout.product, piece.roi_id)
            theirs = records.load(source, piece.layout.product, piece.roi_id) if mine else None
            return mine.without_sources() if mine and is_there(piece, mine, theirs, listed) else None

        found = list(each(listed, look, pieces, source.readers))
        todo = [piece for piece, record in zip(pieces, found, strict=True) if record is None]
        return [record for record in found if record], todo

    def filled(
        self, there: list[ShardRecord], todo: list[Piece], workers: int, progress: Progress | None
    ) -> list[Copied]:
        """Copy what is not there, and say so in the metadata: before, that it is absent, and afterwards what it is.

        Parameters
        ----------
        there : list of ShardRecord
            Of the shards that stay as they are.
        todo : list of Piece
        workers : int
            Threads; with 0 the caller copies.
        progress : callable, optional
        """
        tally = Tally.empty(self.layouts, len(self.order), self.settings.get("full_scale"))
        for record in there:
            tally.add(record)
        made = self._publish("converting", tally, {}) if todo else {}
        copied = []
        for one in self._copied(todo, workers):
            copied.append(one)
            if one.record:
                tally.add(one.record)
            if progress:
                progress(_step(one, len(todo)))
        self._publish("converting" if any(one.fault for one in copied) else "final", tally, made)
        return copied

    def _copied(self, todo: list[Piece], workers: int) -> Iterable[Copied]:
        copy = partial(copy_shard, source=self.excerpt.source.portable(), sink=self.sink.portable())
        with submitting(copy, None, workers) as (submit, ahead), closing(started(todo, submit, ahead)) as results:
            yield from results

    def _publish(self, state: str, tally: Tally, before: dict[str, bytes]) -> dict[str, bytes]:
        settings = self.settings | {"state": state}
        frame = Frame(self.order, room_of(settings), self.excerpt.catalogue.table)
        contents = Contents(frame, self.layouts, tally.status, settings, about(settings), tally.scale)
        return publish(self.sink, contents, before, new=not before)


def _step(one: Copied, shards: int) -> Step:
    """Tell the progress bar, which counts patches and bytes."""
    piece = one.piece
    record = one.record or ShardRecord(piece.layout.product, piece.roi_id, piece.index, 0, "")
    return Step(record, record.size, shards)


def open_target(excerpt: Excerpt, sink: Place) -> Target:
    """Create the cube of an excerpt, or find it and check that this is the one that was begun.

    Raises
    ------
    DestinationError
        If the place holds something else, a cube that is no subset, or another subset.
    """
    rois, found = excerpt.catalogue.rois, settings_at(sink)
    if found is None:
        settings = settings_for(excerpt, excerpt.catalogue.times)
        claim(sink, settings, len(excerpt.catalogue.table))
        return Target(excerpt, sink, tuple(rois), settings)
    settings = settings_for(excerpt, max(excerpt.catalogue.times, room_of(found)))
    settings = continued(found, settings, sink.root)
    order = () if found.get("state") == "creating" else _order(sink)
    strange = set(order) - set(rois)
    if strange:
        raise DestinationError(
            f"{sink.root} has {min(strange)}, which is not in the selection: give the subset a place of its own"
        )
    known = set(order)
    return Target(excerpt, sink, (*order, *(roi for roi in rois if roi not in known)), settings)


def _order(sink: Place) -> tuple[str, ...]:
    """Read the ROIs as they lie on disk; none if that is damaged: shards in other places are copied again."""
    try:
        return read_order(sink.root, sink.access)
    except RemoteError:
        raise
    except StoreError:
        return ()

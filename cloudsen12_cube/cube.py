"""A cube being made: which shards it has, which are to be made, and its last word on what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from cloudsen12_cube import accept
from cloudsen12_cube import record as records
from cloudsen12_cube.changes import outdated
from cloudsen12_cube.layout import object_key
from cloudsen12_cube.place import Place, each
from cloudsen12_cube.plan import Plan, ShardTask
from cloudsen12_cube.record import ShardRecord
from cloudsen12_cube.store import ROOT_KEY, Contents, objects, restated
from cloudsen12_cube.tables import Frame
from cloudsen12_cube.tally import Tally

ABOUT = {
    "title": "CloudSEN12: Sentinel-2 image patches with cloud and cloud-shadow labels",
    "references": "https://doi.org/10.1038/s41597-022-01878-2",
    "citation": "Aybar, C. et al. CloudSEN12, a global dataset for semantic understanding of cloud and cloud shadow in "
    "Sentinel-2. Scientific Data 9, 782 (2022).",
    "institution": "contains modified Copernicus Sentinel data",
}
"""Root attributes of every cube."""


@dataclass(frozen=True)
class Survey:
    """What there is of a plan before a run."""

    todo: list[ShardTask]
    """Shards to be made, in the order of the plan."""
    there: Tally
    """What readers may be told while those are made: all of their patches are absent."""


@dataclass(frozen=True)
class Cube:
    """A cube and the plan that is being carried out on it."""

    sink: Place
    plan: Plan
    """With ``order`` as the ROIs lie on disk."""
    table: pd.DataFrame
    """Catalogue of the whole cube: what was there before, and what the plan adds."""
    settings: dict[str, Any]
    accepted: frozenset[accept.Key] = frozenset()
    """Failures that somebody decided to live with, as long as their files stay as they are."""
    new: bool = False
    """Whether no reader can see it yet: its metadata are not there."""
    made: dict[str, bytes] = field(default_factory=dict)
    """Metadata objects as this run has written them."""

    def accepting(self, choices: Sequence[accept.Key]) -> Cube:
        """Record decisions to keep a gap; the next metadata that are written hold them."""
        pairs = [(p.product, roi) for p in self.plan.layouts for roi in self.plan.order]
        listed = self.sink.listed()
        loaded = each(listed, lambda pair: records.load(listed, *pair), pairs)
        known = {accept.key_of(fault) for record in loaded if record for fault in record.faults}
        known |= {(row.roi_id, row.s2_id_gee, "", "metadata") for row in self.plan.faults()}
        gaps = accept.decide(choices, known, accept.in_settings(self.settings), self.plan.archive)
        return replace(
            self,
            settings=self.settings | accept.as_setting(gaps),
            accepted=accept.holding(gaps, self.plan.archive),
        )

    def survey(self, repair: bool = False, workers: int = 1) -> Survey:
        """Find out which shards are to be made.

        Parameters
        ----------
        repair : bool
            Read every shard: what does not have the recorded sha256, has faults, or has other files now is made again.
        workers : int
            Threads that read.
        """
        listed = replace(self, sink=self.sink.listed())
        look = partial(listed._looked_at, check=listed._right if repair else listed._done)
        tasks = list(self.plan.tasks())
        found = list(each(listed.sink, look, tasks, workers if repair else 1))
        there = Tally.empty(self.plan.layouts, len(self.plan.order), self.settings.get("full_scale"))
        for task, (record, right) in zip(tasks, found, strict=True):
            if record and record.index == task.index:
                there.add(record, shown=right)
        for record in listed._others():
            there.add(record)
        return Survey([task for task, (_, right) in zip(tasks, found, strict=True) if not right], there)

    def _looked_at(
        self, task: ShardTask, check: Callable[[ShardTask, ShardRecord | None], bool]
    ) -> tuple[ShardRecord | None, bool]:
        record = records.load(self.sink, task.layout.product, task.roi_id)
        return record and record.without_sources(), check(task, record)

    def is_done(self, task: ShardTask) -> bool:
        """Tell whether a shard has a record without faults but accepted ones, and an object of the stated length."""
        return self._done(task, records.load(self.sink, task.layout.product, task.roi_id))

    def _done(self, task: ShardTask, record: ShardRecord | None) -> bool:
        if record is None or record.index != task.index:
            return False
        if any(accept.key_of(fault) not in self.accepted for fault in record.faults):
            return False
        stated = [(p.time, p.s2_id_gee) for p in record.patches]
        if stated != [(p.time, p.s2_id_gee) for p in task.patches]:
            return False
        return record.size == (self.sink.size(self._key(record)) or 0)

    def _right(self, task: ShardTask, record: ShardRecord | None) -> bool:
        """Tell whether a shard needs no repair."""
        if record is None or record.faults or not self._done(task, record):
            return False
        files = {patch.time: patch.files for patch in task.patches}
        if outdated(task.layout.product, record, files, task.decoder):
            return False
        data = self.sink.get(self._key(record)) or b""
        return hashlib.sha256(data).hexdigest() == record.sha256

    def _key(self, record: ShardRecord) -> str:
        return object_key(self.settings, record.product, record.index)

    def _others(self) -> Iterator[ShardRecord]:
        """Yield the records of the ROIs that the plan leaves alone."""
        rest = [(p.product, roi) for p in self.plan.layouts for roi in self.plan.order if roi not in self.plan.groups]
        found = each(self.sink, lambda pair: records.load(self.sink, *pair), rest)
        yield from (record for record in found if record)

    def begun(self, there: Tally) -> Cube:
        """Write the metadata of a cube that changes, before a shard that a reader can see is written again."""
        return replace(self, made=self.write_metadata("converting", there), new=False)

    def finalise(self, there: Tally, fresh: Iterable[ShardRecord]) -> None:
        """Write what every patch's status is, and the consolidated metadata last.

        Parameters
        ----------
        there : Tally
            Of what was there before; changed in place.
        fresh : iterable of ShardRecord
            Records of this run.
        """
        for record in fresh:
            there.add(record)
        self.write_metadata("final", there)

    def write_metadata(self, state: str, tally: Tally) -> dict[str, bytes]:
        """Write the metadata objects that changed, the root's last; return them all."""
        settings = self.settings | {"state": state}
        frame = Frame(self.plan.order, self.plan.layouts[0].times, self.table)
        contents = Contents(frame, self.plan.layouts, tally.status, settings, about(settings), tally.scale)
        return publish(self.sink, contents, self.made, self.new)


def publish(sink: Place, contents: Contents, before: dict[str, bytes], new: bool = False) -> dict[str, bytes]:
    """Write the metadata objects of a cube that changed, the root's last.

    Parameters
    ----------
    sink : Place
    contents : Contents
    before : dict of str to bytes
        What this gave the last time, for the same frame and layouts; empty the first time.
    new : bool
        Whether most are not there yet: then the place is listed, not asked for each.

    Returns
    -------
    dict of str to bytes
        All of them.
    """
    made = restated(before, contents) if before else objects(contents)
    there = sink.listed() if new else sink

    def write(item: tuple[str, bytes]) -> None:
        if before.get(item[0]) != item[1] and there.get(item[0]) != item[1]:
            sink.put(*item, durable=item[0] == ROOT_KEY)

    *others, root = made.items()
    list(each(sink, write, others))
    write(root)
    return made


def about(settings: dict[str, Any]) -> dict[str, str]:
    """Say in the root's attributes what a cube is, and by which steps it came about."""
    steps, before = settings.get("subsets", []), settings.get("resharded_from")
    line = f"{settings['created']}: converted by {settings['tool']}"
    if before:
        line = f"{before['history']}\n{settings['created']}: re-sharded from {before['cube']} by {settings['tool']}"
    lines = [line, *(f"{step['created']}: subset of {step['cube']} by {step['tool']}" for step in steps)]
    return ABOUT | {
        "source": settings["source"],
        "history": "\n".join(lines).strip(),
        "date_created": steps[-1]["created"] if steps else settings["created"],
    }

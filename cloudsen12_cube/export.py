"""The way back on one screen: the patches of a cube as the archive's folders of COGs, with the published table."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.access import clean, is_url
from cloudsen12_cube.catalogue import Catalogue, Selection, TestMeaning, is_legal_key, roi_number, select
from cloudsen12_cube.errors import ArchiveError, DestinationError, SelectionError
from cloudsen12_cube.export_folder import Folder, opened
from cloudsen12_cube.export_note import LeftOut, Note
from cloudsen12_cube.export_shard import Exported, ExportPatch, ExportTask, Shards, export_shard, together
from cloudsen12_cube.grid import grid_of
from cloudsen12_cube.layout import ProductLayout, layout_of
from cloudsen12_cube.metadata import LABEL_FOLDERS, from_csv
from cloudsen12_cube.metadata_csv import TABLE_NAME, to_csv
from cloudsen12_cube.place import place_of
from cloudsen12_cube.store import ROOT_KEY, read_status, read_table, settings_of

Results = Generator[Exported, None, None]

_TIME = "disk_time"
"""Column of the table: position in the shard, which a selection leaves alone."""


@dataclass(frozen=True)
class ExportOptions:
    """What an export can be told beside cube, folder, products and conditions."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    rois: tuple[str, ...] = ()
    workers: int | None = None
    """Threads; 0 exports in the calling one. By default the cores of the machine, or twice as many where they wait for
    a bucket. Each holds one product of one patch about four times: some 40 MiB."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export."""

    patches: int
    """Patches of the selection of which at least one product is in the folder now."""
    files: int
    """Files that this run wrote."""
    bytes: int
    """Of the files that this run wrote."""
    skipped: int
    """Files that were there already, whole."""
    replaced: tuple[str, ...]
    """Files of an earlier run that were written again: not whole, changed by somebody, or of an older state of the
    cube."""
    left_out: tuple[LeftOut, ...]
    """What was not written, and why."""
    test_meaning: TestMeaning
    """What the codes of ``test`` in the table mean."""
    ambiguous: bool
    """Whether the codes alone would be read in another way; the folder's note says what they mean."""

    @property
    def exit_code(self) -> int:
        """0 if everything was written, 1 if something was left out."""
        return 1 if self.left_out else 0


@dataclass(frozen=True)
class ExportStep:
    """One shard more is done."""

    done: Exported
    shards: int
    """Shards that this run looks at in all."""


@dataclass(frozen=True)
class _Source:
    """A cube, and what of it is to be exported."""

    shards: Shards
    table: pd.DataFrame
    """Catalogue of the whole cube."""
    chosen: pd.DataFrame
    """The selected rows of it."""
    status: dict[str, npt.NDArray[np.uint8]]
    settings: dict[str, Any]
    refused: tuple[LeftOut, ...]
    """Rows whose ids are no names."""

    @property
    def note(self) -> Note:
        """What the folder is to say."""
        told = {name: str(self.settings.get(name, "")) for name in ("created", "source")}
        return Note(self.settings["test_meaning"], told, f"cloudsen12-cube {version('cloudsen12-cube')}", "")


def export(
    cube: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    where: Sequence[str] = (),
    options: ExportOptions = ExportOptions(),
    progress: Callable[[ExportStep], None] | None = None,
) -> ExportReport:
    """Write patches of a cube as an archive: folders of COGs, and ``cloudsen12_metadata.csv``.

    Run it again to continue. What it writes converts into an equal cube again: pixels, metadata, and the status of
    what is done.

    Parameters
    ----------
    cube : path, URL or `Url`
        The cube; it may lie in a bucket.
    folder : path
        A local folder: new, empty, or one that an earlier export of this cube has filled.
    products : sequence of str, optional
        Any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that the cube has.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high`` or ``difficulty<=3``; all must hold.
    options : ExportOptions
    progress : callable, optional
        Called with an `ExportStep` after each shard.

    Returns
    -------
    ExportReport
        What was written, what was there, and what was left out: a patch that is not done in the cube is never written
        as fill.

    Raises
    ------
    CubeError
        If nothing could be done; the message says why.
    """
    if not is_url(clean(cube)) and not is_url(clean(folder)):
        _check_apart(clean(cube), clean(folder))
    conditions = (where,) if isinstance(where, str) else tuple(where)
    source = _source(cube, tuple(products or ()), Selection(conditions, options.bbox, options.rois))
    with opened(folder, source.note) as target:
        table = _rows(source, target)
        parts = [Exported(replaced=tuple(target.begin(to_csv(table))), left_out=source.refused)]
        tasks = list(_tasks(source))
        with closing(_run(tasks, source.shards, target, _workers(source, options.workers))) as results:
            for done in results:
                parts.append(done)
                if progress:
                    progress(ExportStep(done, len(tasks)))
        total = together(parts)
        total = replace(total, left_out=tuple(sorted(total.left_out, key=_in_order)))
        target.end(replace(source.note, left_out=total.left_out))
        return _report(source, table, target, total)


def _in_order(row: LeftOut) -> tuple[int, tuple[str, ...]]:
    number = roi_number(row.roi_id) if is_legal_key(row.roi_id, "image") else -1
    return number, (row.roi_id, row.s2_id_gee, row.product)


def _check_apart(cube: str, folder: str) -> None:
    inside = [os.path.realpath(folder), os.path.realpath(cube)]
    if os.path.commonpath(inside) == inside[1]:
        raise DestinationError(f"{folder} lies inside the cube {cube}: give a folder of its own")


def _source(cube: str | os.PathLike[str], wanted: tuple[str, ...], selection: Selection) -> _Source:
    """Open a cube as far as its tables, and choose."""
    place = place_of(cube)
    settings = settings_of(place.get(ROOT_KEY), place.root)
    for name in wanted:
        if name not in settings["products"]:
            raise SelectionError(f"no product {name!r} in {place.root}; it has {', '.join(settings['products'])}")
    products = [name for name in settings["products"] if name in wanted or not wanted]
    layouts: dict[str, ProductLayout] = {p: layout_of(p, settings["products"][p]) for p in products}
    order, table = read_table(place.root, place.access)
    legal = [is_legal_key(*key) for key in zip(table["roi_id"], table["s2_id_gee"], strict=True)]
    strange = table[~np.array(legal, dtype=bool)]
    table = table[legal].rename(columns={"time": _TIME}).reset_index(drop=True)
    chosen = select(Catalogue(table, settings["test_meaning"]), selection).table  # counts `time` anew
    refused = tuple(
        LeftOut(roi, image, "", "an illegal id, which may lead out of the folder")
        for roi, image in zip(strange["roi_id"], strange["s2_id_gee"], strict=True)
    )
    status = read_status(place.root, products, place.access)
    return _Source(Shards(place, layouts, order), table, chosen, status, settings, refused)


def _rows(source: _Source, target: Folder) -> pd.DataFrame:
    """Rows of the table: what is selected now, and what an earlier run has put there."""
    keys = set(zip(source.chosen["roi_id"], source.chosen["s2_id_gee"], strict=True))
    there = target.sink.get(TABLE_NAME)
    if there is not None:
        with suppress(ArchiveError, UnicodeDecodeError):
            earlier = from_csv(there.decode("utf-8"), TABLE_NAME)
            keys |= set(zip(earlier["roi_id"], earlier["s2_id_gee"], strict=True))
    named = [key in keys for key in zip(source.table["roi_id"], source.table["s2_id_gee"], strict=True)]
    table = source.table[named]
    order = sorted(range(len(table)), key=lambda i: (roi_number(table["roi_id"].iloc[i]), table[_TIME].iloc[i]))
    return table.iloc[order]


def _tasks(source: _Source) -> Iterator[ExportTask]:
    position = {roi: index for index, roi in enumerate(source.shards.order)}
    for roi, rows in source.chosen.groupby("roi_id", sort=False):
        index = position[str(roi)]
        patches = [_patch(row) for row in rows.to_dict("records")]
        for product, status in source.status.items():
            told = tuple(replace(patch, status=int(status[index, patch.time])) for patch in patches)
            yield ExportTask(product, str(roi), index, told)


def _patch(row: dict[Any, Any]) -> ExportPatch:
    kind = LABEL_FOLDERS.get(row["label_type"], "")
    return ExportPatch(int(row[_TIME]), row["roi_id"], row["s2_id_gee"], kind, grid_of(row))


def _workers(source: _Source, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    return (os.cpu_count() or 1) * (2 if is_url(source.shards.place.root) else 1)


def _run(tasks: Iterable[ExportTask], shards: Shards, target: Folder, workers: int) -> Results:
    """Yield what became of each task; tasks that have not begun when one fails, or the caller stops, never begin."""
    if not workers:
        yield from (export_shard(task, shards, target) for task in tasks)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="export") as pool:
        futures = [pool.submit(export_shard, task, shards, target) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _report(source: _Source, table: pd.DataFrame, target: Folder, total: Exported) -> ExportReport:
    there = {unit[:2] for unit in target.entries}
    chosen = set(zip(source.chosen["roi_id"], source.chosen["s2_id_gee"], strict=True))
    meaning, codes = source.note.test_meaning, set(table["test"])
    return ExportReport(
        *(len(chosen & there), total.written, total.bytes, total.skipped, total.replaced, total.left_out, meaning),
        ambiguous=meaning == "v1.1" and 1 in codes and 2 not in codes,
    )

"""The output of the command line: tables and a progress bar that fit in a narrow terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from cloudsen12_cube import archive
from cloudsen12_cube.errors import printable
from cloudsen12_cube.schema import CLASSES

if TYPE_CHECKING:
    from cloudsen12_cube.conversion import Plan, Preview, Progress, Report, Step, SubsetReport
    from cloudsen12_cube.exporters import ExportReport, ExportStep
    from cloudsen12_cube.format import Fault
    from cloudsen12_cube.inspection import Info, Status, Verification
    from cloudsen12_cube.training import CubeStatistics

_SHOWN = 20
_FEW = 5
_COLUMNS = (MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())


class _PlainConsole(Console):
    """Prints texts of archives and cubes as they are: no markup, and nothing that a terminal would act on."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a line to styled text; every text passes here."""
        return super().render_str(printable(text), **options)


def make_console(quiet: bool = False) -> Console:
    """Return a console for standard output; a quiet one prints nothing."""
    return _PlainConsole(highlight=False, soft_wrap=False, quiet=quiet, markup=False, emoji=False)


def size(count: float) -> str:
    """Format a number of bytes: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Format a duration: 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _bar(console: Console, quiet: bool) -> Iterator[Callable[[int, Callable[[float], str]], None] | None]:
    """Show completed shards, a rate and the remaining time; None unless the output is a terminal.

    The yielded function is to be called after each shard with the total number of shards and a function that formats
    the rate, given the seconds since the start.
    """
    if quiet or console.quiet or not console.is_terminal:
        yield None
        return
    with Bar(BarColumn(bar_width=None), *_COLUMNS, console=console) as bar:
        task = bar.add_task("", total=None, rate="")

        def advance(shards: int, rate: Callable[[float], str]) -> None:
            bar.update(task, advance=1, total=shards, rate=rate(bar.tasks[0].elapsed or 1e-9))

        yield advance


@contextmanager
def progress_bar(console: Console, quiet: bool = False) -> Iterator[Progress | None]:
    """Show shards, patches per second, raw megabytes per second and the remaining time."""
    with _bar(console, quiet) as bar:
        patches = raw = 0

        def advance(step: Step) -> None:
            nonlocal patches, raw
            patches += len(step.record.patches)
            raw += step.raw_bytes
            if bar:
                bar(step.shards, lambda s: f"{patches / s:.0f} patches/s {raw / s / 1e6:.0f} MB/s")

        yield advance if bar else None


@contextmanager
def export_bar(console: Console) -> Iterator[Callable[[ExportStep], None] | None]:
    """Show shards, files, megabytes per second and the remaining time."""
    with _bar(console, quiet=False) as bar:
        files = written = 0

        def advance(step: ExportStep) -> None:
            nonlocal files, written
            files += step.done.written + step.done.skipped
            written += step.done.bytes
            if bar:
                bar(step.shards, lambda s: f"{files} files {written / s / 1e6:.0f} MB/s")

        yield advance if bar else None


def show_line(console: Console, text: str) -> None:
    """Print one line of any length."""
    console.print(text, soft_wrap=True)


def _table(*columns: str) -> Table:
    return Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _show_warnings(console: Console, lines: Sequence[str], limit: int = _SHOWN, style: str = "yellow") -> None:
    for line in lines[:limit]:
        console.print(f"! {line}", style=style)
    _show_rest(console, len(lines) - limit)


def _show_rest(console: Console, count: int) -> None:
    if count > 0:
        console.print(f"... and {count} more")


def show_plan(console: Console, plan: Plan, workers: int) -> None:
    """Print a plan."""
    table = _table("product", "shards", "dtype", "shard", "raw")
    for layout in plan.layouts:
        rois, shared = len(plan.catalogue.rois), layout.form.rois_per_shard
        shape = " x ".join(map(str, layout.shard[1 if shared == 1 else 0 :]))
        table.add_row(layout.product, str(-(-rois // shared)), layout.dtype, shape, size(layout.roi_bytes * rois))
    console.print(table)
    totals = plan.totals(workers)
    read, written = size(totals["source_bytes"]), size(totals["stored_bytes_estimate"])
    time, memory = duration(totals["seconds_estimate"]), size(totals["memory_bytes"])
    for line in (
        f"{totals['rois']} ROIs, {totals['patches']} patches",
        f"metadata from {plan.source}, `test` read as {plan.catalogue.test_meaning}",
        f"{read} to read, about {written} to write in {totals['objects']} objects",
        f"at most {memory} of memory, about {time} with {max(workers, 1)} worker(s)",
    ):
        console.print(line)
    _show_warnings(console, [f"the archive has {name}, which is not converted" for name in plan.ignored])
    _show_warnings(console, [f"no patch of the archive has {name}: its bands stay empty" for name in plan.lacking()])
    _show_warnings(console, [f"{fault.roi_id}/{fault.s2_id_gee}: {fault.found}" for fault in plan.faults()])


def show_report(console: Console, report: Report) -> None:
    """Print the result of a conversion."""
    part = f"part {report.part}: " if report.part else ""
    written = f"{part}{report.written} of {report.shards} shards written ({size(report.size)})"
    console.print(f"{written}, {report.skipped} existed already")
    if report.part:
        console.print("run `finalise` after all parts have finished")
    _show_faults(console, report.faults, report.accepted)


def show_preview(console: Console, preview: Preview) -> None:
    """Print what a subset would copy."""
    table = _table("product", "shards", "whole", "cut", "missing", "to read", "to write")
    for row in preview.products:
        counts = (row.shards, row.whole, row.cut, row.lacking)
        table.add_row(row.product, *map(str, counts), size(row.read), size(row.written))
    console.print(table)
    show_line(console, f"{preview.rois} ROIs, {preview.patches} patches; of a cut shard some dates are copied")


def show_subset(console: Console, report: SubsetReport) -> None:
    """Print the result of a subset."""
    console.print(f"{report.rois} ROIs, {report.patches} patches")
    copied = f"{report.whole + report.cut} of {report.shards} shards copied ({size(report.size)})"
    console.print(f"{copied}, {report.cut} of them cut; {report.skipped} existed already")
    _show_faults(console, report.faults, report.accepted)


def _show_faults(console: Console, faults: Sequence[Fault], accepted: int) -> None:
    if accepted:
        console.print(f"{accepted} accepted failures")
    if not faults:
        return
    table = _table("patch", "asset", "found", "expected")
    for fault in faults[:_SHOWN]:
        table.add_row(f"{fault.roi_id} {fault.s2_id_gee}", fault.asset or fault.path, fault.found, fault.expected)
    console.print(table)
    _show_rest(console, len(faults) - _SHOWN)


def show_export(console: Console, report: ExportReport) -> None:
    """Print the result of an export."""
    written = f"{report.patches} patches: {report.files} files written ({size(report.bytes)})"
    console.print(f"{written}, {report.skipped} existed already")
    _show_warnings(console, [f"replaced: {name}" for name in report.replaced], _FEW)
    if report.ambiguous:
        meaning = report.test_meaning
        text = f"the codes of `test` have no 2 but mean {meaning}: convert reads this from {archive.NOTE_NAME}; "
        _show_warnings(console, [f"{text}without this file pass --test-meaning {meaning}"])
    if not report.left_out:
        return
    table = _table("patch", "product", "left out")
    for row in report.left_out[:_SHOWN]:
        table.add_row(f"{row.roi_id} {row.s2_id_gee}", row.product, row.reason)
    console.print(table)
    _show_rest(console, len(report.left_out) - _SHOWN)


def show_status(console: Console, status: Status) -> None:
    """Print the status of a cube."""
    show_line(console, f"{status.place}: {status.state}")
    table = _table("product", "done", "missing", "failed", "accepted", "stored")
    for row in status.products:
        counts = (row.done, row.missing, row.failed, row.accepted)
        table.add_row(row.product, *map(str, counts), size(row.bytes))
    console.print(table)
    missing: dict[str, list[str]] = {}
    for product, roi in status.missing:
        missing.setdefault(roi, []).append(product)
    _show_warnings(console, [f"missing: {roi} ({', '.join(products)})" for roi, products in missing.items()], _FEW)
    _show_warnings(console, [f"failed: {f.roi_id} {f.s2_id_gee}: {f}" for f in status.failures], _FEW)
    _show_warnings(console, [f"changed: {change}" for change in status.changes], _FEW)
    _show_warnings(console, [f"not in the cube: {roi}" for roi in status.new_rois], _FEW)
    if status.compared == "size" and not status.changes:
        console.print(
            "files were compared by name and size alone: --checksum finds changes that leave both as they were"
        )
    if status.changes:
        console.print("`convert --repair` rewrites changed shards; pixels of deleted files are kept")


def show_info(console: Console, info: Info) -> None:
    """Print a summary of a cube."""
    console.print(f"{info.place}: {info.rois} ROIs, {info.patches} patches, {info.settings['state']}")
    table = _table()
    for name in ("product", "bands", "pixels", "dtype", "done", "failed", "missing", "stored", "of raw"):
        # In a narrow terminal the counts are folded, not the names.
        table.add_column(name, no_wrap=name in ("product", "pixels", "dtype"), overflow="fold")
    for row in info.products:
        share = f"{row.bytes / row.raw_bytes:.0%}" if row.raw_bytes else "-"
        counts = map(str, (row.done, row.failed, row.missing))
        pixels = f"{row.shape[3]}x{row.shape[4]}"
        table.add_row(row.product, str(row.shape[2]), pixels, row.dtype, *counts, size(row.bytes), share)
    console.print(table)
    if info.costs:
        objects = sum(row.objects for row in info.products)
        console.print(f"{objects} shards and records; mean cost of a read:")
        table = _table("read", "requests", "bytes")
        for cost in info.costs:
            table.add_row(cost.what, str(cost.requests), size(cost.bytes))
        console.print(table)
    for name, counts_of in info.counts.items():
        values = ", ".join(f"{value or 'unknown'} {count}" for value, count in counts_of.items())
        console.print(f"{name}: {values}")


def show_verification(console: Console, result: Verification) -> None:
    """Print the result of a verification."""
    console.print(f"{result.shards} shards checked against their records, {size(result.shard_bytes)} hashed")
    if result.pixels or result.values:
        console.print(f"{result.pixels:,} pixels and {result.values:,} metadata values compared with the archive")
    if result.nodata:
        console.print(f"{result.nodata:,} reflectances are 0, which is Sentinel-2's NODATA")
    _show_warnings(console, [str(line) for line in result.differences], style="red")
    if result.unfinished:
        console.print(f"{result.unfinished} patches are not in the cube (counted for each product)")
    verdict = "no differences" if not result.exit_code else f"{len(result.differences)} differences"
    console.print(verdict, style="green" if not result.exit_code else "red")


def show_statistics(console: Console, statistics: CubeStatistics) -> None:
    """Print the statistics of bands, in stored values, and the fractions of the classes."""
    origin = statistics.origin
    console.print(f"split {origin.split or 'all'}: {origin.patches} patches of {origin.rois} ROIs")
    bands = _table("product", "band", "mean", "std", "2 %", "50 %", "98 %")
    for product, rows in statistics.bands.items():
        for row in rows:
            percentiles = [f"{row.percentiles.get(p, float('nan')):.6g}" for p in ("2", "50", "98")]
            bands.add_row(product, row.band, f"{row.mean:.6g}", f"{row.std:.6g}", *percentiles)
    console.print(bands)
    classes = _table("layer", *(row.name for row in CLASSES), "unlabelled")
    for layer, counts in statistics.classes.items():
        classes.add_row(layer, *(f"{count / max(sum(counts), 1):.1%}" for count in counts))
    console.print(classes)

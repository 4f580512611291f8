"""What the command line prints: tables and a progress bar that fit a narrow terminal, and stay silent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from cloudsen12_cube.schema import CLASSES

if TYPE_CHECKING:
    from cloudsen12_cube.conversion import Plan, Preview, Progress, Report, Step, SubsetReport
    from cloudsen12_cube.exporters import ExportReport, ExportStep
    from cloudsen12_cube.format import Fault
    from cloudsen12_cube.inspection import Info, Status, Verification
    from cloudsen12_cube.training import CubeStatistics

_SHOWN = 20
_FEW = 5


def size(count: float) -> str:
    """Write bytes for people: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Write seconds for people: 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _bar(console: Console, quiet: bool) -> Iterator[Callable[[int, Callable[[float], str]], None] | None]:
    """Show shards, a rate and the time left, if anyone is looking; call what it gives after each shard.

    What it gives takes the number of all shards, and what writes the rate, by the seconds since the beginning.
    """
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=None, rate="")

        def advance(shards: int, rate: Callable[[float], str]) -> None:
            bar.update(task, advance=1, total=shards, rate=rate(bar.tasks[0].elapsed or 1e-9))

        yield advance


@contextmanager
def progress_bar(console: Console, quiet: bool) -> Iterator[Progress | None]:
    """Show shards, patches a second, raw megabytes a second and the time left."""
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
def export_bar(console: Console, quiet: bool) -> Iterator[Callable[[ExportStep], None] | None]:
    """Show shards, files, megabytes a second and the time left."""
    with _bar(console, quiet) as bar:
        files = written = 0

        def advance(step: ExportStep) -> None:
            nonlocal files, written
            files += step.done.written + step.done.skipped
            written += step.done.bytes
            if bar:
                bar(step.shards, lambda s: f"{files} files {written / s / 1e6:.0f} MB/s")

        yield advance if bar else None


def show_plan(console: Console, plan: Plan, workers: int) -> None:
    """Print a plan as a table."""
    table = Table("product", "shards", "dtype", "shard", "raw", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for layout in plan.layouts:
        rois, shared = len(plan.catalogue.rois), layout.form.rois_per_shard
        shape = " x ".join(map(str, layout.shard[1 if shared == 1 else 0 :]))
        table.add_row(layout.product, str(-(-rois // shared)), layout.dtype, shape, size(layout.roi_bytes * rois))
    console.print(table)
    totals = plan.totals(workers)
    read, written = size(totals["source_bytes"]), size(totals["stored_bytes_estimate"])
    time = duration(totals["seconds_estimate"])
    lines = (
        f"{totals['rois']} ROIs, {totals['patches']} patches",
        f"metadata from {plan.source}, `test` read as {plan.catalogue.test_meaning}",
        f"{read} to read, about {written} to write in {totals['objects']} objects",
        f"at most {size(totals['memory_bytes'])} of memory, about {time} with {max(workers, 1)} worker(s)",
    )
    for line in lines:
        console.print(line, markup=False)
    for name in plan.ignored:
        console.print(f"! the archive has {name}: a cube has no place for it", style="yellow", markup=False)
    for name in plan.lacking():
        console.print(f"! no patch of the archive has {name}: its bands stay empty", style="yellow", markup=False)
    for fault in plan.faults()[:_SHOWN]:
        console.print(f"! {fault.roi_id}/{fault.s2_id_gee}: {fault.found}", style="yellow", markup=False)


def show_report(console: Console, report: Report) -> None:
    """Print what a conversion did."""
    part = f"part {report.part}: " if report.part else ""
    console.print(
        f"{part}{report.written} of {report.shards} shards written ({size(report.size)}), "
        f"{report.skipped} were there before"
    )
    if report.part:
        console.print("when all parts are done: `finalise`")
    _show_faults(console, report.faults, report.accepted)


def show_preview(console: Console, seen: Preview) -> None:
    """Print what a subset would copy."""
    heads = ("product", "shards", "whole", "cut", "lacking", "to read", "to write")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in seen.products:
        counts = (row.shards, row.whole, row.cut, row.lacking)
        table.add_row(row.product, *map(str, counts), size(row.read), size(row.written))
    console.print(table)
    console.print(f"{seen.rois} ROIs, {seen.patches} patches; of a cut shard some dates go along", soft_wrap=True)


def show_subset(console: Console, report: SubsetReport) -> None:
    """Print what was copied."""
    console.print(f"{report.rois} ROIs, {report.patches} patches")
    copied = f"{report.whole + report.cut} of {report.shards} shards copied ({size(report.size)})"
    console.print(f"{copied}, {report.cut} of them cut; {report.skipped} were there before")
    _show_faults(console, report.faults, report.accepted)


def _show_faults(console: Console, faults: Sequence[Fault], accepted: int) -> None:
    """Print what was refused."""
    if accepted:
        console.print(f"{accepted} accepted failures are left as they are")
    if not faults:
        return
    table = Table("patch", "asset", "found", "expected", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for fault in faults[:_SHOWN]:
        table.add_row(f"{fault.roi_id} {fault.s2_id_gee}", fault.asset or fault.path, fault.found, fault.expected)
    console.print(table)
    more = len(faults) - _SHOWN
    if more > 0:
        console.print(f"... and {more} more")


def show_export(console: Console, report: ExportReport) -> None:
    """Print what an export wrote, and what it did not."""
    console.print(
        f"{report.patches} patches: {report.files} files written ({size(report.bytes)}), "
        f"{report.skipped} were there before"
    )
    for name in report.replaced[:_FEW]:
        console.print(f"! written again: {name}", style="yellow", markup=False)
    if len(report.replaced) > _FEW:
        console.print(f"... and {len(report.replaced) - _FEW} more")
    if report.ambiguous:
        from cloudsen12_cube.archive import NOTE_NAME

        text = (
            f"`test` has no code 2 here, and means {report.test_meaning} all the same: {NOTE_NAME} says so to convert"
        )
        text += f"; wherever it does not go along, give --test-meaning {report.test_meaning}"
        console.print(f"! {text}", style="yellow", markup=False)
    if not report.left_out:
        return
    table = Table("patch", "product", "left out", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in report.left_out[:_SHOWN]:
        table.add_row(Text(f"{row.roi_id} {row.s2_id_gee}"), row.product, Text(row.reason))
    console.print(table)
    more = len(report.left_out) - _SHOWN
    if more > 0:
        console.print(f"... and {more} more")


def show_status(console: Console, status: Status) -> None:
    """Print how far a cube is."""
    console.print(f"{status.place}: {status.state}", markup=False, soft_wrap=True)
    table = Table("product", "done", "missing", "failed", "accepted", "stored", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in status.products:
        counts = (row.done, row.missing, row.failed, row.accepted)
        table.add_row(row.product, *map(str, counts), size(row.bytes))
    console.print(table)
    lacking: dict[str, list[str]] = {}
    for product, roi in status.missing:
        lacking.setdefault(roi, []).append(product)
    _some(console, "missing: ", [f"{roi} ({', '.join(products)})" for roi, products in lacking.items()])
    _some(console, "failed: ", [f"{f.roi_id} {f.s2_id_gee}: {f}" for f in status.failures])
    _some(console, "changed: ", [str(change) for change in status.changes])
    _some(console, "not in the cube yet: ", list(status.new_rois))
    if status.changes:
        console.print("`convert --repair` makes again what has changed; pixels whose files are gone are kept")


def _some(console: Console, head: str, lines: list[str]) -> None:
    for line in lines[:_FEW]:
        console.print(f"! {head}{line}", style="yellow", markup=False)
    if len(lines) > _FEW:
        console.print(f"... and {len(lines) - _FEW} more")


def show_info(console: Console, info: Info) -> None:
    """Print what is in a cube."""
    console.print(f"{info.place}: {info.rois} ROIs, {info.patches} patches, {info.settings['state']}", markup=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("product", "bands", "pixels", "dtype", "done", "failed", "missing", "stored", "of raw"):
        # Where a terminal is narrow, it is not the names that are cut.
        table.add_column(name, no_wrap=name in ("product", "pixels", "dtype"), overflow="fold")
    for row in info.products:
        share = f"{row.bytes / row.raw_bytes:.0%}" if row.raw_bytes else "-"
        cells = [row.product, str(row.shape[2]), f"{row.shape[3]}x{row.shape[4]}", row.dtype]
        cells += [str(row.done), str(row.failed), str(row.missing), size(row.bytes), share]
        table.add_row(*cells)
    console.print(table)
    _show_costs(console, info)
    for name, counts in info.counts.items():
        told = ", ".join(f"{value or 'unknown'} {count}" for value, count in counts.items())
        console.print(f"{name}: {told}", markup=False)


def _show_costs(console: Console, info: Info) -> None:
    """Print what reading from afar costs."""
    if not info.costs:
        return
    objects = sum(row.objects for row in info.products)
    console.print(f"{objects} shards and records; reading costs, on average:")
    table = Table("read", "requests", "bytes", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for cost in info.costs:
        table.add_row(cost.what, str(cost.requests), size(cost.bytes))
    console.print(table)


def show_verification(console: Console, result: Verification) -> None:
    """Print what was compared and what differs."""
    console.print(f"{result.shards} shards checked against their records, {size(result.shard_bytes)} hashed")
    if result.pixels or result.values:
        console.print(f"{result.pixels:,} pixels and {result.values:,} metadata values compared with the archive")
    for line in result.differences[:_SHOWN]:
        console.print(f"! {line}", style="red", markup=False)
    more = len(result.differences) - _SHOWN
    if more > 0:
        console.print(f"... and {more} more")
    if result.unfinished:
        console.print(f"{result.unfinished} patches are not in the cube (counted once a product)")
    verdict = "everything is right" if not result.exit_code else f"{len(result.differences)} differences"
    console.print(verdict, style="green" if not result.exit_code else "red")


def show_census(console: Console, census: CubeStatistics) -> None:
    """Print the statistics of bands, in stored values, and the shares of the classes."""
    origin = census.origin
    console.print(f"split {origin.split or 'all'}: {origin.patches} patches of {origin.rois} ROIs", markup=False)
    bands = Table("product", "band", "mean", "std", "2 %", "50 %", "98 %", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for product, rows in census.bands.items():
        for row in rows:
            spread = [f"{row.percentiles.get(p, float('nan')):.6g}" for p in ("2", "50", "98")]
            bands.add_row(product, row.band, f"{row.mean:.6g}", f"{row.std:.6g}", *spread)
    console.print(bands)
    classes = Table("layer", *(row.name for row in CLASSES), "unlabelled", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for layer, counts in census.classes.items():
        classes.add_row(layer, *(f"{count / max(sum(counts), 1):.1%}" for count in counts))
    console.print(classes)

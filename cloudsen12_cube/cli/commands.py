"""The command line ``cloudsen12-cube``: parse, call, print."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudsen12_cube.cli.parser import cube_of, make_parser, options_of, source_of, subset_options_of
from cloudsen12_cube.errors import CubeError, without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from cloudsen12_cube.format import Fault
    from cloudsen12_cube.inspection import Status

# Each command imports what it needs: `--help` would wait for zarr, rasterio and matplotlib otherwise.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 all done and right; 1 finished, but something was refused or differs; 2 nothing could be done.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    given = make_parser(arguments).parse_args(arguments)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files stands in our report
    try:
        return _COMMANDS[given.command](given, console)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return 141
    except (CubeError, OSError, KeyError) as error:
        if given.debug:
            raise
        from cloudsen12_cube.conversion import StrictError

        print(f"cloudsen12-cube: {_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, StrictError) else 2


def _line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return without_secrets(" ".join(str(text).split()))


def _demo(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli.demo import demo

    return demo(given.dir, console, given.quiet)


def _plan(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.conversion import plan, worker_count

    options = options_of(given)
    made = plan(source_of(given), given.products, given.where, options)
    workers = worker_count(made, options.workers, options.memory)
    if given.json:
        given.json.write_text(made.as_json(workers), encoding="utf-8")
    if not given.quiet:
        terminal.show_plan(console, made, workers)
    return 0


def _convert(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.conversion import convert, failures_path

    if given.dry_run:
        return _plan(given, console)
    options = options_of(given)
    with terminal.progress_bar(console, given.quiet) as progress:
        report = convert(
            source_of(given), cube_of(given), given.products, given.where, options=options, progress=progress
        )
    if not given.quiet:
        terminal.show_report(console, report)
    _tell_faults(report.faults, failures_path(given.cube, report.part))
    return report.exit_code


def _tell_faults(faults: Sequence[Fault], place: str) -> None:
    if faults:
        told = without_secrets(f"{len(faults)} failures; the first: {faults[0]}; all: {place}")
        print(f"cloudsen12-cube: {told}", file=sys.stderr)


def _subset(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.conversion import failures_path, preview_subset, subset

    source, out, options = source_of(given), cube_of(given), subset_options_of(given)
    if given.dry_run:
        seen = preview_subset(source, out, given.products, given.where, options)
        if not given.quiet:
            terminal.show_preview(console, seen)
        return 0
    with terminal.progress_bar(console, given.quiet) as progress:
        report = subset(source, out, given.products, given.where, options, progress)
    if not given.quiet:
        terminal.show_subset(console, report)
    _tell_faults(report.faults, failures_path(given.cube))
    return report.exit_code


def _verify(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.inspection import verify

    result = verify(cube_of(given), source_of(given) if given.source else None, given.level)
    if given.json:
        _print_json(asdict(result))
    else:
        terminal.show_verification(console, result)
    return result.exit_code


def _evaluate(given: argparse.Namespace, _: Console) -> int:
    from cloudsen12_cube.dataset import open_cube
    from cloudsen12_cube.evaluation import build_table, format_table, per_patch, save

    cube = open_cube(cube_of(given), products=["labels"])
    split = None if given.split == "all" else given.split
    patches = per_patch(cube, given.reference, split, given.predictions, given.by)
    if given.per_patch:
        save(patches, given.per_patch)
    print(format_table(build_table(patches, given.by, patches.attrs["notes"]), given.format))
    return 0


def _stats(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.training import stats

    found = stats(cube_of(given), None if given.split == "all" else given.split)
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_census(console, found)
    return 0


def _info(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.inspection import info

    found = info(cube_of(given))
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_info(console, found)
    return 0


def _status(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.inspection import status

    found = status(cube_of(given), source_of(given) if given.source else None, given.checksum)
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_status(console, found)
    return found.exit_code


def _finalise(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.conversion import finalise

    found = finalise(cube_of(given))
    terminal.show_status(console, found)
    if found.exit_code:
        print(f"cloudsen12-cube: {_unfinished(found)}", file=sys.stderr)
    return found.exit_code


def _unfinished(found: Status) -> str:
    from cloudsen12_cube.conversion import failures_path

    if found.missing:
        product, roi = found.missing[0]
        return f"{len(found.missing)} shards are missing, the first {product} of {roi}: run their part again"
    return f"{len(found.failures)} failures; all: {without_secrets(failures_path(found.place))}"


def _export(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.archive import NOTE_NAME
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.exporters import ExportOptions, export

    options = ExportOptions(given.bbox, tuple(given.rois), given.workers)
    with terminal.export_bar(console, given.quiet) as progress:
        report = export(cube_of(given), given.dir, given.products, given.where, options, progress)
    if not given.quiet:
        terminal.show_export(console, report)
    if report.left_out:
        told = f"{len(report.left_out)} left out; the first: {report.left_out[0]}; all: {given.dir}/{NOTE_NAME}"
        print(f"cloudsen12-cube: {told}", file=sys.stderr)
    return report.exit_code


def _stac(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.dataset import open_cube
    from cloudsen12_cube.exporters import stac as stac_items

    name = without_secrets(given.cube).rstrip("/")
    folder = given.out or Path(f"{name.rsplit('/', 1)[-1] if '://' in name else name}.stac")
    count = stac_items.write(open_cube(cube_of(given)), given.cube, folder)
    console.print(f"{folder}: collection.json, and items.parquet with {count:,} patches", markup=False, soft_wrap=True)
    return 0


def _browse(given: argparse.Namespace, console: Console) -> int:
    from cloudsen12_cube.cli import render as terminal
    from cloudsen12_cube.dataset import open_cube
    from cloudsen12_cube.plotting import browser as browse

    cube = open_cube(cube_of(given))
    if given.out:
        size = browse.export(cube, given.out, given.pictures)
        console.print(f"{given.out}: {terminal.size(size)}; open it in a browser", markup=False, soft_wrap=True)
    else:
        tell = partial(console.print, markup=False, soft_wrap=True)
        browse.serve(cube, given.port, not given.no_open, lambda at: tell(f"{at} (Ctrl-C ends)"))
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


_COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "demo": _demo,
    "plan": _plan,
    "convert": _convert,
    "subset": _subset,
    "finalise": _finalise,
    "status": _status,
    "verify": _verify,
    "info": _info,
    "evaluate": _evaluate,
    "stats": _stats,
    "export": _export,
    "stac": _stac,
    "browse": _browse,
}

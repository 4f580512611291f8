"""The commands of ``cloudsen12-cube``: each calls the package and prints the result.

The rooms are imported as lazy fronts: ``--help`` loads neither zarr nor rasterio, a command only what it uses.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudsen12_cube import archive, cli, conversion, dataset, evaluation, exporters, inspection, plotting, training
from cloudsen12_cube.cli.parser import cube_of, make_parser, options_of, source_of, subset_options_of
from cloudsen12_cube.errors import CubeError, printable, without_secrets
from cloudsen12_cube.storage import clean, is_url

if TYPE_CHECKING:
    from rich.console import Console

    from cloudsen12_cube.format import Fault


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments without the name of the program; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 for success; 1 if the command finished but patches failed or a check found differences; 2 if
        nothing was done; 130 after an interruption.
    """
    arguments = cli.parser.join_bbox(sys.argv[1:] if arguments is None else arguments)
    given = make_parser(arguments).parse_args(arguments)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damaged files are part of the report
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal lacks
    try:
        return _COMMANDS[given.command](given, cli.render.make_console(getattr(given, "quiet", False)))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (CubeError, OSError, KeyError) as error:
        if given.debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        _print_error(" ".join(str(text).split()))
        return 1 if isinstance(error, conversion.StrictError) else 2


def _print_error(text: str) -> None:
    print(f"cloudsen12-cube: {printable(without_secrets(text))}", file=sys.stderr)


def _print_faults(faults: Sequence[Fault], location: str) -> None:
    if faults:
        _print_error(f"{len(faults)} failures; the first: {faults[0]}; all: {location}")


def _print_result(given: argparse.Namespace, result: Any, show: Callable[[Any], None]) -> None:
    if given.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        show(result)


def _demo(given: argparse.Namespace, console: Console) -> int:
    return cli.demo.demo(given.dir, console, given.no_progress)


def _plan(given: argparse.Namespace, console: Console) -> int:
    options = options_of(given)
    plan = conversion.plan(source_of(given), given.products, given.where, options)
    workers = conversion.worker_count(plan, options.workers, options.memory)
    if given.json:
        given.json.write_text(plan.as_json(workers), encoding="utf-8")
    cli.render.show_plan(console, plan, workers)
    return 0


def _convert(given: argparse.Namespace, console: Console) -> int:
    if given.dry_run:
        return _plan(given, console)
    source, options = source_of(given), options_of(given)
    with cli.render.progress_bar(console) as progress:
        report = conversion.convert(
            source, cube_of(given), given.products, given.where, options=options, progress=progress
        )
    cli.render.show_report(console, report)
    _print_faults(report.faults, conversion.failures_path(given.cube, report.part))
    return report.exit_code


def _subset(given: argparse.Namespace, console: Console) -> int:
    source, out, options = source_of(given), cube_of(given), subset_options_of(given)
    if given.dry_run:
        cli.render.show_preview(console, conversion.preview_subset(source, out, given.products, given.where, options))
        return 0
    with cli.render.progress_bar(console) as progress:
        report = conversion.subset(source, out, given.products, given.where, options, progress)
    cli.render.show_subset(console, report)
    _print_faults(report.faults, conversion.failures_path(given.cube))
    return report.exit_code


def _verify(given: argparse.Namespace, console: Console) -> int:
    result = inspection.verify(cube_of(given), source_of(given) if given.source else None, given.level)
    _print_result(given, result, partial(cli.render.show_verification, console))
    return result.exit_code


def _evaluate(given: argparse.Namespace, _: Console) -> int:
    cube = dataset.open_cube(cube_of(given), products=["labels"])
    patches = evaluation.per_patch(cube, given.reference, given.split, given.predictions, given.by, given.unclassified)
    if given.per_patch:
        evaluation.save(patches, given.per_patch)
    for line in evaluation.format_table(evaluation.build_table(patches, given.by), given.format).split("\n"):
        print(printable(line))
    return 0


def _stats(given: argparse.Namespace, console: Console) -> int:
    result = training.stats(cube_of(given), given.split)
    _print_result(given, result, partial(cli.render.show_statistics, console))
    return 0


def _info(given: argparse.Namespace, console: Console) -> int:
    _print_result(given, inspection.info(cube_of(given)), partial(cli.render.show_info, console))
    return 0


def _status(given: argparse.Namespace, console: Console) -> int:
    result = inspection.status(cube_of(given), source_of(given) if given.source else None, given.checksum)
    _print_result(given, result, partial(cli.render.show_status, console))
    return result.exit_code


def _finalise(given: argparse.Namespace, console: Console) -> int:
    result = conversion.finalise(cube_of(given))
    cli.render.show_status(console, result)
    if result.missing:
        product, roi = result.missing[0]
        _print_error(f"{len(result.missing)} shards are missing, the first {product} of {roi}: run their part again")
    elif result.exit_code:
        _print_error(f"{len(result.failures)} failures; all: {conversion.failures_path(result.place)}")
    return result.exit_code


def _export(given: argparse.Namespace, console: Console) -> int:
    options = exporters.ExportOptions(given.bbox, tuple(given.rois), given.workers)
    with cli.render.export_bar(console) as progress:
        report = exporters.export(cube_of(given), given.dir, given.products, given.where, options, progress)
    cli.render.show_export(console, report)
    if report.left_out:
        first, note = report.left_out[0], f"{given.dir}/{archive.NOTE_NAME}"
        _print_error(f"{len(report.left_out)} left out; the first: {first}; all: {note}")
    return report.exit_code


def _stac(given: argparse.Namespace, console: Console) -> int:
    name = given.cube.rstrip("/")
    if is_url(name):
        name = without_secrets(name).rstrip("/").rsplit("/", 1)[-1]
    folder = given.out or Path(f"{clean(name)}.stac")
    count = exporters.stac.write(dataset.open_cube(cube_of(given)), given.cube, folder)
    cli.render.show_line(console, f"{folder}: collection.json, and items.parquet with {count:,} patches")
    return 0


def _browse(given: argparse.Namespace, console: Console) -> int:
    cube = dataset.open_cube(cube_of(given))
    if given.out:
        size = plotting.browser.export(cube, given.out, given.pictures)
        cli.render.show_line(console, f"{given.out}: {cli.render.size(size)}; open it in a browser")
    else:
        show = partial(cli.render.show_line, console)
        plotting.browser.serve(cube, given.port, not given.no_open, lambda url: show(f"{url} (Ctrl-C stops)"))
    return 0


_RUNS = (
    *(_demo, _plan, _convert, _subset, _finalise, _status, _verify),
    *(_info, _evaluate, _stats, _export, _stac, _browse),
)
_COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {run.__name__[1:]: run for run in _RUNS}

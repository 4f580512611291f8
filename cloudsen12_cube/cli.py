"""The command line ``cloudsen12-cube``: parse, call, print."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from cloudsen12_cube import browse, stac_items, terminal
from cloudsen12_cube.accuracy import per_patch, save
from cloudsen12_cube.assets import PRODUCTS
from cloudsen12_cube.catalogue import TestMeaning
from cloudsen12_cube.census import stats
from cloudsen12_cube.convert import Options, StrictError, convert, plan
from cloudsen12_cube.demo import demo
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.finalise import finalise
from cloudsen12_cube.info import info
from cloudsen12_cube.patches import SPLITS
from cloudsen12_cube.plan_document import as_json
from cloudsen12_cube.reader import open_cube
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.report import failures_path
from cloudsen12_cube.share import Part, parse_part
from cloudsen12_cube.status import Status, status
from cloudsen12_cube.table_six import Format, tabulated, written
from cloudsen12_cube.verify import Level, verify
from cloudsen12_cube.workers import worker_count

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 all done and right; 1 finished, but something was refused or differs; 2 nothing could be done.
    """
    given = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=False)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files stands in our report
    try:
        run: Callable[[argparse.Namespace, Console], int] = given.run
        return run(given, console)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return 141
    except (CubeError, OSError, KeyError) as error:
        if given.debug:
            raise
        print(f"cloudsen12-cube: {_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, StrictError) else 2


def _line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return without_secrets(" ".join(str(text).split()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cloudsen12-cube", description="CloudSEN12 as one Zarr v3 cube.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('cloudsen12-cube')}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Console], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", _demo, "make a small archive, convert and verify it, draw a picture")
    sub.add_argument("dir", nargs="?", type=Path, default=Path("cloudsen12-demo"), metavar="DIR")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    _conversion(command("convert", _convert, "convert an archive into a cube; run again to continue"))
    _conversion(command("plan", _plan, "show what convert would do"))
    sub = command("verify", _verify, "check a cube against its checksums, or its archive")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--source", metavar="ARCHIVE", help="compare every pixel and metadata value with the archive")
    sub.add_argument("--level", choices=get_args(Level), default="full")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    _evaluation(command("evaluate", _evaluate, "print the paper's table 6 of a cube's algorithms"))
    sub = command("finalise", _finalise, "end a conversion that was made in parts, and name what is missing")
    sub.add_argument("cube", metavar="CUBE")
    sub = command("status", _status, "show how far a cube is")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--source", metavar="ARCHIVE", help="name its files that changed since they were converted")
    sub.add_argument("--checksum", action="store_true", help="with --source: compare sha256, not only names and sizes")
    sub.add_argument("--json", action="store_true", help="print it as JSON")
    sub = command("info", _info, "show what is in a cube")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--json", action="store_true", help="print it as JSON")
    sub = command("stats", _stats, "compute statistics of bands and classes, and store them in the cube")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--split", choices=(*SPLITS, "all"), default="train", help="what the bands' are computed from")
    sub.add_argument("--json", action="store_true", help="print them as JSON")
    sub = command("stac", _stac, "write a STAC Collection and a stac-geoparquet table of the patches")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: CUBE.stac)")
    sub = command("browse", _browse, "look at a cube in a browser: a map, and the pictures of each ROI")
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--out", type=Path, metavar="FILE", help="write a page that needs no server, and end")
    sub.add_argument("--pictures", type=_count, default=60, metavar="N", help="with --out: ROIs that bring pictures")
    sub.add_argument("--port", type=_count, default=0, metavar="N", help="on 127.0.0.1 (default: a free one)")
    sub.add_argument("--no-open", action="store_true", help="do not start a browser")
    return parser


def _conversion(sub: argparse.ArgumentParser) -> None:
    planning = sub.prog.endswith("plan")
    sub.add_argument("source", metavar="SOURCE", help="the archive's folder")
    sub.add_argument("cube", metavar="CUBE", help="the store to make")
    sub.add_argument("--products", type=_list, metavar="P,P", help=f"any of {','.join(PRODUCTS)}")
    sub.add_argument("--where", action="append", default=[], metavar="COND", help="e.g. label_type=high, difficulty<=3")
    sub.add_argument("--bbox", type=_bbox, metavar="W,S,E,N", help="degrees; write --bbox=-80,... for a minus")
    sub.add_argument("--rois", type=_list, default=[], metavar="ROI,ROI")
    sub.add_argument("--workers", type=_count, metavar="N", help="threads; 0 is none (default: all cores)")
    sub.add_argument("--memory", type=_bytes, metavar="SIZE", help="limit such as 2GiB; fewer workers if need be")
    sub.add_argument("--test-meaning", choices=get_args(TestMeaning), help="what `test` means (default: told from it)")
    sub.add_argument("--strict", action="store_true", help="stop at the first damaged file")
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    if planning:
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
        sub.set_defaults(part=None, accept=None, repair=False)
    else:
        sub.add_argument("--part", type=_part, metavar="I/N", help="convert one share of N; `finalise` ends the job")
        sub.add_argument("--accept", type=Path, metavar="FILE", help="live with these failures, a CUBE.failures.json")
        sub.add_argument("--repair", action="store_true", help="also make again what is damaged or has changed files")
        sub.add_argument("--dry-run", action="store_true", help="show the plan, write nothing")
        sub.set_defaults(json=None)


def _evaluation(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("cube", metavar="CUBE")
    sub.add_argument("--reference", default="manual_hq", metavar="LAYER", help="layer held for true (%(default)s)")
    sub.add_argument("--split", default="test", help="patches that count, or all (%(default)s)")
    sub.add_argument("--by", type=_list, default=[], metavar="COL,COL", help="a table each, e.g. land_cover or hexagon")
    sub.add_argument("--predictions", type=Path, metavar="DIR", help="evaluate ROI/<s2_id_gee>.tif in a folder instead")
    sub.add_argument("--format", choices=get_args(Format), default="table")
    sub.add_argument("--per-patch", type=Path, metavar="FILE", help="also save the table behind it, .parquet or .csv")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _bbox(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no west,south,east,north") from None
    return west, south, east, north


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number: give 0 or more")
    return int(text)


def _part(text: str) -> Part:
    try:
        return parse_part(text)
    except CubeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 2GiB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _options(given: argparse.Namespace) -> Options:
    return Options(
        *(given.bbox, tuple(given.rois), given.workers, given.memory, given.strict, given.test_meaning),
        part=given.part,
        accept=given.accept,
        repair=given.repair,
    )


def _demo(given: argparse.Namespace, console: Console) -> int:
    return demo(given.dir, console, given.quiet)


def _plan(given: argparse.Namespace, console: Console) -> int:
    options = _options(given)
    made = plan(given.source, given.products, given.where, options)
    workers = worker_count(made, options.workers, options.memory)
    if given.json:
        given.json.write_text(as_json(made, workers), encoding="utf-8")
    if not given.quiet:
        terminal.show_plan(console, made, workers)
    return 0


def _convert(given: argparse.Namespace, console: Console) -> int:
    if given.dry_run:
        return _plan(given, console)
    options = _options(given)
    with terminal.progress_bar(console, given.quiet) as progress:
        report = convert(given.source, given.cube, given.products, given.where, options=options, progress=progress)
    if not given.quiet:
        terminal.show_report(console, report)
    if report.faults:
        place = failures_path(given.cube, report.part)
        print(
            f"cloudsen12-cube: {len(report.faults)} failures; the first: {report.faults[0]}; all: {place}",
            file=sys.stderr,
        )
    return report.exit_code


def _verify(given: argparse.Namespace, console: Console) -> int:
    result = verify(given.cube, given.source, given.level)
    if given.json:
        _print_json(asdict(result))
    else:
        terminal.show_verification(console, result)
    return result.exit_code


def _evaluate(given: argparse.Namespace, _: Console) -> int:
    cube = open_cube(given.cube, products=["labels"])
    split = None if given.split == "all" else given.split
    patches = per_patch(cube, given.reference, split, given.predictions, given.by)
    if given.per_patch:
        save(patches, given.per_patch)
    print(written(tabulated(patches, given.by, patches.attrs["notes"]), given.format))
    return 0


def _stats(given: argparse.Namespace, console: Console) -> int:
    found = stats(given.cube, None if given.split == "all" else given.split)
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_census(console, found)
    return 0


def _info(given: argparse.Namespace, console: Console) -> int:
    found = info(given.cube)
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_info(console, found)
    return 0


def _status(given: argparse.Namespace, console: Console) -> int:
    found = status(given.cube, given.source, given.checksum)
    if given.json:
        _print_json(asdict(found))
    else:
        terminal.show_status(console, found)
    return found.exit_code


def _finalise(given: argparse.Namespace, console: Console) -> int:
    found = finalise(given.cube)
    terminal.show_status(console, found)
    if found.exit_code:
        print(f"cloudsen12-cube: {_unfinished(found)}", file=sys.stderr)
    return found.exit_code


def _unfinished(found: Status) -> str:
    if found.missing:
        product, roi = found.missing[0]
        return f"{len(found.missing)} shards are missing, the first {product} of {roi}: run their part again"
    return f"{len(found.failures)} failures; all: {failures_path(found.place)}"


def _stac(given: argparse.Namespace, console: Console) -> int:
    name = without_secrets(given.cube).rstrip("/")
    folder = given.out or Path(f"{name.rsplit('/', 1)[-1] if '://' in name else name}.stac")
    count = stac_items.write(open_cube(given.cube), given.cube, folder)
    console.print(f"{folder}: collection.json, and items.parquet with {count:,} patches", markup=False, soft_wrap=True)
    return 0


def _browse(given: argparse.Namespace, console: Console) -> int:
    cube = open_cube(given.cube)
    if given.out:
        size = browse.export(cube, given.out, given.pictures)
        console.print(f"{given.out}: {terminal.size(size)}; open it in a browser", markup=False, soft_wrap=True)
    else:
        tell = partial(console.print, markup=False, soft_wrap=True)
        browse.serve(cube, given.port, not given.no_open, lambda at: tell(f"{at} (Ctrl-C ends)"))
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    sys.exit(main())

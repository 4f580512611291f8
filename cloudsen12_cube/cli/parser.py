"""The arguments of every command, and their conversion to options of the package."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cloudsen12_cube import conversion, evaluation, format, inspection  # noqa: A004  the room
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.schema import PRODUCTS, SPLITS, TestMeaning
from cloudsen12_cube.storage import ClientName, Url, is_url, parse_options

if TYPE_CHECKING:
    from cloudsen12_cube.conversion import Options, SubsetOptions

_WHERE = (
    "quoted condition, such as 'difficulty<=3'; repeat --where for AND; 'label_type=high|scribble' is OR, "
    "'s2_id=S2A*' a prefix, 'datetime=2019-08' a month"
)
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def make_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Make the parser; ``command`` of its result is the name of the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments to be parsed. Only the commands among them get their arguments, whose choices are defined in rooms
        with slow imports; ``--help`` does not need them. By default all commands get their arguments.
    """
    parser = argparse.ArgumentParser("cloudsen12-cube", description="CloudSEN12 as one Zarr v3 cube.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('cloudsen12-cube')}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, add_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
        sub = commands.add_parser(name, help=text, description=text, parents=[common])
        if arguments is None or name in arguments:
            add_arguments(sub)

    command("demo", "write a small archive, convert and verify it, and save a figure", _demo)
    command("convert", "convert an archive, or another cube, to a cube; run again to continue", _conversion)
    command("plan", "print what convert would do; write nothing", _conversion)
    command("verify", "compare a cube with its checksums, its archive, or another cube", _verification)
    command("evaluate", "print table 6 of the paper for the algorithms of a cube", _evaluation)
    command("subset", "copy a selection of a cube to a new cube; run again to continue", _subset)
    command("finalise", "complete a conversion that was run in parts, and list missing shards", _location)
    command("status", "count complete, missing and failed shards", _status)
    command("info", "print shapes, sizes and counts of a cube, and the cost of reads", _info)
    command("stats", "compute statistics of bands and classes, and store them in the cube", _stats)
    command("export", "write patches as COGs in the folders of the archive; run again to continue", _exporting)
    command("stac", "write a STAC Collection and a stac-geoparquet table of the patches", _stac)
    command("browse", "show a map and the images of each ROI in a browser", _browsing)
    return parser


def join_bbox(arguments: Sequence[str]) -> list[str]:
    """Join ``--bbox`` and its value, which argparse takes for an option if west is negative.

    Parameters
    ----------
    arguments : sequence of str
        Arguments of the command line.

    Returns
    -------
    list of str
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--bbox":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", nargs="?", type=Path, default=Path("cloudsen12-demo"), metavar="DIR")
    sub.add_argument("--quiet", dest="no_progress", action="store_true", help="print no progress bar")


def _verification(sub: argparse.ArgumentParser) -> None:
    _location(sub, with_source=True)
    sub.add_argument("--source", metavar="SOURCE", help="compare every pixel and metadata value with archive or cube")
    sub.add_argument("--level", choices=get_args(inspection.Level), default="full", help="shards to read (%(default)s)")
    _json(sub)


def _status(sub: argparse.ArgumentParser) -> None:
    _location(sub, with_source=True)
    sub.add_argument("--source", metavar="ARCHIVE", help="list files that changed after their conversion")
    sub.add_argument("--checksum", action="store_true", help="with --source: compare sha256, not only names and sizes")
    _json(sub)


def _info(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    _json(sub)


def _stats(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    text = "split for the statistics (%(default)s)"
    sub.add_argument("--split", choices=(*SPLITS, "all"), default="train", help=text)
    _json(sub)


def _stac(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    sub.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: CUBE.stac)")


def _browsing(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="write a page that needs no server, and exit")
    sub.add_argument("--pictures", type=_count, default=60, metavar="N", help="with --out: number of ROIs with images")
    sub.add_argument("--port", type=_count, default=0, metavar="N", help="on 127.0.0.1 (default: a free port)")
    sub.add_argument("--no-open", action="store_true", help="do not start a browser")


def _conversion(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="SOURCE", help="the archive, or a cube: a folder, s3://..., https://...")
    _location(sub, with_source=True)
    sub.add_argument("--scheduler", metavar="URL", help="address of a dask scheduler, tcp://HOST:PORT")
    _break_lock(sub)
    _selection(sub)
    _running(sub)
    sub.add_argument("--memory", type=_bytes, metavar="SIZE", help="limit such as 2GiB, which may reduce the workers")
    sub.add_argument(
        "--test-meaning", choices=get_args(TestMeaning), help="definition of `test` (default: from its codes)"
    )
    codec, text = _checked(format.parse_codec), "zstd (default), lz4 or none, with an optional level: zstd:3"
    sub.add_argument("--codec", type=codec, default=("zstd", None), metavar="NAME[:N]", help=text)
    text = "content of a chunk: one band of a date (%(default)s), or all bands"
    sub.add_argument("--chunk", choices=get_args(format.ChunkName), default="band", help=text)
    text = "number of ROIs in an object; more than 1 only if SOURCE is a cube"
    sub.add_argument("--rois-per-shard", type=_count, default=1, metavar="N", help=text)
    sub.add_argument("--strict", action="store_true", help="stop at the first invalid file")
    if sub.prog.endswith("plan"):
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
        sub.set_defaults(part=None, accept=None, repair=False)
        return
    part = _checked(conversion.parse_part)
    sub.add_argument("--part", type=part, metavar="I/N", help="convert one share of N; `finalise` completes the cube")
    sub.add_argument("--accept", type=Path, metavar="FILE", help="accept these failures, a CUBE.failures.json")
    sub.add_argument("--repair", action="store_true", help="rewrite shards that are damaged or have changed files")
    sub.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    sub.set_defaults(json=None)


def _subset(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="CUBE", help="the cube: a folder, s3://..., https://...")
    sub.add_argument("cube", metavar="OUT", help="the new cube: a folder or s3://...")
    _storage(sub, "both cubes", "CUBE")
    _break_lock(sub)
    _selection(sub)
    _running(sub)
    sub.add_argument("--dry-run", action="store_true", help="print what would be copied, write nothing")


def _exporting(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    sub.add_argument("dir", metavar="DIR", help="a local folder: new, empty, or of an earlier export of this cube")
    _selection(sub)
    _running(sub)


def _evaluation(sub: argparse.ArgumentParser) -> None:
    _location(sub)
    sub.add_argument("--reference", default="manual_hq", metavar="LAYER", help="reference layer (%(default)s)")
    sub.add_argument("--split", default="test", help="split to evaluate, or all (%(default)s)")
    sub.add_argument("--by", type=_list, default=[], metavar="COL,COL", help="columns to group by, e.g. land_cover")
    sub.add_argument("--predictions", type=Path, metavar="DIR", help="evaluate a folder of ROI/<s2_id_gee>.tif instead")
    text = "pixels without a predicted class count as negative, as in the paper, or are left out (%(default)s)"
    sub.add_argument("--unclassified", choices=get_args(evaluation.Unclassified), default="negative", help=text)
    sub.add_argument(
        "--format", choices=get_args(evaluation.Format), default="table", help="output format (%(default)s)"
    )
    sub.add_argument("--per-patch", type=Path, metavar="FILE", help="save the values of all patches, .parquet or .csv")


def _selection(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--products", type=_list, metavar="P,P", help=f"any of {','.join(PRODUCTS)}")
    sub.add_argument("--where", action="append", default=[], metavar="COND", help=_WHERE)
    sub.add_argument("--bbox", type=_bbox, metavar="W,S,E,N", help="degrees, such as -80,-10,-60,10")
    sub.add_argument("--rois", type=_list, default=[], metavar="ROI,ROI", help="ids of ROIs")


def _running(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--workers", type=_count, metavar="N", help="threads; 0 runs in the main thread (default: cores)")
    sub.add_argument("--quiet", action="store_true", help="print no progress bar and no table")


def _break_lock(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--break-lock", action="store_true", help="remove the lease of a writer that no longer runs")


def _json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _location(sub: argparse.ArgumentParser, *, with_source: bool = False) -> None:
    """Add the cube and the options of its storage, and those of a source."""
    sub.add_argument("cube", metavar="CUBE", help="the cube: a folder or s3://...")
    _storage(sub, *(("archive and cube", "the archive") if with_source else ("the cube",)))


def _storage(sub: argparse.ArgumentParser, both: str, source: str = "") -> None:
    text = f"fsspec option for {both}, e.g. endpoint_url=..., profile=..., anon=true"
    sub.add_argument("--storage-option", "-o", action="append", default=[], metavar="K=V", help=text)
    if source:
        text = f"fsspec option for {source} only"
        sub.add_argument("--source-option", action="append", default=[], metavar="K=V", help=text)
    sub.add_argument("--client", choices=get_args(ClientName), default="auto", help="client for the bucket of the cube")


def cube_of(given: argparse.Namespace) -> str | Url:
    """Return the location of the cube, with its storage options."""
    if not is_url(given.cube):
        _check_options(given)
        return str(given.cube)
    return Url(given.cube, parse_options(given.storage_option), given.client)


def source_of(given: argparse.Namespace) -> str | Url:
    """Return the location of the source, with its storage options."""
    if not is_url(given.source):
        _check_options(given)
        return str(given.source)
    return Url(given.source, parse_options([*given.storage_option, *given.source_option]))


def _check_options(given: argparse.Namespace) -> None:
    """Refuse storage options where all locations are paths."""
    if given.storage_option and not any(isinstance(value, str) and is_url(value) for value in vars(given).values()):
        raise CubeError(f"--storage-option is for URLs, and {given.cube} is a path: leave the option out")


def _checked[T](parse: Callable[[str], T]) -> Callable[[str], T]:
    """Report the errors of a parser of the package as errors of an argument."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except CubeError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _bbox(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not west,south,east,north") from None
    return west, south, east, north


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: give 0 or more")
    return int(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg])(?:i?b)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size with its unit: write it as 2GiB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def subset_options_of(given: argparse.Namespace) -> SubsetOptions:
    """Return the options of a subset."""
    return conversion.SubsetOptions(given.bbox, tuple(given.rois), given.workers, given.break_lock)


def options_of(given: argparse.Namespace) -> Options:
    """Return the options of a conversion."""
    return conversion.Options(
        *(given.bbox, tuple(given.rois), given.workers, given.memory, given.strict, given.test_meaning),
        part=given.part,
        accept=given.accept,
        repair=given.repair,
        scheduler=given.scheduler,
        break_lock=given.break_lock,
        layout=format.Layout(given.codec[0], given.codec[1], given.chunk, given.rois_per_shard),
    )

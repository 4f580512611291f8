"""What the command line understands: every command with its arguments, and what the texts mean."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.schema import PRODUCTS, TestMeaning
from cloudsen12_cube.storage import ClientName, Url, is_url, parse_options

if TYPE_CHECKING:
    from cloudsen12_cube.conversion import Options, Part, SubsetOptions
    from cloudsen12_cube.format import CodecName

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def make_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Make the parser; ``command`` in its result is the name of the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What will be parsed. Only commands that stand in it get their arguments: the words that these allow are defined
        in rooms that take long to import, and ``--help`` need not wait for them. By default all commands get theirs.
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

    command("demo", "make a small archive, convert and verify it, draw a picture", _demo)
    command("convert", "convert an archive, or re-shard a cube, into a cube; run again to continue", _conversion)
    command("plan", "show what convert would do", _conversion)
    command("verify", "check a cube against its checksums, its archive, or another cube", _verification)
    command("evaluate", "print the paper's table 6 of a cube's algorithms", _evaluation)
    command("subset", "copy a part of a cube into a cube of its own; run again to continue", _subset)
    command("finalise", "end a conversion that was made in parts, and name what is missing", _placed)
    command("status", "show how far a cube is", _status)
    command("info", "show what is in a cube, and what reading it costs", _info)
    command("stats", "compute statistics of bands and classes, and store them in the cube", _stats)
    command("export", "write a cube's patches as folders of COGs again; run again to continue", _exporting)
    command("stac", "write a STAC Collection and a stac-geoparquet table of the patches", _stac)
    command("browse", "look at a cube in a browser: a map, and the pictures of each ROI", _browsing)
    return parser


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", nargs="?", type=Path, default=Path("cloudsen12-demo"), metavar="DIR")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def _verification(sub: argparse.ArgumentParser) -> None:
    from cloudsen12_cube.inspection import Level

    _placed(sub, with_source=True)
    sub.add_argument("--source", metavar="SOURCE", help="compare every pixel and metadata value with archive or cube")
    sub.add_argument("--level", choices=get_args(Level), default="full")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _status(sub: argparse.ArgumentParser) -> None:
    _placed(sub, with_source=True)
    sub.add_argument("--source", metavar="ARCHIVE", help="name its files that changed since they were converted")
    sub.add_argument("--checksum", action="store_true", help="with --source: compare sha256, not only names and sizes")
    sub.add_argument("--json", action="store_true", help="print it as JSON")


def _info(sub: argparse.ArgumentParser) -> None:
    _placed(sub)
    sub.add_argument("--json", action="store_true", help="print it as JSON")


def _stats(sub: argparse.ArgumentParser) -> None:
    from cloudsen12_cube.dataset import SPLITS

    _placed(sub)
    sub.add_argument("--split", choices=(*SPLITS, "all"), default="train", help="what the bands' are computed from")
    sub.add_argument("--json", action="store_true", help="print them as JSON")


def _stac(sub: argparse.ArgumentParser) -> None:
    _placed(sub)
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: CUBE.stac)")


def _browsing(sub: argparse.ArgumentParser) -> None:
    _placed(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="write a page that needs no server, and end")
    sub.add_argument("--pictures", type=_count, default=60, metavar="N", help="with --out: ROIs that bring pictures")
    sub.add_argument("--port", type=_count, default=0, metavar="N", help="on 127.0.0.1 (default: a free one)")
    sub.add_argument("--no-open", action="store_true", help="do not start a browser")


def _conversion(sub: argparse.ArgumentParser) -> None:
    from cloudsen12_cube.format import ChunkName

    planning = sub.prog.endswith("plan")
    sub.add_argument("source", metavar="SOURCE", help="the archive, or a cube: a folder, s3://..., https://...")
    _placed(sub, with_source=True)
    sub.add_argument("--scheduler", metavar="URL", help="dask scheduler whose workers convert, tcp://HOST:PORT")
    sub.add_argument("--break-lock", action="store_true", help="another writer's note in the bucket is of a dead one")
    _selection(sub)
    sub.add_argument("--workers", type=_count, metavar="N", help="threads; 0 is none (default: all cores)")
    sub.add_argument("--memory", type=_bytes, metavar="SIZE", help="limit such as 2GiB; fewer workers if need be")
    sub.add_argument("--test-meaning", choices=get_args(TestMeaning), help="what `test` means (default: told from it)")
    text = "zstd (default), lz4 or none; a level may follow, zstd:3"
    sub.add_argument("--codec", type=_codec, default=("zstd", None), metavar="NAME[:N]", help=text)
    text = "what is compressed at once: one band of a date (default), or all bands"
    sub.add_argument("--chunk", choices=get_args(ChunkName), default="band", help=text)
    text = "ROIs in an object; more than 1 where SOURCE is a cube"
    sub.add_argument("--rois-per-shard", type=_count, default=1, metavar="N", help=text)
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


def _subset(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="CUBE", help="the cube: a folder, s3://..., https://...")
    sub.add_argument("cube", metavar="OUT", help="the cube to make: a folder or s3://...")
    _reached(sub, "both cubes", "the same for CUBE alone")
    sub.add_argument("--break-lock", action="store_true", help="another writer's note in OUT is of a dead one")
    _selection(sub)
    sub.add_argument("--workers", type=_count, metavar="N", help="threads; 0 is none (default: all cores)")
    sub.add_argument("--dry-run", action="store_true", help="show what would be copied, write nothing")
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no table")


def _exporting(sub: argparse.ArgumentParser) -> None:
    _placed(sub)
    sub.add_argument("dir", metavar="DIR", help="a local folder of its own: new, empty, or of an earlier export")
    _selection(sub)
    sub.add_argument("--workers", type=_count, metavar="N", help="threads; 0 is none (default: all cores)")
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no table")


def _selection(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--products", type=_list, metavar="P,P", help=f"any of {','.join(PRODUCTS)}")
    sub.add_argument("--where", action="append", default=[], metavar="COND", help="e.g. label_type=high, difficulty<=3")
    sub.add_argument("--bbox", type=_bbox, metavar="W,S,E,N", help="degrees; write --bbox=-80,... for a minus")
    sub.add_argument("--rois", type=_list, default=[], metavar="ROI,ROI")


def _evaluation(sub: argparse.ArgumentParser) -> None:
    from cloudsen12_cube.evaluation import Format

    _placed(sub)
    sub.add_argument("--reference", default="manual_hq", metavar="LAYER", help="layer held for true (%(default)s)")
    sub.add_argument("--split", default="test", help="patches that count, or all (%(default)s)")
    sub.add_argument("--by", type=_list, default=[], metavar="COL,COL", help="a table each, e.g. land_cover or hexagon")
    sub.add_argument("--predictions", type=Path, metavar="DIR", help="evaluate ROI/<s2_id_gee>.tif in a folder instead")
    sub.add_argument("--format", choices=get_args(Format), default="table")
    sub.add_argument("--per-patch", type=Path, metavar="FILE", help="also save the table behind it, .parquet or .csv")


def _placed(sub: argparse.ArgumentParser, *, with_source: bool = False) -> None:
    """Add the cube, and how to get to it."""
    sub.add_argument("cube", metavar="CUBE", help="the cube: a folder or s3://...")
    _reached(sub, *(("archive and cube", "the same for the archive alone") if with_source else ("the cube",)))


def _reached(sub: argparse.ArgumentParser, both: str, alone: str = "") -> None:
    sub.add_argument(
        *("--storage-option", "-o"),
        action="append",
        default=[],
        metavar="K=V",
        help=f"fsspec's option for {both}, e.g. endpoint_url=..., profile=..., anon=true",
    )
    if alone:
        sub.add_argument("--source-option", action="append", default=[], metavar="K=V", help=alone)
    sub.add_argument("--client", choices=get_args(ClientName), default="auto", help="who talks to the cube's bucket")


def cube_of(given: argparse.Namespace) -> str | Url:
    """Give the cube, with what is needed to get there."""
    if not is_url(given.cube):
        return str(given.cube)
    return Url(given.cube, parse_options(given.storage_option), given.client)


def source_of(given: argparse.Namespace) -> str | Url:
    """Give the archive, with what is needed to get there."""
    if not is_url(given.source):
        return str(given.source)
    return Url(given.source, parse_options([*given.storage_option, *given.source_option]))


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


def _codec(text: str) -> tuple[CodecName, int | None]:
    from cloudsen12_cube.format import parse_codec

    try:
        return parse_codec(text)
    except CubeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _part(text: str) -> Part:
    from cloudsen12_cube.conversion import parse_part

    try:
        return parse_part(text)
    except CubeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 2GiB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def subset_options_of(given: argparse.Namespace) -> SubsetOptions:
    """Give the options of a subset."""
    from cloudsen12_cube.conversion import SubsetOptions

    return SubsetOptions(given.bbox, tuple(given.rois), given.workers, given.break_lock)


def options_of(given: argparse.Namespace) -> Options:
    """Give the options of a conversion."""
    from cloudsen12_cube.conversion import Options
    from cloudsen12_cube.format import Layout

    return Options(
        *(given.bbox, tuple(given.rois), given.workers, given.memory, given.strict, given.test_meaning),
        part=given.part,
        accept=given.accept,
        repair=given.repair,
        scheduler=given.scheduler,
        break_lock=given.break_lock,
        layout=Layout(given.codec[0], given.codec[1], given.chunk, given.rois_per_shard),
    )

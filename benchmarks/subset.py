"""A part of a cube: against copying its objects with ``cp -r``, and against converting that part of the archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, lengthened, table

_WAYS = ("cp -r", "cp -r and sync", "subset", "convert --where")
_PARTS = (("all dates of half of the ROIs", "whole"), ("four of five dates of all ROIs", "cut"))


def run(settings: Settings) -> None:
    work = settings.work / "subset"
    known = sum(path.is_dir() for path in settings.archive.glob("*/ROI_*"))
    archive = lengthened(settings.archive, work / "archive", settings.copies * known)
    cube = str(work / "cube.zarr")
    call("benchmarks.subset:converted", [str(archive), cube, []])
    rows: list[tuple[Any, ...]] = []
    for told, kind in _PARTS:
        where = call("benchmarks.subset:conditions", [cube, kind])["result"]
        rows += _rows(told, [_round(str(archive), cube, where, work) for _ in range(settings.rounds)])
    head = ("part", "way", "s", "CPU s", "MB/s", "x cp", "convert / this", "chunks decoded", "peak MiB")
    table("A part of a cube, medians, and of the ratios within a round", head, rows)


def _round(archive: str, cube: str, where: list[str], work: Path) -> dict[str, dict[str, Any]]:
    """Do the same work in each way once; what ``cp`` copies is the part that ``subset`` has made."""
    part, out = work / "part.zarr", work / "out.zarr"
    call("benchmarks.subset:taken", [cube, str(part), where])
    found = {}
    for way, target, arguments in (
        ("cp -r", "copied", [str(part), str(out), False]),
        ("cp -r and sync", "copied", [str(part), str(out), True]),
        ("subset", "taken", [cube, str(out), where]),
        ("convert --where", "converted", [archive, str(out), where]),
    ):
        done = call(f"benchmarks.subset:{target}", arguments)
        found[way] = done | {"size": _size(out)}
        shutil.rmtree(out)
    shutil.rmtree(part)
    return found


def _rows(told: str, rounds: list[dict[str, dict[str, Any]]]) -> list[tuple[Any, ...]]:
    rows = []
    for way in _WAYS:
        seconds, cpu = (median(r[way]["result"][key] for r in rounds) for key in ("seconds", "cpu"))
        speed = median(r[way]["size"] / r[way]["result"]["seconds"] / 1e6 for r in rounds)
        copy = median(r[way]["result"]["seconds"] / r["cp -r"]["result"]["seconds"] for r in rounds)
        convert = median(r["convert --where"]["result"]["seconds"] / r[way]["result"]["seconds"] for r in rounds)
        decoded = rounds[0][way]["result"].get("decoded", "-")
        most = max(r[way]["peak"] for r in rounds) / 2**20
        rows.append((told, way, seconds, cpu, speed, copy, convert, decoded, most if way in _WAYS[2:] else "-"))
    return rows


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def conditions(cube: str, kind: str) -> list[str]:
    """Give conditions that name half of the ROIs, or all of them with some of their dates."""
    from cloudsen12_cube.format.cube import open_stored_cube
    from cloudsen12_cube.format.metadata import read_table

    order, _ = read_table(open_stored_cube(cube))
    return [f"roi_id={'|'.join(order[::2])}"] if kind == "whole" else ["cloud_coverage!=cloudy"]


def converted(archive: str, cube: str, where: list[str]) -> dict[str, float]:
    """Convert an archive, or a part of it."""
    import cloudsen12_cube as c12
    from benchmarks.common import timed

    return timed(lambda: c12.convert(archive, cube, where=where))


def taken(cube: str, out: str, where: list[str]) -> dict[str, float]:
    """Take a part of a cube, and count the chunks of pixels that are decoded meanwhile."""
    from zarr.codecs import BloscCodec

    import cloudsen12_cube as c12
    from benchmarks.common import timed
    from cloudsen12_cube.format import codec

    count = [0]
    ours, zarrs = codec.blosc.decompress, BloscCodec._decode_single

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        return ours(*arguments)

    def counted_too(*arguments: Any) -> Any:
        count[0] += 1
        return zarrs(*arguments)

    codec.blosc.decompress, BloscCodec._decode_single = counted, counted_too
    return timed(lambda: c12.subset(cube, out, where=where)) | {"decoded": count[0]}


def copied(part: str, out: str, sync: bool) -> dict[str, float]:
    """Copy with ``cp -r``; then wait for the disk, as a subset does for every shard."""
    from benchmarks.common import timed

    def work() -> None:
        subprocess.run(["cp", "-r", part, out], check=True)
        if sync:
            handle = os.open(out, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            subprocess.run(["sync", "-f", out], check=True)

    return timed(work)

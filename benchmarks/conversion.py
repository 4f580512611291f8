"""The whole conversion beside its CPU floor, and beside what a user would write with rioxarray."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table

_VARIANTS = {
    "floor, 2 threads": "benchmarks.floor:by_threads",
    "floor, 2 processes": "benchmarks.floor:by_processes",
    "convert()": "benchmarks.conversion:ours",
    "rioxarray, concat, to_zarr": "benchmarks.user:convert",
}


def run(settings: Settings) -> None:
    base = [p for p in settings.archive.glob("*/ROI_*") if p.is_dir()]
    rois = len(base) * settings.copies
    archive = lengthened(settings.archive, settings.work / "convert", rois)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _VARIANTS}
    for _ in range(settings.rounds):
        for name, target in _VARIANTS.items():
            cube = settings.work / "convert.zarr"
            runs[name].append(call(target, [str(archive), str(cube)]))
            shutil.rmtree(cube, ignore_errors=True)
    _report(runs, rois)
    call("benchmarks.conversion:ours", [str(archive), str(settings.work / "sizes.zarr")])
    sizes(archive, settings.work / "sizes.zarr", rois)
    shutil.rmtree(settings.work / "sizes.zarr")
    shutil.rmtree(archive)


def ours(archive: str, cube: str) -> float:
    from cloudsen12_cube import convert

    start = time.perf_counter()
    report = convert(archive, cube)
    seconds = time.perf_counter() - start
    assert not report.faults, report.faults[:3]
    return seconds


def _report(runs: dict[str, list[dict[str, Any]]], rois: int) -> None:
    seconds = {name: median(r["result"] for r in done) for name, done in runs.items()}
    fastest = min(list(seconds)[:2], key=lambda name: seconds[name])
    floors, users = runs[fastest], runs["rioxarray, concat, to_zarr"]
    rows = []
    for name, done in runs.items():
        times = [r["result"] / rois for r in done]
        ratio = median(r["result"] / f["result"] for r, f in zip(done, floors, strict=True))
        gain = median(u["result"] / r["result"] for r, u in zip(done, users, strict=True))
        peak = max(r["peak"] for r in done) / MiB
        rows.append((name, median(times), min(times), ratio, gain, round(peak)))
    head = ("way", "s/ROI, median", "least", "x floor", "times faster than rioxarray", "peak MiB")
    table(f"Conversion of {rois} ROIs, {len(floors)} rounds; the floor is '{fastest}'", head, rows)


def sizes(archive: Path, cube: Path, rois: int) -> None:
    """Compare stored bytes with raw ones and with the archive's, and count objects."""
    from cloudsen12_cube import plan

    made = plan(archive)
    rows = []
    for layout in made.layouts:
        folder = cube / layout.product / layout.product
        shards = [p.stat().st_size for p in (folder / "c").rglob("*") if p.is_file()]
        records = [p.stat().st_size for p in (folder / "records").iterdir()]
        lzw = sum(f.sizes[n] for f in made.archive.patches.values() for n in _files(layout.product) if n in f.sizes)
        raw = layout.shard_bytes * rois
        rows.append((layout.product, raw, sum(shards), sum(records), lzw, len(shards), len(records)))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    metadata = sum(1 for p in cube.rglob("*") if p.is_file()) - rows[-1][5] - rows[-1][6]
    head = ("product", "raw MiB", "stored / raw", "with records / raw", "stored / LZW", "objects per ROI and product")
    products = len(made.layouts)
    shown = [
        (
            name,
            raw / MiB,
            kept / raw,
            (kept + noted) / raw,
            kept / lzw,
            (n + m) / rois / (1 if name != "all" else products),
        )
        for name, raw, kept, noted, lzw, n, m in rows
    ]
    table(f"Size of the store; {metadata} objects of metadata", head, shown)


def _files(product: str) -> tuple[str, ...]:
    from cloudsen12_cube.assets import files_of

    return tuple(files_of(product))

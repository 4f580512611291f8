"""The whole conversion beside its CPU floor, and beside what a user would write with rioxarray."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table, timed

_USER = "rioxarray, concat, to_zarr"
_VARIANTS = {
    "floor, 2 threads": "benchmarks.floor:by_threads",
    "floor, 2 processes": "benchmarks.floor:by_processes",
    "convert()": "benchmarks.conversion:ours",
    _USER: "benchmarks.user:convert",
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


def ours(archive: str, cube: str) -> dict[str, float]:
    from cloudsen12_cube import convert

    return timed(lambda: _whole(convert(archive, cube)))


def _whole(report: Any) -> None:
    assert not report.faults, report.faults[:3]


def _report(runs: dict[str, list[dict[str, Any]]], rois: int) -> None:
    floors = {name: median(r["result"]["seconds"] for r in runs[name]) for name in list(_VARIANTS)[:2]}
    fastest = min(floors, key=lambda name: floors[name])
    rows = []
    for name, done in runs.items():
        times = [r["result"]["seconds"] / rois for r in done]
        cpu = median(r["result"]["cpu"] / rois for r in done)
        floor = (ratio(done, runs[fastest], key) for key in ("seconds", "cpu"))
        gain = ratio(runs[_USER], done, "seconds")
        peak = max(r["peak"] for r in done) / MiB
        rows.append((name, median(times), min(times), cpu, *floor, gain, round(peak)))
    head = ("way", "s/ROI, median", "least", "CPU s/ROI", "x floor", "x floor in CPU", "rioxarray / this", "peak MiB")
    table(f"Conversion of {rois} ROIs, {len(runs[fastest])} rounds; the floor is '{fastest}'", head, rows)


def ratio(runs: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> float:
    """Median of the ratios within each round: what slows a round slows both."""
    return median(a["result"][key] / b["result"][key] for a, b in zip(runs, others, strict=True))


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
    from cloudsen12_cube.schema.assets import files_of

    return tuple(files_of(product))

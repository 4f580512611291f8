"""The paper's benchmark: how fast pixels are counted against how fast label shards decode, and a whole table 6."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table, timed

_ROIS = 195  # 975 patches, the test split of the high set
_WAYS = ("decode", "count", "decode, dask", "count, dask", "table 6")


def run(settings: Settings) -> None:
    base = _high(settings.archive)
    archive = lengthened(settings.archive, settings.work / "evaluation", _ROIS * base["rois"] // base["high"])
    cube = settings.work / "evaluation.zarr"
    call("benchmarks.evaluation:convert", [str(archive), str(cube)])
    shutil.rmtree(archive)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in _WAYS}
    for _ in range(settings.rounds):
        for way in _WAYS:
            runs[way].append(call("benchmarks.evaluation:measure", [way, str(cube)]))
    rows = []
    for way, done in runs.items():
        seconds, cpu, raw = (median(run["result"][key] for run in done) for key in ("seconds", "cpu", "raw"))
        ratios = [
            floor["result"]["seconds"] / run["result"]["seconds"]
            for run, floor in zip(done, runs["decode"], strict=True)
        ]
        peak = max(run["peak"] for run in done) / MiB
        rows.append((way, seconds, cpu, raw / seconds / 1e6, median(ratios), peak))
    patches = int(runs["count"][0]["result"]["patches"])
    head = ("way", "s", "CPU s", "raw MB/s", "of decode", "peak MiB")
    table(f"Eight algorithms against manual_hq, {patches} patches", head, rows)


def _high(archive: Path) -> dict[str, int]:
    with open(archive / "cloudsen12_metadata.csv", newline="", encoding="utf-8") as file:
        types = {row["roi_id"]: row["label_type"] for row in csv.DictReader(file)}
    return {"rois": len(types), "high": sum(label_type == "high" for label_type in types.values())}


def convert(archive: str, cube: str) -> int:
    import cloudsen12_cube as c12

    return c12.convert(archive, cube, ["labels"], ["label_type=high"]).exit_code


def measure(way: str, place: str) -> dict[str, float]:
    import cloudsen12_cube as c12
    from cloudsen12_cube.evaluation.benchmark import evaluate
    from cloudsen12_cube.evaluation.counts import confusion_counts
    from cloudsen12_cube.evaluation.metrics import ALGORITHMS

    name, _, dask = way.partition(", ")
    cube = c12.open_cube(place, ["labels"], chunks="roi" if dask else None)
    labels = cube["labels"]["labels"]
    work = {
        "decode": lambda: _decode(labels),
        "count": lambda: confusion_counts(cube, {name: name for name in ALGORITHMS}, "manual_hq").load(),
        "table 6": lambda: evaluate(cube, split=None),
    }[name]
    patches = labels.sizes["roi"] * labels.sizes["time"]
    return timed(work) | {"raw": labels.nbytes, "patches": patches}


def _decode(labels: Any) -> None:
    """Read every shard as a user would, and forget it: with the threads of a count, or the tasks of its graph."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    if labels.chunks is not None:
        labels.data.map_blocks(
            lambda block: block[:, :1, :1, :1, :1].copy(), chunks=(labels.chunks[0], 1, 1, 1, 1)
        ).compute()
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(lambda row: labels.isel(roi=slice(row, row + 1)).values.shape, range(labels.sizes["roi"])):
            pass

"""Time per ROI and peak memory of archives of 10, 50 and 200 ROIs."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table

_SIZE = 128
_ROIS = (10, 50, 200)
_ROUNDS = 3


def run(settings: Settings) -> None:
    base = Path(call("benchmarks.common:synthetic", [str(settings.work / "small"), 5, _SIZE])["result"])
    archives = {n: lengthened(base, settings.work / f"scaling-{n}", n) for n in _ROIS}
    _measure(archives, settings, f"patches of {_SIZE} pixels", _ROUNDS)
    for archive in archives.values():
        shutil.rmtree(archive)
    archives = {n: lengthened(settings.archive, settings.work / f"scaling-{n}", n) for n in _ROIS}
    _measure(archives, settings, "patches of the archive", 1)
    for archive in archives.values():
        shutil.rmtree(archive)


def _measure(archives: dict[int, Path], settings: Settings, what: str, rounds: int) -> None:
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in archives}
    for _ in range(rounds):
        for rois, archive in archives.items():
            cube = settings.work / "scaling.zarr"
            # A short archive is measured as often as the long one has room for it: single short runs are noise.
            repeats = max(1, min(5, 50 // rois))
            for _ in range(repeats):
                runs[rois].append(call("benchmarks.conversion:ours", [str(archive), str(cube)]))
                shutil.rmtree(cube)
    times = {n: [run["result"]["seconds"] / n for run in done] for n, done in runs.items()}
    cpu = {n: median(run["result"]["cpu"] / n for run in done) for n, done in runs.items()}
    first = median(times[_ROIS[0]])
    rows = [
        (
            n,
            len(t),
            median(t),
            min(t),
            median(t) / first,
            cpu[n] / cpu[_ROIS[0]],
            round(max(run["peak"] for run in runs[n]) / MiB),
        )
        for n, t in times.items()
    ]
    head = ("ROIs", "runs", "s/ROI, median", "least", f"x that of {_ROIS[0]} ROIs", "the same in CPU", "peak MiB")
    table(f"Scaling, {what}", head, rows)

"""What every benchmark needs: an archive of any length, a fresh process with its peak memory, a table."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MiB = 2**20


@dataclass(frozen=True)
class Settings:
    archive: Path
    work: Path
    rounds: int
    copies: int
    rois: int
    listed: int
    seed: int = 0


def call(target: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """Call ``module:function`` in a fresh process: its result, and the peak memory of that process."""
    command = [sys.executable, "-m", "benchmarks.common", target, json.dumps(list(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _called(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    result = function(*json.loads(arguments))
    seconds = time.perf_counter() - start
    print(json.dumps({"result": result, "seconds": seconds, "peak": peak()}))


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock, and of CPU in this process and in the children that have ended."""
    start, used = time.perf_counter(), _cpu()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": _cpu() - used}


def _cpu() -> float:
    return sum(os.times()[:4])


def peak() -> int:
    """Peak resident bytes of this process; unlike ``ru_maxrss`` it knows nothing of the parent."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def synthetic(path: str, rois: int, size: int) -> str:
    from cloudsen12_cube.testing import ArchiveOptions, make_archive

    return str(make_archive(path, rois, 0, ArchiveOptions(size=size)))


def lengthened(base: Path, target: Path, rois: int) -> Path:
    """Repeat an archive's ROIs under other ids, by hard links, until there are as many as asked for."""
    table = base / "cloudsen12_metadata.csv"
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = list(dict.fromkeys(row["roi_id"] for row in rows))
    folders = {folder.name: folder for folder in base.glob("*/ROI_*")}
    made: list[dict[str, str]] = []
    for index in range(rois):
        roi, name = known[index % len(known)], f"ROI_{index + 1:04d}"
        made += [row | {"roi_id": name} for row in rows if row["roi_id"] == roi]
        _link(folders[roi], target / folders[roi].parent.name / name)
    with open(target / table.name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)
    return target


def _link(source: Path, target: Path) -> None:
    for folder, _, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            os.link(Path(folder, file), place / file)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(_cell, row))} |")
    sys.stdout.flush()


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    _called(sys.argv[1], sys.argv[2])

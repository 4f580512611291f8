"""Where a conversion spends its time over the floor: each step that the floor lacks, switched off in turn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, lengthened, table, timed
from benchmarks.conversion import ratio

_STEPS = (
    "none",
    "fsync",
    "sha256",
    "checks",
    "crc32c",
    "tables",
    "all of them",
    "none, 3 threads",
    "none, 4 threads",
    "fsync, 3 threads",
)


def run(settings: Settings) -> None:
    rois = sum(1 for p in settings.archive.glob("*/ROI_*") if p.is_dir()) * settings.copies
    archive = lengthened(settings.archive, settings.work / "steps", rois)
    runs: dict[str, list[dict[str, Any]]] = {step: [] for step in ("floor", *_STEPS)}
    for _ in range(settings.rounds):
        runs["floor"].append(call("benchmarks.floor:by_threads", [str(archive), ""]))
        for step in _STEPS:
            cube = settings.work / "steps.zarr"
            runs[step].append(call("benchmarks.steps:without", [step, str(archive), str(cube)]))
            shutil.rmtree(cube)
    shutil.rmtree(archive)
    rows = []
    for step, done in runs.items():
        seconds, cpu = (median(run["result"][key] for run in done) / rois for key in ("seconds", "cpu"))
        rows.append((step, seconds, cpu, *(ratio(done, runs["floor"], key) for key in ("seconds", "cpu"))))
    head = ("switched off", "s/ROI", "CPU s/ROI", "x floor of 2 threads", "x floor in CPU")
    table(f"Steps of the conversion, {rois} ROIs", head, rows)


def without(step: str, archive: str, cube: str) -> dict[str, float]:
    from cloudsen12_cube import Options, convert

    off, _, threads = step.partition(", ")
    for name, switch in _SWITCHES.items():
        if off in (name, "all of them"):
            switch()
    options = Options(workers=int(threads[0]) if threads else None)
    return timed(lambda: convert(archive, cube, options=options))


def _no_fsync() -> None:
    import os

    os.fsync = lambda _: None


class _Digest:
    def __init__(self, _: object) -> None:
        """Hash nothing."""

    def hexdigest(self) -> str:
        return "0" * 64


def _no_sha256() -> None:
    import hashlib

    # Here and below, a typed function is replaced by one that does nothing: that is how a step is switched off.
    hashlib.sha256 = _Digest  # type: ignore[assignment,misc]


def _no_checks() -> None:
    from cloudsen12_cube.archive import patch
    from cloudsen12_cube.format import shard

    patch.check = lambda *_: None  # type: ignore[assignment]
    patch.check_label = lambda *_: None  # type: ignore[assignment]
    patch.cast = lambda plane, layout, *_: plane.astype(layout.dtype, copy=False)  # type: ignore[assignment]
    shard.is_fill = lambda *_: False  # type: ignore[assignment]


def _no_crc32c() -> None:
    import google_crc32c

    google_crc32c.value = lambda _: 0


def _no_tables() -> None:
    from cloudsen12_cube.conversion.writer import CubeWriter

    CubeWriter.publish = lambda self, *_: replace(self, is_new=False)  # type: ignore[method-assign]


_SWITCHES: dict[str, Any] = {
    "fsync": _no_fsync,
    "sha256": _no_sha256,
    "checks": _no_checks,
    "crc32c": _no_crc32c,
    "tables": _no_tables,
}

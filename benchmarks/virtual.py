"""An archive opened in place against the converted cube: requests, bytes and seconds of reads, and of opening."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.buckets import convert, url
from benchmarks.common import MiB, Settings, call, lengthened, table
from tests.s3server import KEYS, PRIVATE, Faults, proxy, seaweed

_DELAY = 0.03
_ROIS = 20
_PRODUCTS = ["s2l1c", "labels"]
_FILES = ("S2L1C.tif", "labels/*.tif")
_FULL = 9880
_READS: dict[str, Callable[[Any], Any]] = {
    "one band of a patch": lambda tree: tree["s2l1c"]["s2l1c"].isel(roi=0, time=0).sel(band="B8"),
    "RGB of a patch": lambda tree: tree["s2l1c"]["s2l1c"].isel(roi=0, time=0).sel(band=["B4", "B3", "B2"]),
    "13 bands of a patch": lambda tree: tree["s2l1c"]["s2l1c"].isel(roi=0, time=0),
    "an ROI, 13 bands, 5 dates": lambda tree: tree["s2l1c"]["s2l1c"].isel(roi=0),
    "manual_hq of 100 patches": lambda tree: tree["labels"]["labels"].sel(band="manual_hq"),
    "fmask of 100 patches": lambda tree: tree["labels"]["labels"].sel(band="fmask"),
}


def run(settings: Settings) -> None:
    source = _archive(settings)
    folder = settings.work / "virtual-s3"
    folder.mkdir()
    with seaweed(folder) as endpoint, proxy(endpoint) as (slow, seen):
        call("benchmarks.virtual:upload", [str(source), endpoint])
        convert(str(source), _at(endpoint, "cube"), "auto", 2)
        seen.delay = _DELAY
        _reads(slow, seen)
    shutil.rmtree(source)
    shutil.rmtree(folder)
    _opens(settings)


def _archive(settings: Settings) -> Path:
    """Make 100 patches with the files of two products: a bucket need not hold the others."""
    source = lengthened(settings.archive, settings.work / "virtual", _ROIS)
    kept = {path for pattern in _FILES for path in source.glob(f"*/ROI_*/*/{pattern}")}
    for path in set(source.rglob("*.tif")) - kept:
        path.unlink()
    return source


def _at(endpoint: str, name: str) -> str:
    return json.dumps({"url": f"s3://{PRIVATE}/{name}", "storage_options": {**KEYS, "endpoint_url": endpoint}})


def upload(archive: str, endpoint: str) -> int:
    import fsspec

    files = fsspec.filesystem("s3", **KEYS, endpoint_url=endpoint)
    files.put(f"{archive}/", f"{PRIVATE}/files", recursive=True)
    return len([p for p in Path(archive).rglob("*") if p.is_file()])


def _reads(slow: str, seen: Faults) -> None:
    import cloudsen12_cube as c12

    opens: dict[str, Callable[[], Any]] = {
        "files": lambda: c12.open_virtual(url(_at(slow, "files")), _PRODUCTS),
        "cube": lambda: c12.open_cube(url(_at(slow, "cube")), _PRODUCTS),
    }
    rows: list[tuple[Any, ...]] = [("open", *(v for way in opens.values() for v in _measured(seen, way)))]
    for what, part in _READS.items():
        found: list[float] = []
        for way in opens.values():
            array = part(way())  # opened anew: nothing is known of any file or shard
            found += _measured(seen, lambda array=array: array.values)
        rows.append((what, *found))
    head = ("read", *(f"{way}: {word}" for way in opens for word in ("requests", "MiB", "s")), "bytes, files / cube")
    table(f"{_ROIS} ROIs, {_DELAY * 1e3:.0f} ms a request", head, [(*row, row[2] / row[5]) for row in rows])


def _measured(seen: Faults, work: Callable[[], object]) -> tuple[int, float, float]:
    seen.clear()
    start = time.perf_counter()
    work()
    return sum(seen.seen.values()), seen.bytes / MiB, time.perf_counter() - start


def _opens(settings: Settings) -> None:
    """Open local archives of several lengths, all files there, and draw the line to the full one."""
    rows = []
    for rois in (settings.listed // 4, settings.listed):
        place = lengthened(settings.archive, settings.work / "opened", rois)
        files = sum(1 for _ in place.rglob("*.tif"))
        done = call("benchmarks.virtual:open_only", [str(place)])
        rows.append((rois, files, done["result"][0], done["peak"] / MiB, done["result"][1] / MiB))
        shutil.rmtree(place)
    steps = [(b - a) / (rows[1][0] - rows[0][0]) for a, b in zip(*rows, strict=True)]
    full = tuple(b + step * (_FULL - rows[1][0]) for b, step in zip(rows[1], steps, strict=True))
    head = ("ROIs", "files", "s to open", "peak MiB", "MiB of a product's list, pickled")
    table("Opening a local archive; the last row is extrapolated", head, [*rows, (_FULL, round(full[1]), *full[2:])])


def open_only(archive: str) -> tuple[float, int]:
    import pickle

    import cloudsen12_cube as c12

    start = time.perf_counter()
    tree = c12.open_virtual(archive)
    seconds = time.perf_counter() - start
    return seconds, len(pickle.dumps(tree.encoding["virtual"]["labels"]))

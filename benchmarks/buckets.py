"""Over a link of 30 ms a request to a real S3 server on this machine: a patch, a full-size cube, a conversion."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, lengthened, table
from tests.s3server import KEYS, PRIVATE, proxy, seaweed

_DELAY = 0.03
_CLIENTS = ("obstore", "fsspec")


def run(settings: Settings) -> None:
    folder = settings.work / "s3"
    folder.mkdir()
    with seaweed(folder) as endpoint, proxy(endpoint) as (slow, seen):
        seen.delay = _DELAY
        rows = [_patch(settings, endpoint, slow, seen, client) for client in _CLIENTS]
        head = (
            "client",
            "ms, one GET of as many bytes",
            "patch",
            "requests",
            "x GET",
            "next patch",
            "requests",
            "x GET",
        )
        table("13 bands of one patch, ms, median of 20", head, rows)
        rows = [_open(settings, endpoint, slow, seen, client) for client in _CLIENTS]
        table(f"Opening a cube of {settings.rois} ROIs", ("client", "s, first in a process", "requests"), rows)
        _conversion(settings, endpoint, slow)


def _at(endpoint: str, name: str) -> str:
    return json.dumps({"url": f"s3://{PRIVATE}/{name}", "storage_options": {**KEYS, "endpoint_url": endpoint}})


def url(text: str, client: str = "auto") -> Any:
    """Give a path, or the URL that a JSON text describes."""
    import cloudsen12_cube as c12

    return c12.Url(**json.loads(text), client=client) if text.startswith("{") else text


def _patch(settings: Settings, endpoint: str, slow: str, seen: Any, client: str) -> tuple[Any, ...]:
    call("benchmarks.buckets:convert", [str(settings.archive), _at(endpoint, "patch"), client, 2])
    seen.clear()
    done = call("benchmarks.buckets:patches", [_at(slow, "patch"), client])["result"]
    get = median(done["get"])
    first, then = median(done["first"]), median(done["then"])
    return client, get * 1e3, first * 1e3, 2, first / get, then * 1e3, 1, then / get


def patches(place: str, client: str) -> dict[str, list[float]]:
    """Read every first and every second patch of an ROI, and as many bytes by one GET."""
    import cloudsen12_cube as c12
    from cloudsen12_cube.storage.open import open_store

    where = url(place, client)
    times: dict[str, list[float]] = {"get": [], "first": [], "then": []}
    size = int(1.7e6)
    for _ in range(7):
        array = c12.open_cube(where)["s2l1c"]["s2l1c"]
        for roi in range(array.sizes["roi"]):
            for name, rank in (("first", 0), ("then", 1)):
                start = time.perf_counter()
                array.isel(roi=roi, time=rank).values  # noqa: B018 (reads)
                times[name].append(time.perf_counter() - start)
            start = time.perf_counter()
            open_store(where).get(f"s2l1c/s2l1c/c/{roi}/0/0/0/0", 0, size)
            times["get"].append(time.perf_counter() - start)
    return times


def _open(settings: Settings, endpoint: str, slow: str, seen: Any, client: str) -> tuple[Any, ...]:
    catalogue = settings.work / "remote-catalogue"
    if not catalogue.exists():
        call("benchmarks.full:make_catalogue", [str(catalogue), settings.rois])
        call("benchmarks.buckets:write_empty", [str(catalogue), _at(endpoint, "full")])
    seconds, requests = [], 0
    for _ in range(5):
        seen.clear()
        seconds.append(call("benchmarks.buckets:open_only", [_at(slow, "full"), client])["result"])
        requests = sum(seen.seen.values())
    return client, median(seconds), requests


def write_empty(archive: str, cube: str) -> None:
    from cloudsen12_cube import plan
    from cloudsen12_cube.conversion.writer import open_writer
    from cloudsen12_cube.storage.open import open_store

    writer = open_writer(plan(archive), open_store(url(cube)))
    writer.finish(writer.survey().grid, ())


def open_only(place: str, client: str) -> float:
    import cloudsen12_cube as c12

    where = url(place, client)
    start = time.perf_counter()
    assert len(c12.open_cube(where).children) == 5
    return time.perf_counter() - start


def _conversion(settings: Settings, endpoint: str, slow: str) -> None:
    rois = len([p for p in settings.archive.glob("*/ROI_*") if p.is_dir()]) * settings.copies
    archive = lengthened(settings.archive, settings.work / "remote", rois)
    call("benchmarks.buckets:upload", [str(archive), endpoint])
    local = str(settings.work / "remote.zarr")
    ways = {
        "disk to disk": (str(archive), lambda _: local),
        "disk to S3": (str(archive), lambda n: _at(slow, f"out-{n}")),
        "S3 to disk": (_at(slow, "archive"), lambda _: local),
        "S3 to S3": (_at(slow, "archive"), lambda n: _at(slow, f"both-{n}")),
    }
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(settings.rounds):
        for name, (source, target) in ways.items():
            runs[name].append(call("benchmarks.buckets:convert", [source, target(number), "auto", None])["result"])
            shutil.rmtree(local, ignore_errors=True)
    base = runs["disk to disk"]
    rows = [
        (name, median(times) / rois, median(a / b for a, b in zip(base, times, strict=True)))
        for name, times in runs.items()
    ]
    table(f"Conversion of {rois} ROIs, {settings.rounds} rounds", ("way", "s/ROI", "speed / disk to disk"), rows)
    shutil.rmtree(archive)


def convert(source: str, cube: str, client: str, workers: int | None) -> float:
    import cloudsen12_cube as c12

    start = time.perf_counter()
    assert not c12.convert(url(source), url(cube, client), options=c12.Options(workers=workers)).faults
    return time.perf_counter() - start


def upload(archive: str, endpoint: str) -> int:
    import fsspec

    files = fsspec.filesystem("s3", **KEYS, endpoint_url=endpoint)
    files.put(f"{archive}/", f"{PRIVATE}/archive", recursive=True)
    return len([p for p in Path(archive).rglob("*") if p.is_file()])

"""When each layout pays: bytes, time to write and to read from a warm disk as ratios to the default, requests to S3."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, lengthened, table
from tests.s3server import KEYS, PRIVATE, proxy, seaweed

_ROIS, _SECONDS = 12, 1.0
_FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "lz4": {"codec": "lz4"},
    "none": {"codec": "none"},
    "all bands in a chunk": {"chunk": "bands"},
    "lz4, all bands": {"codec": "lz4", "chunk": "bands"},
    "4 ROIs a shard": {"rois_per_shard": 4},
}
_RGB = ["B4", "B3", "B2"]
_READS = ("whole ROI", "3 bands", "one band", "stream RGB", "stream 13 bands")


def run(settings: Settings) -> None:
    source = lengthened(settings.archive, settings.work / "layouts-archive", _ROIS)
    base = settings.work / "layouts.zarr"
    call("benchmarks.layouts:convert", [str(source), str(base), {}])
    written = _written(settings, base)
    places = {name: settings.work / f"layouts-{number}.zarr" for number, name in enumerate(_FORMS)}
    stored = {name: sum(p.stat().st_size for p in place.glob("*/*/c/*/0/0/0/0")) for name, place in places.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _FORMS}
    for _ in range(settings.rounds):
        for name, place in places.items():
            found[name].append(call("benchmarks.layouts:read", [str(place)])["result"])
    rows = []
    for name in _FORMS:
        times = [_ratio(found, name, what) for what in _READS]
        writing = median(w[name] / w["default"] for w in written)
        rows.append((name, stored[name] / stored["default"], writing, *times))
    table("Layouts, as ratios to the default: bytes and seconds, less is better", _head("stored", "write"), rows)
    rows = [(what, 1e3 * median(row[what] for row in found["default"])) for what in _READS]
    table("The default itself", ("read", "ms"), rows)
    _requests(settings, places)


def _head(*more: str) -> tuple[str, ...]:
    return ("layout", *more, *_READS)


def _ratio(found: dict[str, list[dict[str, float]]], name: str, what: str) -> float:
    return median(own[what] / base[what] for own, base in zip(found[name], found["default"], strict=True))


def _written(settings: Settings, base: Path) -> list[dict[str, float]]:
    """Seconds to re-shard into each layout, round by round; the last round's cubes stay."""
    import shutil

    rounds = []
    for _ in range(settings.rounds):
        seconds = {}
        for number, (name, form) in enumerate(_FORMS.items()):
            place = settings.work / f"layouts-{number}.zarr"
            shutil.rmtree(place, ignore_errors=True)
            seconds[name] = call("benchmarks.layouts:convert", [str(base), str(place), form])["result"]
        rounds.append(seconds)
    return rounds


def convert(source: str, place: str, form: dict[str, Any]) -> float:
    import cloudsen12_cube as c12

    start = time.perf_counter()
    report = c12.convert(source, place, ["s2l1c", "labels"], options=c12.Options(layout=c12.Layout(**form)))
    assert report.exit_code == 0
    return time.perf_counter() - start


def read(place: str) -> dict[str, float]:
    """Seconds of each kind of read: an ROI, bands of a patch, a patch of a stream."""
    import cloudsen12_cube as c12

    tree = c12.open_cube(place)
    array = tree["s2l1c"]["s2l1c"]
    bands = slice(
        1, 4
    )  # B2 to B4; a list of them costs zarr-python thirty milliseconds of its own, whatever the layout
    made = {
        "whole ROI": _each(lambda n: array[n % _ROIS].values),
        "3 bands": _each(lambda n: array[n % _ROIS, n // _ROIS % 5, bands].values),
        "one band": _each(lambda n: array[n % _ROIS, n // _ROIS % 5, 7].values),
    }
    for what, inputs in (("stream RGB", _RGB), ("stream 13 bands", None)):
        made[what] = _stream(tree.cloudsen12.stream({"s2l1c": inputs}, None, None, 32))
    return made


def _each(read: Callable[[int], object]) -> float:
    read(0)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        count += 1
        read(count)
    return (time.perf_counter() - start) / count


def _stream(stream: Any) -> float:
    list(stream)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        count += sum(len(batch["roi"]) for batch in stream)
    return (time.perf_counter() - start) / count


def _requests(settings: Settings, places: dict[str, Path]) -> None:
    folder = settings.work / "layouts-s3"
    folder.mkdir()
    with seaweed(folder) as endpoint, proxy(endpoint) as (counted, seen):
        rows = []
        for number, (name, place) in enumerate(places.items()):
            call("benchmarks.layouts:upload", [str(place), endpoint, f"{number}.zarr"])
            rows.append((name, *_asked(counted, seen, f"{number}.zarr")))
        head = ("layout", *(f"{what}: requests, MB" for what in _READS))
        table("Requests to S3 and megabytes; streams are an epoch of 60 patches", head, rows)


def upload(place: str, endpoint: str, name: str) -> None:
    import s3fs

    s3fs.S3FileSystem(**KEYS, endpoint_url=endpoint).put(f"{place}/", f"{PRIVATE}/{name}", recursive=True)


def _asked(endpoint: str, seen: Any, name: str) -> list[str]:
    import cloudsen12_cube as c12

    where = c12.Url(f"s3://{PRIVATE}/{name}", json.loads(json.dumps({**KEYS, "endpoint_url": endpoint})))
    tree = c12.open_cube(where)
    array = tree["s2l1c"]["s2l1c"]
    bands = slice(1, 4)
    streams = [tree.cloudsen12.stream({"s2l1c": inputs}, None, None, 32) for inputs in (_RGB, None)]
    reads: list[Callable[[], object]] = [
        lambda: array[0].values,
        lambda: array[4, 0, bands].values,
        lambda: array[8, 0, 7].values,
        *(lambda stream=stream: list(stream) for stream in streams),  # type: ignore[misc]  # bound early
    ]
    told = []
    for read_one in reads:
        seen.clear()
        read_one()
        told.append(f"{sum(seen.seen.values())}, {seen.bytes / 1e6:.1f}")
    return told

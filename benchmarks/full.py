"""The full catalogue: planning it, listing its files, and opening a cube of its size from disk and by HTTP."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table

_ROUNDS = 3


def run(settings: Settings) -> None:
    catalogue = call("benchmarks.full:make_catalogue", [str(settings.work / "catalogue"), settings.rois])["result"]
    _plans(settings, catalogue)
    place = settings.work / "full"
    written = call("benchmarks.full:write_empty", [catalogue, str(place / "cube.zarr")])
    files = [p.stat().st_size for p in (place / "cube.zarr").rglob("*") if p.is_file()]
    rows = [(settings.rois, len(files), sum(files) / MiB, written["result"], round(written["peak"] / MiB))]
    head = ("ROIs", "objects", "MiB", "s to plan and write", "peak MiB")
    table("Metadata of a full-size cube, without shards", head, rows)
    _opens(place)
    shutil.rmtree(place)


def _plans(settings: Settings, catalogue: str) -> None:
    part = settings.listed
    short = call("benchmarks.full:make_catalogue", [str(settings.work / "part"), part])["result"]
    listed = str(lengthened(settings.archive, settings.work / "listed", part))
    names = {"full": catalogue, "part": short, "listed": listed}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(_ROUNDS):
        for name, archive in names.items():
            runs[name].append(call("benchmarks.full:plan_all", [archive]))
    shutil.rmtree(listed)
    rows = [
        (f"{settings.rois} ROIs, metadata only", *_plan_row(runs["full"])),
        (f"{part} ROIs, metadata only", *_plan_row(runs["part"])),
        (f"{part} ROIs with files", *_plan_row(runs["listed"])),
    ]
    if part < settings.rois:
        files = (settings.rois * (b - a) / part for a, b in zip(rows[1][1:], rows[2][1:], strict=True))
        rows.append(("the first with files, extrapolated", *(a + b for a, b in zip(rows[0][1:], files, strict=True))))
    table("Plan", ("archive", "s to plan", "peak MiB", "s to write it as JSON", "peak MiB"), rows)


def _plan_row(runs: list[dict[str, Any]]) -> tuple[float, ...]:
    return tuple(median(run["result"][key] for run in runs) for key in ("plan", "plan_peak", "json", "json_peak"))


def make_catalogue(path: str, rois: int) -> str:
    from cloudsen12_cube.testing import make_catalogue

    return str(make_catalogue(path, rois))


def plan_all(archive: str) -> dict[str, float]:
    from benchmarks.common import peak
    from cloudsen12_cube import plan

    start = time.perf_counter()
    made = plan(archive)
    planned, plan_peak = time.perf_counter(), peak() / MiB
    made.as_json(2)
    written, json_peak = time.perf_counter(), peak() / MiB
    return {"plan": planned - start, "plan_peak": plan_peak, "json": written - planned, "json_peak": json_peak}


def write_empty(archive: str, cube: str) -> float:
    """Write the metadata of a cube of which no shard is done."""
    from cloudsen12_cube import plan
    from cloudsen12_cube.conversion.writer import open_writer
    from cloudsen12_cube.storage.local import LocalStore

    start = time.perf_counter()
    writer = open_writer(plan(archive), LocalStore(cube))
    writer.finish(writer.survey().grid, ())
    return time.perf_counter() - start


def _opens(place: Path) -> None:
    runs = [call("benchmarks.full:open_twice", [str(place / "cube.zarr")]) for _ in range(_ROUNDS + 2)]
    peak = round(max(run["peak"] for run in runs) / MiB)
    local = (median(run["result"][i] for run in runs) for i in range(3))
    rows: list[tuple[object, ...]] = [("local disk", *local, peak, "")]
    with _server(place) as (url, counts):
        remote = []
        for _ in range(_ROUNDS):
            counts.clear()
            remote.append(call("benchmarks.full:open_once", [f"{url}/cube.zarr"]))
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        peak = round(max(run["peak"] for run in remote) / MiB)
        rows.append(("HTTP", median(run["result"][0] for run in remote), "", "", peak, kinds))
    head = ("from", "s, first in a process", "s, second", "s, all columns read", "peak MiB", "requests of the first")
    table("open_cube of the full-size cube", head, rows)


def open_once(url: str) -> tuple[float]:
    return (_open(url),)


def open_twice(url: str) -> tuple[float, float, float]:
    from cloudsen12_cube import open_cube

    first, second = _open(url), _open(url)
    tree = open_cube(url)
    start = time.perf_counter()
    tree.to_dataset().load()
    return first, second, time.perf_counter() - start


def _open(url: str) -> float:
    from cloudsen12_cube import open_cube

    start = time.perf_counter()
    tree = open_cube(url)
    seconds = time.perf_counter() - start
    assert len(tree.children) == 5
    return seconds


@contextmanager
def _server(place: Path) -> Iterator[tuple[str, Counter[str]]]:
    counts: Counter[str] = Counter()
    handler = partial(_Counting, counts, directory=str(place))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()


class _Counting(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, counts: Counter[str], request: Any, address: Any, server: Any, directory: str) -> None:
        self.counts = counts
        super().__init__(request, address, server, directory=directory)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.counts[f"{self.command} {code}"] += 1
        super().send_response(code, message)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base class's)
        """Say nothing."""

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
    seconds, document, peak = (
        {name: median(run["result"][key] for run in done) for name, done in runs.items()}
        for key in ("plan", "document", "peak")
    )
    factor = settings.rois / part
    rows = [
        (f"{settings.rois} ROIs, metadata only", seconds["full"], document["full"], peak["full"] / MiB),
        (f"{part} ROIs, metadata only", seconds["part"], document["part"], peak["part"] / MiB),
        (f"{part} ROIs with files", seconds["listed"], document["listed"], peak["listed"] / MiB),
        tuple(
            ["the first, and files (extrapolated)"]
            + [
                (m["full"] + (m["listed"] - m["part"]) * factor) / unit
                for m, unit in ((seconds, 1), (document, 1), (peak, MiB))
            ]
        ),
    ]
    table("Plan", ("archive", "s to plan", "s to write it as JSON", "peak MiB"), rows)


def make_catalogue(path: str, rois: int) -> str:
    from cloudsen12_cube.testing import make_catalogue

    return str(make_catalogue(path, rois))


def plan_all(archive: str) -> dict[str, float]:
    from benchmarks.common import peak
    from cloudsen12_cube import plan
    from cloudsen12_cube.plan import as_json

    start = time.perf_counter()
    made = plan(archive)
    planned = time.perf_counter()
    written = as_json(made, 2)
    done = time.perf_counter()
    return {"plan": planned - start, "document": done - planned, "bytes": len(written), "peak": peak()}


def write_empty(archive: str, cube: str) -> float:
    """Write the metadata of a cube of which no shard is done."""
    from cloudsen12_cube import plan
    from cloudsen12_cube.cube import open_or_create
    from cloudsen12_cube.sink import Sink

    start = time.perf_counter()
    open_or_create(plan(archive), Sink(cube)).finalise({})
    return time.perf_counter() - start


def _opens(place: Path) -> None:
    runs = [call("benchmarks.full:open_twice", [str(place / "cube.zarr")]) for _ in range(_ROUNDS + 2)]
    rows = [("local disk", *_open_row(runs), "")]
    with _server(place) as (url, counts):
        remote = []
        for _ in range(_ROUNDS):
            counts.clear()
            remote.append(call("benchmarks.full:open_once", [f"{url}/cube.zarr"]))
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        rows.append(("HTTP", *_open_row(remote), kinds))
    head = ("from", "s, first in a process", "s, second", "s, all columns read", "peak MiB", "requests of the first")
    table("open_cube of the full-size cube", head, rows)


def _open_row(runs: list[dict[str, Any]]) -> tuple[float, float, float, int]:
    first, second, columns = (median(run["result"][i] for run in runs) for i in range(3))
    return first, second, columns, round(max(run["peak"] for run in runs) / MiB)


def open_once(url: str) -> tuple[float, float, float]:
    return _open(url), float("nan"), float("nan")


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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

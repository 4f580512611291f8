"""The accessor: queries on the full catalogue, graphs over all ROIs, and the speed of reading labels as classes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, table

_TIMES = 7
_QUERIES: dict[str, dict[str, Any]] = {
    "label_type, split": {"label_type": "high", "split": "train"},
    "difficulty, cloud_coverage": {"difficulty": (1, 3), "cloud_coverage": ["cloud-free", "low-cloudy"]},
    "bbox, land_cover": {"bbox": (-80, -20, -10, 50), "land_cover": [10, 20]},
    "datetime, s2_id prefix": {"datetime": ("2019-03-01", None), "s2_id": "S2A*"},
}


def run(settings: Settings) -> None:
    catalogue = call("benchmarks.full:make_catalogue", [str(settings.work / "views"), settings.rois])["result"]
    place = str(settings.work / "views.zarr")
    call("benchmarks.full:write_empty", [catalogue, place])
    queries = call("benchmarks.views:query", [place])["result"]
    head = ("wishes", "patches", "first ms", "median ms", "median ms, chunks='roi'")
    table(f"query on {settings.rois} ROIs", head, queries)
    table(
        f"graphs over {settings.rois} ROIs",
        ("what", "s to build", "tasks"),
        call("benchmarks.views:graphs", [place])["result"],
    )
    head = ("layer", "MB/s of stored labels", "x the plain copy")
    table("labels as classes, numpy, one thread", head, call("benchmarks.views:classes", [])["result"])


def _milliseconds(work: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def query(place: str) -> list[tuple[Any, ...]]:
    from cloudsen12_cube import open_cube

    plain, chunked = open_cube(place), open_cube(place, chunks="roi")
    rows = []
    for name, wishes in _QUERIES.items():
        found = plain.cloudsen12.query(**wishes)
        patches = int((found.to_dataset()["s2_id_gee"].values != "").sum())
        fresh = open_cube(place)
        first, *rest = _milliseconds(lambda w=wishes, cube=fresh: cube.cloudsen12.query(**w))  # type: ignore[misc]  # bound early
        dask = _milliseconds(lambda w=wishes: chunked.cloudsen12.query(**w))  # type: ignore[misc]  # bound early
        rows.append((name, patches, first, median(rest), median(dask)))
    return rows


def graphs(place: str) -> list[tuple[Any, ...]]:
    from cloudsen12_cube import open_cube

    cube = open_cube(place, chunks="roi")
    views = {
        'classes("sen2cor")': lambda: cube.cloudsen12.classes("sen2cor"),
        'classes("s2cloudless")': lambda: cube.cloudsen12.classes("s2cloudless"),
        'mask("thick_cloud", of="fmask")': lambda: cube.cloudsen12.mask("thick_cloud", of="fmask"),
        "priority_merge of three": lambda: cube.cloudsen12.priority_merge(["manual_hq", "fmask", "sen2cor"]),
        "reflectance, three bands": lambda: cube.cloudsen12.reflectance(["red", "green", "blue"]),
        "mean of s2l1c": lambda: cube["s2l1c"]["s2l1c"].mean(("roi", "time", "y", "x")),
    }
    rows = []
    for name, view in views.items():
        seconds = median(_milliseconds(view)) / 1e3
        rows.append((name, seconds, len(dict(view().__dask_graph__()))))
    return rows


def classes() -> list[tuple[Any, ...]]:
    import numpy as np

    from cloudsen12_cube.schema.classes import LAYERS
    from cloudsen12_cube.schema.labels import to_classes

    random = np.random.default_rng(0)
    rows = []
    for row in LAYERS:
        legal = sorted(row.legal) or list(range(101))
        stored = random.choice(np.array(legal, np.uint16), (20, 509, 509))
        copy = median(_milliseconds(lambda a=stored: a.astype(np.uint8)))  # type: ignore[misc]  # bound early
        used = median(_milliseconds(lambda a=stored, n=row.band: to_classes(a, n, scale=100)))  # type: ignore[misc]  # bound early
        rows.append((row.band, stored.nbytes / used / 1e3, used / copy))
    return rows

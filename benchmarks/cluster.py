"""Two dask workers beside the pool in the process, and what a full-size plan costs a scheduler."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, table

_DASK = [sys.executable, "-m", "dask"]


def run(settings: Settings) -> None:
    base = [p for p in settings.archive.glob("*/ROI_*") if p.is_dir()]
    rois = len(base) * settings.copies
    archive = lengthened(settings.archive, settings.work / "cluster", rois)
    with _cluster(settings.work, workers=2) as (address, _):
        places = {"pool of 2 threads": "", "2 dask workers": address}
        runs: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(settings.rounds):
            for name, scheduler in places.items():
                done = call(
                    "benchmarks.cluster:convert", [str(archive), str(settings.work / "cluster.zarr"), scheduler]
                )
                runs[name].append(done["result"])
                shutil.rmtree(settings.work / "cluster.zarr")
        share = median(a / b for a, b in zip(*runs.values(), strict=True))
        overhead = call("benchmarks.cluster:overhead", [str(archive), address])["result"]
    rows = [(name, median(times) / rois, min(times) / rois) for name, times in runs.items()]
    table(f"Conversion of {rois} ROIs, {settings.rounds} rounds", ("way", "s/ROI, median", "least"), rows)
    shard = median(runs["2 dask workers"]) * 2 / (rois * 5)
    head = ("throughput of dask / pool", "ms a task that does nothing", "ms a shard, one thread", "share")
    table("Overhead", head, [(share, overhead * 1e3, shard * 1e3, overhead / shard)])
    shutil.rmtree(archive)
    _full(settings)


def _full(settings: Settings) -> None:
    catalogue = call("benchmarks.full:make_catalogue", [str(settings.work / "catalogue"), settings.rois])["result"]
    with _cluster(settings.work, workers=1) as (address, scheduler):
        done = call("benchmarks.cluster:submit_all", [catalogue, address])
        most = max(_resident(scheduler, "VmHWM"), 0) / MiB
    result = done["result"]
    rows = [
        (
            result["tasks"],
            result["bytes"],
            result["submitted"],
            result["seconds"],
            round(most),
            round(done["peak"] / MiB),
        )
    ]
    head = (
        "tasks",
        "bytes a task",
        "s to submit all at once",
        "s until the scheduler has all",
        "peak MiB of the scheduler",
        "of the client",
    )
    table("A full-size plan, all of it submitted before the first result is taken", head, rows)


def convert(archive: str, cube: str, scheduler: str) -> float:
    import cloudsen12_cube as c12

    options = c12.Options(scheduler=scheduler) if scheduler else c12.Options(workers=2)
    start = time.perf_counter()
    assert not c12.convert(archive, cube, options=options).faults
    return time.perf_counter() - start


def overhead(archive: str, scheduler: str) -> float:
    """Seconds that a task takes of a worker which does nothing but the task's way."""
    import cloudsen12_cube as c12
    from cloudsen12_cube.conversion.runner import open_runner

    tasks = list(c12.plan(archive).tasks()) * 20
    with open_runner(0, scheduler=scheduler) as runner:
        start = time.perf_counter()
        count = sum(1 for _ in runner.run(nothing, tasks))
        return (time.perf_counter() - start) / count * 2  # by two workers


def nothing(task: Any) -> Any:
    from cloudsen12_cube.conversion.writer import ShardResult
    from cloudsen12_cube.format.record import PatchRecord, ShardRecord

    (roi,) = task.rois
    patches = tuple(PatchRecord(time, image, 1) for time, image in roi.patches)
    return ShardResult((ShardRecord(task.layout.product, roi.roi_id, roi.index, 1, "0" * 64, patches),))


def submit_all(archive: str, scheduler: str) -> dict[str, float]:
    import pickle

    from distributed import Client

    import cloudsen12_cube as c12

    tasks = list(_as_listed(c12.plan(archive)).tasks())
    with Client(scheduler, set_as_default=False) as client:
        executor = client.get_executor(pure=False)
        start = time.perf_counter()
        futures = [executor.submit(nothing, task) for task in tasks]
        submitted = time.perf_counter() - start
        while client.run_on_scheduler(_arrived) < len(tasks):  # what is done stays known: the futures hold it
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        for future in futures:
            future.cancel()
    return {"tasks": len(tasks), "bytes": len(pickle.dumps(tasks[0])), "submitted": submitted, "seconds": seconds}


def _arrived(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _as_listed(plan: Any) -> Any:
    """Give a plan of metadata alone the files that it would have: a task names them."""
    from cloudsen12_cube.archive.base import PatchFiles
    from cloudsen12_cube.schema.assets import PRODUCTS, files_of

    files = [name for product in PRODUCTS for name in files_of(product)]
    patches = {
        (roi, image): PatchFiles(
            f"high/{roi}/{image}", "high", {f: f"{f}.tif" for f in files}, dict.fromkeys(files, 10**6)
        )
        for roi, image in plan.catalogue.keys
    }
    archive = replace(plan.archive, patches=patches)
    return replace(plan, archive=archive)


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    commands = [["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]]
    one = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(folder)]
    commands += [["worker", address, *one]] * workers
    started = [subprocess.Popen([*_DASK, *command], **quiet) for command in commands]
    try:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address, started[0].pid
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _resident(process: int, name: str) -> int:
    line = next(row for row in Path(f"/proc/{process}/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024

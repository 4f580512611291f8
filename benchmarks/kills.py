"""Processes are killed at random moments: what does a reader see, and does the same command end with the same bytes?

Conversions first; then ``write_layer``, re-sharding, ``export`` and ``stats``.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Settings, call, table

_KILLS = 200
_KILLS_EACH = 60
_ROIS = 4
_PROCESSES = multiprocessing.get_context("forkserver")


def run(settings: Settings) -> None:
    call("benchmarks.common:synthetic", [str(settings.work / "killed"), _ROIS, 32])
    found = call("benchmarks.kills:kill", [str(settings.work / "killed"), str(settings.work / "kills"), _KILLS])
    counts: dict[str, Any] = found["result"]
    table(f"{counts.pop('kills')} random kills of two workers, by SIGKILL", ("what", "count"), list(counts.items()))
    rows = []
    for name in COMMANDS:
        work = str(settings.work / f"kills-{name}")
        found = call("benchmarks.kills:kill_command", [name, str(settings.work / "killed"), work, _KILLS_EACH])
        rows.append((name, *found["result"].values()))
    table("Random kills of other commands, by SIGKILL", ("command", *found["result"]), rows)


def kill(archive: str, work: str, kills: int) -> dict[str, int]:
    """Kill, look, continue to the end, compare; three times in ten the continuing run is killed, too."""
    import numpy as np

    import cloudsen12_cube as c12

    _PROCESSES.set_forkserver_preload(["cloudsen12_cube"])
    whole, place = Path(work, "whole.zarr"), Path(work, "c.zarr")
    start = time.perf_counter()
    _join(_start(archive, whole))
    longest = time.perf_counter() - start
    truth, expected = _shown(whole), _contents(whole)
    moments, counts = np.random.default_rng(0), Counter[str]()
    while counts["runs to the end"] < kills:
        for again in (False, True):
            if again and moments.random() < 0.7:
                break
            kept = _committed(place)
            process = _start(archive, place)
            process.join(moments.uniform(0.2, 1) * longest)
            killed = process.is_alive()
            process.kill()
            process.join()
            counts["kills"] += killed
            counts[f"died while {_state(place)}"] += killed
            counts["wrong pixels shown after a kill"] += _wrong(place, truth)
            counts["committed shards written again"] += _rewritten(kept, place)
        kept = _committed(place)
        c12.convert(archive, place)
        counts["committed shards written again"] += _rewritten(kept, place)
        counts["runs to the end"] += 1
        counts["identical results"] += _contents(place) == expected
        shutil.rmtree(place)
    return dict(counts)


def _rewritten(kept: dict[str, tuple[int, int]], place: Path) -> int:
    now = _committed(place)
    return sum(now.get(path) != state for path, state in kept.items())


def _start(archive: str, place: Path) -> Any:
    process = _PROCESSES.Process(target=_convert, args=(archive, str(place)))
    process.start()
    return process


def _join(process: Any) -> None:
    process.join()
    assert process.exitcode == 0


def _convert(archive: str, place: str) -> None:
    import cloudsen12_cube as c12

    warnings.simplefilter("error")
    c12.convert(archive, place, options=c12.Options(workers=2))


def _state(place: Path) -> str:
    root = place / "zarr.json"
    if not root.exists():
        return "nothing was there"
    return str(json.loads(root.read_text())["attributes"]["cloudsen12"]["state"])


def _contents(place: Path) -> dict[str, str]:
    stamp = json.loads((place / "zarr.json").read_text())["attributes"]["cloudsen12"]["created"].encode()
    files = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    return {k: hashlib.sha256(v.replace(stamp, b"")).hexdigest() for k, v in files.items()}


def _shown(place: Path) -> dict[tuple[str, str, int], str]:
    """Digest of the pixels of each patch that a reader is told is done."""
    import cloudsen12_cube as c12

    try:
        tree = c12.open_cube(place)
    except c12.CubeError:
        return {}
    found = {}
    for product in tree.children:
        images = tree[product].to_dataset()
        status, pixels = images["status"].values, images[product].values
        for i, roi in enumerate(images["roi"].values):
            for t in range(status.shape[1]):
                if status[i, t] == 1:
                    found[product, str(roi), t] = hashlib.sha256(pixels[i, t].tobytes()).hexdigest()
    return found


def _wrong(place: Path, truth: dict[tuple[str, str, int], str]) -> int:
    return sum(truth[key] != digest for key, digest in _shown(place).items())


def _committed(place: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in place.glob("*/*/records/*.json"):
        shard = path.parents[1] / f"c/{json.loads(path.read_text())['index']}/0/0/0/0"
        if shard.exists():
            found[str(shard)] = (shard.stat().st_ino, shard.stat().st_mtime_ns)
    return found


@dataclass(frozen=True)
class Command:
    """A command that makes something of a cube."""

    run: Callable[[str, str], object]
    """Of the cube and the place of its result."""
    wrong: Callable[[Path, Path, Path], int]
    """Of the cube, the place and a whole result: what the place shows that is not in the whole result."""
    in_place: bool = False
    """Whether it writes into a cube: the place is a copy of it."""
    continues: bool = True
    """Whether it continues what was begun; else that is deleted."""


def kill_command(name: str, archive: str, work: str, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill, look, run to the end, compare."""
    import numpy as np

    import cloudsen12_cube as c12

    modules = ("conversion.jobs", "dataset.predictions", "exporters.archive", "training.statistics")
    _PROCESSES.set_forkserver_preload([f"cloudsen12_cube.{module}" for module in modules])
    cube, whole, place = (Path(work, entry) for entry in ("cube.zarr", "whole", "place"))
    c12.convert(archive, cube)
    command, longest = COMMANDS[name], 0.0
    for _ in range(2):  # the first one waits for the imports of the server
        shutil.rmtree(whole, ignore_errors=True)
        start = time.perf_counter()
        _join(_start_command(name, cube, whole))
        longest = time.perf_counter() - start
    expected, moments, counts = _files(whole), np.random.default_rng(seed), Counter[str]()
    counts |= dict.fromkeys(("kills", "something was there", "wrong results shown", "identical results at the end"), 0)
    while counts["kills"] < kills:
        process = _start_command(name, cube, place)
        process.join(moments.uniform(0, 1) * longest)
        killed = process.is_alive()
        process.kill()
        process.join()
        if killed:
            counts["kills"] += 1
            there = _files(place)
            counts["something was there"] += bool(there) and there != (_files(cube) if command.in_place else {})
            counts["wrong results shown"] += command.wrong(cube, place, whole) if there else 0
            if not command.continues:
                shutil.rmtree(place, ignore_errors=True)
            _run_command(name, str(cube), str(place))
            counts["identical results at the end"] += _files(place) == expected
        shutil.rmtree(place, ignore_errors=True)
    return dict(counts)


def _start_command(name: str, cube: Path, place: Path) -> Any:
    if COMMANDS[name].in_place:
        shutil.copytree(cube, place)
    process = _PROCESSES.Process(target=_run_command, args=(name, str(cube), str(place)))
    process.start()
    return process


def _run_command(name: str, cube: str, place: str) -> None:
    warnings.simplefilter("error")
    COMMANDS[name].run(cube, place)


def _files(place: Path) -> dict[str, str]:
    """Digest of each file without times; the order of the journal of an export is that of its runs."""
    found = {}
    for path in place.rglob("*"):
        if path.is_file() and ".partial" not in path.parts and path.name != ".cloudsen12-export.jsonl":
            data = re.sub(rb"20\d\d-\d\d-\d\dT[\d:.]+(Z|\+00:00)", b"", path.read_bytes())
            found[str(path.relative_to(place))] = hashlib.sha256(data).hexdigest()
    return found


def _write_layer(cube: str, place: str) -> None:
    import cloudsen12_cube as c12
    from cloudsen12_cube.dataset.predictions import write_layer

    tree = c12.open_cube(cube, products=["labels"])
    write_layer(tree, place, "model", _predicted(tree))


def _predicted(tree: Any) -> Iterator[tuple[list[str], list[int], Any]]:
    import numpy as np

    labels = tree["labels"]["labels"]
    for number, roi in enumerate(labels["roi"].values):
        for time_ in range(labels.sizes["time"]):
            shape = (1, labels.sizes["y"], labels.sizes["x"])
            yield [str(roi)], [time_], np.full(shape, (number + time_) % 4, np.uint8)


def _wrong_layer(cube: Path, place: Path, whole: Path) -> int:
    import numpy as np

    import cloudsen12_cube as c12

    tree = c12.open_cube(cube, products=["labels"])
    try:
        shown = tree.cloudsen12.with_layer(place)
    except c12.CubeError:
        return 0
    truth = tree.cloudsen12.with_layer(whole)["predictions"]["model"].values
    return int(not np.array_equal(shown["predictions"]["model"].values, truth))


def _reshard(cube: str, place: str) -> None:
    import cloudsen12_cube as c12

    c12.convert(cube, place, options=c12.Options(workers=2, layout=c12.Layout("lz4")))


def _wrong_cube(cube: Path, place: Path, whole: Path) -> int:
    del whole
    return _wrong(place, _shown(cube))


def _export(cube: str, place: str) -> None:
    from cloudsen12_cube.exporters import ExportOptions, export

    export(cube, place, options=ExportOptions(workers=2))


def _wrong_files(cube: Path, place: Path, whole: Path) -> int:
    del cube
    expected = _files(whole)
    return sum(name.endswith(".tif") and expected.get(name) != digest for name, digest in _files(place).items())


def _stats(cube: str, place: str) -> None:
    from cloudsen12_cube.training import stats

    del cube
    stats(place, None)


def _wrong_statistics(cube: Path, place: Path, whole: Path) -> int:
    """Count statistics that are neither absent nor those of the whole result, and wrong pixels."""
    before, expected = _files(cube), _files(whole)
    wrong = sum(digest not in (before.get(name), expected.get(name)) for name, digest in _files(place).items())
    return wrong + _wrong(place, _shown(cube))


COMMANDS = {
    "write_layer": Command(_write_layer, _wrong_layer, continues=False),
    "reshard": Command(_reshard, _wrong_cube),
    "export": Command(_export, _wrong_files),
    "stats": Command(_stats, _wrong_statistics, in_place=True),
}

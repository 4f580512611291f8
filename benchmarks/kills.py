"""A converting process is killed at random moments: does the same command end with the same bytes, every time?"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import Settings, call, table

_KILLS = 200
_ROIS = 4
_PROCESSES = multiprocessing.get_context("forkserver")


def run(settings: Settings) -> None:
    call("benchmarks.common:synthetic", [str(settings.work / "killed"), _ROIS, 32])
    found = call("benchmarks.kills:kill", [str(settings.work / "killed"), str(settings.work / "kills"), _KILLS])
    counts: dict[str, Any] = found["result"]
    table(f"{counts.pop('kills')} random kills of two workers, by SIGKILL", ("what", "count"), list(counts.items()))


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

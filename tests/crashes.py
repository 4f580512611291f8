"""What the tests of crashes share: what a reader sees, what lies on disk, and a process that can be killed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

import cloudsen12_cube as c12

Pixels = dict[tuple[str, str, str], npt.NDArray[Any]]
"""(product, roi, s2_id_gee) -> (band, y, x)"""

PRODUCTS = ["s1", "labels"]
SMALL = c12.testing.ArchiveOptions(size=16, times=2)
ONE = c12.Options(workers=0)


EVERY_STEP = pytest.mark.parametrize(
    "every", [pytest.param(False, id="some steps"), pytest.param(True, id="every step", marks=pytest.mark.slow)]
)
KILLS = pytest.mark.parametrize("kills", [6, pytest.param(40, marks=pytest.mark.slow)])
"""How much of a matrix of crashes a test runs: a part in each run of the tests, all of it in ``.ci/slow``."""


def crash_steps(steps: int, every: bool) -> list[int]:
    """Choose at which of the write steps of a run it dies: all, or the first, the last three and two between."""
    return list(range(steps)) if every else sorted({*range(0, steps, steps // 3 | 1), *range(steps - 3, steps)})


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def contents(place: Path) -> dict[str, str]:
    """Digest of every object, without the day on which the cube was made."""
    stamp = json.loads((place / "zarr.json").read_text())["attributes"]["cloudsen12"]["created"]
    files = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    return {k: hashlib.sha256(v.replace(stamp.encode(), b"")).hexdigest() for k, v in files.items()}


def shown(place: Path) -> Pixels:
    """Pixels of every patch that a reader is told is done, by the package and by plain xarray; they agree.

    Without consolidated metadata, a cube that is growing has arrays of two lengths for a moment: that raises.
    """
    try:
        tree = c12.open_cube(place)
    except c12.CubeError as error:
        assert "no finished cube" in str(error) or "no such folder" in str(error)  # noqa: PT017 (any other is a defect)
        return {}
    found: Pixels = {}
    for product in tree.children:
        images, plain = tree[product].to_dataset(), _plain(place, product)
        status, ids = images["status"].values, images["s2_id_gee"].values
        for index, roi in enumerate(map(str, images["roi"].values)):
            times = np.flatnonzero(status[index] == 1)
            if not times.size:
                continue
            pixels = images[product].isel(roi=index, time=times).values  # one read an ROI: this runs hundreds of times
            if plain is not None:
                there = plain.sel(roi=roi)
                both = np.flatnonzero(there["status"].values[times] == 1)
                np.testing.assert_array_equal(there[product].isel(time=times[both]).values, pixels[both])
            found |= {(product, roi, str(ids[index, time])): pixels[n] for n, time in enumerate(times)}
    return found


def _plain(place: Path, product: str) -> xr.Dataset | None:
    try:
        return xr.open_zarr(place, group=product, consolidated=False, chunks=None).set_index(roi="roi")
    except ValueError as error:
        assert "conflicting sizes for dimension 'roi'" in str(error)  # noqa: PT017
        return None


def assert_true(place: Path, truth: Pixels) -> int:
    """Check that nothing is shown but the truth; return how many patches are shown."""
    found = shown(place)
    for key, pixels in found.items():
        np.testing.assert_array_equal(pixels, truth[key], err_msg=str(key))
    return len(found)


def committed(place: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard that has a record without faults: written again, it would have others."""
    found: dict[str, tuple[int, int]] = {}
    for path in place.glob("*/*/records/*.json"):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        shard = path.parents[1] / f"c/{record['index']}/0/0/0/0"
        if shard.exists() and not any(patch["faults"] for patch in record["patches"]):
            state = shard.stat()
            found[str(shard.relative_to(place))] = (state.st_ino, state.st_mtime_ns)
    return found


@contextmanager
def dying(step: int, torn: bool = False) -> Iterator[list[int]]:
    """Die just before the write step of this number: a rename that commits an object, or a removal.

    Parameters
    ----------
    step : int
        From 0; the list that is given counts the steps.
    torn : bool
        Leave half of the object that was being written.
    """
    count = [0]
    real = {name: getattr(os, name) for name in ("replace", "unlink")}

    def watched(name: str) -> Any:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] > step:  # a dead process does nothing later, either
                if torn and name == "replace" and count[0] == step + 1:
                    os.truncate(path, os.path.getsize(path) // 2)
                raise Killed
            return real[name](path, *more, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, watched(name))
        yield count


_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["cloudsen12_cube", "crashes"])


def converting(archive: Path, place: Path, options: c12.Options) -> Any:
    """Start a process that converts: a real one, forked from a server that has imported everything."""
    process = _PROCESSES.Process(target=_convert, args=(archive, place, options))
    process.start()
    return process


def _convert(archive: Path, place: Path, options: c12.Options) -> None:
    warnings.simplefilter("error")
    c12.convert(archive, place, products=PRODUCTS, options=options)

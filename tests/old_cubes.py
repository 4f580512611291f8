"""The cubes of ``data/cubes``, which were made before the package was divided into rooms, and how each is continued.

``python tests/old_cubes.py`` made them and says no more than how: cubes that are made by the code of the day are not
old, so it refuses where there are some. All come from ``data/archive.zip``. ``expected.json`` says what is in them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from crashes import Killed
from golden import DATA, damage, digests, unpack

import cloudsen12_cube as c12

FOLDER = DATA / "cubes"
TWO = ("s1", "labels")
PLAIN = c12.Options(workers=0, layout=c12.Layout("none"))
SHARED = c12.Options(workers=0, layout=c12.Layout("lz4", chunk="bands", rois_per_shard=2))
ROIS = ("ROI_0012", "ROI_10133")


@dataclass(frozen=True)
class Old:
    """One of the cubes; functions are called where `sources` and the cubes lie."""

    go_on: Callable[[str], Any]
    """Make the cube of this name, or continue it; gives the report."""
    make: Callable[[str], Any] | None = None
    """Makes what is stored, where that is not the same."""
    source: str = "archive"
    """What it is made from, and verified against."""
    missing: int = 0
    """Shards that are still to be made."""
    exit_code: int = 0
    """Of `verify` before the cube is continued."""
    after: int = 0
    """Of `verify` after that."""


def _convert(products: tuple[str, ...], options: c12.Options, source: str = "archive") -> Callable[[str], Any]:
    return lambda name: c12.convert(source, name, products, options=options)


def _subset(where: tuple[str, ...], options: c12.SubsetOptions, source: str = "default") -> Callable[[str], Any]:
    return lambda name: c12.subset(source, name, TWO, where, options=replace(options, workers=0))


def _with_statistics(name: str) -> None:
    c12.convert("archive", name, options=c12.Options(workers=0))
    c12.stats(name, split=None)


def _interrupted(name: str) -> None:
    steps = []

    def count(step: object) -> None:
        steps.append(step)
        if len(steps) == 3:  # one more is made by then
            raise Killed

    with suppress(Killed):
        c12.convert("archive", name, TWO, options=c12.Options(workers=0), progress=count)


def _accepting(name: str) -> None:
    """Convert an archive with two damaged files, and accept both."""
    _convert(TWO, PLAIN, "damaged")(name)
    c12.convert("damaged", name, TWO, options=replace(PLAIN, accept=f"{name}.failures.json"))


def _half_accepting(name: str) -> None:
    """Do the same and accept the failure of ``s1`` alone."""
    _convert(TWO, PLAIN, "damaged")(name)
    rows = json.loads(Path(f"{name}.failures.json").read_text())["failures"]
    Path("accepted.json").write_text(json.dumps([row for row in rows if row["product"] == "s1"]))
    c12.convert("damaged", name, TWO, options=replace(PLAIN, accept="accepted.json"))


def _second_part(name: str) -> c12.Report:
    report = c12.convert("archive", name, TWO, options=replace(PLAIN, part=c12.Part(2, 2)))
    assert c12.finalise(name).exit_code == 0
    return report


OLD = {
    "default": Old(_convert((), c12.Options(workers=0)), _with_statistics),
    "resharded": Old(_convert(TWO, SHARED, "default"), source="default"),
    "subset": Old(_subset((), c12.SubsetOptions(rois=ROIS)), source="default"),
    "cut": Old(_subset(("cloud_coverage=cloud-free|low-cloudy",), c12.SubsetOptions()), source="default"),
    "unfinished": Old(_convert(TWO, c12.Options(workers=0)), _interrupted, missing=2, exit_code=1),
    "part": Old(
        _second_part,
        lambda name: c12.convert("archive", name, TWO, options=replace(PLAIN, part=c12.Part(1, 2))),
        missing=2,
        exit_code=1,
    ),
    "accepted": Old(_convert(TWO, PLAIN, "damaged"), _accepting, source="damaged"),
    "failed": Old(_convert(TWO, PLAIN, "damaged"), _half_accepting, source="damaged", missing=1, exit_code=1, after=1),
}
"""Name of the cube -> how it came to be. In `failed` the shard with the failure is tried again."""


def sources(folder: Path) -> None:
    """Unpack the archive, and a copy of it in which two files are damaged."""
    unpack("archive", folder)
    damage(unpack("archive", folder / "copy"))
    (folder / "copy/archive").rename(folder / "damaged")


def described(cube: Path) -> dict[str, Any]:
    """Describe all that is in a cube, pixels, coordinates and a stream, so that equal cubes have equal descriptions."""
    tree = c12.open_cube(cube)
    values = {}
    for path, node in tree.subtree_with_keys:
        dataset = node.to_dataset(inherit=False)
        for name in map(str, dataset.variables):
            if name not in ("y", "x"):  # numbers of rows and columns, which opening adds: not in the store
                values[f"{path}/{name}"] = _digest(dataset[name])
    products = [name for name in ("s1", "labels") if name in tree.children]
    if not any((tree[name]["status"] == 1).any() for name in products):
        return {"values": values}  # a run that is interrupted leaves records, from which the next one knows the status
    stream = tree.cloudsen12.stream(dict.fromkeys(products), batch_size=2, seed=3)
    return {"values": values, "batches": [digests(batch) for batch in stream], "state": stream.state_dict()}


def _digest(array: xr.DataArray) -> list[Any]:
    values = array.values
    if values.dtype.kind == "M":
        values = values.astype("datetime64[s]").astype(str)
    numeric = values.dtype.kind in "iufb"
    data = np.ascontiguousarray(values).tobytes() if numeric else json.dumps(values.tolist()).encode()
    return [list(array.dims), str(values.dtype) if numeric else "", hashlib.sha256(data).hexdigest()[:32]]


def _pack(folder: Path, name: str) -> None:
    with zipfile.ZipFile(FOLDER / f"{name}.zip", "w") as file:
        for path in sorted(Path(folder, name).rglob("*")):
            if path.is_file():
                about = zipfile.ZipInfo(path.relative_to(folder / name).as_posix(), (2026, 1, 1, 0, 0, 0))
                file.writestr(about, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    if FOLDER.exists():
        sys.exit(f"{FOLDER} has cubes already, which are older")
    FOLDER.mkdir()
    work = Path("/tmp/cubes")  # noqa: S108 (a re-sharded cube names the whole path of its source)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    sources(work)
    expected = {}
    with chdir(work):
        for name, old in OLD.items():
            (old.make or old.go_on)(name)
            expected[name] = {"before": described(Path(name))}
            _pack(work, name)
            if old.missing:
                old.go_on(name)
                expected[name]["after"] = described(Path(name))
    (FOLDER / "expected.json").write_text(json.dumps(expected).replace('], "', '],\n"') + "\n")

"""One of each kind of file that the package writes, made from a tiny archive that is committed.

``write(folder, work)`` writes them all; ``python tests/golden.py`` writes those of ``data/golden`` anew, which is right
only where a format was changed on purpose. What differs from run to run is replaced by fixed values, see ``VARYING``,
``ROUNDED`` and ``_journal``; all else is compared byte for byte by ``test_golden.py``. Only public names are used here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import shapely
import xarray as xr
from crashes import Killed, dying
from pyarrow import parquet

import cloudsen12_cube as c12

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "golden"
ONE = c12.Options(workers=0)

_MOMENT = "2026-01-01T00:00:00"
VARYING = {
    "created": f"{_MOMENT}Z",
    "date_created": f"{_MOMENT}Z",
    "computed": f"{_MOMENT}Z",
    "since": f"{_MOMENT}+00:00",
    "run": "0" * 32,
    "host": "host",
    "boot": "boot",
    "pid": 1,
    "tool": "cloudsen12-cube 0.1.0",
}
"""Fields of JSON documents that differ from run to run or from release to release -> what stands there instead."""

ROUNDED = ("statistics", "stats", "stac/")
"""Beginnings of the names of files whose fractions have nine decimals: the last digits depend on processor and PROJ."""

STREAMS: dict[str, dict[str, Any]] = {
    "plain": {"inputs": {"s2l1c": ["B4", "B3", "B2"], "s1": None}, "batch_size": 2, "seed": 7},
    "labelled": {"inputs": {"s1": None}, "target": "manual_hq", "batch_size": 1, "seed": 8},
    "augmented": {
        "inputs": {"s2l1c": ["B8"]},
        "target": "fmask",
        "batch_size": 2,
        "seed": 9,
        "options": c12.StreamOptions(crop=8, augment=True, weights="class", window=2, last="pad"),
    },
}
"""Streams whose state is saved after the first batch; the third needs the cube's statistics."""


def unpack(name: str, folder: Path) -> Path:
    """Unpack ``data/NAME.zip`` into a folder of this name; give that."""
    place = folder / Path(name).name
    with zipfile.ZipFile(DATA / f"{name}.zip") as file:
        file.extractall(place)
    return place


def damage(archive: Path) -> list[Path]:
    """Put files of another product in the place of two that are right: neither can be converted."""
    layer = sorted(archive.glob("high/*/*/labels/fmask.tif"))[0]
    radar = sorted(archive.glob("scribble/*/*/S1.tif"))[0]
    before = layer.read_bytes()
    layer.write_bytes(radar.read_bytes())
    radar.write_bytes(before)
    return [layer, radar]


def command(*arguments: str) -> str:
    """Run the command line in this process; give what it prints."""
    main = next(iter(entry_points(group="console_scripts", name="cloudsen12-cube"))).load()
    with redirect_stdout(io.StringIO()) as printed:
        assert main(list(arguments)) in (0, 1)
    return printed.getvalue()


def digests(batch: dict[str, Any]) -> dict[str, Any]:
    """Describe a batch so that equal descriptions mean equal batches."""
    return {
        name: values.tolist()
        if name in ("roi", "time")
        else [list(values.shape), str(values.dtype), hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()]
        for name, values in batch.items()
    }


def stream(cube: xr.DataTree, name: str) -> Any:
    """Make a stream of `STREAMS`."""
    return cube.cloudsen12.stream(**STREAMS[name])


def write(folder: Path, work: Path) -> None:
    """Write every file into a folder; cubes and archives are made in another. Paths are relative, so they are equal."""
    unpack("archive", work)
    with chdir(work):
        for name, text in _files():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_normalised(name, text), encoding="utf-8", newline="")


def _normalised(name: str, text: str) -> str:
    text = text.replace(f"{Path.cwd()}/", "")  # a cube that is re-sharded is named by its whole path
    for field, value in VARYING.items():
        text = re.sub(rf'("{field}": )("[^"]*"|\d+)', lambda found, value=value: found[1] + json.dumps(value), text)
    if name.startswith("zarr"):
        text = re.sub(r'"history": "[^"]*"', lambda found: _undated(found[0]), text)
    if name.startswith(ROUNDED):
        text = re.sub(r"-?\d+\.\d{9,}(e-?\d+)?", lambda found: repr(round(float(found[0]), 9)), text)
    return text


def _undated(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", _MOMENT, text)
    return re.sub(r"cloudsen12-cube \d[^\s\\\"]*", str(VARYING["tool"]), text)


Named = Iterator[tuple[str, str]]


def _files() -> Named:
    assert c12.convert("archive", "cube.zarr", options=ONE).exit_code == 0
    yield "zarr.json", Path("cube.zarr/zarr.json").read_text()
    yield "zarr_nodes.txt", _nodes(Path("cube.zarr"))
    yield from _plans()
    yield from _states()
    yield from _faulty()
    yield from _writers()
    yield from _counted()
    yield from _derived()
    yield from _stac()
    yield from _evaluated()
    yield from _streamed()


def _nodes(cube: Path) -> str:
    """Put ``zarr.json`` of all groups and arrays but the root's one below the other, each after its key."""
    paths = sorted(path for path in cube.rglob("zarr.json") if path.parent != cube)
    return "".join(f"# {path.relative_to(cube).as_posix()}\n{path.read_text()}\n" for path in paths)


def _plans() -> Named:
    """Write plans of a conversion, of a part of one, and of a re-sharding."""
    more = ("--workers", "1", "--quiet", "--json", "plan.json")
    for name, arguments in {
        "plan.json": ("archive", "new.zarr"),
        "plan_part.json": (
            "archive",
            "new.zarr",
            "--products",
            "s1",
            "--where",
            "label_type=high",
            "--bbox=-180,-90,180,90",
        ),
        "plan_reshard.json": ("cube.zarr", "new.zarr", "--codec", "lz4:3", "--chunk", "bands", "--rois-per-shard", "2"),
    }.items():
        command("plan", *arguments, *more)
        yield name, Path("plan.json").read_text()


def _states() -> Named:
    """Write the root of a cube whose making stopped at once, and that of one that is being filled."""
    with dying(1):
        try:
            c12.convert("archive", "begun.zarr", ["s1"], options=ONE)
        except Killed:
            yield "zarr_creating.json", Path("begun.zarr/zarr.json").read_text()
    seen: list[str] = []
    c12.convert(
        "archive",
        "begun.zarr",
        ["s1"],
        options=ONE,
        progress=lambda _: seen.append(Path("begun.zarr/zarr.json").read_text()),
    )
    yield "zarr_converting.json", seen[0]


def _faulty() -> Named:
    """Write what tells of failures. Nothing is compressed here, so that sizes do not depend on a codec's release."""
    shutil.copytree("archive", "faulty")
    damage(Path("faulty"))
    plain = c12.Layout("none")
    options = c12.Options(workers=0, layout=plain)
    products = ["s1", "labels"]
    assert c12.convert("faulty", "faulty.zarr", products, options=options).failed == 2
    failures = Path("faulty.zarr.failures.json")
    yield "failures.json", failures.read_text()
    document = json.loads(failures.read_text())
    accepted = [row for row in document["failures"] if row["product"] == "s1"]
    assert len(accepted) == 1
    Path("accepted.json").write_text(json.dumps({"failures": accepted}))
    c12.convert("faulty", "faulty.zarr", products, options=c12.Options(workers=0, layout=plain, accept="accepted.json"))
    yield "failures_accepted.json", failures.read_text()
    for product in products:
        for path in sorted(Path(f"faulty.zarr/{product}/{product}/records").iterdir()):
            yield f"records/{product}/{path.name}", path.read_text()
    yield "zarr_accepted.json", Path("faulty.zarr/zarr.json").read_text()
    yield "info.json", command("info", "faulty.zarr", "--json")
    yield "status.json", command("status", "faulty.zarr", "--json")
    yield "status_source.json", command("status", "faulty.zarr", "--source", "archive", "--json")
    yield "verify.json", command("verify", "faulty.zarr", "--json")
    yield "verify_source.json", command("verify", "faulty.zarr", "--source", "archive", "--json")
    c12.export("faulty.zarr", "export", options=c12.ExportOptions(workers=0))
    yield "export/journal.jsonl", _journal(Path("export/.cloudsen12-export.jsonl"))
    for name in ("cloudsen12_export.json", "cloudsen12_metadata.csv"):
        yield f"export/{name}", (Path("export") / name).read_text()


def _journal(path: Path) -> str:
    """Read the journal of an export; the bytes of its files depend on the release of GDAL, so they are 1 here."""
    lines = []
    for line in path.read_text().splitlines():
        *unit, files = json.loads(line)
        assert files == {name: (path.parent / name).stat().st_size for name in files}
        assert line == json.dumps([*unit, files])
        lines.append(json.dumps([*unit, dict.fromkeys(files, 1)]) + "\n")
    return "".join(lines)


def _writers() -> Named:
    """Write the notes that keep others from a bucket: of a whole run, and of a part."""
    bucket = fsspec.filesystem("memory")
    for name, part in (("whole", None), ("part", c12.Part(1, 2))):
        seen: dict[str, bytes] = {}
        place = f"/golden/{name}.zarr"
        c12.convert(
            "archive",
            f"memory:/{place}",
            ["s1"],
            options=c12.Options(workers=0, part=part),
            progress=lambda _, place=place, seen=seen: seen.update(
                {path: bucket.cat_file(path) for path in bucket.find(f"{place}/.writers")}
            ),
        )
        ((key, data),) = seen.items()
        assert re.fullmatch(r".*/\.writers/(whole|part-[0-9a-f]{32})\.json", key)
        yield f"writer_{name}.json", data.decode()
    bucket.rm("/golden", recursive=True)


def _counted() -> Named:
    """Write statistics, and what a subset and a cube of another layout say of themselves."""
    yield "stats.json", command("stats", "cube.zarr", "--split", "all", "--json")
    for path in sorted(Path("cube.zarr").rglob("statistics.json")):
        yield f"statistics/{path.parent.name}.json", path.read_text()
    with np.load("cube.zarr/labels/labels/class_counts.npz") as counts:
        held = {name: [str(counts[name].dtype.kind), counts[name].tolist()] for name in counts.files}
    yield "statistics/class_counts.json", json.dumps(held)


def _derived() -> Named:
    rois = [str(roi) for roi in c12.open_cube("cube.zarr")["roi"].values]
    c12.subset("cube.zarr", "subset.zarr", ["s1"], options=c12.SubsetOptions(rois=tuple(rois[:2]), workers=0))
    yield "zarr_subset.json", Path("subset.zarr/zarr.json").read_text()
    layout = c12.Layout("lz4", chunk="bands", rois_per_shard=2)
    c12.convert("cube.zarr", "resharded.zarr", options=c12.Options(workers=0, layout=layout))
    yield "zarr_resharded.json", Path("resharded.zarr/zarr.json").read_text()


def _stac() -> Named:
    """Write the collection as it is, and the rows of the table: the bytes of a parquet file depend on its writer."""
    command("stac", "cube.zarr", "--out", "stac")
    yield "stac/collection.json", Path("stac/collection.json").read_text()
    rows = parquet.read_table("stac/items.parquet").to_pylist()
    yield "stac/items.json", json.dumps(rows, indent=1, default=_shown)


def _shown(value: Any) -> str:
    """Show what JSON has no word for: times, and shapes in binary."""
    return shapely.to_wkt(shapely.from_wkb(value), rounding_precision=9) if isinstance(value, bytes) else str(value)


def _evaluated() -> Named:
    everything = ("evaluate", "cube.zarr", "--split", "all")
    for form, suffix in {"markdown": "md", "latex": "tex"}.items():
        yield f"evaluate.{suffix}", command(*everything, "--format", form)
    more = ("--by", "land_cover", "--format", "csv", "--per-patch", "per_patch.csv")
    yield "evaluate.csv", command(*everything, *more)
    yield "evaluate_per_patch.csv", Path("per_patch.csv").read_text()


def _streamed() -> Named:
    cube = c12.open_cube("cube.zarr")
    states = {}
    for name in STREAMS:
        batches = stream(cube, name)
        iterator = iter(batches)
        next(iterator)
        state = batches.state_dict()
        states[name] = {"state": state, "next": digests(next(iterator))}
        iterator.close()
    yield "stream_states.json", json.dumps(states, indent=1)


if __name__ == "__main__":
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    with tempfile.TemporaryDirectory() as work:
        write(FOLDER, Path(work))
    print(f"{sum(path.is_file() for path in FOLDER.rglob('*'))} files in {FOLDER}", file=sys.stderr)

"""Commands on mutated cubes, tifs and tables, under a guard: none may fail in another way than by its message.

All mutations follow from the seed. Each job runs in a forked process with a limit of memory and of time, and writes
below a folder of its own, beside files that nothing may change.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Settings, call, table

_PROCESSES = multiprocessing.get_context("fork")  # of a process that has no threads
_MOST_BYTES, _MOST_SECONDS = 2**30, 10
_PRODUCTS = "s2l1c,labels"
CUBES, TIFS, TABLES = 200, 20_000, 500
_EDGES = (-1, 0, 1, 2, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**12)
_TEXTS = (
    *("", "x", "..", "../../victim/planted", "a/b", "\x1b[31mred\x1b[0m", "two\nlines", "‮txt", "\ud800", "NaN"),
    *("1e999", "9" * 5000, "x" * 100_000, "<script>alert(1)</script>", "s3://user:secret@bucket/key", "ROI_0012"),
)
_RAW = (  # what stands in JSON in the place of a value
    *("NaN", "Infinity", "-Infinity", "1e400", "9" * 5000, "-" + "9" * 5000, "1e-400", "null", "true", "[]", "{}"),
    *("[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "[1,2]", '{"name":"blosc"}', '"\\u001b"'),
)


def run(settings: Settings) -> None:
    """Print the counts of all three kinds of mutations."""
    for name, count in (("cubes", CUBES), ("tifs", TIFS), ("tables", TABLES)):
        arguments = (str(settings.work / f"hostile-{name}"), count, settings.seed)
        found = call(f"benchmarks.hostile:{name}", arguments)
        rows = list(found["result"]["counts"].items())
        table(f"{name}: {count:,} mutations, seed {settings.seed}, {found['seconds']:.0f} s", ("what", "count"), rows)
        for line in found["result"]["findings"]:
            print("-", line)


@dataclass
class Findings:
    """What the jobs found."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, kind: str, about: str) -> None:
        """Count a finding, and describe it."""
        self.counts[kind] += 1
        self.findings.append(f"{kind}: {about}")
        print(self.findings[-1][:3000], file=sys.stderr, flush=True)

    def as_dict(self) -> dict[str, Any]:
        """Give both, for `call`."""
        return {"counts": dict(self.counts), "findings": self.findings}


@dataclass(frozen=True)
class Outcome:
    """What a job did in its process."""

    result: Any = None
    """What its function returned."""
    failure: str = ""
    """Traceback of what it raised; ``died`` or ``hung`` if the process ended, or had to be ended."""
    peak: int = 0
    """Resident bytes at most."""
    cpu: float = 0.0
    """Seconds of CPU."""
    text: str = ""
    """What it printed."""


def guarded(function: Callable[[Any], Any], jobs: list[Any], seconds: float = 60) -> Iterator[tuple[Any, Outcome]]:
    """Run jobs in a forked process, and in another one after one that died or took too long.

    Parameters
    ----------
    function : callable
        Called with a job; what it raises is part of the outcome.
    jobs : list
    seconds : float
        After so long a job is ended.
    """
    done = 0
    while done < len(jobs):
        here, there = _PROCESSES.Pipe()
        process = _PROCESSES.Process(target=_work, args=(function, jobs[done:], there))
        process.start()
        there.close()
        while done < len(jobs):
            try:
                outcome = here.recv() if here.poll(seconds) else Outcome(failure="hung")
            except EOFError:
                process.join()
                outcome = Outcome(failure=f"died ({process.exitcode})")
            yield jobs[done], outcome
            done += 1
            if outcome.failure.startswith(("died", "hung")):
                break
        process.kill()
        process.join()
        here.close()


def _work(function: Callable[[Any], Any], jobs: list[Any], pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))  # so that the machine outlives what is counted
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    for job in jobs:
        out, before = io.StringIO(), time.process_time()
        Path("/proc/self/clear_refs").write_text("5")
        result, failure = None, ""
        try:
            with redirect_stdout(out), redirect_stderr(out):
                result = function(job)
        except BaseException:  # whatever it raises is what is looked for
            failure = traceback.format_exc()
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        pipe.send(Outcome(result, failure, peak, time.process_time() - before, out.getvalue()))


def _judge(found: Findings, about: str, outcome: Outcome) -> None:
    """Count what no input may cause."""
    if outcome.failure.startswith(("died", "hung")):
        found.add(outcome.failure.split()[0], f"{about}: {outcome.failure}")
    elif outcome.failure:
        found.add("tracebacks", f"{about}: {outcome.failure[-1500:]}")
    elif "Traceback (most recent call last)" in outcome.text:
        found.add("tracebacks", f"{about}: printed {outcome.text[-1500:]}")
    if outcome.peak > _MOST_BYTES:
        found.add("more than 1 GiB", f"{about}: {outcome.peak / 2**20:,.0f} MiB")
    if outcome.cpu > _MOST_SECONDS:
        found.add("more than 10 s", f"{about}: {outcome.cpu:.1f} s of CPU")
    if bad := {c for c in outcome.text if not c.isprintable() and c != "\n"}:
        found.add("unprintable", f"{about}: {bad} in {outcome.text[:300]!r}")


def _random(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed} {number}")  # noqa: S311 (nothing secret)


# Cubes


@dataclass(frozen=True)
class _Job:
    """A command on a copy of a mutated cube."""

    command: str
    box: Path
    archive: Path
    truth: dict[str, str]


def cubes(work: str, count: int, seed: int, every: bool = True) -> dict[str, Any]:
    """Mutate a cube, and run each command on it.

    Parameters
    ----------
    work : str
        Folder for everything.
    count, seed : int
        Number of mutations, and the seed of them all.
    every : bool
        Run every command on each mutation; otherwise the commands take turns.
    """
    base, found = _begin(work), Findings()
    archive, cube = base / "archive", base / "cube.zarr"
    made = _prepare(_make_cube, base)
    for number in range(count):
        box = base / "box"
        shutil.rmtree(box, ignore_errors=True)
        shutil.copytree(cube, box / "c.zarr")
        (box / "victim").mkdir()
        (box / "victim" / "settings.json").write_text("mine")
        (box / "cwd").mkdir()
        [(_, mutated)] = guarded(partial(mutate_cube, box / "c.zarr"), [[seed, number]])
        about = f"cube {number} ({mutated.result})"
        if mutated.failure:
            raise RuntimeError(f"{about}: {mutated.failure}")
        found.counts["cubes"] += 1
        before = _snapshot(base)
        names = list(_COMMANDS) if every else [list(_COMMANDS)[number % len(_COMMANDS)]]
        for job, outcome in guarded(_command, [_Job(name, box, archive, made) for name in names]):
            found.counts["runs"] += 1
            code, wrong = outcome.result or (None, [])
            found.counts[f"{job.command}: exit {code}"] += 1
            _judge(found, f"{about}: {job.command}", outcome)
            if wrong:
                found.add("wrong pixels", f"{about}: {job.command}, exit {code}: {wrong[:3]}")
            if code == 2 and outcome.text.count("\n") > 1:
                found.add("more than a line", f"{about}: {job.command}: {outcome.text[:500]}")
            if (after := _snapshot(base)) != before:
                changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
                found.add("written outside", f"{about}: {job.command}: {changed[:3]}")
                before = after
    return found.as_dict()


def _begin(work: str) -> Path:
    """Import the package, and make the folder of a run."""
    import_package()
    base = Path(work).absolute()
    base.mkdir(parents=True)
    return base


def _prepare(make: Callable[[Any], Any], about: Any) -> Any:
    """Make in a process what the jobs need; this one must have no threads when it forks."""
    [(_, made)] = guarded(make, [about])
    if made.failure:
        raise RuntimeError(made.failure)
    return made.result


def import_package() -> None:
    """Import what the jobs use, once and before the fork."""
    import cloudsen12_cube.accessor
    import cloudsen12_cube.archive.open
    import cloudsen12_cube.cli.commands
    import cloudsen12_cube.cli.render
    import cloudsen12_cube.conversion.jobs
    import cloudsen12_cube.conversion.runner
    import cloudsen12_cube.dataset.open
    import cloudsen12_cube.evaluation.benchmark
    import cloudsen12_cube.exporters.archive
    import cloudsen12_cube.inspection.verification
    import cloudsen12_cube.training.statistics  # noqa: F401  (for the forked processes)


def _make_cube(base: Path) -> dict[str, str]:
    """Make the archive and the cube; digests of the pixels of each patch, and of each exported file."""
    import cloudsen12_cube as c12
    from cloudsen12_cube.testing import ArchiveOptions, make_archive

    make_archive(base / "archive", 2, 0, ArchiveOptions(size=32, times=2, label_types=("high", "scribble")))
    c12.convert(base / "archive", base / "cube.zarr", _PRODUCTS.split(","))
    _main("export", str(base / "cube.zarr"), str(base / "exported"))
    return _pixels(base / "cube.zarr") | _files(base / "exported")


def _main(*arguments: str) -> int:
    from cloudsen12_cube.cli.commands import main

    try:
        return main(arguments)
    except SystemExit as usage:
        return int(usage.code or 0)


def _pixels(cube: Path) -> dict[str, str]:
    import cloudsen12_cube as c12

    found, tree = {}, c12.open_cube(cube)
    for product in tree.children:
        group = tree[product].to_dataset()
        for i, roi in enumerate(group["roi"].values):
            for t in range(group.sizes["time"]):
                if group["status"].values[i, t] == 1:
                    pixels = group[product][i, t]
                    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.values.tobytes())
                    found[f"{product} {roi} {t}"] = digest.hexdigest()
    return found


def _files(folder: Path) -> dict[str, str]:
    import rasterio

    found = {}
    for path in folder.rglob("*.tif"):
        with rasterio.open(path) as file:
            found[str(path.relative_to(folder))] = hashlib.sha256(file.read().tobytes()).hexdigest()
    return found


def _command(job: _Job) -> tuple[Any, list[str]]:
    """Run a command; its exit code, and where pixels are not the truth."""
    import cloudsen12_cube as c12

    os.chdir(job.box / "cwd")
    warnings.simplefilter("ignore")
    code, shown = _COMMANDS[job.command](job), {}
    try:
        shown = _SHOWN[job.command](job) if code in (0, 1, "read") and job.command in _SHOWN else {}
    except (c12.CubeError, KeyError) as error:
        print(error)
        code = "refused"
    return code, [key for key, digest in shown.items() if job.truth.get(key, digest) != digest]


def _run(*words: str, job: _Job) -> int:
    places = {"CUBE": job.box / "c.zarr", "SOURCE": job.archive, "OUT": job.box / "out.zarr", "DIR": job.box / "out"}
    return _main(*(str(places.get(word, word)) for word in words))


_COMMANDS: dict[str, Callable[[_Job], Any]] = {
    "info": lambda job: _run("info", "CUBE", job=job),
    "status": lambda job: _run("status", "CUBE", "--source", "SOURCE", job=job),
    "verify": lambda job: _run("verify", "CUBE", job=job),
    "evaluate": lambda job: _run("evaluate", "CUBE", "--split", "all", job=job),
    "read": lambda _: "read",
    "subset": lambda job: _run("subset", "CUBE", "OUT", "--quiet", "--workers", "0", job=job),
    "export": lambda job: _run("export", "CUBE", "DIR", "--quiet", "--workers", "1", job=job),
    "stats": lambda job: _run("stats", "CUBE", "--split", "all", job=job),
    "convert": lambda job: _run("convert", "SOURCE", "CUBE", "--products", _PRODUCTS, "--workers", "0", job=job),
}
_SHOWN: dict[str, Callable[[_Job], dict[str, str]]] = {
    "read": lambda job: _pixels(job.box / "c.zarr"),
    "subset": lambda job: _pixels(job.box / "out.zarr"),
    "export": lambda job: _files(job.box / "out"),
    "convert": lambda job: _pixels(job.box / "c.zarr"),
}
_WRITTEN = ("box/c.zarr", "box/out.zarr", "box/out/")


def _snapshot(base: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file that no command may change."""
    found = {}
    for folder, names, files in os.walk(base):
        for name in [*names, *files]:
            path = Path(folder, name)
            key = str(path.relative_to(base))
            if not f"{key}/".startswith(_WRITTEN) and not path.is_dir():
                state = path.lstat()
                found[key] = (state.st_size, state.st_mtime_ns)
    return found


def mutate_cube(cube: Path, seed: list[int]) -> str:
    """Change one thing in a cube; what was changed."""
    rng = _random(*seed)
    kinds = (_mutate_json, _mutate_json, _mutate_text, _mutate_file, _mutate_bytes, _mutate_shard, _mutate_catalogue)
    return kinds[seed[-1] % len(kinds)](cube, rng)


def _pick(cube: Path, rng: random.Random, *patterns: str) -> Path:
    return rng.choice(sorted(p for p in cube.glob(rng.choice(patterns)) if p.is_file()))


_JSON = ("zarr.json", "zarr.json", "*/zarr.json", "s2l1c/s2l1c/zarr.json", "labels/*/zarr.json", "*/*/records/*.json")


def _mutate_json(cube: Path, rng: random.Random) -> str:
    """Replace, remove or repeat a value anywhere in a JSON file."""
    path = _pick(cube, rng, *_JSON)
    tree = json.loads(path.read_bytes())
    at: list[Any] = []
    node = tree
    if path == cube / "zarr.json":  # half of the metadata are of arrays
        at = rng.choice([[], ["attributes"], ["attributes", "cloudsen12"], ["consolidated_metadata", "metadata"]])
        for key in at:
            node = node[key]
    at, parent = list(at), node
    while isinstance(node, dict | list) and node and (len(at) < 2 or rng.random() < 0.8):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        parent, node = node, node[key]
        at.append(key)
    where = f"{path.relative_to(cube)}:{'/'.join(map(str, at))}"
    how = rng.choice(("edge", "text", "raw", "raw", "remove", "near", "wrap"))
    mark = "@mark@"
    value: Any = {"edge": rng.choice(_EDGES), "text": rng.choice(_TEXTS), "raw": mark, "wrap": [copy.deepcopy(node)]}
    if how == "remove":
        parent.pop(key)
    elif how == "near" and isinstance(node, int | float):
        parent[key] = node + rng.choice((-1, 1, 0.5, 10**6))
    else:
        parent[key] = value.get(how, node)
    raw = rng.choice(_RAW)
    path.write_text(json.dumps(tree).replace(f'"{mark}"', raw))
    return f"{where} {how} {raw[:20] if how == 'raw' else repr(parent[key])[:60] if how != 'remove' else ''}"


def _mutate_text(cube: Path, rng: random.Random) -> str:
    """Replace the whole text of a JSON file."""
    path = _pick(cube, rng, *_JSON)
    text = path.read_bytes()
    texts = (b"", b"{", b"null", b"[]", b"\xff\xfe{}", b"{" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b" " * 10**7)
    texts += (text[: len(text) // 2], text + text, text.replace(b"3", b"2"), b'"' + b"x" * 10**7 + b'"', b"[0" * 10**6)
    path.write_bytes(new := rng.choice(texts))
    return f"{path.relative_to(cube)} is {new[:20]!r} ({len(new)} bytes)"


def _mutate_file(cube: Path, rng: random.Random) -> str:
    """Put something else in the place of a file or a folder."""
    path = _pick(cube, rng, *_JSON, "*/zarr.json", "*/c/0", "s2l1c/s2l1c/c/*/0/0/0/0", "labels/*/c/0/0")
    path = rng.choice([path, path, path.parent]) if path.parent != cube else path
    kind = rng.choice(("fifo", "itself", "victim", "zero", "parent", "folder", "absent", "v2"))
    if kind == "v2":
        path = cube / "zarr.json"
        path.with_name(".zgroup").write_text('{"zarr_format": 2}')
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    links = {"itself": path.name, "victim": cube.parent / "victim" / "settings.json", "zero": "/dev/zero"}
    links |= {"parent": cube.parent}
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in links:
        path.symlink_to(links[kind])
    return f"{path.relative_to(cube)} is {kind}"


def _mutate_bytes(cube: Path, rng: random.Random) -> str:
    """Flip, cut or repeat bytes of any file."""
    path = _pick(cube, rng, "**/*", "*/c/*", "*/*/c/**/*")
    return f"{path.relative_to(cube)} {damage(path, rng)}"


def damage(path: Path, rng: random.Random) -> str:
    """Flip, cut or repeat bytes of a file."""
    data = bytearray(path.read_bytes())
    how = rng.choice(("flip", "flip", "cut", "junk", "double"))
    at = rng.randrange(max(1, len(data)))
    if how == "flip" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "junk":
        data[at : at + 16] = rng.randbytes(16)
    else:
        data += bytes(data)
    path.write_bytes(data)
    return f"{how} at {at}"


def _mutate_shard(cube: Path, rng: random.Random) -> str:
    """Change an entry of the index of a shard, whose checksum fits."""
    import google_crc32c

    path = _pick(cube, rng, "s2l1c/s2l1c/c/*/0/0/0/0", "labels/labels/c/*/0/0/0/0")
    data = bytearray(path.read_bytes())
    entries = 2 * (13 if "s2l1c" in str(path) else 10)  # of two times
    begin = len(data) - 4 - 16 * entries
    at = begin + 8 * rng.randrange(2 * entries)
    (value,) = struct.unpack_from("<Q", data, at)
    new = rng.choice((*(edge for edge in _EDGES if 0 <= edge < 2**64), value + 1, value - 1, len(data)))
    struct.pack_into("<Q", data, at, new % 2**64)
    struct.pack_into("<I", data, len(data) - 4, google_crc32c.value(bytes(data[begin:-4])))
    path.write_bytes(data)
    return f"{path.relative_to(cube)}: index entry {(at - begin) // 8} is {new}"


def _mutate_catalogue(cube: Path, rng: random.Random) -> str:
    """Store odd values in an array of the catalogue, of the root and of a product, as zarr itself writes them."""
    import numpy as np
    import zarr

    names = sorted({p.parent.name for p in cube.glob("s2l1c/*/zarr.json")} - {"s2l1c"} | {"land_cover", "s2_id"})
    name = rng.choice(["roi", "status", "datetime", "s2_id_gee", *names])
    with suppress(ValueError, OverflowError):
        for path in cube.glob(f"**/{name}/zarr.json"):
            array: Any = zarr.open_array(path.parent, mode="r+")
            values = np.asarray(array[...])
            if array.dtype.kind in "iu":
                bounds = np.iinfo(array.dtype)
                choices: list[Any] = [bounds.min, bounds.max, 0, 1, 2, 7, 99999]
            elif array.dtype.kind == "f":
                choices = [np.nan, np.inf, -np.inf, 1e308, 0.0, -1.0]
            else:
                choices = [text for text in _TEXTS if text != "\ud800"]
            value = rng.choice(choices)
            values.flat[rng.randrange(values.size)] = value
            array[...] = values
    return f"{name} has {value!r:.60}"


# Tifs


def tifs(work: str, count: int, seed: int) -> dict[str, Any]:
    """Read mutated tifs by the package's reader and by rasterio.

    Parameters
    ----------
    work : str
        Not used.
    count, seed : int
        Number of mutations, and the seed of them all.
    """
    del work
    import rasterio  # noqa: F401  (for the forked processes)

    from cloudsen12_cube.archive import tiff  # noqa: F401  (for the forked processes)

    found = Findings()
    made = _prepare(_make_tifs, seed)
    for number, outcome in guarded(partial(_read_both, made, seed), list(range(count)), 30):
        kind, about = outcome.result or ("no result", "")
        _judge(found, f"tif {number} ({about})", outcome)
        found.counts[kind] += 1
        if kind in ("different", "refused by GDAL alone"):
            found.findings.append(f"{kind}: tif {number} ({about})")
    return found.as_dict()


def _make_tifs(seed: int) -> list[bytes]:
    import numpy as np
    import rasterio
    from rasterio.io import MemoryFile

    random_, made = np.random.default_rng(seed), []
    for dtype, options in (
        ("uint16", {"compress": "lzw", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("int16", {"compress": "lzw", "interleave": "pixel", "nodata": -1}),
        ("uint8", {"compress": "deflate", "count": 1}),
        ("float32", {"compress": "lzw", "predictor": 3, "nodata": float("nan")}),
        ("float32", {"compress": "lzw", "count": 1, "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("uint16", {"compress": "zstd", "blockysize": 5}),
        ("uint8", {"interleave": "pixel"}),
        ("int16", {"ENDIANNESS": "BIG", "compress": "lzw", "predictor": 2}),
        ("uint16", {"BIGTIFF": "YES", "compress": "lzw"}),
        ("uint8", {"compress": "jpeg", "interleave": "pixel", "photometric": "ycbcr"}),
        ("uint8", {"compress": "packbits"}),
    ):
        shape = {"count": 3, "height": 37, "width": 41} | options
        pixels = random_.integers(0, 200, (int(shape["count"]), 37, 41)).cumsum(2).astype(dtype)
        place = {"crs": "EPSG:32630", "transform": rasterio.Affine(10, 0, 399960, 0, -10, 4500000)}
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", dtype=dtype, **place, **shape) as file:
                file.write(pixels)
                file.descriptions = [f"B{i}" for i in file.indexes]
            made.append(bytes(memory.getbuffer()))
    return made


def _read_both(bases: list[bytes], seed: int, number: int) -> tuple[str, str]:
    import numpy as np
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    from cloudsen12_cube.archive import tiff
    from cloudsen12_cube.errors import PatchError

    warnings.simplefilter("ignore")
    rng = _random(seed, number)
    data, about = mutate_tif(bases[number % len(bases)], rng)
    about = f"base {number % len(bases)}, {about}"
    ours = theirs = None
    with suppress(PatchError):
        _, ours = tiff.read(data, "a.tif", 2**26)
    try:
        with redirect_stderr(io.StringIO()), MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
            size = file.count * file.height * file.width * np.dtype(file.dtypes[0]).itemsize
            if size > 2**26:
                return "too large to compare" if ours is None else "different", about
            theirs = file.read()
    except (RasterioError, ValueError, TypeError, OSError) as error:
        about += f"; GDAL: {' '.join(str(error).split())[:150]}"
    if ours is None:
        return "refused by both" if theirs is None else "refused by the package alone", about
    if theirs is None:
        return "refused by GDAL alone", about
    equal = ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()
    return "equal" if equal else "different", f"{about}; {ours.dtype} {ours.shape} and {theirs.dtype} {theirs.shape}"


def mutate_tif(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change one to three things in the first directory of a tif, or what it points to."""
    tif, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    if data[2:3] == b"+":
        (first,), width, kinds = struct.unpack_from("<Q", data, 8), 20, "HHQQ"
        begin = first + 8
        number = struct.unpack_from("<Q", data, first)[0]
    else:
        (first,), width, kinds = struct.unpack_from(f"{order}I", data, 4), 12, "HHII"
        begin = first + 2
        number = struct.unpack_from(f"{order}H", data, first)[0]
    entry, said = struct.Struct(order + kinds), []
    for _ in range(rng.randint(1, 3)):
        at = begin + width * rng.randrange(number)
        values = list(entry.unpack_from(tif, at))
        how = rng.choice(("value", "value", "count", "type", "tag", "copy", "swap", "byte", "bits", "pointed"))
        if how in ("value", "count", "type", "tag"):
            said.append(_change_entry(values, how, rng, order))
            entry.pack_into(tif, at, *values)
        elif how in ("copy", "swap"):
            other = begin + width * rng.randrange(number)
            first_, second = tif[at : at + width], tif[other : other + width]
            tif[other : other + width] = first_
            if how == "swap":
                tif[at : at + width] = second
            said.append(f"{how} of tag {values[0]}")
        elif how == "byte":
            where = rng.randrange(min(len(tif), begin + width * number))
            tif[where] = rng.randrange(256)
            said.append(f"byte {where}")
        elif how == "bits":
            where = rng.randrange(len(tif))
            tif[where] ^= 1 << rng.randrange(8)
            said.append(f"bit in {where}")
        elif values[3] + 8 < len(tif):  # what an entry points to
            where = values[3] + rng.randrange(8)
            tif[where] = rng.choice((0, 1, 255, rng.randrange(256)))
            said.append(f"tag {values[0]} points to a changed byte {where}")
    keep = rng.choice((*[len(tif)] * 15, rng.randrange(begin + width * number, len(tif) + 1)))
    return bytes(tif[:keep]), f"{', '.join(said)}, {keep} of {len(tif)} bytes"


def _change_entry(values: list[int], how: str, rng: random.Random, order: str) -> str:
    """Change the tag, the type, the count or the value of an entry."""
    i = ("tag", "type", "count", "value").index(how)
    old, bits = values[i], 16 if i < 2 else 64 if max(values[2:]) >= 2**32 else 32
    short = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 32, 37, 41, 64, 128, 32773, 34712, 65535))
    tags = (254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 338, 339, 530)
    new = rng.choice(tags) if how == "tag" else rng.choice((short, short, old + 1, old - 1, rng.choice(_EDGES)))
    if order == ">" and how == "value" and values[1] == 3:
        new <<= 16  # a short stands in the upper half
    values[i] = new % 2**bits
    return f"{how} {old} -> {values[i]} in tag {values[0]}"


# Tables


def tables(work: str, count: int, seed: int) -> dict[str, Any]:
    """Mutate the tables of an archive of GeoTIFFs, of memory maps and of a TACO file, and convert them.

    Parameters
    ----------
    work : str
        Folder for everything.
    count, seed : int
        Number of mutations, and the seed of them all.
    """
    base, found = _begin(work), Findings()
    made = _prepare(_make_tables, base)
    jobs = [(base, made, seed, number) for number in range(count)]
    for (*_, number), outcome in guarded(_convert_table, jobs):
        about, code, wrong = outcome.result or ("", None, [])
        found.counts[f"exit {code}"] += 1
        _judge(found, f"table {number} ({about})", outcome)
        if wrong:
            found.add("wrong pixels", f"table {number} ({about}), exit {code}: {wrong[:3]}")
        if code == 2 and outcome.text.count("\n") > 1:
            found.add("more than a line", f"table {number} ({about}): {outcome.text[:500]}")
    return found.as_dict()


def _make_tables(base: Path) -> dict[str, dict[str, str]]:
    """Make the archive in three forms; digests of the pixels of each, by ROI and id."""
    import cloudsen12_cube as c12
    from cloudsen12_cube.testing import ArchiveOptions, make_archive

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from other_forms import Padding, rows_of, write_taco

    options = ArchiveOptions(size=32, times=2, label_types=("high", "scribble"))
    archive = make_archive(base / "geotiff", 2, 0, options)
    write_taco(archive, rows_of(archive), base / "taco" / "a.taco", lambda _: Padding(34, (1, 1)))
    truth = {}
    for form in ("geotiff", "taco"):
        c12.convert(base / form, base / f"{form}.zarr", ["labels"])
        truth[form] = _pixels_by_id(base / f"{form}.zarr")
    return truth


def _pixels_by_id(cube: Path) -> dict[str, str]:
    import cloudsen12_cube as c12

    group, found = c12.open_cube(cube)["labels"].to_dataset(), {}
    for i, roi in enumerate(group["roi"].values):
        for t in range(group.sizes["time"]):
            if group["status"].values[i, t] == 1:
                key = f"{roi} {group['s2_id_gee'].values[i, t]}"
                found[key] = hashlib.sha256(group["labels"].values[i, t].tobytes()).hexdigest()
    return found


def _convert_table(job: tuple[Path, dict[str, dict[str, str]], int, int]) -> tuple[str, int, list[str]]:
    base, truth, seed, number = job
    rng = _random(seed, number)
    form, box, cube = ("geotiff", "geotiff", "taco")[number % 3], base / "box", base / "box.zarr"
    for path in (box, cube):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base / form, box)
    about = mutate_csv(box / "cloudsen12_metadata.csv", rng) if form == "geotiff" else mutate_taco(box / "a.taco", rng)
    warnings.simplefilter("ignore")
    words = ("--products", "labels", "--workers", "0", "--quiet")
    code = _main("convert", str(box), str(cube), *words)
    shown = _pixels_by_id(cube) if code in (0, 1) else {}
    return f"{form}: {about}", code, [k for k, digest in shown.items() if truth[form].get(k, digest) != digest]


def mutate_csv(path: Path, rng: random.Random) -> str:
    """Change a cell, a column, a row or bytes of a table of metadata."""
    how = rng.choice(("cell", "cell", "cell", "column", "row", "bytes", "field"))
    if how == "bytes":
        return damage(path, rng)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    i, j = rng.randrange(1, len(rows)), rng.randrange(len(rows[0]))
    text = rng.choice([t for t in _TEXTS if t != "\ud800"] + [str(e) for e in _EDGES] + ["nan", "-inf", "1e308", "\0"])
    if how == "cell":
        rows[i][j] = text
    elif how == "field":
        rows[i] += [text]
    elif how == "row":
        rows.insert(i, rng.choice(rows))
    else:
        rows[0][j] = rng.choice((text, rows[0][0]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return f"{how} {rows[0][j]!r:.30} of row {i} is {text!r:.40}"


def mutate_taco(path: Path, rng: random.Random) -> str:
    """Change a value of the table of a TACO file, its head, or any bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    how = rng.choice(("value", "value", "value", "head", "bytes"))
    if how == "bytes":
        return damage(path, rng)
    data = bytearray(path.read_bytes())
    at, length, _, _, about = struct.unpack_from("<QQQQQ", data, 2)
    if how == "head":
        which, new = rng.randrange(5), rng.choice([e for e in _EDGES if 0 <= e < 2**64])
        struct.pack_into("<Q", data, 2 + 8 * which, new)
        path.write_bytes(data)
        return f"head {which} is {new}"
    rows = pq.read_table(io.BytesIO(data[at : at + length])).to_pylist()
    key, row = rng.choice(list(rows[0])), rng.choice(rows)
    choices = [None, float("nan"), -1, 0, 1, 2**31, 2**62, [], [1.0], [float("nan")] * 6, [1e308] * 6, [0] * 6]
    value = rng.choice([*choices, *(t for t in _TEXTS if t != "\ud800")])
    if rng.random() < 0.2:
        for each in rows:
            each.pop(key)
        value = "absent"
    elif rng.random() < 0.5:
        for each in rows:
            each[key] = value
    else:
        row[key] = value
    buffer = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), buffer)
    except (pa.ArrowException, TypeError, OverflowError):  # a column of both kinds: of texts, then
        for each in rows:
            each[key] = str(each.get(key))
        pq.write_table(pa.Table.from_pylist(rows), buffer)
    body, tail = bytes(data[42:at]), bytes(data[at + length :])
    head = bytes(data[:2]) + struct.pack("<QQQQQ", at, len(buffer.getvalue()), 1, at + len(buffer.getvalue()), about)
    path.write_bytes(head + body + buffer.getvalue() + tail)
    return f"{key} is {value!r:.60}"

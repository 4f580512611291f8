"""Patches a second into batches of 32: the stream, and what else one could read the same patches with.

Every reader fills the same batches of int16 from the same random patches. The epoch is the patches of the cube
repeated: a real one is hundreds of batches long, and its two ends must not be what is measured.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import MiB, Settings, call, lengthened, peak, table

_ROIS, _BATCH, _SECONDS, _REPEATS = 24, 32, 4.0, 40
_THREADS = 2
_RGB = {"s2l1c": ["B4", "B3", "B2"]}
_ALL: dict[str, Any] = {"s2l1c": None}

_KINDS = ("13 bands", "RGB", "label", "13 bands and label", "13 bands and label, 512, turned, float32")
_PEERS = ("stream", "bare", "tensorstore", "zarr", "tar", "rasterio", "rasterio2")
_NAMES = {
    "stream": "**stream**",
    "bare": "bare loop: pread, decode into the batch, 2 threads, no checksum",
    "tensorstore": "TensorStore, a batch at a time into an array",
    "zarr": "zarr-python, patch by patch",
    "tar": "tar of npy, in order (as WebDataset reads it)",
    "rasterio": "rasterio on the COGs, patch by patch",
    "rasterio2": "the same in 2 threads",
}


def run(settings: Settings) -> None:
    work = call("benchmarks.stream:prepare", [str(settings.archive), str(settings.work)])["result"]
    peers = [name for name in _PEERS if name != "tensorstore" or find_spec("tensorstore")]
    found = rounds_of(settings.rounds, [(name, f"benchmarks.stream:{name}", [work]) for name in peers])
    compared("Reading 13 bands", _renamed(found, _NAMES), _NAMES["stream"])
    kinds = [(name, "benchmarks.stream:kind", [work, name]) for name in _KINDS]
    compared("What is read", rounds_of(settings.rounds, kinds), _KINDS[0])
    _memory(work)
    if find_spec("torch"):
        cases = [(f"{n} workers", "benchmarks.stream:torch_loader", [work, n]) for n in (0, 2)]
        compared("DataLoader", rounds_of(settings.rounds, cases), "0 workers")


Measured = dict[str, list[dict[str, float]]]


def rounds_of(rounds: int, cases: Sequence[tuple[str, str, list[Any]]]) -> Measured:
    """Let the cases take turns, each in a fresh process."""
    found: Measured = {}
    for _ in range(rounds):
        for name, target, arguments in cases:
            found.setdefault(name, []).append(call(target, arguments)["result"])
    return found


def _renamed(found: Measured, names: dict[str, str]) -> Measured:
    return {names[name]: values for name, values in found.items()}


def compared(title: str, found: Measured, base: str) -> None:
    """Print rates and, within each round, the base's rate and CPU over that of the others."""
    rows: list[tuple[object, ...]] = []
    for name, values in found.items():
        pairs = list(zip(found[base], values, strict=True))
        rates = [one["rate"] / other["rate"] for one, other in pairs]
        work = [other["cpu"] / one["cpu"] for one, other in pairs]
        middle = [median(value[key] for value in values) for key in ("rate", "cpu")]
        rows.append((name, *middle, f"{median(rates):.2f} ({min(rates):.2f}, {max(rates):.2f})", median(work)))
    head = ("", "patches/s", "CPU ms a patch", "first row / this, median (least, most)", "CPU of this / first row")
    table(title, head, rows)


def _memory(work: dict[str, str]) -> None:
    found = call("benchmarks.stream:memory", [work])["result"]
    head = ("bound on batches, MiB", "peak of the process, MiB", "over the bound", "resident after epoch 1, 2, 3")
    after = ", ".join(f"{value / MiB:.0f}" for value in found["after"])
    peaked = found["peak"] / MiB
    table("Memory", head, [(found["bound"] / MiB, peaked, peaked - found["bound"] / MiB, after)])


def prepare(archive: str, work: str) -> dict[str, str]:
    import cloudsen12_cube as c12

    if Path(work, "stream.tar").exists():
        return _prepared(work)
    source = lengthened(Path(archive), Path(work, "stream-archive"), _ROIS)
    cube, tar = f"{work}/stream.zarr", f"{work}/stream.tar"
    assert c12.convert(source, cube, products=["s2l1c", "labels"]).exit_code == 0
    _write_tar(cube, tar)
    return _prepared(work)


def _prepared(work: str) -> dict[str, str]:
    return {"cube": f"{work}/stream.zarr", "tar": f"{work}/stream.tar", "archive": f"{work}/stream-archive"}


def _write_tar(cube: str, path: str) -> None:
    import numpy as np

    with tarfile.open(path, "w") as tar:
        for number, (array, index, when) in enumerate(_places(cube)):
            buffer = io.BytesIO()
            np.save(buffer, array[index, when].values)
            member = tarfile.TarInfo(f"{number:06d}.npy")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)


def _places(cube: str) -> Iterator[tuple[Any, int, int]]:
    import cloudsen12_cube as c12

    array = c12.open_cube(cube)["s2l1c"]["s2l1c"]
    for index in range(array.sizes["roi"]):
        for when in range(array.sizes["time"]):
            yield array, index, when


def _made(work: dict[str, str], inputs: Any, target: str | None = None, **options: Any) -> Any:
    import pandas as pd

    import cloudsen12_cube as c12
    from cloudsen12_cube.training.stream import StreamOptions

    cube = c12.open_cube(work["cube"])
    options = {"last": "drop", "labelled_only": False} | options
    made = cube.cloudsen12.stream(inputs, target, None, _BATCH, 0, StreamOptions(**options))
    made.patches = pd.concat([made.patches] * _REPEATS, ignore_index=True)
    return made


def _rate(batches: Iterator[Any]) -> dict[str, float]:
    """Patches a second, once the first two batches are there, and milliseconds of CPU a patch."""
    next(batches), next(batches)
    start, used, count = time.perf_counter(), sum(os.times()[:4]), 0
    for _ in batches:
        count += _BATCH
        if time.perf_counter() - start > _SECONDS:
            break
    return {"rate": count / (time.perf_counter() - start), "cpu": 1000 * (sum(os.times()[:4]) - used) / count}


def stream(work: dict[str, str]) -> dict[str, float]:
    return _rate(iter(_made(work, _ALL)))


def kind(work: dict[str, str], name: str) -> dict[str, float]:
    options: dict[str, Any] = {}
    inputs, target = _ALL, None
    if name == "RGB":
        inputs = _RGB
    elif name == "label":
        inputs = {"labels": ["manual_hq"]}
    elif "and label" in name:
        target = "manual_hq"
    if "512" in name:
        options = {"pad": 32, "augment": True, "normalise": "physical"}
    return _rate(iter(_made(work, inputs, target, **options)))


def memory(work: dict[str, str]) -> dict[str, Any]:
    import gc

    made = _made(work, _ALL, "manual_hq")
    made.patches = made.patches[: 8 * _BATCH]
    after = []
    for _ in range(3):
        for _batch in made:
            pass
        del _batch
        gc.collect()
        after.append(_resident())
    size = _BATCH * (made.recipe.pixel_bytes + made.recipe.target_bytes)
    return {"bound": made.limits.buffers * size, "peak": peak(), "after": after}


def _resident() -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def _random() -> Iterator[list[tuple[int, int]]]:
    """Random patches as (ROI on disk, date), a batch at a time, without end."""
    import numpy as np

    random = np.random.default_rng(0)
    while True:
        yield [(int(random.integers(_ROIS)), int(random.integers(5))) for _ in range(_BATCH)]


def _buffers() -> Iterator[Any]:
    """Batches that are used in turns, as the stream's are."""
    import numpy as np

    three = [np.ones((_BATCH, 13, 509, 509), np.int16) for _ in range(3)]
    while True:
        yield from three


def _filled(fill: Callable[[Any, int, int], None], threads: int = 1) -> dict[str, float]:
    """Rate of a reader that fills one patch of a batch."""
    with ThreadPoolExecutor(threads) as pool:

        def batches() -> Iterator[Any]:
            for places, out in zip(_random(), _buffers(), strict=False):
                rows = [(out[row], *place) for row, place in enumerate(places)]
                list(pool.map(lambda row: fill(*row), rows)) if threads > 1 else [fill(*row) for row in rows]
                yield out

        return _rate(batches())


def bare(work: dict[str, str]) -> dict[str, float]:
    from numcodecs import blosc

    import cloudsen12_cube as c12
    from cloudsen12_cube.dataset.patches import stored_cube
    from cloudsen12_cube.format.layout import shard_key
    from cloudsen12_cube.format.shard import ChunkReader as Chunks

    stored = stored_cube(c12.open_cube(work["cube"]))
    chunks = Chunks(stored.objects, stored.layout("s2l1c"))
    files = [os.open(f"{work['cube']}/{shard_key('s2l1c', disk)}", os.O_RDONLY) for disk in range(_ROIS)]
    tables = [chunks.index(disk).astype(int).tolist() for disk in range(_ROIS)]

    def fill(out: Any, disk: int, when: int) -> None:
        rows = tables[disk][when]
        start = rows[0][0]
        data = memoryview(os.pread(files[disk], sum(rows[-1]) - start, start))
        for band, (offset, length) in enumerate(rows):
            blosc.decompress(data[offset - start : offset - start + length - 4], out[band])

    return _filled(fill, _THREADS)


def zarr(work: dict[str, str]) -> dict[str, float]:
    import zarr as package

    array = package.open_array(f"{work['cube']}/s2l1c/s2l1c", mode="r")

    def fill(out: Any, disk: int, when: int) -> None:
        out[...] = array[disk, when]

    return _filled(fill)


def tensorstore(work: dict[str, str]) -> dict[str, float]:
    return read_by_tensorstore({"driver": "file", "path": f"{work['cube']}/s2l1c/s2l1c/"})


def read_by_tensorstore(place: dict[str, Any]) -> dict[str, float]:
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": place}
    context = ts.Context({"cache_pool": {"total_bytes_limit": 64 * MiB}})  # keeps the shards' indices
    store = ts.open({**spec, "recheck_cached_data": "open"}, context=context, read=True).result()

    def batches() -> Iterator[Any]:
        for places, out in zip(_random(), _buffers(), strict=False):
            views = [ts.array(out[row]) for row in range(_BATCH)]
            reads = [view.write(store[place]) for view, place in zip(views, places, strict=True)]
            for read in reads:
                read.result()
            yield out

    return _rate(batches())


def tar(work: dict[str, str]) -> dict[str, float]:
    import numpy as np

    def batches() -> Iterator[Any]:
        buffers, row, out = _buffers(), 0, None
        while True:
            with tarfile.open(work["tar"], "r|") as members:
                for member in members:
                    file = members.extractfile(member)
                    out = next(buffers) if row == 0 else out
                    out[row] = np.load(io.BytesIO(file.read()))  # type: ignore[index,union-attr]  # a file, and a buffer by then
                    row = (row + 1) % _BATCH
                    if row == 0:
                        yield out

    return _rate(batches())


def rasterio(work: dict[str, str], threads: int = 1) -> dict[str, float]:
    import rasterio as package

    paths = sorted(str(path) for path in Path(work["archive"]).glob("*/ROI_*/*/S2L1C.tif"))

    def fill(out: Any, disk: int, when: int) -> None:
        with package.open(paths[disk * 5 + when]) as file:
            file.read(out=out)

    return _filled(fill, threads)


def rasterio2(work: dict[str, str]) -> dict[str, float]:
    return rasterio(work, _THREADS)


def torch_loader(work: dict[str, str], workers: int) -> dict[str, float]:
    from cloudsen12_cube.training.torch import TorchStream, loader

    made = _made(work, _ALL, "manual_hq")
    return _rate(iter(loader(TorchStream(made), workers)))

"""A byte of a shard is flipped: is it seen by `verify`, and by a plain reader? And what the crc32c costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, table

_FLIPS = 2000


def run(settings: Settings) -> None:
    call("benchmarks.common:synthetic", [str(settings.work / "flipped"), 2, 32])
    places = [str(settings.work / "flipped"), str(settings.work / "flips.zarr")]
    found = call("benchmarks.flips:flip", [*places, _FLIPS])
    table("Flipped bytes in shards", ("product", "flips", "raised by a reader", "named by verify"), found["result"])
    found = call("benchmarks.flips:cost", [str(settings.archive), str(settings.work), settings.rounds])
    head = ("what", "with, least CPU s", "without", "ratio", "median of ratios")
    table("Cost of the crc32c", head, found["result"])


def flip(archive: str, cube: str, flips: int) -> list[tuple[object, ...]]:
    """Flip one bit pattern of one byte at a time, anywhere in a shard: chunks and index."""
    import numpy as np

    import cloudsen12_cube as c12
    from cloudsen12_cube.format.cube import open_stored_cube
    from cloudsen12_cube.format.metadata import read_shard

    c12.convert(archive, cube)
    random, rows = np.random.default_rng(0), []
    products = list(c12.open_cube(cube).children)
    for product in products:
        paths = sorted(Path(cube, product, product, "c").glob("*/0/0/0/0"))
        raised = named = 0
        for number in range(flips // len(products)):
            path = paths[number % len(paths)]
            whole = path.read_bytes()
            data = bytearray(whole)
            data[random.integers(len(data))] ^= int(random.integers(1, 256))
            path.write_bytes(data)
            index = int(path.parts[-5])
            raised += _raises(lambda product=product, index=index: read_shard(open_stored_cube(cube), product, index))
            if number % 20 == 0:
                named += len(c12.verify(cube).differences) == 1
            path.write_bytes(whole)
        rows.append((product, flips // len(products), raised, f"{named} of {-(-flips // len(products) // 20)}"))
    return rows


def _raises(read: Callable[[], object]) -> bool:
    try:
        read()
    except Exception:  # whatever a codec raises
        return True
    return False


def cost(archive: str, work: str, rounds: int) -> list[tuple[object, ...]]:
    """Convert and read with the checksum and without, in turn: seconds of CPU, and the least of each."""
    writes: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for checked in (True, False):
            place = [archive, f"{work}/cost-{checked}.zarr", checked]
            writes[checked].append(call("benchmarks.flips:write", place)["result"])
    rows = [("convert()", writes), *call("benchmarks.flips:reads", [work, 3 * rounds])["result"]]
    table_rows: list[tuple[object, ...]] = []
    for what, seen in rows:
        with_it, without = (seen[key] for key in ((True, False) if True in seen else ("true", "false")))
        ratio = median(a / b for a, b in zip(with_it, without, strict=True))
        table_rows.append((what, min(with_it), min(without), min(with_it) / min(without), ratio))
    return table_rows


def write(archive: str, cube: str, checked: bool) -> float:
    """Convert an archive; without the checksum the chunks have none, and none is declared."""
    import shutil

    import cloudsen12_cube as c12
    from cloudsen12_cube.format import metadata as store
    from cloudsen12_cube.format import shard

    shutil.rmtree(cube, ignore_errors=True)
    if not checked:
        _leave_out(shard, store)
    start = time.process_time()
    c12.convert(archive, cube)
    return time.process_time() - start


def reads(work: str, rounds: int) -> list[tuple[str, dict[bool, list[float]]]]:
    """Read every shard of both cubes by zarr-python and by tensorstore."""
    seen: dict[str, dict[bool, list[float]]] = {}
    for _ in range(rounds):
        for checked in (True, False):
            for name, read in (("zarr-python", _by_zarr), ("tensorstore", _by_tensorstore)):
                start = time.process_time()
                read(Path(work, f"cost-{checked}.zarr"))
                used = time.process_time() - start
                seen.setdefault(f"reading by {name}", {True: [], False: []})[checked].append(used)
    return list(seen.items())


def _by_zarr(cube: Path) -> None:
    from cloudsen12_cube.format.cube import open_stored_cube
    from cloudsen12_cube.format.metadata import read_shard

    for path in sorted(cube.glob("*/*/c/*/0/0/0/0")):
        read_shard(open_stored_cube(cube), path.parts[-7], int(path.parts[-5]))


def _by_tensorstore(cube: Path) -> None:
    import tensorstore as ts

    for path in sorted(cube.glob("*/*/records")):
        store = {"driver": "file", "path": f"{path.parent}/"}
        ts.open({"driver": "zarr3", "kvstore": store}).result().read().result()


def _leave_out(shard: Any, store: Any) -> None:
    """Encode chunks as the package does, but with no checksum behind, and say so in the metadata."""
    import numpy as np

    def encode(plane: Any, layout: Any) -> bytes:
        if shard.is_fill(plane, layout.fill):
            return b""
        little = np.ascontiguousarray(plane, dtype=np.dtype(layout.dtype).newbyteorder("<"))
        return codec.encode(little, layout.form.codec, layout.form.level)[: -codec.CRC]

    from cloudsen12_cube.archive import patch
    from cloudsen12_cube.format import codec

    patch.encode_chunk = encode
    codecs = store._codecs
    store._codecs = lambda form: codecs(form)[:1]

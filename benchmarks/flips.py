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
    head = ("what", "with, s", "without, s", "ratio")
    table("Cost of the crc32c: a conversion, and three reads of all shards", head, found["result"])


def flip(archive: str, cube: str, flips: int) -> list[tuple[object, ...]]:
    """Flip one bit pattern of one byte at a time, anywhere in a shard: chunks and index."""
    import numpy as np

    import cloudsen12_cube as c12
    from cloudsen12_cube.store import read_shard

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
            raised += _raises(lambda product=product, index=index: read_shard(cube, product, index))
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
    """Convert and read with the checksum and without, in turn."""
    seen: dict[tuple[str, bool], list[float]] = {}
    for number in range(rounds + 1):
        for checked in (True, False):
            cube = f"{work}/cost-{checked}.zarr"
            seconds = call("benchmarks.flips:once", [archive, cube, checked])["result"]
            if number:  # the first round warms the cache
                for what, value in seconds.items():
                    seen.setdefault((what, checked), []).append(value)
    rows = []
    for what in ("write, clock", "write, CPU", "read, clock", "read, CPU"):
        with_it, without = seen[what, True], seen[what, False]
        rows.append(
            (what, median(with_it), median(without), median(a / b for a, b in zip(with_it, without, strict=True)))
        )
    return rows


def once(archive: str, cube: str, checked: bool) -> dict[str, float]:
    """Convert an archive and read every shard; without the checksum the chunks have none, and none is declared."""
    import shutil

    import cloudsen12_cube as c12
    from cloudsen12_cube import shard, store

    shutil.rmtree(cube, ignore_errors=True)
    if not checked:
        _leave_out(shard, store)
    times = {}
    start, used = time.perf_counter(), time.process_time()
    c12.convert(archive, cube)
    times |= {"write, clock": time.perf_counter() - start, "write, CPU": time.process_time() - used}
    tree = c12.open_cube(cube)
    start, used = time.perf_counter(), time.process_time()
    for _ in range(3):
        for product in tree.children:
            for index in range(tree[product].sizes["roi"]):
                store.read_shard(cube, product, index)
    return times | {"read, clock": time.perf_counter() - start, "read, CPU": time.process_time() - used}


def _leave_out(shard: Any, store: Any) -> None:
    """Encode chunks as the package does, but with no checksum behind, and say so in the metadata."""
    import numpy as np

    def encode(plane: Any, layout: Any) -> bytes:
        if shard.is_fill(plane, layout.fill):
            return b""
        little = np.ascontiguousarray(plane, dtype=np.dtype(layout.dtype).newbyteorder("<"))
        return bytes(shard.compressor().encode(little))

    from cloudsen12_cube import patch

    patch.encode_chunk = encode
    codecs = store._codecs
    store._codecs = lambda: codecs()[:1]

"""Sizes and speeds of the chosen codecs and of others, on real planes of the archive, and what crc32c costs."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, table

_PATCHES = 5


def run(settings: Settings) -> None:
    found = call("benchmarks.codec:measure", [str(settings.archive), settings.rounds])["result"]
    head = ("product", "codec", "raw / stored", "encode MB/s", "decode MB/s")
    table(f"Codecs on {_PATCHES} patches, one thread", head, found["codecs"])
    head = ("product", "% of encode", "% of decode")
    table("crc32c", head, found["crc32c"])


def _codecs() -> dict[str, Any]:
    from numcodecs import Blosc, Zstd

    shuffle = Blosc.SHUFFLE
    return {
        "blosc zstd 1, shuffle, 512 KiB": Blosc("zstd", 1, shuffle, 512 * 1024),
        "blosc zstd 1, shuffle, default block": Blosc("zstd", 1, shuffle, 0),
        "blosc lz4 5, shuffle, 256 KiB": Blosc("lz4", 5, shuffle, 256 * 1024),
        "zstd 1": Zstd(1),
        "zstd 3": Zstd(3),
    }


def _planes(archive: Path) -> dict[str, list[Any]]:
    """Planes of a few patches spread over the archive, in the data type that the store gives them."""
    import numpy as np

    from cloudsen12_cube import plan
    from cloudsen12_cube.archive.tiff import read
    from cloudsen12_cube.schema.assets import files_of

    made = plan(archive)
    patches = list(made.archive.patches.values())
    planes: dict[str, list[Any]] = {}
    for files in patches[:: max(1, len(patches) // _PATCHES)][:_PATCHES]:
        for layout in made.layouts:
            for name in files_of(layout.product):
                if name in files.names:
                    path = made.archive.decoder.path(files, name)
                    pixels = read(made.archive.read(files, name), path)[1]
                    planes.setdefault(layout.product, []).extend(np.ascontiguousarray(p, layout.dtype) for p in pixels)
    return planes


def measure(archive: str, rounds: int) -> dict[str, list[tuple[object, ...]]]:
    from numcodecs import blosc

    blosc.use_threads = False
    codecs: list[tuple[object, ...]] = []
    checks: list[tuple[object, ...]] = []
    for product, planes in _planes(Path(archive)).items():
        raw = sum(p.nbytes for p in planes)
        chosen = "blosc zstd 1, shuffle, 512 KiB"
        timed = _interleaved(planes, rounds)
        for name, (size, encode, decode, _) in timed.items():
            label = f"**{name}**" if name == chosen else name
            codecs.append((product, label, raw / size, raw / 1e6 / encode, raw / 1e6 / decode))
        _, encode, decode, crc = timed[chosen]
        checks.append((product, 100 * crc / encode, 100 * crc / decode))
    return {"codecs": codecs, "crc32c": checks}


def _interleaved(planes: list[Any], rounds: int) -> dict[str, tuple[int, float, float, float]]:
    codecs = _codecs()
    seen: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in codecs}
    for _ in range(rounds):
        for name, codec in codecs.items():
            seen[name].append(_once(codec, planes))
    return {
        name: (rows[0][0], *(median(row[i] for row in rows) for i in (1, 2, 3)))  # type: ignore[misc]  # rows of four
        for name, rows in seen.items()
    }


def _once(codec: Any, planes: list[Any]) -> tuple[int, float, float, float]:
    import google_crc32c

    start = time.perf_counter()
    packed = [bytes(codec.encode(plane)) for plane in planes]
    encoded = time.perf_counter()
    for data in packed:
        codec.decode(data)
    decoded = time.perf_counter()
    for data in packed:
        google_crc32c.value(data)
    done = time.perf_counter()
    return sum(map(len, packed)), encoded - start, decoded - encoded, done - decoded

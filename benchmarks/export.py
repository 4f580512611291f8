"""The way back: export against plain rasterio and rio-cogeo on the same arrays, and bytes against the archive."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, table, timed

_WAYS = (
    "export, 2 threads",
    "export, 1 thread",
    "rasterio, driver COG, from memory",
    "the same with GDAL's own overviews",
    "rio_cogeo.cog_translate, from memory",
    "cs.patch(...).to_cog, patch by patch",
)


def run(settings: Settings) -> None:
    cube = str(settings.work / "export.zarr")
    call("benchmarks.export:converted", [str(settings.archive), cube])
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in _WAYS}
    for _ in range(settings.rounds):
        for way in _WAYS:
            found = call("benchmarks.export:written", [way, str(settings.archive), cube, str(settings.work / "out")])
            rounds[way].append(found["result"] | {"peak": found["peak"]})
    rows = []
    for way, found in rounds.items():
        ratio = [mine["seconds"] / one["seconds"] for mine, one in zip(found, rounds[_WAYS[0]], strict=True)]
        used = [mine["cpu"] / one["cpu"] for mine, one in zip(found, rounds[_WAYS[0]], strict=True)]
        seconds, cpu = (median(row[name] for row in found) for name in ("seconds", "cpu"))
        share = found[0]["bytes"] / found[0]["archive"]
        rows.append((way, seconds, cpu, median(ratio), median(used), share, max(r["peak"] for r in found) / 2**20))
    head = ("way", "s", "CPU s", "x export", "x export in CPU", "bytes / archive", "peak MiB")
    table("export of all 49 assets", head, rows)


def converted(archive: str, cube: str) -> None:
    import cloudsen12_cube as c12

    c12.convert(archive, cube)


def written(way: str, archive: str, cube: str, out: str) -> dict[str, float]:
    """Write everything in one way, into a folder of its own; arrays that come from memory are not timed."""
    import cloudsen12_cube as c12

    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir()
    if way.startswith("export"):
        options = c12.ExportOptions(workers=2 if way.endswith("2 threads") else 1)
        found = timed(lambda: c12.export(cube, out, options=options))
    elif way.startswith("cs.patch"):
        found = timed(lambda: _patches(c12.open_cube(cube), out))
    else:
        arrays = _arrays(Path(archive))
        found = timed(lambda: [_file(way, name, row, out) for name, row in arrays.items()])
    sizes = {
        name: sum(p.stat().st_size for p in Path(place).rglob("*.tif") if p.stem != "thumbnail")
        for name, place in (("bytes", out), ("archive", archive))
    }
    return found | sizes


def _patches(cube: Any, out: str) -> None:
    from cloudsen12_cube.exporters.cog import write_cogs

    for roi in cube["roi"].values:
        for time in cube["time"].values:
            write_cogs(cube.cloudsen12.patch(str(roi), int(time)), f"{out}/{roi}/{time}")


def _arrays(archive: Path) -> dict[str, Any]:
    import rasterio

    found = {}
    for path in archive.rglob("*.tif"):
        if path.stem != "thumbnail":
            with rasterio.open(path) as file:
                about = {"crs": file.crs, "transform": file.transform, "nodata": file.nodata}
                found[str(path.relative_to(archive))] = file.read(), about, file.descriptions
    return found


def _file(way: str, name: str, row: tuple[Any, ...], out: str) -> None:
    import rasterio

    pixels, about, names = row
    path = Path(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    about |= {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    if way.startswith("rio_cogeo"):
        _translated(path, pixels, about, names)
        return
    cog = {"driver": "COG", "compress": "LZW", "predictor": "YES", "blocksize": 256, "interleave": "BAND"}
    overviews = {} if "overviews" in way else {"overviews": "NONE"}
    with rasterio.open(path, "w", **about, **cog, **overviews) as file:
        file.write(pixels)
        file.descriptions = names


def _translated(path: Path, pixels: Any, about: dict[str, Any], names: tuple[str, ...]) -> None:
    from rasterio.io import MemoryFile
    from rio_cogeo.cogeo import cog_translate
    from rio_cogeo.profiles import cog_profiles

    predictor = 3 if pixels.dtype.kind == "f" else 2
    profile = {**cog_profiles["lzw"], "blockxsize": 256, "blockysize": 256, "predictor": predictor}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **about) as source:
            source.write(pixels)
            source.descriptions = names
        with memory.open() as source:
            cog_translate(source, path, profile, in_memory=True, quiet=True, overview_level=0)

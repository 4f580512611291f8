"""The same patches from each published form, against reading them by numpy or GDAL and writing them by zarr-python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Settings, call, table, timed

_PRODUCTS = ["s2l1c", "labels"]


def run(settings: Settings) -> None:
    made = call("benchmarks.forms:prepare", [str(settings.archive), str(settings.work / "forms")])["result"]
    rows = []
    for form, source in made.items():
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(settings.rounds):
            place = settings.work / f"forms-{form}-{number}"
            times["ours"].append(call("benchmarks.forms:ours", [source, f"{place}.ours"])["result"])
            if form != "cogs":
                times["peer"].append(call("benchmarks.forms:peer", [form, source, f"{place}.peer"])["result"])
        rows.append((form, times))
    base = median(dict(rows)["cogs"]["ours"])
    table(
        "The labelled patches of the archive, s2l1c and labels, one process, CPU seconds",
        ("form", "convert", "convert / convert from COGs", "by numpy or GDAL, and zarr-python / convert"),
        [
            (
                form,
                median(t["ours"]),
                median(t["ours"]) / base,
                median(t["peer"]) / median(t["ours"]) if t["peer"] else "",
            )
            for form, t in rows
        ],
    )


def prepare(archive: str, folder: str) -> dict[str, str]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from other_forms import Padding, rows_of, write_dats, write_taco

    rows = [row for row in rows_of(Path(archive)) if row["label_type"] == "high"]
    write_dats(Path(archive), rows, Path(folder, "dat", "high", "train"))
    side = int(rows[0]["proj_shape"]) + 3
    write_taco(Path(archive), rows, Path(folder, "taco", "a.taco"), lambda _: Padding(side, (0, 3)))
    return {"cogs": archive, "dat": f"{folder}/dat", "taco": f"{folder}/taco"}


def ours(source: str, place: str) -> float:
    import cloudsen12_cube as c12
    from cloudsen12_cube.conversion.options import Options

    def work() -> None:
        c12.convert(source, place, _PRODUCTS, ["label_type=high"], options=Options(workers=0))

    return timed(work)["cpu"]


def peer(form: str, source: str, place: str) -> float:
    """A loop as a user would write it: one band of one patch after another into an array of the same layout."""
    return timed(lambda: _write(_dats if form == "dat" else _tacos, source, place))["cpu"]


Planes = Iterator[tuple[str, int, int, Any]]


def _write(planes: Callable[[Any, str], Planes], source: str, place: str) -> None:
    import numpy as np
    import zarr

    import cloudsen12_cube as c12
    from cloudsen12_cube.format.metadata import reference_codec

    made = c12.plan(source, _PRODUCTS, ["label_type=high"])
    group = zarr.create_group(place, zarr_format=3)
    shards = {}
    for layout in made.layouts:
        codecs = reference_codec(layout).codecs[1:]
        group.create_array(
            layout.product,
            shape=layout.shape(len(made.order)),
            chunks=layout.chunk,
            shards=layout.shard,
            dtype=layout.dtype,
            compressors=codecs,
            fill_value=layout.fill,
        )
        shards[layout.product] = np.full((len(made.order), *layout.shard[1:]), layout.fill, layout.dtype)
    for product, patch, band, plane in planes(made, source):
        shards[product][patch // 5, patch % 5, band] = plane
    for product, values in shards.items():
        group[product][...] = values


def _dats(_: Any, source: str) -> Planes:
    import numpy as np

    from cloudsen12_cube.schema.assets import bands_of

    for product, prefix in (("s2l1c", "L1C"), ("labels", "LABEL")):
        for band, name in enumerate(bands_of(product)):
            stem = {"CD-FCNN-RGBI": "cd_fcnn_rgbi", "CD-FCNN-RGBISWIR": "cd_fcnn_rgbi_swir"}.get(name, name)
            path = next(Path(source).rglob(f"{prefix}_{stem}.dat"))
            dtype = "<i2" if product == "s2l1c" or name == "qa60" else "u1"
            stack = np.memmap(path, dtype, mode="r").reshape(-1, 512, 512)
            for patch in range(len(stack)):
                yield product, patch, band, stack[patch, 1:510, 1:510]


def _tacos(made: Any, source: str) -> Planes:
    import rasterio

    for patch, files in enumerate(made.archive.patches.values()):
        for product, name in (("s2l1c", "S2L1C"), ("labels", "labels/manual_hq")):
            part = Path(source, files.names[name]).absolute()
            with rasterio.open(f"/vsisubfile/{files.starts[name]}_{files.sizes[name]},{part}") as file:
                for band, plane in enumerate(file.read()):
                    yield product, patch, band, plane[:509, 3:]

"""Run the benchmarks and print their tables: ``python -m benchmarks [--archive DIR] [NAME ...]``."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    analysis,
    buckets,
    cluster,
    codec,
    conversion,
    evaluation,
    export,
    flips,
    forms,
    frames,
    full,
    hostile,
    kills,
    layouts,
    scaling,
    steps,
    stream,
    stream_remote,
    subset,
    views,
    virtual,
)
from benchmarks.common import Settings, call

_ALL: dict[str, Callable[[Settings], None]] = {
    "convert": conversion.run,
    "steps": steps.run,
    "scaling": scaling.run,
    "full": full.run,
    "codec": codec.run,
    "layouts": layouts.run,
    "views": views.run,
    "cluster": cluster.run,
    "buckets": buckets.run,
    "analysis": analysis.run,
    "export": export.run,
    "kills": kills.run,
    "flips": flips.run,
    "forms": forms.run,
    "frames": frames.run,
    "hostile": hostile.run,
    "evaluation": evaluation.run,
    "stream": stream.run,
    "stream_remote": stream_remote.run,
    "subset": subset.run,
    "virtual": virtual.run,
}
_PACKAGES = ("numpy", "zarr", "numcodecs", "tifffile", "imagecodecs", "rasterio", "rioxarray", "xarray", "pandas")


def main() -> None:
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=arguments.dir) as work:
        base = arguments.archive or call("benchmarks.common:synthetic", [f"{work}/base", 3, 509])["result"]
        settings = Settings(
            *(Path(base), Path(work), arguments.rounds, arguments.copies, arguments.rois, arguments.listed),
            seed=arguments.seed,
        )
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, ", end="")
        print(", ".join(f"{name} {version(name)}" for name in _PACKAGES))
        for name in arguments.names or _ALL:
            _ALL[name](settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(_ALL)}; by default all")
    parser.add_argument("--archive", help="an archive of a few ROIs; by default a synthetic one")
    parser.add_argument("--dir", help="where to put temporary files, on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the variants take turns")
    parser.add_argument("--copies", type=int, default=4, help="times that each ROI of the archive is converted")
    parser.add_argument("--rois", type=int, default=9880, help="ROIs of the full catalogue")
    parser.add_argument("--listed", type=int, default=2000, help="ROIs of the archive whose files are listed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations of hostile")
    return parser


if __name__ == "__main__":
    main()

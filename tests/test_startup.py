"""Start-up: what a fresh interpreter has imported, which does not depend on how busy the machine is as seconds do."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

HEAVY = {
    *("zarr", "numcodecs", "dask", "distributed", "fsspec", "s3fs", "obstore", "pyarrow"),
    *("rasterio", "rioxarray", "geopandas", "shapely", "pyproj", "tifffile", "imagecodecs"),
    *("matplotlib", "PIL", "torch", "scipy", "rich"),
}
ENTRIES = {
    "package": "import cloudsen12_cube, xarray; xarray.DataTree.cloudsen12",
    "--help": "import cloudsen12_cube.cli; cloudsen12_cube.cli.main(['--help'])",
    "--version": "import cloudsen12_cube.cli; cloudsen12_cube.cli.main(['--version'])",
}


@cache
def imported(code: str) -> set[str]:
    """Give the top-level modules that a fresh interpreter has imported after some code."""
    lines = ("import json, sys", "try:", f"    {code}", "except SystemExit:", "    pass")
    script = "\n".join([*lines, "print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_heavy_is_imported_before_it_is_used(entry: str) -> None:
    found = imported(ENTRIES[entry])
    assert {"cloudsen12_cube", "xarray"} <= found
    # xarray's own imports do not count: pandas takes pyarrow along where it is installed.
    assert found & HEAVY <= imported("import xarray")


def test_streams_tables_and_the_web_page_need_neither_torch_nor_matplotlib() -> None:
    fronts = {"training": "make_stream, stats", "evaluation": "confusion, evaluate, split", "plotting": "browser"}
    code = "; ".join(f"from cloudsen12_cube.{room} import {names}" for room, names in fronts.items())
    assert not imported(code) & {"torch", "matplotlib"}

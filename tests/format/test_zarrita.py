"""A reader in another language: zarrita.js sees the same pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browsers import ZARRITA
from layouts import resharded

import cloudsen12_cube as c12
from cloudsen12_cube.schema.assets import PRODUCTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with zarrita.js and the script."""
    if shutil.which("npm") is None:
        pytest.skip("zarrita.js needs Node.js and npm")
    place = tmp_path_factory.mktemp("zarrita")
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(place), ZARRITA]
    subprocess.run(install, check=True, capture_output=True)
    shutil.copy(Path(__file__).with_name("read_cube.mjs"), place)  # it imports from where it lies
    return place


@pytest.mark.parametrize("name", ["default", "none", "bands", "lz4, bands, 3 ROIs"])
def test_zarrita_reads_every_pixel(cube: Path, folder: Path, name: str, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    resharded(cube, place, name)
    command = ["node", str(folder / "read_cube.mjs"), str(place), *PRODUCTS]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    tree = c12.open_cube(cube)
    for product in PRODUCTS:
        pixels = np.ascontiguousarray(tree[product][product].values)
        assert found[product]["shape"] == list(pixels.shape)
        assert found[product]["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert found["roi"] == [str(roi) for roi in tree.to_dataset()["roi"].values]

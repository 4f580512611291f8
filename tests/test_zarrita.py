"""A reader in another language: zarrita.js sees the same pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.assets import PRODUCTS

ZARRITA = "zarrita@0.7.5"


@pytest.mark.skipif(shutil.which("npm") is None, reason="zarrita.js needs Node.js and npm")
def test_zarrita_reads_every_pixel(cube: Path, tmp_path: Path) -> None:
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(tmp_path), ZARRITA]
    subprocess.run(install, check=True, capture_output=True)
    script = shutil.copy(Path(__file__).with_name("read_cube.mjs"), tmp_path)  # it imports from where it lies
    command = ["node", script, str(cube), *PRODUCTS]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    tree = c12.open_cube(cube)
    for name in PRODUCTS:
        pixels = np.ascontiguousarray(tree[name][name].values)
        assert found[name]["shape"] == list(pixels.shape)
        assert found[name]["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert found["roi"] == [str(roi) for roi in tree.to_dataset()["roi"].values]

"""What a cube from anyone may state: nothing is decoded that does not fit, and nothing runs."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.zstd
import numpy as np
import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format import codec
from cloudsen12_cube.format.guard import MOST_BYTES
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    make_archive(folder / "archive", rois=1, options=ArchiveOptions(size=32, times=1))
    c12.convert(folder / "archive", folder / "cube.zarr", ["s1", "labels"], options=c12.Options(workers=0))
    return folder / "cube.zarr"


@pytest.fixture
def cube(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cube.zarr"))


def test_mutated_frames_neither_end_the_process_nor_show_its_memory() -> None:
    code = "from benchmarks.frames import fuzz; print(fuzz(3000, 7))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = eval(done.stdout, {})  # noqa: S307  # what our own code printed
    assert found["unstable"] == 0
    assert min(found["refused"], found["decoded"]) > 100


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_a_frame_that_states_more_bytes_than_it_has(name: Any) -> None:
    out = np.zeros((32, 32), "<u2")
    body = struct.pack("<BBBBIII", 2, 1, 2, 2, out.nbytes, out.nbytes, out.nbytes + 16)
    assert not codec.decode(body + struct.pack("<I", google_crc32c.value(body)), name, out)
    whole = codec.encode(np.arange(1024, dtype="<u2").reshape(32, 32), name, 1)
    assert codec.decode(whole, name, out)
    np.testing.assert_array_equal(out.ravel(), np.arange(1024))


def forge(cube: Path, product: str, count: int, frame: bytes) -> None:
    """Replace the first shard by one whose chunks are all the same frame, with checksums that fit."""
    key = cube / product / product / "c/0/0/0/0/0"
    chunk = frame + struct.pack("<I", google_crc32c.value(frame))
    index = np.array([[i * len(chunk), len(chunk)] for i in range(count)], "<u8").tobytes()
    key.write_bytes(chunk * count + index + struct.pack("<I", google_crc32c.value(index)))


def test_no_reader_decodes_a_forged_frame(cube: Path) -> None:
    nbytes = 32 * 32 * 4
    forge(cube, "s1", 3, struct.pack("<BBBBIII", 2, 1, 2, 4, nbytes, nbytes, nbytes + 16))
    tree = c12.open_cube(cube)
    with pytest.raises(StoreError, match="a chunk is damaged"):
        tree["s1"]["s1"].load()
    with pytest.raises(StoreError, match="a chunk is damaged"):
        tree["s1"]["s1"].sel(band="VV").load()
    with pytest.raises(StoreError, match="damaged"):
        next(iter(c12.open_cube(cube).cloudsen12.stream({"s1": None}, "fmask", None, 1)))
    assert c12.verify(cube).exit_code == 1


def change(cube: Path, path: str, edit: Callable[[dict[str, Any]], None]) -> None:
    root = json.loads((cube / "zarr.json").read_text())
    node = root["consolidated_metadata"]["metadata"][path]
    edit(node)
    (cube / "zarr.json").write_text(json.dumps(root))
    (cube / path / "zarr.json").write_text(json.dumps(node))


PICKLE = {"name": "numcodecs.pickle", "configuration": {}}


@pytest.mark.parametrize(
    ("path", "edit", "message"),
    [
        ("s2_id_gee", lambda node: node["codecs"].insert(0, PICKLE), "s2_id_gee has the codecs"),
        ("s1/s1", lambda node: node["codecs"].append(PICKLE), "the codecs of s1/s1"),
        ("s1/s1", lambda node: node.update(codecs=[]), "the codecs of s1/s1"),
        ("s1/s1", lambda node: node.update(shape=[10**9, *node["shape"][1:]]), "the shape of s1/s1"),
        ("s1/s1", lambda node: node.update(fill_value="x"), "the fill value of s1/s1"),
        ("s1/s1", lambda node: node.update(data_type="int64"), "the data type of s1/s1"),
        ("difficulty", lambda node: node.update(shape=[10**9, 10**9]), "more than"),
        ("difficulty", lambda node: node.update(shape=[1.5, "x"]), "has the shape"),
        ("difficulty", lambda node: node.update(zarr_format=2), "Zarr format 2"),
        ("difficulty", lambda node: node.pop("codecs"), "'codecs' is not there"),
    ],
)
def test_arrays_that_this_package_does_not_write(cube: Path, path: str, edit: Any, message: str) -> None:
    change(cube, path, edit)
    for read in (c12.open_cube, c12.status, c12.verify):
        with pytest.raises(StoreError, match=message):
            read(cube)


def test_a_small_chunk_does_not_become_gigabytes(cube: Path) -> None:
    key = next((cube / "difficulty" / "c").rglob("0/0"))
    frame = bytearray(numcodecs.zstd.compress(bytes(2**20), 1))
    assert frame[4] >> 6 == 2  # four bytes of size
    start = 5 + (not frame[4] & 0x20)
    frame[start : start + 4] = struct.pack("<I", MOST_BYTES + 1)
    key.write_bytes(bytes(frame) + struct.pack("<I", google_crc32c.value(bytes(frame))))
    with pytest.raises(StoreError, match=f"{MOST_BYTES + 1} bytes"):
        c12.open_cube(cube)["difficulty"].load()


def test_a_flipped_bit_in_a_coordinate_is_an_error_of_the_store(cube: Path) -> None:
    key = cube / "s1" / "s2_id_gee" / "c/0/0"
    data = bytearray(key.read_bytes())
    data[len(data) // 2] ^= 4
    key.write_bytes(data)
    with pytest.raises(StoreError, match=r"s1/s2_id_gee/c/0/0 is damaged"):
        c12.open_cube(cube)["s1"]["s2_id_gee"].load()


def test_a_status_that_does_not_exist(cube: Path) -> None:
    import zarr

    zarr.open_group(cube, mode="r+", use_consolidated=False)["s1/status"][...] = np.uint8(3)
    with pytest.raises(StoreError, match="status is damaged"):
        c12.export(cube, cube.parent / "out", options=c12.ExportOptions(workers=0))

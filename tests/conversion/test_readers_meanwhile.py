"""Cubes that were opened before a run rewrites their shards: what they read afterwards is right, or an error."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import xarray as xr
from crashes import PRODUCTS, SMALL

import cloudsen12_cube as c12
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format import ChunkReader, open_stored_cube
from cloudsen12_cube.format.layout import CodecName
from cloudsen12_cube.testing import make_archive
from cloudsen12_cube.training import stats


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), rois=2, seed=3, options=SMALL)


@pytest.mark.parametrize("codec", get_args(CodecName))
def test_a_retried_patch_moves_the_chunks_of_the_others(source: Path, codec: CodecName, tmp_path: Path) -> None:
    """Without a codec all chunks have one length: at the place of the second date's lies the first one's then."""
    archive, place = tmp_path / "archive", tmp_path / "c.zarr"
    shutil.copytree(source, archive)
    options = c12.Options(workers=0, layout=c12.Layout(codec))
    first = sorted(archive.glob("*/ROI_0012/*/S1.tif"))[0]
    data = first.read_bytes()
    first.write_bytes(b"")
    c12.convert(archive, place, ["s1"], options=options)
    stored, tree = open_stored_cube(place), c12.open_cube(place)
    chunks, disk = ChunkReader(stored.store, stored.layouts["s1"]), stored.order.index("ROI_0012")

    def shown() -> Any:
        return tree["s1"]["s1"].sel(roi="ROI_0012", time=1).values  # not kept by the tree

    truth = shown()
    chunks.fetch(disk, 1, [0, 1])
    first.write_bytes(data)
    c12.convert(archive, place, ["s1"], options=options)
    plane = np.empty(truth.shape[1:], truth.dtype)
    for band in (0, 1):
        chunks.decode(chunks.fetch(disk, 1, [band]), 0, plane)
        np.testing.assert_array_equal(plane, truth[band])
    np.testing.assert_array_equal(shown(), truth)


def passes(tree: xr.DataTree, product: str) -> Iterator[tuple[int, int, Any]]:
    images = tree[product].to_dataset()
    for roi, time in np.argwhere(images["status"].values == 1).tolist():
        yield roi, time, images[product][roi, time].values


class Reader:
    """Reads every patch that is done, over and over, until it is stopped; keeps what was wrong."""

    def __init__(self, place: Path, truth: dict[Any, Any], anew: bool, stop: threading.Event) -> None:
        self.place, self.truth, self.anew, self.stop = place, truth, anew, stop
        self.wrong: list[Any] = []
        self.reads = 0

    def run(self) -> None:
        tree = c12.open_cube(self.place)
        while not self.stop.is_set():
            with suppress(StoreError):
                tree = c12.open_cube(self.place) if self.anew else tree
                self.look(tree)

    def look(self, tree: xr.DataTree) -> None:
        for product in PRODUCTS:
            for roi, time, pixels in passes(tree, product):
                self.reads += 1
                expected = self.truth[product, roi, time]
                if not np.array_equal(pixels, expected) and not is_blank(pixels, product):
                    self.wrong.append((product, roi, time))


def test_readers_while_a_repair_and_stats_rewrite(source: Path, tmp_path: Path) -> None:
    """Two readers, one of which opens the cube anew, while two patches fail, are counted, and are repaired."""
    archive, place = tmp_path / "archive", tmp_path / "c.zarr"
    shutil.copytree(source, archive)
    options = c12.Options(workers=0, repair=True, layout=c12.Layout("none"))
    c12.convert(archive, place, PRODUCTS, options=options)
    truth = {(p, roi, t): v for p in PRODUCTS for roi, t, v in passes(c12.open_cube(place), p)}
    files = {path: path.read_bytes() for name in ("S1", "labels/qa60") for path in archive.glob(f"*/*/*/{name}.tif")}
    stop = threading.Event()
    readers = [Reader(place, truth, anew, stop) for anew in (False, True)]
    threads = [threading.Thread(target=reader.run) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        for path, data in list(files.items())[::2]:
            path.write_bytes(b"")
            c12.convert(archive, place, PRODUCTS, options=options)
            stats(place, None)
            path.write_bytes(data)
            c12.convert(archive, place, PRODUCTS, options=options)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [reader.wrong for reader in readers] == [[], []]
    assert all(reader.reads > 5 for reader in readers)


def is_blank(pixels: Any, product: str) -> bool:
    """Whether a patch is the fill: a cube that was opened while it was done does not see that it has failed since."""
    return bool(np.isnan(pixels).all()) if product == "s1" else len(np.unique(pixels)) == 1

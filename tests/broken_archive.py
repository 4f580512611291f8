"""An archive with each damage that an input can have, planted in patches of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

import cloudsen12_cube as c12
from cloudsen12_cube.testing import ArchiveOptions, make_archive

TABLE = "cloudsen12_metadata.csv"


def rewritten(path: Path, change: Callable[[Any], Any] = lambda pixels: pixels, **profile: Any) -> None:
    """Write a tif again with other pixels or another header."""
    with rasterio.open(path) as file:
        pixels, old, names = file.read(), file.profile, file.descriptions
    pixels = change(pixels)
    old |= {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype} | profile
    if pixels.dtype.kind == "f":
        old |= {"predictor": 3}
    with rasterio.open(path, "w", **old) as file:
        file.write(pixels)
        file.descriptions = names[: len(pixels)]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def not_a_tif(path: Path) -> None:
    path.write_text("this is no GeoTIFF\n" * 40)


def wrong_shape(path: Path) -> None:
    rewritten(path, lambda pixels: pixels[:, :15])


def wrong_bands(path: Path) -> None:
    rewritten(path, lambda pixels: pixels[:12])


def wrong_crs(path: Path) -> None:
    rewritten(path, crs="EPSG:32631")


def wrong_transform(path: Path) -> None:
    rewritten(path, transform=rasterio.Affine(10, 0, 1000, 0, -10, 1000))


def missing(path: Path) -> None:
    path.unlink()


def illegal_label(path: Path) -> None:
    rewritten(path, lambda pixels: np.where(np.arange(16) == 3, 77, pixels).astype(pixels.dtype))


def nothing_but_nan(path: Path) -> None:
    rewritten(path, lambda pixels: np.full_like(pixels, np.nan))


def too_large_a_value(path: Path) -> None:
    rewritten(path, lambda pixels: pixels.astype("int32") + 10**6, predictor=2)


def a_bomb(path: Path) -> None:
    """35 kB that would become 128 MiB."""
    zeros = np.zeros((1, 8192, 8192), "uint16")
    rewritten(path, lambda _: zeros, compress="DEFLATE", tiled=True, blockxsize=512, blockysize=512, predictor=1)


def ten_gigabytes(path: Path) -> None:
    os.truncate(path, 10 * 2**30)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_out(path: Path) -> None:
    outside = path.parents[5] / "outside.tif"
    shutil.move(path, outside)
    path.symlink_to(outside)


def unreadable(path: Path) -> None:
    path.chmod(0)


FAULTS: list[tuple[Callable[[Path], None], str, str]] = [
    (truncated, "S2L1C", "a damaged header"),
    (zero_bytes, "S2L2A", "an empty file"),
    (not_a_tif, "labels/fmask", "no TIFF"),
    (wrong_shape, "S2L1C", "15 x 16 pixels"),
    (wrong_bands, "S2L1C", "12 bands"),
    (wrong_crs, "S2L2A", "EPSG:32631"),
    (wrong_transform, "S1", "1000"),
    (missing, "S2L1C", "no such file"),
    (illegal_label, "labels/sen2cor", "the value 77"),
    (nothing_but_nan, "S1", "nothing but NaN"),
    (too_large_a_value, "labels/kappamask_L1C", "(int32)"),
    (a_bomb, "labels/fmask", "an image of 134217728 bytes"),
    (ten_gigabytes, "S2L1C", "a file of 10737418240 bytes"),
    (a_pipe, "extra/CDI", "no regular file"),
    (a_link_out, "labels/qa60", "a link that leads out of the archive"),
    (unreadable, "S1", "cannot be read"),
]
PLANTED = [fault for fault in FAULTS if fault[0] is not unreadable or os.geteuid()]

Patch = tuple[str, str]


class Broken:
    """An archive with a fault in each of its first patches, and the cube that was made of it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.place = folder / "a" / "archive", folder / "c.zarr"
        make_archive(self.source, rois=4, seed=1, options=ArchiveOptions(size=16))
        folders = sorted(path.parent for path in self.source.glob("*/ROI_*/*/S1.tif"))
        self.patches: list[Patch] = [(path.parent.name, path.name) for path in folders]
        self.paths: dict[str, str] = {}
        self.hit: dict[str, Patch] = {}
        for (plant, asset, _), path, patch in zip(PLANTED, folders, self.patches, strict=False):
            victim = path / f"{asset}.tif"
            plant(victim)
            self.paths[plant.__name__] = str(victim.relative_to(self.source))
            self.hit[plant.__name__] = patch
        self._rows(folders)
        self.report = c12.convert(self.source, self.place)
        self.failures: list[dict[str, str]] = json.loads((folder / "c.zarr.failures.json").read_text())["failures"]
        self.cube = c12.open_cube(self.place)

    def _rows(self, folders: list[Path]) -> None:
        """Plant what is wrong with the metadata: in the last patches."""
        lines = (self.source / TABLE).read_text().splitlines(keepends=True)
        row = {patch: next(line for line in lines if patch[0] in line and patch[1] in line) for patch in self.patches}
        self.no_folder, self.no_row, self.twice = self.patches[-3:]
        shutil.rmtree(folders[-3])
        lines.remove(row[self.no_row])
        hostile = [row[self.twice].replace(self.twice[0], evil) for evil in ("../../evil", "/etc/evil", "file:///evil")]
        image = row[self.twice].replace(self.twice[1], "../../evil")
        (self.source / TABLE).write_text("".join([*lines, row[self.twice], *hostile, image]))

    def status(self, product: str, patch: Patch) -> int:
        images = self.cube[product].to_dataset().sel(roi=patch[0])
        return int(images["status"].values[list(images["s2_id_gee"].values).index(patch[1])])

    def pixels(self, product: str, patch: Patch) -> Any:
        images = self.cube[product].to_dataset().sel(roi=patch[0])
        return images[product].isel(time=list(images["s2_id_gee"].values).index(patch[1])).values

"""A small synthetic archive in the published layout of CloudSEN12, for tests, benchmarks, notebooks and the demo.

The seed determines all values. The archive includes special cases of the published one: ids of four and five digits, an
ROI in two UTM zones, two images with the same timestamp, an image id that two ROIs share, unordered rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from cloudsen12_cube.schema import ASSETS, PRODUCTS, files_of
from cloudsen12_cube.testing import scene as scenes
from cloudsen12_cube.testing.metadata import ArchiveOptions, Patch, make_patches, write_csv, write_metadata

__all__ = ["ArchiveOptions", "make_archive", "make_catalogue"]

_MOST_ROIS = 9880  # number of published ROIs
_STRIPED_NODATA = -3.4e38  # as in the published KappaMask files


def make_archive(
    path: str | os.PathLike[str], rois: int = 7, seed: int = 0, options: ArchiveOptions | None = None
) -> Path:
    """Write a small synthetic archive.

    Parameters
    ----------
    path : path
        Folder of the archive; created if it does not exist.
    rois : int
        Number of ROIs, 1 to 9880.
    seed : int
        Seed of the random numbers; equal seeds give equal files.
    options : ArchiveOptions, optional
        Size, data types, metadata and variants of the archive.

    Returns
    -------
    pathlib.Path
        The folder of the archive.

    Raises
    ------
    ValueError
        If ``rois`` is out of range.
    """
    _check_rois(rois)
    options = options or ArchiveOptions()
    root = Path(path) / options.top
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for index in range(rois):
        patches = make_patches(index, seed, options)
        rows += [patch.row for patch in patches]
        ground = scenes.make_ground(np.random.default_rng([seed, index]), options.size)
        for patch in patches:
            _write_patch(root, patch, ground, options)
    write_metadata(root, rows, options)
    return Path(path)


def make_catalogue(path: str | os.PathLike[str], rois: int = 9880, seed: int = 0) -> Path:
    """Write the metadata of a synthetic archive, without pixels.

    Parameters
    ----------
    path : path
        Folder of the archive; created if it does not exist.
    rois : int
        Number of ROIs, 1 to 9880.
    seed : int
        Seed of the random numbers; equal seeds give equal files.

    Returns
    -------
    pathlib.Path
        The folder of the archive.

    Raises
    ------
    ValueError
        If ``rois`` is out of range.
    """
    _check_rois(rois)
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    options = ArchiveOptions()
    write_csv(root, [p.row for i in range(rois) for p in make_patches(i, seed, options)])
    return root


def _check_rois(rois: int) -> None:
    if not 1 <= rois <= _MOST_ROIS:
        raise ValueError(f"rois is {rois}: give 1 to {_MOST_ROIS}")


def _write_patch(root: Path, patch: Patch, ground: scenes.Ground, options: ArchiveOptions) -> None:
    label_type = patch.row["label_type"]
    name = options.nolabel_folder if label_type == "nolabel" else label_type
    folder = root / name / patch.roi / patch.row["s2_id_gee"]
    for sub in ("extra", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    scene = scenes.make_scene(patch.random, ground, patch.coverage)
    for file, planes in _files(patch, scene, options):
        _write_tif(folder / f"{file}.tif", planes, patch, options)


def _files(patch: Patch, scene: scenes.Scene, options: ArchiveOptions) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield "S2L1C", scenes.l1c(scene, options.dtype)
    yield "S2L2A", scenes.l2a(patch.random, scene, options.dtype)
    yield "S1", scenes.s1(patch.random, scene.ground)
    yield "thumbnail", scenes.true_colour(scene)
    for band, plane in scenes.extra_layers(patch.random, scene).items():
        yield f"extra/{'occurrence' if band == 'ocurrence' and options.occurrence else band}", plane[None]
    for band, plane in scenes.algorithms(scene).items():
        striped = options.striped_labels and band.startswith("kappamask")
        yield f"labels/{band}", plane[None].astype(np.float32) if striped else plane[None]
    label_type = patch.row["label_type"]
    if label_type == "high" or (label_type == "nolabel" and patch.coverage == "cloud-free"):
        yield "labels/manual_hq", scene.label[None]
    if label_type != "nolabel":
        yield "labels/manual_sc", scenes.scribbles(patch.random, scene.label)[None]


def _write_tif(path: Path, planes: npt.NDArray[Any], patch: Patch, options: ArchiveOptions) -> None:
    stem = str(path.relative_to(path.parents[1] if path.parent.name in ("extra", "labels") else path.parent))[:-4]
    striped = planes.dtype == np.float32 and path.parent.name == "labels"
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": planes.shape[0],
        "height": planes.shape[1],
        "width": planes.shape[2],
        "dtype": planes.dtype,
        "crs": f"EPSG:{patch.row['proj_epsg']}",
        "transform": rasterio.Affine(*patch.transform),
        "compress": "LZW",
        "interleave": "pixel" if stem == "thumbnail" else "band",
        "predictor": 1 if planes.dtype == np.uint8 else 3 if planes.dtype == np.float32 else 2,
        "nodata": _STRIPED_NODATA if striped else _nodata(stem),
    }
    if not striped:
        block = min(256, options.size // 16 * 16)
        profile |= {"tiled": True, "blockxsize": block, "blockysize": block}
    with rasterio.open(path, "w", **profile) as file:
        file.write(planes)
        if options.descriptions:
            file.descriptions = _descriptions(stem)


def _nodata(stem: str) -> float | None:
    row = next((a for a in ASSETS if a.file == stem), None)
    return None if row is None or row.dtype == "uint8" or row.is_reflectance else row.nodata


def _descriptions(stem: str) -> tuple[str, ...]:
    if stem == "thumbnail":
        return ("R", "G", "B")
    bands = {name: of for product in PRODUCTS for name, of in files_of(product).items()}
    return bands.get(stem, (stem.rpartition("/")[2],))

"""A folder of predicted tifs as a lazy array with the cube's ROIs and dates, read patch by patch.

Three layouts are supported: one file per patch, ``ROI_0827/<s2_id_gee>.tif``; that of the archive, one folder per
patch, ``.../ROI_0827/<s2_id_gee>/[labels/]<layer>.tif``; and that of the dataset's authors, one flat folder of
``ROI_0827__<s2_id_gee>.tif`` or, before quality control, ``ROI_0827__<s2_id_gee>__manual.tif``. A patch without a file
is unlabelled. The grid of a file is compared with that of its patch, as for the files of an archive.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cloudsen12_cube.archive import difference, read
from cloudsen12_cube.dataset import pixel_axes, pixel_coords
from cloudsen12_cube.errors import PatchError, SelectionError
from cloudsen12_cube.schema import UNLABELLED, Grid

Codes = npt.NDArray[np.uint8]
Key = tuple[str, str]


def from_folder(labels: xr.Dataset, folder: str | os.PathLike[str], layer: str | None = None) -> xr.DataArray:
    """Open a folder of tifs as class codes.

    Parameters
    ----------
    labels : xarray.Dataset
        Group ``labels`` of a cube, whose patches are looked up.
    folder : path
        Folder of tifs of one band with class codes: 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, 255 no
        prediction.
    layer : str, optional
        Name of the files in the archive's layout, or ``manual`` in the authors' flat layout; needed where a patch has
        several.

    Returns
    -------
    xarray.DataArray of uint8, (roi, time, y, x)
        Lazy; 255 where there is no file. The coordinate ``has_file`` tells where there is one, and ``attrs["missing"]``
        counts the cube's patches without one.

    Raises
    ------
    SelectionError
        If there is no tif for any patch, or several for one.
    PatchError
        On reading: if a file is not a tif of one band in the patch's shape, has another reference system or transform
        than the patch (a shifted, flipped or exchanged image), or holds fractions. A file or cube that states no grid
        is not compared.
    """
    root = Path(folder)
    keys = [
        [(str(roi), str(image)) for image in row]
        for roi, row in zip(labels["roi"].values, labels["s2_id_gee"].transpose("roi", "time").values, strict=True)
    ]
    epsg = labels["proj_epsg"].transpose("roi", "time").values
    transforms = labels["proj_transform"].transpose("roi", "time", ...).values
    known = {key for row in keys for key in row if key[1]}  # the image is empty where the ROI has no such date
    files = _find_files(root, known, layer)
    if not files:
        raise SelectionError(
            f"{root} has no prediction: name the tifs ROI/<s2_id_gee>.tif, ROI/<s2_id_gee>/<layer>.tif or "
            "ROI__<s2_id_gee>.tif, "
            f"such as {'/'.join(min(known, default=('ROI_0827', 'S2_ID')))}.tif"
        )
    axes = pixel_axes(labels)
    whole = axes[0].whole, axes[1].whole
    variable = xr.Variable(
        ("roi", "time", "y", "x"), indexing.LazilyIndexedArray(_PredictionFiles(keys, files, epsg, transforms, whole))
    )
    has_file = [[key in files for key in row] for row in keys]
    coords = {
        "roi": labels["roi"].variable,
        "time": labels["time"].variable,
        "has_file": (("roi", "time"), has_file),
        **pixel_coords(*whole),
    }
    attrs = {"folder": root.name, "missing": len(known) - len(files)}
    codes = xr.DataArray(variable, coords=coords, name=layer or root.resolve().name, attrs=attrs)
    return codes if axes[0].is_whole and axes[1].is_whole else codes.sel(y=labels["y"].values, x=labels["x"].values)


def _find_files(folder: Path, known: set[Key], layer: str | None) -> dict[Key, Path]:
    """Find the file of each known patch."""
    files: dict[Key, Path] = {}
    for path in sorted([*folder.rglob("*.tif"), *folder.rglob("*.tiff")]):
        key = _key_of(path, layer)
        if key in known:
            if key in files:
                raise SelectionError(f"two predictions of one patch, {files[key]} and {path}: say which layer is meant")
            files[key] = path
    return files


def _key_of(path: Path, layer: str | None) -> Key:
    """Derive ROI and image from the path of a file."""
    roi, *rest = path.stem.split("__")
    if roi.startswith("ROI_") and rest:
        return (roi, rest[0]) if layer is None or rest[1:] == [layer] else ("", "")
    parents = [parent.name for parent in path.parents[1 if path.parent.name == "labels" else 0 :]][:2]
    if len(parents) == 2 and parents[1].startswith("ROI_") and layer in (None, path.stem):
        return parents[1], parents[0]
    return (parents or [""])[0], path.stem


def _read_codes(path: Path, shape: tuple[int, int], grid: Grid) -> Codes:
    """Read the class codes of one patch; which codes are valid is checked where they are counted."""
    header, pixels = read(path.read_bytes(), str(path))
    if pixels.shape != (1, *shape):
        raise PatchError(str(path), f"an image of {pixels.shape}", f"one band of {shape}")
    if differs := difference(header, grid):
        raise PatchError(str(path), *differs)
    codes: Codes = pixels[0].astype(np.uint8)
    if (codes != pixels[0]).any():
        wrong = pixels[0][codes != pixels[0]].flat[0]
        raise PatchError(str(path), f"{header.dtype} with {wrong}", f"class codes 0 to 3, and {UNLABELLED}")
    return codes


class _PredictionFiles(BackendArray):
    """Class codes (roi, time, y, x) that are read from the files of the selected patches alone."""

    def __init__(
        self,
        keys: list[list[Key]],
        files: dict[Key, Path],
        epsg: npt.NDArray[Any],
        transforms: npt.NDArray[Any],
        shape: tuple[int, int],
    ) -> None:
        self.keys, self.files, self.epsg, self.transforms = keys, files, epsg, transforms
        self.shape = (len(keys), len(keys[0]) if keys else 0, *shape)
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read the selected codes."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Codes:
        rows, columns = (np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape[:2], key[:2], strict=True))
        codes = np.full((len(rows), len(columns), *self.shape[2:]), UNLABELLED, dtype=np.uint8)
        for patch in np.ndindex(len(rows), len(columns)):
            row, column = rows[patch[0]], columns[patch[1]]
            path = self.files.get(self.keys[row][column])
            if path is not None:
                codes[patch] = _read_codes(path, (self.shape[2], self.shape[3]), self._grid(row, column))
        # The outer dims are selected by now: an integer drops its dim, all else keeps what was read.
        lead = [0 if isinstance(k, int | np.integer) else slice(None) for k in key[:2]]
        return np.asarray(xr.Variable(("roi", "time", "y", "x"), codes)[(*lead, *key[2:])].values)

    def _grid(self, row: int, column: int) -> Grid:
        six = self.transforms[row, column].tolist()
        return Grid(int(self.epsg[row, column]), tuple(six) if np.isfinite(six).all() else None)

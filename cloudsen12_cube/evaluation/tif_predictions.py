"""A folder of predictions as an array that lies like the cube: read when asked for, patch by patch.

Two layouts are known: a file a patch, ``ROI_0827/<s2_id_gee>.tif``, and the archive's own, a folder a patch,
``.../ROI_0827/<s2_id_gee>/[labels/]<layer>.tif``. A patch without a file is unlabelled, and the array tells which.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cloudsen12_cube.archive import read
from cloudsen12_cube.errors import PatchError, SelectionError
from cloudsen12_cube.schema import UNLABELLED

Codes = npt.NDArray[np.uint8]
Key = tuple[str, str]


def from_folder(labels: xr.Dataset, folder: str | os.PathLike[str], layer: str | None = None) -> xr.DataArray:
    """See a folder of tifs as class codes.

    Parameters
    ----------
    labels : xarray.Dataset
        The group ``labels`` of a cube, whose patches are looked for.
    folder : path
        Tifs of one band with class codes: 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow, 255 no prediction.
    layer : str, optional
        Name of the files in a folder of the archive's layout; needed where a patch has several.

    Returns
    -------
    xarray.DataArray of uint8, (roi, time, y, x)
        Lazy; 255 where there is no file. ``attrs["missing"]`` counts the cube's patches without one.

    Raises
    ------
    SelectionError
        If there is no tif of any patch, or a patch has several.
    PatchError
        On reading: if a file is no tif of one band of the patch's shape, or holds fractions.
    """
    place = Path(folder)
    keys = _keys(labels)
    wanted = {key for row in keys for key in row if key[1]}
    files = _found(place, wanted, layer)
    if not files:
        raise SelectionError(
            f"{place} has no prediction: name the tifs ROI/<s2_id_gee>.tif or ROI/<s2_id_gee>/<layer>.tif, "
            f"such as {'/'.join(min(wanted, default=('ROI_0827', 'S2_ID')))}.tif"
        )
    source = _Folder(keys, files, (labels.sizes["y"], labels.sizes["x"]))
    variable = xr.Variable(("roi", "time", "y", "x"), indexing.LazilyIndexedArray(source))
    coords = {"roi": labels["roi"].variable, "time": labels["time"].variable}
    about = {"folder": place.name, "missing": len(wanted) - len(files)}
    return xr.DataArray(variable, coords=coords, name=layer or place.resolve().name, attrs=about)


def _keys(labels: xr.Dataset) -> list[list[Key]]:
    """(ROI, image) of each patch; the image is empty where there is none."""
    images = labels["s2_id_gee"].transpose("roi", "time").values
    rois = labels["roi"].values
    return [[(str(roi), str(image)) for image in row] for roi, row in zip(rois, images, strict=True)]


def _found(folder: Path, wanted: set[Key], layer: str | None) -> dict[Key, Path]:
    files: dict[Key, Path] = {}
    for path in sorted([*folder.rglob("*.tif"), *folder.rglob("*.tiff")]):
        key = _key_of(path, layer)
        if key in wanted:
            if key in files:
                raise SelectionError(f"two predictions of one patch, {files[key]} and {path}: say which layer is meant")
            files[key] = path
    return files


def _key_of(path: Path, layer: str | None) -> Key:
    """(ROI, image) that a file's path tells."""
    parents = [parent.name for parent in path.parents[1 if path.parent.name == "labels" else 0 :]][:2]
    if len(parents) == 2 and parents[1].startswith("ROI_") and layer in (None, path.stem):
        return parents[1], parents[0]
    return (parents or [""])[0], path.stem


@dataclass(frozen=True)
class _Tif:
    """A prediction of one patch."""

    path: Path
    shape: tuple[int, int]
    """Rows and columns that it must have."""

    def codes(self) -> Codes:
        """Read class codes; which of them are legal is seen where they are counted."""
        header, pixels = read(self.path.read_bytes(), str(self.path))
        if pixels.shape != (1, *self.shape):
            raise PatchError(str(self.path), f"an image of {pixels.shape}", f"one band of {self.shape}")
        codes: Codes = pixels[0].astype(np.uint8)
        if (codes != pixels[0]).any():
            wrong = pixels[0][codes != pixels[0]].flat[0]
            raise PatchError(str(self.path), f"{header.dtype} with {wrong}", f"class codes 0 to 3, and {UNLABELLED}")
        return codes


class _Folder(BackendArray):
    """Codes (roi, time, y, x) of which only the patches that are asked for are read."""

    def __init__(self, keys: list[list[Key]], files: dict[Key, Path], shape: tuple[int, int]) -> None:
        self.keys, self.files = keys, files
        self.shape = (len(keys), len(keys[0]) if keys else 0, *shape)
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what a key selects."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Codes:
        rows, columns = (np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape[:2], key[:2], strict=True))
        codes = np.full((len(rows), len(columns), *self.shape[2:]), UNLABELLED, dtype=np.uint8)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                path = self.files.get(self.keys[row][column])
                if path is not None:
                    codes[i, j] = _Tif(path, (self.shape[2], self.shape[3])).codes()
        lead = [0 if isinstance(k, int | np.integer) else slice(None) for k in key[:2]]
        values: Codes = xr.Variable(("roi", "time", "y", "x"), codes)[(*lead, *key[2:])].values
        return values

"""The accessor ``.cloudsen12`` of a product's Dataset, of one patch, and of an array of labels or pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from cloudsen12_cube import class_view, cog, patch_view
from cloudsen12_cube.classes import ClassName, Superclass, Threshold
from cloudsen12_cube.reflectance import OPTICAL, reflectance


@xr.register_dataarray_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class ArrayAccessor:
    """What an array of labels, or of Sentinel-2 pixels, can be asked."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def classes(
        self, layer: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See labels as the four classes; ``layer`` may be left out where the array is one band.

        Parameters and errors are those of `cloudsen12_cube.class_view.classes`.
        """
        return class_view.classes(self._array, layer, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See labels as ``cloud`` or ``valid``.

        Parameters and errors are those of `cloudsen12_cube.class_view.superclass`.
        """
        return class_view.superclass(self._array, scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes; the coordinate ``labelled`` tells where there is a label.

        Parameters and errors are those of `cloudsen12_cube.class_view.mask`.
        """
        return class_view.mask(self._array, names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers by the priorities of the paper's table 3.

        Parameters and errors are those of `cloudsen12_cube.class_view.priority_merge`.
        """
        return class_view.priority_merge(self._array, layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None) -> xr.DataArray:
        """Give the pixels of ``s2l1c`` or ``s2l2a`` in physical units.

        Parameters and errors are those of `cloudsen12_cube.reflectance.reflectance`.
        """
        return reflectance(self._array, bands)


@xr.register_dataset_accessor("cloudsen12")  # type: ignore[no-untyped-call]
class DatasetAccessor:
    """What a product's Dataset, the flat view or one patch can be asked."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def _product(self, *names: str) -> xr.DataArray:
        """Find a product, with its bands on ``band``."""
        for name in names:
            if name in self._dataset.data_vars:
                flat = {
                    f"{n}_{name}": n for n in ("band", "scale", "offset") if f"{n}_{name}" in self._dataset.variables
                }
                return self._dataset[name].rename(flat)
        there = ", ".join(map(str, self._dataset.data_vars)) or "nothing"
        raise KeyError(f"no {' or '.join(names)} in this Dataset: it has {there}")

    def classes(
        self, layer: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See a label layer as the four classes; as `cloudsen12_cube.class_view.classes`."""
        return class_view.classes(self._product("labels"), layer, threshold, scale)

    def superclass(
        self, scheme: Superclass, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """See a label layer as ``cloud`` or ``valid``; as `cloudsen12_cube.class_view.superclass`."""
        return class_view.superclass(self._product("labels"), scheme, of, threshold, scale)

    def mask(
        self, *names: ClassName, of: str | None = None, threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Mask the pixels of some classes; as `cloudsen12_cube.class_view.mask`."""
        return class_view.mask(self._product("labels"), names, of, threshold, scale)

    def priority_merge(
        self, layers: Sequence[str], threshold: Threshold | None = None, scale: int | None = None
    ) -> xr.DataArray:
        """Merge label layers; as `cloudsen12_cube.class_view.priority_merge`."""
        return class_view.priority_merge(self._product("labels"), layers, threshold, scale)

    def reflectance(self, bands: str | Sequence[str] | None = None, product: str | None = None) -> xr.DataArray:
        """Give Sentinel-2 pixels in physical units; as `cloudsen12_cube.reflectance.reflectance`."""
        return reflectance(self._product(*([product] if product else OPTICAL)), bands)

    def patch(self, name: str, time: int | None = None, roi: str | None = None) -> xr.Dataset:
        """Select one patch, placed on the map; as `cloudsen12_cube.patch_view.select_patch_of`."""
        return patch_view.select_patch_of(self._dataset, name, time, roi)

    def to_cog(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write one patch back as the archive's files; as `cloudsen12_cube.cog.write_cogs`.

        Parameters
        ----------
        path : path
            Folder of the patch, which is made.

        Returns
        -------
        list of pathlib.Path
            The files.
        """
        return cog.write_cogs(self._dataset, path)

"""The xarray engine ``cloudsen12``: ``xr.open_datatree(url, engine="cloudsen12")`` is `open_cube`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from cloudsen12_cube.dataset import open_cube


class CubeBackend(BackendEntrypoint):
    """Entry point that xarray finds by the name ``cloudsen12``."""

    description = "Open CloudSEN12 cubes (Zarr v3)"
    url = "https://doi.org/10.1038/s41597-022-01878-2"
    supports_groups = True
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "group", "storage_options")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open one group, a product or the root, as a Dataset with its coordinates complete."""
        tree = open_cube(filename_or_obj, storage_options=storage_options)
        path = (group or "/").strip("/")
        if path and path not in tree.children:
            raise KeyError(f"no group {group!r} in {filename_or_obj}; it has {', '.join(tree.children)}")
        dataset = _fixed_width((tree[path] if path else tree).to_dataset())
        return dataset.drop_vars(_names(drop_variables), errors="ignore")

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> xr.DataTree:
        """Open the whole cube."""
        tree = open_cube(filename_or_obj, storage_options=storage_options)
        names = _names(drop_variables)
        for node in tree.subtree:
            node.dataset = _fixed_width(node.to_dataset(inherit=False)).drop_vars(names, errors="ignore")
        return tree

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Open every group as a Dataset."""
        tree = self.open_datatree(filename_or_obj, drop_variables=drop_variables, storage_options=storage_options)
        return {node.path: node.to_dataset() for node in tree.subtree}

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Leave plain Zarr stores to the ``zarr`` engine: a cube is asked for by name."""
        del filename_or_obj
        return False


def _fixed_width(dataset: xr.Dataset) -> xr.Dataset:
    """Read columns of texts and give them a fixed width: dask cannot chunk others by bytes, as chunks="auto" asks."""
    names = [name for name, v in dataset.variables.items() if v.dtype.kind == "T" and name not in dataset.indexes]
    texts = {name: dataset.variables[name] for name in names}
    return dataset.assign({name: v.copy(data=v.values.astype(object).astype("U")) for name, v in texts.items()})


def _names(drop: str | Iterable[str] | None) -> list[str]:
    return [drop] if isinstance(drop, str) else list(drop or ())

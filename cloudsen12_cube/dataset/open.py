"""Opening a cube: lazily, with its coordinates complete, in numeric ROI order."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from cloudsen12_cube.dataset.pixel_grid import pixel_coords
from cloudsen12_cube.errors import StoreError
from cloudsen12_cube.format import DIMS, KEY, attribute_mapping, attribute_texts, checked_view, find_stored_cube
from cloudsen12_cube.schema import PRODUCTS, roi_number
from cloudsen12_cube.storage import LocalStore, Url, absolute, open_store

Chunks = Mapping[str, int] | Literal["roi"] | None

_ROI_CHUNKS = {"roi": 1, "time": -1, "band": -1, "y": -1, "x": -1}
_INNER_CHUNKS = {"roi": 1, "time": 1, "y": -1, "x": -1}


def open_cube(
    url: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    chunks: Chunks = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Open a cube.

    Parameters
    ----------
    url : str or path
        A local path, a URL (``s3://``, ``gs://``, ``https://`` or any other that fsspec knows), or a `Url`.
    products : sequence of str, optional
        Groups to open, any of ``s2l1c``, ``s2l2a``, ``s1``, ``extra``, ``labels``; by default all that are there.
    chunks : None, "roi" or mapping
        None reads without dask when a value is asked for. ``"roi"`` gives dask arrays with a chunk, and so a task, per
        ROI: one object of the store, or its part of one. A mapping gives the sizes by dim; ``{}`` means the store's
        inner chunks, which is a task per band and date by default: for small cubes only.
    storage_options : mapping, optional
        fsspec's options for a URL: ``key``, ``secret``, ``anon``, ``endpoint_url``, ``profile`` ...

    Returns
    -------
    xarray.DataTree
        The root holds the catalogue, (roi, time); each product's group one array (roi, time, band, y, x) of the same
        name, and the coordinates that go with it; ``y`` and ``x`` are the numbers of rows and columns in the whole
        patch. No pixel is read.

    Raises
    ------
    StoreError
        If there is no cube at the place.
    RemoteError
        If a bucket does not answer, or does not let you in.
    KeyError
        If a product is not in the cube; the message lists those that are.
    """
    store = open_store(Url(os.fspath(url), storage_options) if storage_options else url)
    place = store.root
    if isinstance(store, LocalStore) and not os.path.isdir(place):
        raise StoreError(f"{place} is no cube: there is no such folder")
    cube = find_stored_cube(store)
    if cube is None or cube.state == "creating":
        raise StoreError(f"{place} is no finished cube: run convert, or give another place")
    tree = prepare_tree(tree_of(checked_view(cube), place), products, chunks, place)
    # For streams and exports, which read past xarray. The store shows no options: they hold keys.
    tree.encoding = {"source": place, "store": absolute(store)}
    return tree


def tree_of(store: Any, place: str) -> xr.DataTree:
    """Open all groups of a store as they lie in it.

    Raises
    ------
    StoreError
        If it is no cube.
    """
    try:
        with warnings.catch_warnings():  # consolidated metadata is in the specification's text; zarr still warns
            warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
            return xr.open_datatree(store, engine="zarr", chunks=None, consolidated=True, decode_times=False)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise StoreError(
            f"{place} is no finished cube ({first_line(error)}): run convert, or give another place"
        ) from error


def prepare_tree(tree: xr.DataTree, products: Sequence[str] | None, chunks: Chunks, place: str) -> xr.DataTree:
    """Prepare the groups of a store for users: products selected, times decoded, in numeric order, chunked."""
    return _chunked(_in_order(_chosen(tree, products, place)), chunks)


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _chosen(tree: xr.DataTree, products: Sequence[str] | None, place: str) -> xr.DataTree:
    there = [p for p in PRODUCTS if p in tree.children]
    for name in products or ():
        if name not in there:
            raise KeyError(f"no product {name!r} in {place}; it has {', '.join(there)}")
    root = xr.decode_cf(tree.to_dataset())
    times = {name: root[name].load().variable for name in ("datetime", "s1_datetime")}
    nodes = {"/": root}
    for name in there:
        if products is None or name in products:
            node = tree[name].to_dataset()
            # Decoding times reads them: once, from the root, spares a bucket's reader 20 requests.
            nodes[name] = node.assign_coords(times | pixel_coords(node.sizes["y"], node.sizes["x"]))
    for node in nodes.values():
        node.attrs = attribute_texts(node.attrs)
        for variable in node.variables.values():
            variable.attrs = attribute_texts(variable.attrs)
            # A selection is seldom whole shards, so that xarray would refuse to write it: to_zarr keeps the chunks.
            if variable.encoding.pop("shards", None):
                variable.encoding["chunks"] = tuple(variable.encoding["preferred_chunks"].values())
    return xr.DataTree.from_dict(nodes, name=tree.name)


def _in_order(tree: xr.DataTree) -> xr.DataTree:
    """Order ROIs by number: on disk they may lie as they arrived."""
    rois = [str(roi) for roi in tree.to_dataset()["roi"].values]
    order = np.array(sorted(range(len(rois)), key=lambda i: roi_number(rois[i])), dtype=int)
    if (order == np.arange(len(order))).all():
        return tree
    return tree.isel(roi=order)


def check_chunks(chunks: Chunks) -> None:
    """Refuse an unknown word."""
    if isinstance(chunks, str) and chunks != "roi":
        raise ValueError(f"chunks is {chunks!r}: give None, 'roi' or a mapping of {', '.join(DIMS)}")


def _chunked(tree: xr.DataTree, chunks: Chunks) -> xr.DataTree:
    """Convert the pixels to dask arrays, and only them: graphs of small coordinates cost more than the coordinates."""
    check_chunks(chunks)
    if chunks is None:
        return tree
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    for name in tree.children:
        bands = attribute_mapping(tree.attrs[KEY])["products"][name]["chunk"][2]
        sizes = _ROI_CHUNKS if chunks == "roi" else {**_INNER_CHUNKS, "band": bands, **chunks}
        array = nodes[name][name].chunk(sizes)
        stored = zip(array.encoding["chunks"], array.variable.chunks or (), strict=True)
        array.encoding["chunks"] = tuple(n if len(own) == 1 or not own[0] % n else own[0] for n, own in stored)
        nodes[name] = nodes[name].assign({name: array})
    return xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()}, name=tree.name)

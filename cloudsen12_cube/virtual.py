"""The cube over an archive that is not copied: the same tree as a conversion gives, read from the files themselves.

The catalogue, the coordinates and the attributes are made as for a cube, in memory; the pixels stay where they are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import xarray as xr
from xarray.core import indexing

from cloudsen12_cube.access import Url
from cloudsen12_cube.convert import plan_archive
from cloudsen12_cube.cube import ABOUT
from cloudsen12_cube.errors import ArchiveError
from cloudsen12_cube.opening import settings_of
from cloudsen12_cube.options import DEFAULTS
from cloudsen12_cube.place import place_of
from cloudsen12_cube.plan import Plan
from cloudsen12_cube.reader import Chunks, check_chunks, made_ready, tree_of
from cloudsen12_cube.store import ROOT_KEY, Contents, memory_store, objects
from cloudsen12_cube.tables import Frame
from cloudsen12_cube.virtual_array import VirtualArray

STATE = "virtual"
"""What ``state`` among the settings says: no store holds these pixels."""


def open_virtual(
    archive: str | os.PathLike[str],
    products: Sequence[str] | None = None,
    chunks: Chunks = None,
    storage_options: Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    scale: int | None = None,
) -> xr.DataTree:
    """Open an archive as if it were a cube, without a copy.

    Parameters
    ----------
    archive : path, URL or `Url`
        Folder or bucket with the files as published. It must not change while the tree is in use.
    products : sequence of str, optional
        Groups to open; by default all that the archive has.
    chunks : None, "roi" or mapping
        As in `open_cube`; but a mapping that does not name ``band`` keeps all bands of a date in one task, since they
        come from one file.
    storage_options : mapping, optional
        fsspec's options for a URL; a `Url` has its own.
    where : sequence of str
        Conditions on the metadata, such as ``label_type=high``; all must hold.
    scale : {100, 10000}, optional
        Full scale of CD-FCNN's probabilities. A conversion finds it in all values, which nobody reads here.

    Returns
    -------
    xarray.DataTree
        Like that of `open_cube`, for the same accessor. The archive is listed, and the headers of up to 60 patches are
        read; no pixel is. ``status`` is what the listing tells: 2 (failed) where a file is missing or empty.

    Raises
    ------
    ArchiveError, SelectionError
        If there is no archive, or nothing of it that one cube could hold.
    RemoteError
        If a bucket does not answer, or does not let you in.
    StoreError
        When pixels are read: the file is damaged, or does not fit the others. It is named; its pixels are never fill.

    Notes
    -----
    Each band that is asked for costs its whole file. Convert what is read more than a few times.
    """
    check_chunks(chunks)
    if scale not in (None, 100, 10_000):
        raise ValueError(f"scale is {scale!r}: give 100, 10000 or None")
    source = archive if storage_options is None else Url(os.fspath(archive), storage_options)
    if place_of(source).size(ROOT_KEY) is not None:
        raise ArchiveError(f"{os.fspath(archive)} is a Zarr store, no archive: open it with open_cube")
    made = plan_archive(source, products, [where] if isinstance(where, str) else where, DEFAULTS)
    if not any(key in made.archive.patches for key in made.catalogue.keys):
        raise ArchiveError(f"{made.archive.root} has metadata, but no file of the selected patches")
    _warn(made)
    arrays = _arrays(made)
    tree = _with_pixels(tree_of(memory_store(objects(_contents(made, arrays, scale))), made.archive.root), arrays)
    whole_files = chunks if chunks is None or isinstance(chunks, str) else {"band": -1, **chunks}
    tree = made_ready(tree, None, whole_files, made.archive.root)
    access = made.archive.access
    tree.encoding = {
        "source": made.archive.root,
        "storage_options": access.options or None,
        "client": access.client,
        STATE: arrays,
    }
    return tree


def _warn(made: Plan) -> None:
    """Name what is left out, as a conversion's report does."""
    faults = made.faults()
    if faults:
        first = faults[0]
        warnings.warn(
            f"{len(faults)} rows or folders of {made.archive.root} are left out; the first is {first.roi_id} "
            f"{first.s2_id_gee}: found {first.found}, expected {first.expected}",
            stacklevel=3,
        )


def _arrays(made: Plan) -> dict[str, VirtualArray]:
    tasks = list(made.tasks())
    return {
        layout.product: VirtualArray(layout, tuple(task for task in tasks if task.layout.product == layout.product))
        for layout in made.layouts
    }


def _contents(made: Plan, arrays: Mapping[str, VirtualArray], scale: int | None) -> Contents:
    settings = settings_of(made) | {"state": STATE}
    about = ABOUT | {
        "source": settings["source"],
        "history": f"{settings['created']}: opened in place, nothing copied, by cloudsen12-cube "
        f"{version('cloudsen12-cube')}",
        "date_created": settings["created"],
    }
    frame = Frame(made.order, made.layouts[0].times, made.catalogue.table)
    status = {product: array.status() for product, array in arrays.items()}
    return Contents(frame, made.layouts, status, settings, about, scale)


def _with_pixels(tree: xr.DataTree, arrays: Mapping[str, VirtualArray]) -> xr.DataTree:
    """Put the files in the place of the shards, of which there are none."""
    nodes: dict[str, xr.Dataset] = {"/": tree.to_dataset()}
    for name, array in arrays.items():
        group = tree.children[name].to_dataset(inherit=False)
        empty = group[name].variable
        later = indexing.LazilyIndexedArray(array)
        encoding = {"fill_value": empty.encoding.get("fill_value"), "dtype": array.dtype}
        nodes[name] = group.assign({name: xr.Variable(empty.dims, later, empty.attrs, encoding)})
    return xr.DataTree.from_dict(nodes, name=tree.name)

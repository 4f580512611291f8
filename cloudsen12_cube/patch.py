"""One product of one patch: its files read, checked and encoded into inner chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.assets import band_name, files_of
from cloudsen12_cube.classes import layer
from cloudsen12_cube.errors import PatchError
from cloudsen12_cube.fetch import Fetch, most_bytes, read_file
from cloudsen12_cube.form import PatchFiles
from cloudsen12_cube.grid import difference
from cloudsen12_cube.header import Header
from cloudsen12_cube.layout import ProductLayout
from cloudsen12_cube.plan import PatchTask, ShardTask
from cloudsen12_cube.record import ABSENT, DONE, FAILED, Fault, PatchRecord, Source
from cloudsen12_cube.redact import without_secrets
from cloudsen12_cube.shard import encode_chunk

Planes = npt.NDArray[Any]
_PROBABILITY_MAX = {"s2cloudless": 100}  # CD-FCNN is published in per cent and in hundredths of it
_LABEL_MAX = 10_000


@dataclass(frozen=True)
class EncodedPatch:
    """Chunks of a patch, one a band; all empty if anything was wrong with it."""

    chunks: tuple[bytes, ...]
    record: PatchRecord


def encode_patch(task: ShardTask, patch: PatchTask, fetch: Fetch | None = None) -> EncodedPatch:
    """Read, check and encode one patch of a shard.

    Parameters
    ----------
    task : ShardTask
    patch : PatchTask
    fetch : callable, optional
        Gives the bytes of a file by its name; by default it is read when it is asked for.

    Nothing of a patch is stored unless all of it is right: a mask without the pixels it belongs to misleads.
    """
    if patch.files is None:
        return _absent(task, patch)
    chunks: dict[str, bytes] = {}
    sources: list[Source] = []
    faults: list[Fault] = []
    maxima: dict[str, int] = {}
    fetch = fetch or partial(read_file, task, patch)
    for name in files_of(task.layout.product):
        try:
            for band, stored in _planes(task, patch, name, fetch, sources):
                chunks[band] = encode_chunk(stored, task.layout)
                if task.layout.product == "labels" and layer(band).probability:
                    maxima[band] = _maximum(stored)
        except PatchError as error:
            faults.append(_fault(task, patch, name, error))
    status = FAILED if faults else DONE
    kept = tuple(chunks.get(band, b"") if status == DONE else b"" for band in task.layout.bands)
    record = PatchRecord(patch.time, patch.s2_id_gee, status, tuple(sources), tuple(faults), maxima)
    return EncodedPatch(kept, record)


def _absent(task: ShardTask, patch: PatchTask) -> EncodedPatch:
    error = PatchError(f"{task.roi_id}/{patch.s2_id_gee}", "no folder of this patch", "a folder for every row")
    record = PatchRecord(patch.time, patch.s2_id_gee, ABSENT, faults=(_fault(task, patch, "", error),))
    return EncodedPatch((b"",) * len(task.layout.bands), record)


def _fault(task: ShardTask, patch: PatchTask, asset: str, error: PatchError) -> Fault:
    told = (without_secrets(text) for text in (error.path, error.found, error.expected))
    return Fault(task.roi_id, patch.s2_id_gee, task.layout.product, asset, *told)


def _planes(
    task: ShardTask, patch: PatchTask, name: str, fetch: Fetch, sources: list[Source]
) -> Iterator[tuple[str, Planes]]:
    """Yield band and checked pixels of one file; nothing where the archive rightly has none."""
    files = patch.files or PatchFiles("", "")
    if name not in files.names:
        if name in task.required:
            raise PatchError(f"{files.folder}/{name}.tif", "no such file", "a file in every patch")
        return
    path = task.decoder.path(files, name)
    data = fetch(name)
    header, pixels = task.decoder.decode(data, files, name, most_bytes(task.layout, name))
    check(header, pixels, task.layout, patch, path)
    sources.append(Source(path, len(data), hashlib.sha256(data).hexdigest()))
    del data
    wanted = files_of(task.layout.product)[name]
    for band, position in zip(wanted, positions(header, wanted, path), strict=True):
        stored = cast(pixels[position], task.layout, header.nodata, path)
        if task.layout.product == "labels":
            check_label(stored, band, path)
        yield band, stored


def _maximum(stored: Planes) -> int:
    """Largest value of a label plane that is not the fill, 65535 in the 16 bits of either sign; 0 if there is none."""
    return max(int((stored.view("uint16") + np.uint16(1)).max()) - 1, 0)  # the fill, plus one, is 0


def check(header: Header, pixels: Planes, layout: ProductLayout, patch: PatchTask, path: str) -> None:
    """Compare a file with what its place in the cube asks for.

    Raises
    ------
    PatchError
        If size, reference system or transform differ, or a radar image holds nothing but NaN.
    """
    size = (header.height, header.width)
    if size != (layout.height, layout.width):
        raise PatchError(path, f"{size[0]} x {size[1]} pixels", f"{layout.height} x {layout.width}")
    differs = difference(header, patch.grid)
    if differs:
        raise PatchError(path, *differs)
    if pixels.dtype.kind == "f" and np.isnan(pixels.flat[0]) and np.isnan(pixels).all():
        raise PatchError(path, "nothing but NaN", "at least one value")


def positions(header: Header, wanted: Sequence[str], path: str) -> Sequence[int]:
    """Find the planes of the wanted bands, by the file's descriptions where it has any.

    Raises
    ------
    PatchError
        If the file has other bands.
    """
    if header.count != len(wanted):
        raise PatchError(path, f"{header.count} bands", f"{len(wanted)} ({', '.join(wanted)})")
    described = [band_name(text) for text in header.descriptions]
    if len(wanted) == 1 or not set(described) & set(wanted):
        return range(len(wanted))
    if sorted(described) != sorted(wanted):
        raise PatchError(path, f"bands {', '.join(header.descriptions)}", ", ".join(wanted))
    return [described.index(band) for band in wanted]


def cast(plane: Planes, layout: ProductLayout, nodata: float | None, path: str) -> Planes:
    """Give a plane the stored data type without changing a value.

    What a float label file declares as nodata (-3.4e38 in KappaMask's) becomes the fill: no label.

    Raises
    ------
    PatchError
        If a value would not survive.
    """
    dtype = np.dtype(layout.dtype)
    if plane.dtype == dtype:
        return plane
    if layout.product == "labels" and plane.dtype.kind == "f" and nodata is not None:
        missing = np.isnan(plane) if np.isnan(nodata) else plane == plane.dtype.type(nodata)
        plane = np.where(missing, plane.dtype.type(layout.fill), plane)
    if np.can_cast(plane.dtype, dtype, "safe"):
        return plane.astype(dtype)
    with np.errstate(invalid="ignore"):  # an impossible cast is found by the comparison below
        stored = plane.astype(dtype)
    same = stored == plane
    if dtype.kind == "f":
        same |= np.isnan(plane)
    if not same.all():
        value = plane[~same].flat[0]
        raise PatchError(path, f"the value {value} ({plane.dtype})", f"values that fit the cube's {dtype}")
    return stored


@lru_cache(maxsize=64)
def _legal(band: str) -> npt.NDArray[np.bool_]:
    """Which of the 65,536 values of 16 bits a label layer may hold; the last one is the fill of either sign."""
    table = np.zeros(2**16, dtype=bool)
    row = layer(band)
    table[list(row.legal) or slice(_PROBABILITY_MAX.get(band, _LABEL_MAX) + 1)] = True
    table[-1] = True
    return table


def check_label(plane: Planes, band: str, path: str) -> None:
    """Refuse a label value that no code table has.

    Parameters
    ----------
    plane : numpy.ndarray of a 16-bit integer, shape (y, x)

    Raises
    ------
    PatchError
        With the first such value.
    """
    table, values = _legal(band), plane.view("uint16")
    if values.max() < np.argmin(table):
        return  # below the first illegal value, as nearly always: the look-up costs ten times this
    legal = table[values]
    if not legal.all():
        value = plane[~legal].flat[0]
        told = ", ".join(map(str, sorted(layer(band).legal))) or f"0 to {_PROBABILITY_MAX.get(band, _LABEL_MAX)}"
        raise PatchError(path, f"the value {value}", f"one of {told}")

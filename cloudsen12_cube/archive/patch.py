"""One product of one patch of an archive: its files read, checked, cast, and encoded into inner chunks.

A local file is read when it is decoded. From a bucket the files of the next patch are requested while one is decoded:
one request a file, several under way. An archive that is opened in place uses the same steps but the encoding.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudsen12_cube.archive.base import ByteRange, Decoder, PatchFiles
from cloudsen12_cube.archive.geotiff import TIFS
from cloudsen12_cube.archive.grid import difference
from cloudsen12_cube.archive.tiff import Header, with_sidecars
from cloudsen12_cube.errors import PatchError, ReadError, without_secrets
from cloudsen12_cube.format import ABSENT, DONE, FAILED, Fault, PatchRecord, ProductLayout, Source, encode_chunk
from cloudsen12_cube.schema import Asset, Grid, assets_of, band_name, files_of, layer
from cloudsen12_cube.storage import LocalStore, ObjectStore


@dataclass(frozen=True)
class PatchTask:
    """One patch of a shard, and the files that fill it."""

    time: int
    s2_id_gee: str
    grid: Grid
    files: PatchFiles | None
    """None where the archive has no folder for this row of its metadata."""


@dataclass(frozen=True)
class ArchiveRoi:
    """One ROI of one product in an archive: its files, and how to read them. Small, and sent as it is to a worker."""

    store: ObjectStore
    """The archive."""
    layout: ProductLayout
    roi_id: str
    patches: tuple[PatchTask, ...]
    required: frozenset[str]
    """Files without which a patch of this product is not whole."""
    decoder: Decoder = TIFS
    """How its files become pixels."""


Fetch = Callable[[str], bytes]
"""Name of an asset file, ``labels/fmask``, -> its bytes."""

_LEAST = 16 * 2**20
_REQUESTS = 32
"""Files that a process asks a bucket for at a time."""


def most_bytes(layout: ProductLayout, name: str) -> int:
    """Bytes that a file may have, and its pixels: 64 bits a pixel, or what a little patch and a large tile take.

    A sound file has a quarter of that, overviews included. More is refused before it is read, or decoded.
    """
    return max(_LEAST, 8 * len(files_of(layout.product)[name]) * layout.height * layout.width)


def with_files(task: ArchiveRoi) -> Iterator[tuple[PatchTask, Fetch]]:
    """Yield the patches of an ROI, each with a function that returns the bytes of its files.

    Parameters
    ----------
    task : ArchiveRoi
        From a bucket, the files of one patch are requested while the one before is in use.

    Yields
    ------
    patch : PatchTask
    fetch : callable
        Asset file -> bytes; each file once. Raises as `read_file`.
    """
    if task.store.concurrency == 1:
        yield from ((patch, partial(read_file, task, patch)) for patch in task.patches)
        return
    requested = [_request(task, patch) for patch in task.patches[:1]]
    for index, patch in enumerate(task.patches):
        files = requested.pop()
        requested += [_request(task, later) for later in task.patches[index + 1 : index + 2]]
        yield patch, partial(_wait, files)


def _request(task: ArchiveRoi, patch: PatchTask) -> dict[str, Future[bytes]]:
    there = patch.files.names if patch.files else {}
    wanted = [name for name in files_of(task.layout.product) if name in there]
    return {name: _pool(os.getpid()).submit(read_file, task, patch, name) for name in wanted}


def _wait(files: dict[str, Future[bytes]], name: str) -> bytes:
    return files.pop(name).result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    del process
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="fetch")


def read_file(task: ArchiveRoi, patch: PatchTask, name: str) -> bytes:
    """Read the bytes of one asset of a patch.

    Parameters
    ----------
    task : ArchiveRoi
        One product of the ROI.
    patch : PatchTask
        One of its patches.
    name : str
        Asset file, ``labels/fmask``.

    Raises
    ------
    PatchError
        If a file is missing, not regular, too large, or a link out of the archive.
    RemoteError
        If a bucket does not answer: the file itself may be right.
    """
    files = patch.files or PatchFiles("", "")
    path = task.decoder.path(files, name)
    if name in files.outside:
        raise PatchError(path, "a link that leads out of the archive", "a file inside it")
    limit, size, ranges = most_bytes(task.layout, name), files.sizes[name], task.decoder.byte_ranges(files, name)
    if isinstance(task.store, LocalStore) and ranges[0].length is None:
        try:
            size = task.store.size(ranges[0].path) or 0  # a local file may have been replaced since it was listed
        except ReadError as error:
            raise _unreadable(path, error) from None
    if size > limit:
        raise PatchError(path, f"a file of {size} bytes", f"at most {limit} bytes")
    return b"".join(_read_range(task.store, part, size, path) for part in ranges)


def _read_range(store: ObjectStore, part: ByteRange, size: int, path: str) -> bytes:
    expected = size if part.length is None else part.length
    try:
        data = store.get(part.path, part.start, part.length)
    except ReadError as error:
        raise _unreadable(path, error) from None
    if data is None:
        raise PatchError(path, "no such file any more", "the file that was listed")
    if expected not in (-1, len(data)):
        raise PatchError(path, f"{len(data)} bytes", f"the {expected} bytes that were listed")
    return data


def _unreadable(path: str, error: ReadError) -> PatchError:
    return PatchError(path, f"a file that cannot be read ({error.strerror})", "a readable file")


Planes = npt.NDArray[Any]
_LARGEST = {"s2cloudless": 100, "qa60": 2**16 - 2}
"""Layer without a list of codes -> its largest value: of QA60, resampled and newer files have more than two bits."""
_LABEL_MAX = 10_000
_MOST_REFLECTANCE = 10.0
"""More than any reflectance, less than some digital number of any image."""


@dataclass(frozen=True)
class EncodedPatch:
    """Chunks of a patch, one a band; all empty if anything was wrong with it."""

    chunks: tuple[bytes, ...]
    record: PatchRecord


def encode_patch(task: ArchiveRoi, patch: PatchTask, fetch: Fetch | None = None) -> EncodedPatch:
    """Read, check and encode one patch of an ROI.

    Nothing of a patch is stored unless all of it is right: a mask without the pixels it belongs to misleads.

    Parameters
    ----------
    task : ArchiveRoi
        One product of the ROI.
    patch : PatchTask
        One of its patches.
    fetch : callable, optional
        Returns the bytes of a file by its name; by default a file is read when it is decoded.

    Returns
    -------
    EncodedPatch
        Its record holds a fault for each file that cannot be used; none is raised.
    """
    if patch.files is None:
        return _absent(task, patch)
    chunks: dict[str, bytes] = {}
    sources: list[Source] = []
    faults: list[Fault] = []
    maxima: dict[str, int] = {}
    fetch = fetch or partial(read_file, task, patch)
    for name in files_of(task.layout.product):
        if name not in patch.files.names:
            if name in task.required:
                missing = PatchError(f"{patch.files.folder}/{name}.tif", "no such file", "a file in every patch")
                faults.append(_fault(task, patch, name, missing))
            continue
        try:
            data = fetch(name)
            planes = _decode(task, patch, name, data)
            digest = hashlib.sha256(data).hexdigest()
            sources.append(Source(task.decoder.path(patch.files, name), len(data), digest))
            del data  # a large file is not held while its bands are encoded
            for band, stored in planes:
                chunks[band] = encode_chunk(stored, task.layout)
                if task.layout.product == "labels" and layer(band).probability:
                    maxima[band] = _maximum(stored)
        except PatchError as error:
            faults.append(_fault(task, patch, name, error))
    status = FAILED if faults else DONE
    kept = tuple(chunks.get(band, b"") if status == DONE else b"" for band in task.layout.bands)
    record = PatchRecord(patch.time, patch.s2_id_gee, status, tuple(sources), tuple(faults), maxima)
    return EncodedPatch(kept, record)


def _absent(task: ArchiveRoi, patch: PatchTask) -> EncodedPatch:
    error = PatchError(f"{task.roi_id}/{patch.s2_id_gee}", "no folder of this patch", "a folder for every row")
    record = PatchRecord(patch.time, patch.s2_id_gee, ABSENT, faults=(_fault(task, patch, "", error),))
    return EncodedPatch((b"",) * len(task.layout.bands), record)


def _fault(task: ArchiveRoi, patch: PatchTask, asset: str, error: PatchError) -> Fault:
    texts = (without_secrets(text) for text in (error.path, error.found, error.expected))
    return Fault(task.roi_id, patch.s2_id_gee, task.layout.product, asset, *texts)


def _decode(task: ArchiveRoi, patch: PatchTask, name: str, data: bytes) -> Iterator[tuple[str, Planes]]:
    """Decode and check one file of a patch; its bands are cast one at a time, to hold one copy of one of them."""
    files, layout = patch.files or PatchFiles("", ""), task.layout
    path = task.decoder.path(files, name)
    header, pixels = task.decoder.decode(data, files, name, most_bytes(layout, name))
    if name in files.sidecars:
        header = with_sidecars(data, header, _sidecars(task.store, files.sidecars[name], path), path)
    check(header, pixels, layout, patch, path)
    wanted = [asset for asset in assets_of(layout.product) if asset.file == name]
    order = list(zip(wanted, positions(header, [asset.band for asset in wanted], path), strict=True))
    for asset, position in order:
        check_scale(header, position, asset, path)
    check_digital_numbers([pixels[position] for asset, position in order if asset.is_reflectance], path)
    return ((asset.band, _stored(pixels[position], header, layout, asset, path)) for asset, position in order)


def _sidecars(store: ObjectStore, suffixes: Sequence[str], path: str) -> dict[str, bytes]:
    """Read the files beside a tif."""
    found = {suffix: store.get(f"{path}{suffix}") for suffix in suffixes}
    return {suffix: bytes(data) for suffix, data in found.items() if data is not None}


def _stored(plane: Planes, header: Header, layout: ProductLayout, asset: Asset, path: str) -> Planes:
    """Cast a plane, with the cube's own value in the place of the nodata that the file declares."""
    missing = _declared_missing(plane, header.nodata, asset)
    if missing is None:
        stored = cast(plane, layout, path)
    else:
        stored = cast(np.where(missing, plane.dtype.type(0), plane), layout, path)
        stored[missing] = asset.nodata if asset.is_reflectance else layout.fill
    if layout.product == "labels":
        check_label(stored, asset.band, path)
    return stored


def _declared_missing(plane: Planes, nodata: float | None, asset: Asset) -> npt.NDArray[np.bool_] | None:
    """Find the pixels that are missing by the file's declaration alone.

    A legal code of a label layer stays what it is, whatever a file declares: 0 means clear. So does 0 of a band that
    is no reflectance: a file declares one value for all of its bands, and 0 is a depth, a colour or a height.
    """
    if nodata is None or nodata in (0, asset.nodata):
        return None
    if asset.product == "labels" and nodata in range(2**16 - 1) and _legal(asset.band)[int(nodata)]:
        return None
    missing = np.isnan(plane) if np.isnan(nodata) else plane == nodata
    return missing if missing.any() else None


def _maximum(stored: Planes) -> int:
    """Largest value of a label plane other than the fill, which is 65535 as 16 bits of either sign; 0 without one."""
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
    if header.hidden:
        raise PatchError(path, f"a mask that hides {header.hidden:,} values", "no mask, or one that hides nothing")
    if pixels.dtype.kind == "f" and np.isnan(pixels.flat[0]) and np.isnan(pixels).all():
        raise PatchError(path, "nothing but NaN", "at least one value")


def positions(header: Header, wanted: Sequence[str], path: str) -> Sequence[int]:
    """Find the planes of the wanted bands: by the file's descriptions, or by position if no band has one.

    Raises
    ------
    PatchError
        If the file has other bands.
    """
    if header.count != len(wanted):
        raise PatchError(path, f"{header.count} bands", f"{len(wanted)} ({', '.join(wanted)})")
    described = [band_name(text) for text in header.descriptions]
    if len(wanted) == 1 or not any(described):
        return range(len(wanted))
    if sorted(described) != sorted(wanted):
        raise PatchError(path, f"bands {', '.join(header.descriptions)}", ", ".join(wanted))
    return [described.index(band) for band in wanted]


def check_scale(header: Header, position: int, asset: Asset, path: str) -> None:
    """Refuse a file whose bands have another scale or offset than the stored values of their asset.

    Raises
    ------
    PatchError
        With both; stored values are not converted, as those of a cube are the archive's.
    """
    scale = header.scales[position] if header.scales else 1.0
    offset = header.offsets[position] if header.offsets else 0.0
    is_plain = (scale, offset) == (1.0, 0.0)
    if not is_plain and not (math.isclose(scale, asset.scale, rel_tol=1e-6) and abs(offset) <= 1e-6 * asset.scale):
        found = f"scale {scale:g} and offset {offset:g} of {asset.band}"
        raise PatchError(path, found, f"scale {asset.scale:g} and offset 0, or none")


def check_digital_numbers(planes: Sequence[Planes], path: str) -> None:
    """Refuse reflectance from 0 to 1 where digital numbers are expected, 10,000 times as large.

    Raises
    ------
    PatchError
        If no value of all bands of a float file is larger than any reflectance, and some differ from 0.
    """
    if not planes or planes[0].dtype.kind != "f":
        return
    largest = max(float(np.abs(plane).max(initial=0, where=np.isfinite(plane))) for plane in planes)
    if 0 < largest <= _MOST_REFLECTANCE:
        raise PatchError(path, f"values of at most {largest:g}", "digital numbers, 10000 for a reflectance of 1")


def cast(plane: Planes, layout: ProductLayout, path: str) -> Planes:
    """Return a plane in the stored data type without changing a value.

    Raises
    ------
    PatchError
        If a value would not survive.
    """
    dtype = np.dtype(layout.dtype)
    if plane.dtype == dtype:
        return plane
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
    table[list(row.legal) or slice(_LARGEST.get(band, _LABEL_MAX) + 1)] = True
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
        allowed = ", ".join(map(str, sorted(layer(band).legal))) or f"0 to {_LARGEST.get(band, _LABEL_MAX)}"
        raise PatchError(path, f"the value {value}", f"one of {allowed}")


def planes_of(task: ArchiveRoi, patch: PatchTask, name: str, data: bytes | None = None) -> dict[str, Planes]:
    """Read one file of a patch as a cube would hold it.

    Parameters
    ----------
    task : ArchiveRoi
        One product of the ROI.
    patch : PatchTask
        One of its patches.
    name : str
        An asset file that the patch has, ``labels/fmask``.
    data : bytes, optional
        Its bytes, if they have been read.

    Returns
    -------
    dict of str to numpy.ndarray
        Band -> stored values, shape (y, x), of the layout's data type.

    Raises
    ------
    PatchError
        If the file cannot go into a cube.
    RemoteError
        If a bucket does not answer: the file itself may be right.
    """
    return dict(_decode(task, patch, name, read_file(task, patch, name) if data is None else data))


def listed_status(task: ArchiveRoi, patch: PatchTask) -> int:
    """Return the status of a patch from the listing alone: failed where a conversion would refuse it.

    A damaged file is not noticed: reading it raises.

    Parameters
    ----------
    task : ArchiveRoi
        One product of the ROI.
    patch : PatchTask
        One of its patches.

    Returns
    -------
    {0, 1, 2}
        `ABSENT`, `DONE` or `FAILED`.
    """
    if patch.files is None:
        return ABSENT
    files, known = patch.files, files_of(task.layout.product)
    lacking = task.required - files.names.keys()
    refused = [n for n in known if n in files.outside or not 0 != files.sizes.get(n, -1) <= most_bytes(task.layout, n)]
    return FAILED if lacking or refused else DONE

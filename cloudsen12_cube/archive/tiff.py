"""One tif: its header (size, data type, grid, nodata, descriptions of the bands), and its pixels as (band, y, x).

The layouts that the archive is known to use are decoded here, segment by segment, because that is the only way to see
that a segment holds exactly the bytes it must: a truncated LZW stream otherwise ends in silence. Everything else
(big-endian, JPEG, odd bit depths, sparse files) is left to GDAL, after the same checks of the header.
"""

from __future__ import annotations

import html
import io
import logging
import math
import re
import struct
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from cloudsen12_cube.errors import PatchError

Transform = tuple[float, float, float, float, float, float]

_KINDS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}
_ITEM = re.compile(r"""<Item((?:\s+\w+="[^"<>&]*")*)\s*>([^<]*)</Item>\s*""")
_METADATA = re.compile(rf"\s*<GDALMetadata>\s*(?:{_ITEM.pattern})*</GDALMetadata>\s*")
_METADATA_TAG = 42112
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_NUMBER = re.compile(r"\+?(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_WORDS = re.compile(r"(-?1\.#(?:qnan|snan|ind)|nan)|(-)?(?:1\.#)?inf", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What a tif says of its first full-resolution image."""

    count: int
    """Number of bands."""
    height: int
    width: int
    dtype: np.dtype[Any]
    """Data type of a pixel, in native byte order."""
    nodata: float | None
    """Declared nodata value (may be NaN), or None if the file declares none."""
    epsg: int | None
    """EPSG code of the reference system, or None if absent or user-defined."""
    transform: Transform | None
    """``(a, b, c, d, e, f)``: a pixel's upper left corner is x = a column + b row + c, y = d column + e row + f."""
    descriptions: tuple[str, ...]
    """Description of each band, ``""`` for a band without one."""
    scales: tuple[float, ...] = ()
    """Scale of each band; empty if the file states none."""
    offsets: tuple[float, ...] = ()
    """Offset of each band; empty if the file states none."""
    hidden: int = 0
    """Band values that a mask hides, in the file or beside it."""

    @property
    def nbytes(self) -> int:
        """Size of the pixels in bytes."""
        return self.count * self.height * self.width * self.dtype.itemsize


def header_of_tags(tags: dict[int, Any]) -> Header:
    """Make the header from the tags of an image file directory, by their numbers in the TIFF specification.

    Raises
    ------
    ValueError, KeyError, TypeError
        Or anything else that damaged values cause.
    """
    count, width, height = int(tags.get(277, 1)), int(tags[256]), int(tags[257])
    if min(count, width, height) < 1:
        raise ValueError(f"{count} bands of {height} x {width} pixels")
    ((bits,), (form,)) = set(many(tags.get(258, 1))), set(many(tags.get(339, 1)))  # the same of every band
    dtype = np.dtype(f"{_KINDS[form]}{next(n for n in (1, 2, 4, 8, 16) if bits <= 8 * n)}")
    words = many(tags.get(34735, ()))  # keys of four: what, where its value is (0: here), how many, value
    geokeys = {words[i]: words[i + 3] for i in range(4, len(words) - 3, 4) if words[i + 1] == 0}
    epsg = geokeys.get(3072, geokeys.get(2048, 0))
    shift = 0.5 if geokeys.get(1025) == 2 else 0.0  # PixelIsPoint: the tie is a pixel's centre
    texts = _band_texts(tags.get(_METADATA_TAG), count)
    return Header(
        *(count, height, width, dtype, _nodata(tags.get(42113), dtype)),
        epsg=epsg if epsg not in (0, 32767) else None,
        transform=_transform(tags, shift),
        descriptions=tuple(texts["description"]),
        scales=tuple(gdal_number(text) if text else 1.0 for text in texts["scale"]) if any(texts["scale"]) else (),
        offsets=tuple(gdal_number(text) if text else 0.0 for text in texts["offset"]) if any(texts["offset"]) else (),
    )


def _nodata(stated: object, dtype: np.dtype[Any]) -> float | None:
    text = stated.decode("latin-1") if isinstance(stated, bytes) else stated
    if not text:  # an empty text declares nothing, as in GDAL
        return None
    value = gdal_number(str(text))
    if dtype != np.float32:
        return value
    with np.errstate(over="ignore"):  # the value that a pixel can have
        stored = float(np.float32(value))
    return stored if np.isfinite(stored) else value


def gdal_number(text: str) -> float:
    """Read a number as GDAL does (``CPLAtofM``): a comma may be the point, what follows is ignored, a word is 0.

    Parameters
    ----------
    text : str
        ``-9999``, ``-9999,0``, ``nan``, ``-1.#IND`` (as Microsoft's C library writes NaN), ``none``.
    """
    text = text.lstrip(" \t\n\v\f\r")
    word = _WORDS.match(text)
    if word:
        return math.nan if word[1] else math.copysign(math.inf, -1 if word[2] else 1)
    point = next((c for c in text if c in ".,"), ".")
    number = _NUMBER.match(text if point == "." else text.partition(".")[0].replace(",", ".", 1))
    return float(number[1]) if number else 0.0


def _transform(tags: dict[int, Any], shift: float) -> Transform | None:
    scale, tie, matrix = tags.get(33550), tags.get(33922), tags.get(34264)
    if scale is not None and tie is not None and scale[0] and scale[1]:
        a, b, d, e = scale[0], 0.0, 0.0, -abs(scale[1])
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    elif matrix is not None:
        a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    else:
        return None
    return (float(a), float(b), float(c - shift * (a + b)), float(d), float(e), float(f - shift * (d + e)))


def _band_texts(xml: object, count: int) -> dict[str, list[str]]:
    """Descriptions, scales and offsets in GDAL's metadata, by pattern: a parser would expand entities.

    Only what GDAL itself writes is read here; `read` leaves every other form to GDAL.
    """
    texts = {role: [""] * count for role in ("description", "scale", "offset")}
    for attributes, text in _ITEM.findall(xml) if isinstance(xml, str) and _METADATA.fullmatch(xml) else ():
        item = dict(_ATTRIBUTE.findall(attributes))
        sample = item.get("sample", "")
        if item.get("role") in texts and sample.isdecimal() and int(sample) < count:
            texts[item["role"]][int(sample)] = html.unescape(html.unescape(text))  # GDAL escapes twice
    return texts


def many(value: Any) -> tuple[int, ...]:
    """Value of a tag that may hold one number or several."""
    return tuple(np.atleast_1d(value).tolist())


Pixels = npt.NDArray[Any]

_DEFLATE = imagecodecs.deflate_decode
_ZSTD = imagecodecs.zstd_decode
_DECODERS: dict[int, Callable[..., Any]] = {5: imagecodecs.lzw_decode, 8: _DEFLATE, 32946: _DEFLATE, 50000: _ZSTD}
_ROOM = 4096
_DTYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"})
_LOGGERS = ("rasterio._err", "rasterio._env")  # which of them gets GDAL's warnings depends on the version of rasterio
_OPENING = threading.Lock()  # the filters of ``warnings`` belong to the process


@dataclass(frozen=True)
class _Layout:
    """Where the pixels lie: segments of ``rows`` x ``columns``, row by row of segments, plane by plane."""

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    rows: int
    columns: int
    tiled: bool
    samples: int
    """Bands in a segment, pixel by pixel: all or one."""
    compression: int
    predictor: int
    plain: bool
    """Whether ``_decode`` can read it."""
    metadata_is_plain: bool
    """Whether the metadata of the bands, if any, have the form that GDAL writes."""
    is_single: bool
    """Whether the file has no further directory, such as that of a mask."""


def directory_inside(head: bytes) -> bool:
    """Return whether the first bytes of a tif hold its first directory, with some room for what that points to."""
    order = {b"II*\0": "<I", b"MM\0*": ">I"}.get(head[:4])
    if order is None or len(head) < 8:
        return False
    (offset,) = struct.unpack_from(order, head, 4)
    return bool(offset + _ROOM <= len(head))


def read_header(data: bytes, path: str, size: int | None = None) -> Header:
    """Read the header of a tif (its bytes, and its name for messages); its segments must lie inside the file.

    The first bytes suffice where the header is in front; ``size`` is then the length of the whole file.

    Raises
    ------
    PatchError
        If the file is empty, no TIFF, damaged in its header or truncated.
    """
    return _parse(data, path, size)[0]


def read(data: bytes, path: str, limit: int = 2**30) -> tuple[Header, Pixels]:
    """Decode a tif.

    Parameters
    ----------
    data : bytes
        The whole file.
    path : str
        Its name, for messages.
    limit : int
        Bytes of pixels; more are refused before any is allocated.

    Returns
    -------
    header : Header
    pixels : numpy.ndarray, shape (count, height, width)
        In C order and native byte order.

    Raises
    ------
    PatchError
        As `read_header`; also if the pixels exceed the limit, or a segment does not decode to the bytes it must hold.
    """
    header, layout = _parse(data, path)
    size = max(header.nbytes, layout.rows * layout.columns * layout.samples * header.dtype.itemsize)
    if size > limit:
        raise PatchError(path, f"an image of {size} bytes", f"at most {limit} bytes")
    pixels = (_decode if layout.plain else _by_gdal)(data, header, layout, path)
    if not layout.metadata_is_plain or not (layout.is_single or _has_no_mask(data)):
        header = with_sidecars(data, header, {}, path)
    return header, pixels


def _has_no_mask(data: bytes) -> bool:
    """Return whether none of the image file directories is a mask."""
    with tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
        try:
            return not any(_is_mask(page) for page in file.pages)
        except Exception:  # damage behind the image, which can be read all the same
            return True


def _is_mask(page: Any) -> bool:
    return bool(int(page.tags.valueof(254, 0)) & 4)


def with_sidecars(data: bytes, header: Header, sidecars: Mapping[str, bytes], path: str) -> Header:
    """Complete a header by what GDAL finds in the file and in the files beside it.

    Parameters
    ----------
    data : bytes
        The tif.
    header : Header
        Its header, as `read` returns it.
    sidecars : mapping of str to bytes
        Content of the files beside it by their suffix, ``.aux.xml`` or ``.msk``.
    path : str
        Name of the tif, for messages.

    Returns
    -------
    Header
        With GDAL's nodata, descriptions, scales and offsets, and the number of values that a mask hides.

    Raises
    ------
    PatchError
        If GDAL cannot open it, or its bands declare different nodata values.
    """
    from rasterio.enums import MaskFlags

    with _opened(data, sidecars, path) as dataset:
        declared = set(dataset.nodatavals) - {None}
        if len({str(value) for value in declared}) > 1:
            raise PatchError(path, f"nodata values {sorted(declared)}", "one value, or none")
        masked = [
            i
            for i, flags in zip(dataset.indexes, dataset.mask_flag_enums, strict=True)
            if MaskFlags.per_dataset in flags
        ]
        return replace(
            header,
            nodata=next(iter(declared), None),
            descriptions=tuple(text or "" for text in dataset.descriptions),
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
            hidden=sum(int(np.count_nonzero(dataset.read_masks(i) == 0)) for i in masked),
        )


def _parse(data: bytes, path: str, size: int | None = None) -> tuple[Header, _Layout]:
    if not data:
        raise PatchError(path, "an empty file", "a TIFF")
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise PatchError(path, "no TIFF", "a TIFF")
    try:
        # The formats that are switched off make the parser look into more than the first page.
        with tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
            page, form = file.pages.first, file.tiff
            entries = list(page.tags)
            tags = {int(tag.code): tag.value for tag in reversed(entries)}  # of a repeated tag, the first one counts
            (number,) = struct.unpack_from(form.tagnoformat, data, page.offset)
            end = page.offset + form.tagnosize + number * form.tagsize
            is_single = not any(data[end : end + form.offsetsize])
        if number != len(entries):  # the parser skips what it cannot read, and a default would take its place
            raise ValueError(f"{len(entries)} of {number} tags can be read")
        for tag in entries:
            if tag.code == _METADATA_TAG:  # rasterio expects UTF-8 of messages of GDAL, which quote the text
                data[tag.valueoffset : tag.valueoffset + tag.valuebytecount].decode()
        header = header_of_tags(tags)
        _check_tags(tags, header.count)
        plain = form.byteorder == "<" and sys.byteorder == "little"
        layout = _layout(tags, header, plain=plain, is_single=is_single)
    except Exception as error:  # damaged bytes make the parser, and the arithmetic on what it finds, fail in any way
        raise PatchError(path, f"a damaged header ({_line(error)})", "a TIFF") from error
    _check_segments(len(data) if size is None else size, header, layout, path)
    return header, layout


def _check_tags(tags: dict[int, Any], count: int) -> None:
    """Raise ValueError where tags contradict each other, as libtiff does."""
    for code, least in ((258, 1), (339, count)):
        values = many(tags.get(code, (1,) * count))
        if len(values) < count and len(values) != least:
            raise ValueError(f"tag {code} of {len(values)} values for {count} bands")
    extra = many(tags.get(338, ()))
    if len(extra) > count or not set(extra) <= {0, 1, 2, 999}:
        raise ValueError(f"tag 338 of values {extra[:9]} for {count} bands")
    if {322, 323, 324, 325} & set(tags) and {273, 279} & set(tags):
        raise ValueError("tags of both strips and tiles")


def _layout(tags: dict[int, Any], header: Header, *, plain: bool, is_single: bool) -> _Layout:
    compression, planes, bits = int(tags.get(259, 1)), int(tags.get(284, 1)), many(tags.get(258, 1))
    predictor = int(tags.get(317, 1)) if compression != 1 else 1
    tiled, stripped = 322 in tags, min(int(tags.get(278, header.height)), header.height)
    rows, columns = (int(tags[323]), int(tags[322])) if tiled else (stripped, header.width)
    offsets, counts = (tuple(map(index, many(tags[code]))) for code in ((324, 325) if tiled else (273, 279)))
    if predictor not in ((1, 2, 3) if header.dtype.kind == "f" else (1, 2)):
        raise ValueError(f"predictor {predictor} on {header.dtype}")
    if planes not in (1, 2) or min(rows, columns) < 1 or {int(tags.get(code, 1)) for code in (32997, 32998)} != {1}:
        raise ValueError(f"planar configuration {planes}, segments of {rows} x {columns} pixels, or a volume")
    plain = (
        (plain and header.dtype.str[1:] in _DTYPES and bits[0] == 8 * header.dtype.itemsize)
        and (compression == 1 or compression in _DECODERS)
        and int(tags.get(266, 1)) == 1  # order of bits in a byte
        and int(tags.get(262, 1)) != 6  # YCbCr may be subsampled
        and all(counts)  # GDAL knows what to fill a sparse file with
    )
    samples = header.count if planes == 1 else 1
    xml = tags.get(_METADATA_TAG, "<GDALMetadata></GDALMetadata>")
    metadata_is_plain = isinstance(xml, str) and bool(_METADATA.fullmatch(xml))
    segments = offsets, counts, rows, columns, tiled, samples
    return _Layout(*segments, compression, predictor, plain, metadata_is_plain, is_single)


def _check_segments(size: int, header: Header, layout: _Layout, path: str) -> None:
    number = -(-header.height // layout.rows) * -(-header.width // layout.columns) * header.count // layout.samples
    if not len(layout.offsets) == len(layout.counts) == number:
        raise PatchError(path, f"{len(layout.offsets)} offsets and {len(layout.counts)} sizes of segments", str(number))
    end = 8
    for offset, count in sorted(set(zip(layout.offsets, layout.counts, strict=True))):
        if offset + count > size:
            raise PatchError(path, f"a file of {size} bytes", f"{offset + count} bytes")
        if (offset, count) != (0, 0) and (count < 1 or offset < end):
            raise PatchError(path, f"a segment of {count} bytes at {offset}", f"at least a byte, not before {end}")
        end = max(end, offset + count)


def _decode(data: bytes, header: Header, layout: _Layout, path: str) -> Pixels:
    out = np.empty((header.count, header.height, header.width), header.dtype)
    rowbytes = layout.columns * layout.samples * header.dtype.itemsize
    # One byte more than a segment may hold, or what is too long would be cut to size.
    scratch = np.empty(layout.rows * rowbytes + 1, np.uint8)
    decode = _DECODERS.get(layout.compression)
    down, across = -(-header.height // layout.rows), -(-header.width // layout.columns)
    for i, (offset, size) in enumerate(zip(layout.offsets, layout.counts, strict=True)):
        plane, j = divmod(i, down * across)
        y, x = j // across * layout.rows, j % across * layout.columns
        height = min(layout.rows, header.height - y)
        rows = layout.rows if layout.tiled else height
        segment = memoryview(data)[offset : offset + size]
        try:
            raw = np.frombuffer(segment, np.uint8) if decode is None else decode(segment, out=scratch)
        except Exception as error:  # each codec has its own
            raise PatchError(path, f"segment {i} that cannot be decoded ({_line(error)})", "a whole one") from error
        if j // across == down - 1 and raw.nbytes == layout.rows * rowbytes:
            raw = raw[: rows * rowbytes]  # GDAL writes a last strip of zeros at full length
        if raw.nbytes != rows * rowbytes:
            raise PatchError(path, f"segment {i} of {raw.nbytes} bytes", f"{rows * rowbytes} bytes")
        block = raw.view(header.dtype).reshape(rows, layout.columns, layout.samples)
        target = out[plane : plane + layout.samples, y : y + height, x : x + layout.columns].transpose(1, 2, 0)
        _unpredict(block, target, layout.predictor)
    return out


def _unpredict(block: Pixels, target: Pixels, predictor: int) -> None:
    """Undo the predictor of a segment, and write what lies inside the image; both are (row, column, band)."""
    if predictor == 3:
        block = imagecodecs.floatpred_decode(block, axis=1)
    block = block[: target.shape[0], : target.shape[1]]
    if predictor == 2:  # differences of the bits as integers, whatever they mean
        block, target = (pixels.view(f"u{pixels.itemsize}") for pixels in (block, target))
        if block.shape[2] == 1:
            block, target = block[:, :, 0], target[:, :, 0]
        imagecodecs.delta_decode(block, axis=1, out=target)
    else:
        target[...] = block


def _by_gdal(data: bytes, header: Header, _: _Layout, path: str) -> Pixels:
    with _opened(data, {}, path) as dataset:
        found = (dataset.count, dataset.height, dataset.width, dataset.dtypes[0])
        expected = (header.count, header.height, header.width, str(header.dtype))
        if found != expected:
            raise ValueError(f"{found} in place of {expected}")
        with _gdal_messages() as warned:
            pixels: Pixels = dataset.read()
        if warned:  # GDAL leaves what it could not fill as the memory was
            raise ValueError(warned[0])
    return np.ascontiguousarray(pixels)


@contextmanager
def _opened(data: bytes, sidecars: Mapping[str, bytes], path: str) -> Iterator[Any]:
    """Open a tif by GDAL in memory, with the files beside it; whatever fails in the block is a `PatchError`."""
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    folder = uuid.uuid4().hex
    try:
        with ExitStack() as stack:
            for suffix, content in sidecars.items():
                stack.enter_context(MemoryFile(content, dirname=folder, filename=f"a.tif{suffix}"))
            memory = stack.enter_context(MemoryFile(data, dirname=folder, filename="a.tif"))
            with _OPENING, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = stack.enter_context(memory.open(driver="GTiff"))
            yield dataset
    except PatchError:
        raise
    except Exception as error:  # rasterio has several trees of errors, and GDAL's own among them
        raise PatchError(path, f"pixels that cannot be decoded ({_line(error)})", "a readable TIFF") from error


class _GdalMessages(logging.Handler):
    """Collects what GDAL warns of, and errors that it goes on after, in the thread that made it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []
        self.of_thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a message."""
        if record.thread == self.of_thread and (record.levelno > logging.INFO or "error" in record.getMessage()):
            self.texts.append(record.getMessage())


@contextmanager
def _gdal_messages() -> Iterator[list[str]]:
    """Collect the warnings of GDAL: rasterio hands them to loggers alone, whose levels may hide them."""
    handler, disabled = _GdalMessages(), logging.root.manager.disable
    with _OPENING:  # levels belong to the process, too
        before = [(logger, logger.level, logger.propagate) for logger in map(logging.getLogger, _LOGGERS)]
        try:
            logging.disable(logging.NOTSET)
            for logger, *_ in before:
                logger.addHandler(handler)
                logger.setLevel(logging.INFO)
                logger.propagate = False
            yield handler.texts
        finally:
            for logger, level, propagate in before:
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate
            logging.disable(disabled)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

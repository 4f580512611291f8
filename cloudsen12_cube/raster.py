"""One tif: its header, and its pixels as (band, y, x).

The layouts that the archive is known to use are decoded here, segment by segment, because that is the only way to see
that a segment holds exactly the bytes it must: a truncated LZW stream otherwise ends in silence. Everything else (big-endian,
JPEG, odd bit depths, sparse files) is left to GDAL, after the same checks of the header.
"""

from __future__ import annotations

import html
import io
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from cloudsen12_cube.errors import PatchError

Pixels = npt.NDArray[Any]
Transform = tuple[float, float, float, float, float, float]

_DECODERS: dict[int, Callable[..., Pixels]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.deflate_decode,
    32946: imagecodecs.deflate_decode,
    50000: imagecodecs.zstd_decode,
}
_DTYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"})
_USER_DEFINED = 32767
_ITEM = re.compile(r"<Item\b([^>]*)>([^<]*)</Item>")
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")
_OPENING = threading.Lock()  # the filters of ``warnings`` belong to the process


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
    """``(a, b, c, d, e, f)`` with x = a column + b row + c and y = d column + e row + f, of the pixel's upper left corner."""
    descriptions: tuple[str, ...]
    """Description of each band, ``""`` where there is none."""

    @property
    def nbytes(self) -> int:
        """Size of the pixels in bytes."""
        return self.count * self.height * self.width * self.dtype.itemsize


@dataclass(frozen=True)
class _Layout:
    """Where the pixels lie in the file."""

    offsets: Sequence[int]
    counts: Sequence[int]
    """First byte and number of bytes of each segment: rows of segments, plane by plane if not ``contiguous``."""
    rows: int
    columns: int
    """Size of a segment in pixels."""
    tiled: bool
    contiguous: bool
    """Whether a segment holds all bands, pixel by pixel."""
    compression: int
    predictor: int
    plain: bool
    """Whether ``_decode`` can read it."""


def read_header(data: bytes, path: str) -> Header:
    """Read the header of a tif, and check that all its segments lie inside the file.

    Parameters
    ----------
    data
        The bytes of the file.
    path
        Its name, for messages.

    Raises
    ------
    PatchError
        If the file is empty, no TIFF, damaged in its header or truncated.
    """
    return _parse(data, path)[0]


def read(data: bytes, path: str, limit: int = 2**30) -> tuple[Header, Pixels]:
    """Read a tif.

    Parameters
    ----------
    data
        The bytes of the file.
    path
        Its name, for messages.
    limit
        Most bytes that the pixels may take; more is refused before anything is allocated.

    Returns
    -------
    header, pixels
        Pixels of shape (count, height, width), C order, native byte order.

    Raises
    ------
    PatchError
        As `read_header`; also if the pixels exceed the limit, or a segment cannot be decoded to exactly the bytes it must hold.
    """
    header, layout = _parse(data, path)
    segment = layout.rows * layout.columns * header.dtype.itemsize * (header.count if layout.contiguous else 1)
    if max(header.nbytes, segment) > limit:
        raise PatchError(path, f"an image of {max(header.nbytes, segment)} bytes", f"at most {limit} bytes")
    pixels = _decode(data, header, layout, path) if layout.plain else _by_gdal(data, header, path)
    return header, pixels


def _parse(data: bytes, path: str) -> tuple[Header, _Layout]:
    if not data:
        raise PatchError(path, "an empty file", "a TIFF")
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise PatchError(path, "no TIFF", "a TIFF")
    try:
        # The formats that are switched off make the parser look into more than the first page.
        with tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
            page = file.pages.first
            tags = {int(tag.code): tag.value for tag in page.tags}
            form = file.tiff
            (number,) = struct.unpack_from(form.tagnoformat, data, page.offset)
        if number != len(tags):  # the parser skips what it cannot read, and a default would take its place
            raise PatchError(path, f"{len(tags)} readable tags in the header", str(number))
        header = _header(tags)
        layout = _layout(tags, header, plain=form.byteorder == "<")
    except PatchError:
        raise
    except Exception as error:  # damaged bytes make the parser, and the arithmetic on what it finds, fail in any way
        raise PatchError(path, f"a damaged header ({_line(error)})", "a TIFF") from error
    _check_segments(len(data), header, layout, path)
    return header, layout


def _header(tags: dict[int, Any]) -> Header:
    count, width, height = int(tags.get(277, 1)), int(tags[256]), int(tags[257])
    if min(count, width, height) < 1:
        raise ValueError(f"{count} bands of {height} x {width} pixels")
    geokeys = _geokeys(tags.get(34735))
    nodata = tags.get(42113)
    return Header(
        count,
        height,
        width,
        _dtype(tags),
        None if nodata is None else float(nodata),
        _epsg(geokeys),
        _transform(tags, shift=0.5 if geokeys.get(1025) == 2 else 0.0),  # PixelIsPoint: the tie is a pixel's centre
        _descriptions(tags.get(42112), count),
    )


def _dtype(tags: dict[int, Any]) -> np.dtype[Any]:
    bits, form = set(_many(tags.get(258, 1))), set(_many(tags.get(339, 1)))
    if len(bits) != 1 or len(form) != 1:
        raise ValueError("bands of different data types")
    (size,), kind = bits, {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}[form.pop()]
    return np.dtype(f"{kind}{next(n for n in (1, 2, 4, 8, 16) if size <= 8 * n)}")


def _layout(tags: dict[int, Any], header: Header, *, plain: bool) -> _Layout:
    tiled = 322 in tags
    if tiled:
        rows, columns = int(tags[323]), int(tags[322])
    else:
        rows, columns = min(int(tags.get(278, header.height)), header.height), header.width
    if min(rows, columns) < 1:
        raise ValueError(f"segments of {rows} x {columns} pixels")
    offsets, counts = (_many(tags[code]) for code in ((324, 325) if tiled else (273, 279)))
    compression = int(tags.get(259, 1))
    plain = (
        plain
        and sys.byteorder == "little"
        and (compression == 1 or compression in _DECODERS)
        and header.dtype.str[1:] in _DTYPES
        and set(_many(tags.get(258, 1))) == {8 * header.dtype.itemsize}
        and int(tags.get(266, 1)) == 1  # order of bits in a byte
        and int(tags.get(262, 1)) != 6  # YCbCr may be subsampled
        and all(counts)  # GDAL knows what to fill a sparse file with
    )
    predictor = int(tags.get(317, 1)) if compression != 1 else 1
    if predictor not in ((1, 2, 3) if header.dtype.kind == "f" else (1, 2)):
        raise ValueError(f"predictor {predictor} on {header.dtype}")
    planes = int(tags.get(284, 1))
    if planes not in (1, 2):
        raise ValueError(f"planar configuration {planes}")
    if any(int(tags.get(code, 1)) != 1 for code in (32997, 32998)):
        raise ValueError("a volume")
    return _Layout(offsets, counts, rows, columns, tiled, planes == 1, compression, predictor, plain)


def _check_segments(size: int, header: Header, layout: _Layout, path: str) -> None:
    number = -(-header.height // layout.rows) * -(-header.width // layout.columns)
    number *= 1 if layout.contiguous else header.count
    if not len(layout.offsets) == len(layout.counts) == number:
        raise PatchError(path, f"{len(layout.offsets)} offsets and {len(layout.counts)} sizes of segments", str(number))
    end = 8
    for offset, count in sorted(set(zip(layout.offsets, layout.counts, strict=True))):
        if offset + count > size:
            raise PatchError(path, f"a file of {size} bytes", f"{offset + count} bytes")
        if (offset, count) != (0, 0) and (count < 1 or offset < end):
            raise PatchError(path, f"a segment of {count} bytes at {offset}", f"at least a byte, not before {end}")
        end = max(end, offset + count)


def _geokeys(directory: Any) -> dict[int, int]:  # noqa: ANN401
    """Keys whose value stands in the directory itself."""
    words = () if directory is None else _many(directory)
    return {words[i]: words[i + 3] for i in range(4, len(words) - 3, 4) if words[i + 1] == 0}


def _epsg(geokeys: dict[int, int]) -> int | None:
    code = geokeys.get(3072, geokeys.get(2048, 0))
    return code if code not in (0, _USER_DEFINED) else None


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


def _descriptions(xml: Any, count: int) -> tuple[str, ...]:  # noqa: ANN401
    """Descriptions in GDAL's metadata, by pattern: a parser would expand entities."""
    texts = [""] * count
    for attributes, text in _ITEM.findall(xml) if isinstance(xml, str) and "<!" not in xml else ():
        of = dict(_ATTRIBUTE.findall(attributes))
        sample = of.get("sample", "")
        if of.get("role") == "description" and sample.isdecimal() and int(sample) < count:
            texts[int(sample)] = html.unescape(text)
    return tuple(texts)


def _decode(data: bytes, header: Header, layout: _Layout, path: str) -> Pixels:
    out = np.empty((header.count, header.height, header.width), header.dtype)
    samples = header.count if layout.contiguous else 1
    rowbytes = layout.columns * samples * header.dtype.itemsize
    # One byte more than a segment may hold, or what is too long would be cut to size.
    scratch = np.empty(layout.rows * rowbytes + 1, np.uint8)
    decode = _DECODERS.get(layout.compression)
    whole = memoryview(data)
    down, across = -(-header.height // layout.rows), -(-header.width // layout.columns)
    for i, (offset, size) in enumerate(zip(layout.offsets, layout.counts, strict=True)):
        plane, j = divmod(i, down * across)
        y, x = j // across * layout.rows, j % across * layout.columns
        height = min(layout.rows, header.height - y)
        rows = layout.rows if layout.tiled else height
        segment = whole[offset : offset + size]
        try:
            raw = np.frombuffer(segment, np.uint8) if decode is None else decode(segment, out=scratch)
        except Exception as error:  # each codec has its own
            _undecodable(path, i, error)
        if raw.nbytes != rows * rowbytes:
            raise PatchError(path, f"segment {i} of {raw.nbytes} bytes", f"{rows * rowbytes} bytes")
        planes = slice(None) if layout.contiguous else slice(plane, plane + 1)
        target = out[planes, y : y + height, x : x + layout.columns].transpose(1, 2, 0)
        block = raw.view(header.dtype).reshape(rows, layout.columns, samples)
        _unpredict(block, target, layout.predictor)
    return out


def _unpredict(block: Pixels, target: Pixels, predictor: int) -> None:
    """Undo the predictor of a segment, and write what lies inside the image; both are (row, column, band)."""
    if predictor == 3:
        block = imagecodecs.floatpred_decode(block, axis=1)
    block = block[: target.shape[0], : target.shape[1]]
    if predictor == 2:  # differences of the bits as integers, whatever they mean
        bits = f"u{block.itemsize}"
        block, target = block.view(bits), target.view(bits)
        if block.shape[2] == 1:
            block, target = block[:, :, 0], target[:, :, 0]
        imagecodecs.delta_decode(block, axis=1, out=target)
    else:
        target[...] = block


def _undecodable(path: str, i: int, error: Exception) -> NoReturn:
    raise PatchError(path, f"segment {i} that cannot be decoded ({_line(error)})", "a whole segment") from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _by_gdal(data: bytes, header: Header, path: str) -> Pixels:
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data) as memory:
            with _OPENING, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = memory.open(driver="GTiff")
            with dataset:
                found = f"{dataset.count} x {dataset.height} x {dataset.width} {dataset.dtypes[0]}"
                expected = f"{header.count} x {header.height} x {header.width} {header.dtype}"
                if found != expected:
                    raise PatchError(path, found, expected)
                pixels: Pixels = dataset.read()
    except PatchError:
        raise
    except Exception as error:  # rasterio has several trees of errors, and GDAL's own among them
        raise PatchError(path, f"pixels that cannot be decoded ({_line(error)})", "a readable TIFF") from error
    return np.ascontiguousarray(pixels)

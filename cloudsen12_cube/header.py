"""The header of a tif: size, data type, grid, nodata and the bands' descriptions, from the tags of its first image."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

Transform = tuple[float, float, float, float, float, float]

_KINDS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}
_ITEM = re.compile(r"<Item\b([^>]*)>([^<]*)</Item>")
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")


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
    """Description of each band, ``""`` where there is none."""

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
    return Header(
        *(count, height, width, dtype, _nodata(tags.get(42113), dtype)),
        epsg=epsg if epsg not in (0, 32767) else None,
        transform=_transform(tags, shift),
        descriptions=_descriptions(tags.get(42112), count),
    )


def _nodata(text: str | None, dtype: np.dtype[Any]) -> float | None:
    if text is None or dtype != np.float32:
        return None if text is None else float(text)
    with np.errstate(over="ignore"):  # the value that a pixel can have
        value = float(np.float32(text))
    return value if np.isfinite(value) else float(text)


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


def _descriptions(xml: object, count: int) -> tuple[str, ...]:
    """Descriptions in GDAL's metadata, by pattern: a parser would expand entities."""
    texts = [""] * count
    for attributes, text in _ITEM.findall(xml) if isinstance(xml, str) and "<!" not in xml else ():
        item = dict(_ATTRIBUTE.findall(attributes))
        sample = item.get("sample", "")
        if item.get("role") == "description" and sample.isdecimal() and int(sample) < count:
            texts[int(sample)] = html.unescape(html.unescape(text))  # GDAL escapes twice
    return tuple(texts)


def many(value: Any) -> tuple[int, ...]:
    """Value of a tag that may hold one number or several."""
    return tuple(np.atleast_1d(value).tolist())

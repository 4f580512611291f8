"""What a notebook shows of a cube: what is in it, in a few lines of text or HTML, from the catalogue alone.

Counts are of patches that are there: a cell of (roi, time) that no image fills is none. No colour is
set, so the text is legible on light and dark pages alike. Whatever the cube says is text, never markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from dask.utils import format_bytes

from cloudsen12_cube.format import STATUS
from cloudsen12_cube.schema import PRODUCTS

_COUNTED: dict[str, tuple[str, ...]] = {
    "label_type": ("high", "scribble", "nolabel"),
    "split": ("train", "validation", "test"),
    "cloud_coverage": ("cloud-free", "almost-clear", "low-cloudy", "mid-cloudy", "cloudy"),
}
"""Properties that are counted, and the order in which their values are told; others follow."""

_SHOWN = 8
_HEAD = ("product", "shape", "dtype", "size", *STATUS[1:], STATUS[0])
_STYLE = (
    ".cloudsen12-cube table{border-collapse:collapse;margin:.5em 0}"
    ".cloudsen12-cube th,.cloudsen12-cube td{text-align:left;padding:.15em .8em .15em 0;vertical-align:top}"
    ".cloudsen12-cube thead th{border-bottom:1px solid;opacity:.7;font-weight:normal}"
    ".cloudsen12-cube td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".cloudsen12-cube th.n{text-align:right}"
    ".cloudsen12-cube .s{opacity:.7}"
)


@dataclass(frozen=True)
class _Product:
    """One line of the products' table."""

    name: str
    sizes: dict[str, int]
    dtype: str
    bytes: int
    """Of the whole array, uncompressed."""
    status: tuple[int, int, int]
    """Patches that are absent, done and failed."""

    def cells(self) -> tuple[str, ...]:
        """Texts in the order of the head."""
        shape = ", ".join(f"{dim} {length}" for dim, length in self.sizes.items())
        absent, done, failed = (f"{count:,}" for count in self.status)
        return self.name, shape, self.dtype, format_bytes(self.bytes), done, failed, absent


@dataclass(frozen=True)
class _Summary:
    """What both forms tell."""

    title: str
    content: str
    products: tuple[_Product, ...]
    counts: dict[str, str]
    """Property -> its values, each with the number of its patches."""


def cube_html(cube: xr.DataTree) -> str:
    """Describe a cube as HTML for a notebook.

    Parameters
    ----------
    cube : xarray.DataTree
        As `open_cube` gives it, whole or selected from.

    Returns
    -------
    str
        One ``div`` that needs nothing from outside. No pixel is read.
    """
    told = _summary(cube)
    head = "".join(f"<th{_number(i)}>{name}</th>" for i, name in enumerate(_HEAD))
    rows = "".join(_row(product) for product in told.products)
    counts = "".join(f"<tr><th>{_words(name)}</th><td>{escape(text)}</td></tr>" for name, text in told.counts.items())
    return (
        f'<div class="cloudsen12-cube"><style>{_STYLE}</style>'
        f'<div><b>{escape(told.title)}</b></div><div class="s">{escape(told.content)}</div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<table><tbody>{counts}</tbody></table></div>"
    )


def cube_text(cube: xr.DataTree) -> str:
    """Describe a cube in plain text; see `cube_html`.

    Parameters
    ----------
    cube : xarray.DataTree
        As `open_cube` gives it, whole or selected from.

    Returns
    -------
    str
        A line for the whole, one a product, one a property.
    """
    told = _summary(cube)
    table = [_HEAD, *(product.cells() for product in told.products)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEAD))]
    lines = ["  ".join(_padded(i, c, w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))) for cells in table]
    counts = [f"{_words(name)}: {text}" for name, text in told.counts.items()]
    return "\n".join(line.rstrip() for line in (told.title, told.content, *lines, *counts))


def _summary(cube: xr.DataTree) -> _Summary:
    root = cube.to_dataset()
    there = root["s2_id_gee"].values != ""
    rois = [str(roi) for roi in root["roi"].values[[0, -1]]] if there.shape[0] else []
    span = f" ({rois[0]} to {rois[1]})" if there.shape[0] > 1 else f" ({rois[0]})" if rois else ""
    content = f"{_many(there.shape[0], 'ROI')}{span}, {_many(int(there.sum()), 'patch', 'es')}"
    products = tuple(_product(cube, name, there) for name in PRODUCTS if name in cube.children)
    counts = {name: _counts(root, name, there) for name in _COUNTED if name in root}
    return _Summary(str(cube.attrs.get("title", "CloudSEN12 cube")), content, products, counts)


def _product(cube: xr.DataTree, name: str, there: npt.NDArray[np.bool_]) -> _Product:
    group = cube[name].to_dataset()
    array = group[name]
    absent, done, failed = np.bincount(group["status"].values[there], minlength=len(STATUS))
    sizes = {str(dim): length for dim, length in array.sizes.items()}
    return _Product(name, sizes, str(array.dtype), array.nbytes, (int(absent), int(done), int(failed)))


def _counts(root: xr.Dataset, name: str, there: npt.NDArray[np.bool_]) -> str:
    column: Any = root[name].broadcast_like(root["s2_id_gee"]).values
    counted = pd.Series(column[there].astype(object)).value_counts()
    known = _COUNTED[name]
    order = [*(v for v in known if v in counted.index), *sorted(set(map(str, counted.index)) - set(known))]
    told = [f"{value or 'unknown'} {counted[value]:,}" for value in order[:_SHOWN]]
    more = len(order) - _SHOWN
    return ", ".join([*told, f"and {more} more"] if more > 0 else told) or "none"


def _row(product: _Product) -> str:
    return "<tr>" + "".join(f"<td{_number(i)}>{escape(cell)}</td>" for i, cell in enumerate(product.cells())) + "</tr>"


def _is_number(column: int) -> bool:
    return column >= _HEAD.index("size")


def _number(column: int) -> str:
    return ' class="n"' if _is_number(column) else ""


def _padded(column: int, text: str, width: int) -> str:
    return text.rjust(width) if _is_number(column) else text.ljust(width)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _many(count: int, name: str, plural: str = "s") -> str:
    return f"{count:,} {name}{'' if count == 1 else plural}"

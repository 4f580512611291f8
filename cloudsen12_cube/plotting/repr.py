"""Text and HTML of a cube and of the accessors, for consoles and notebooks: short, from the catalogue alone.

Counts are of patches that exist: a cell of (roi, time) without an image is not counted. No colour is set, so the text
is legible on light and dark pages alike. Whatever the cube holds is text, never markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cloudsen12_cube.dataset import check_cube
from cloudsen12_cube.format import STATUS
from cloudsen12_cube.schema import BY_NAME, PRODUCTS

_COUNTED = ("label_type", "split", "cloud_coverage")
"""Properties that are counted; values that the paper does not define follow those that it does."""

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
    """One row of the products' table."""

    name: str
    sizes: dict[str, int]
    dtype: str
    bytes: int
    """Of the whole array, uncompressed."""
    status: tuple[int, int, int]
    """Patches that are absent, done and failed."""

    def cells(self) -> tuple[str, ...]:
        """Texts in the order of the head."""
        from dask.utils import format_bytes  # dask takes longer to import than all else here

        shape = ", ".join(f"{dim} {length}" for dim, length in self.sizes.items())
        absent, done, failed = (f"{count:,}" for count in self.status)
        return self.name, shape, self.dtype, format_bytes(self.bytes), done, failed, absent


@dataclass(frozen=True)
class _Summary:
    """What text and HTML show."""

    title: str
    content: str
    products: tuple[_Product, ...]
    counts: dict[str, str]
    """Property -> its values, each with the number of its patches."""


def accessor_text(part: Any) -> str:
    """Describe the object of an accessor in plain text."""
    try:
        return cube_text(check_cube(part)) if isinstance(part, xr.DataTree) else _line(part)
    except Exception as error:  # a repr must not raise: debuggers and notebooks ask any object for it, damaged ones too
        return _without_description(error)


def accessor_html(part: Any) -> str:
    """Describe the object of an accessor as HTML."""
    try:
        return cube_html(check_cube(part)) if isinstance(part, xr.DataTree) else _block(_line(part))
    except Exception as error:  # as above
        return _block(_without_description(error))


def _line(part: xr.Dataset | xr.DataArray) -> str:
    arrays = part.data_vars.values() if isinstance(part, xr.Dataset) else [part]
    texts = [f"{a.name} ({', '.join(f'{d} {n}' for d, n in a.sizes.items())}) {a.dtype}" for a in arrays]
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return f"cloudsen12 accessor of a {type(part).__name__}: {', '.join([*texts[:_SHOWN], *more]) or 'no variables'}"


def _without_description(error: Exception) -> str:
    return f"cloudsen12 accessor: {' '.join(str(error).split())[:500]}"


def _block(text: str) -> str:
    return f'<div class="cloudsen12-cube">{escape(text)}</div>'


def cube_html(cube: xr.DataTree) -> str:
    """Describe a cube as HTML for a notebook.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube, or a selection of it.

    Returns
    -------
    str
        One ``div`` that loads nothing. No pixel is read.
    """
    shown = _summary(cube)
    head = "".join(f"<th{_number(i)}>{name}</th>" for i, name in enumerate(_HEAD))
    rows = "".join(_row(product) for product in shown.products)
    counts = "".join(f"<tr><th>{_words(name)}</th><td>{escape(text)}</td></tr>" for name, text in shown.counts.items())
    return (
        f'<div class="cloudsen12-cube"><style>{_STYLE}</style>'
        f'<div><b>{escape(shown.title)}</b></div><div class="s">{escape(shown.content)}</div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<table><tbody>{counts}</tbody></table></div>"
    )


def cube_text(cube: xr.DataTree) -> str:
    """Describe a cube in plain text.

    Parameters
    ----------
    cube : xarray.DataTree
        Open cube, or a selection of it.

    Returns
    -------
    str
        A line for the whole, one per product, one per property. No pixel is read.
    """
    shown = _summary(cube)
    table = [_HEAD, *(product.cells() for product in shown.products)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEAD))]
    lines = ["  ".join(_padded(i, c, w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))) for cells in table]
    counts = [f"{_words(name)}: {text}" for name, text in shown.counts.items()]
    return "\n".join(line.rstrip() for line in (shown.title, shown.content, *lines, *counts))


def _summary(cube: xr.DataTree) -> _Summary:
    root = cube.to_dataset()
    there = root["s2_id_gee"].values != ""
    rois = np.atleast_1d(root["roi"].values)  # one ROI alone where isel has taken the dimension away
    span = f" ({rois[0]}{f' to {rois[-1]}' if len(rois) > 1 else ''})" if len(rois) else ""
    content = f"{_many(len(rois), 'ROI')}{span}, {_many(int(there.sum()), 'patch', 'es')}"
    products = tuple(_product(cube, name, there) for name in PRODUCTS if name in cube.children)
    counts = {name: _counts(root, name, there) for name in _COUNTED if name in root}
    return _Summary(str(cube.attrs.get("title", "CloudSEN12 cube")), content, products, counts)


def _product(cube: xr.DataTree, name: str, there: npt.NDArray[np.bool_]) -> _Product:
    group = cube[name].to_dataset()
    array = group[name]
    absent, done, failed = np.bincount(np.atleast_1d(group["status"].values[there]), minlength=len(STATUS))
    sizes = {str(dim): length for dim, length in array.sizes.items()}
    return _Product(name, sizes, str(array.dtype), array.nbytes, (int(absent), int(done), int(failed)))


def _counts(root: xr.Dataset, name: str, there: npt.NDArray[np.bool_]) -> str:
    column: Any = root[name].broadcast_like(root["s2_id_gee"]).values
    counted = pd.Series(column[there].astype(object)).value_counts()
    known = BY_NAME[name].values
    order = [*(v for v in known if v in counted.index), *sorted(set(map(str, counted.index)) - set(known))]
    texts = [f"{value or 'unknown'} {counted[value]:,}" for value in order[:_SHOWN]]
    more = len(order) - _SHOWN
    return ", ".join([*texts, f"and {more} more"] if more > 0 else texts) or "none"


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

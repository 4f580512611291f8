"""The paper's table 6: one row per algorithm in three blocks, one per scheme; and its text formats.

The frame keeps full precision and plain names for computing; the paper's titles and two decimals are applied when it is
printed or exported for people.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudsen12_cube.evaluation.metrics import ALGORITHMS, BINARY, COLUMNS, summarise
from cloudsen12_cube.schema import Scheme

Format = Literal["table", "csv", "markdown", "latex"]

_SCHEMES: dict[str, str] = {"cloud": "cloud/no cloud", "shadow": "cloud shadow", "valid": "valid/invalid"}
_METRICS = {"boa": "BOA", "pa": "PA%", "ua": "UA%"}
_LAYERS = {
    "kappamask_L2A": "KappaMask L2A",
    "kappamask_L1C": "KappaMask L1C",
    "fmask": "Fmask",
    "sen2cor": "Sen2Cor",
    "qa60": "QA60",
}


class AccuracyTable(pd.DataFrame):
    """A DataFrame that prints as table 6 does; what is computed from it is a plain DataFrame.

    ``attrs["notes"]`` lists what a reader of the numbers must know; it is printed below the table.
    """

    def __repr__(self) -> str:
        return format_table(self, "table")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(self))
        table = str(_titled(self).to_html(float_format=_two_decimals, na_rep=""))
        return table.replace('halign="left"', 'style="text-align: center"') + notes  # a title over its three columns


def build_table(per_patch: pd.DataFrame, by: Sequence[str] = (), notes: Sequence[str] | None = None) -> AccuracyTable:
    """Build table 6 from accuracies per patch.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        One row per patch, scheme and layer; columns ``scheme``, ``layer``, ``pa``, ``ua``, ``boa`` and those of ``by``.
    by : sequence of str
        Columns; each of their values gets a table of its own, one below the other.
    notes : sequence of str, optional
        Lines to print below the table; by default those in ``per_patch.attrs``.

    Returns
    -------
    AccuracyTable
        Index ``by``, scheme, layer; columns as in `summarise`; ``attrs`` those of ``per_patch``.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    keys = [*by, "scheme", "layer"]
    missing = [key for key in keys if key not in per_patch]
    if missing:
        raise KeyError(f"no column {missing[0]!r}; there are {', '.join(map(str, per_patch.columns))}")
    rows = {key: summarise(group) for key, group in per_patch.groupby(keys, sort=False, dropna=False)}
    order = sorted(rows, key=_sort_key)
    # from_tuples cannot tell the number of levels of an empty list
    levels = [[key[level] for key in order] for level in range(len(keys))]
    index = pd.MultiIndex.from_arrays(levels, names=keys)
    table = AccuracyTable([rows[key] for key in order], index=index, columns=list(COLUMNS), dtype="float64")
    table.attrs = {**per_patch.attrs, "notes": list(per_patch.attrs.get("notes", ()) if notes is None else notes)}
    return table


def _sort_key(key: Sequence[Any]) -> tuple[Any, ...]:
    """Sort by the groups' values, unknown ones last, then by scheme and layer in the order of the paper."""
    *groups, scheme, name = key
    unknown = [(bool(pd.isna(value)), 0 if pd.isna(value) else value) for value in groups]
    return (*unknown, [*BINARY, scheme].index(scheme), _layer_rank(name))


def sort_layers(layers: Iterable[str]) -> list[str]:
    """Sort layers in the order of the table's rows."""
    return sorted(layers, key=_layer_rank)


def _layer_rank(name: str) -> int:
    """Rank of a layer; the user's own models come first, above the algorithms that they are compared with."""
    return ALGORITHMS.index(name) if name in ALGORITHMS else -1


def layer_title(name: str) -> str:
    """Name of a layer as the paper prints it."""
    return _LAYERS.get(name, name)


def scheme_title(scheme: Scheme) -> str:
    """Name of a scheme as the table prints it."""
    return _SCHEMES[scheme]


def format_table(table: pd.DataFrame, form: Format = "table") -> str:
    """Format a table as text.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of `build_table` or `evaluate`.
    form : {"table", "csv", "markdown", "latex"}
        ``csv`` has the plain names and all digits; the others have the paper's titles and two decimals. Markdown and
        LaTeX print the best values of a block bold, as the paper does. The LaTeX table needs no package.

    Returns
    -------
    str
        Text without a final newline. Undefined values are empty.

    Raises
    ------
    ValueError
        If the format is unknown.
    """
    if form not in get_args(Format):
        raise ValueError(f"no format {form!r}; there are {', '.join(get_args(Format))}")
    if form == "csv":
        return str(pd.DataFrame(table).to_csv(lineterminator="\n")).rstrip("\n")
    if form == "table":
        text = str(_titled(table).to_string(float_format=_two_decimals, na_rep=""))
        return "\n".join([*(line.rstrip() for line in text.splitlines()), *_notes(table)])
    return _markdown(table) if form == "markdown" else _latex(table)


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"


def _notes(table: pd.DataFrame) -> list[str]:
    return [str(note) for note in table.attrs.get("notes", ())]


def _titled(table: pd.DataFrame) -> pd.DataFrame:
    """Replace the names of rows and columns by the paper's titles."""
    shown = pd.DataFrame(table).rename(index=_SCHEMES, level="scheme").rename(index=_LAYERS, level="layer")
    pairs = [name.partition("_") for name in map(str, shown.columns)]
    shown.columns = pd.MultiIndex.from_tuples([(_METRICS[metric], share) for metric, _, share in pairs])
    shown.index.names = [None if name in ("scheme", "layer") else name for name in shown.index.names]
    return shown


def _best(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which values are the best of their block, to be printed bold as in the paper.

    Best is the highest BOA, the smallest share below 0.1 and the largest above 0.9, as printed. Nothing is best where
    all are equal; the share in between is neither good nor bad.
    """
    best = np.zeros(table.shape, dtype=bool)
    values = pd.DataFrame(table).round(2)
    blocks = values.groupby(level=[*range(table.index.nlevels - 1)], sort=False, dropna=False)
    for name, sign in {"boa": 1, "pa_low": -1, "pa_high": 1, "ua_low": -1, "ua_high": 1}.items():
        signed = sign * values[name]
        top = blocks[name].transform("max" if sign > 0 else "min") * sign
        varied = blocks[name].transform("nunique") > 1
        best[:, values.columns.get_loc(name)] = ((signed == top) & varied).to_numpy()
    return best


def _cells(table: pd.DataFrame, bold: str) -> tuple[list[str], list[list[str]]]:
    """Format the titles of the columns, and the rows; a row title that repeats the one above it is left empty.

    ``bold`` is the pattern of the best values.
    """
    shown = _titled(table)
    head = [str(name or "") for name in shown.index.names] + [" ".join(pair).strip() for pair in shown.columns]
    rows: list[list[str]] = []
    before: tuple[object, ...] = ()
    for key, values, best in zip(shown.index, shown.to_numpy(), _best(table), strict=True):
        titles = [str(part) if key[: i + 1] != before[: i + 1] else "" for i, part in enumerate(key)]
        texts = ["" if pd.isna(value) else _two_decimals(value) for value in values]
        rows.append(titles + [bold.format(text) if top else text for text, top in zip(texts, best, strict=True)])
        before = key
    return head, rows


def _markdown(table: pd.DataFrame) -> str:
    head, rows = _cells(table, "**{}**")
    rule = ["---" if i < table.index.nlevels else "---:" for i in range(len(head))]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (head, rule, *rows)]
    return "\n".join([*lines, *(f"\n{note}" for note in _notes(table))])


def _latex(table: pd.DataFrame) -> str:
    head, rows = _cells(table, r"\textbf{{{}}}")
    lines = [" & ".join(map(_escape_latex, row)) + r" \\" for row in (head, *rows)]
    blocks = [r"\hline" if rows[i][-len(COLUMNS) - 2] and i else "" for i in range(len(rows))]
    body = [part for pair in zip(blocks, lines[1:], strict=True) for part in pair if part]
    begin = rf"\begin{{tabular}}{{{'l' * table.index.nlevels}{'r' * table.shape[1]}}}"
    notes = [f"% {note}" for note in _notes(table)]
    return "\n".join([*notes, begin, r"\hline", lines[0], r"\hline", *body, r"\hline", r"\end{tabular}"])


def _escape_latex(cell: str) -> str:
    return "".join("\\" + letter if letter in "%&_#$" else letter for letter in cell)

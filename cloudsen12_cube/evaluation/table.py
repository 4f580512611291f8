"""The paper's table 6: a row an algorithm, in three blocks, one a scheme; and how it is written down.

The frame keeps full precision and plain names, so that it can be computed with; the paper's titles and two decimals
come in when it is printed or exported for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

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


class Table(pd.DataFrame):
    """A DataFrame that prints as table 6 does; what is computed from it is a plain DataFrame.

    Its ``attrs["notes"]`` say what a reader of the numbers must know.
    """

    def __repr__(self) -> str:
        return written(self, "table")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{note}</p>" for note in _notes(self))
        table = str(_titled(self).to_html(float_format=_two_decimals, na_rep=""))
        return table.replace('halign="left"', 'style="text-align: center"') + notes  # a title over its three columns


def build_table(per_patch: pd.DataFrame, by: Sequence[str] = (), notes: Sequence[str] = ()) -> Table:
    """Make table 6 of accuracies by patch.

    Parameters
    ----------
    per_patch : pandas.DataFrame
        A row a patch, scheme and layer; columns ``scheme``, ``layer``, ``pa``, ``ua``, ``boa`` and those of ``by``.
    by : sequence of str
        Columns; each of their values gets a table of its own, one below the other.
    notes : sequence of str
        Printed below the table.

    Returns
    -------
    Table
        Index ``by``, scheme, layer; columns as in `summarise`.

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
    order = sorted(rows, key=lambda key: (*map(_group_place, key[:-2]), _scheme_place(key[-2]), _layer_place(key[-1])))
    index = (
        pd.MultiIndex.from_tuples(order, names=keys)
        if rows
        else pd.MultiIndex.from_arrays([[]] * len(keys), names=keys)
    )
    table = Table([rows[key] for key in order], index=index, columns=list(COLUMNS), dtype="float64")
    table.attrs["notes"] = list(notes)
    return table


def _scheme_place(name: object) -> int:
    return [*map(str, BINARY), name].index(name)


def in_order(layers: Iterable[str]) -> list[str]:
    """Sort layers as the table does."""
    return sorted(layers, key=_layer_place)


def layer_title(name: str) -> str:
    """Name of a layer as the paper prints it."""
    return _LAYERS.get(name, name)


def scheme_title(scheme: Scheme) -> str:
    """Name of a scheme as the table prints it."""
    return _SCHEMES[scheme]


def _layer_place(name: object) -> int:
    """Put a model of the caller's first: the archive's algorithms are what it is held against."""
    return ALGORITHMS.index(str(name)) if name in ALGORITHMS else -1


def _group_place(value: object) -> tuple[bool, object]:
    unknown = bool(pd.isna(value))  # type: ignore[call-overload]  # a single value, whatever its type
    return unknown, 0 if unknown else value


def written(table: pd.DataFrame, form: Format) -> str:
    """Write a table as text.

    Parameters
    ----------
    table : pandas.DataFrame
        As `build_table` gives it.
    form : {"table", "csv", "markdown", "latex"}
        ``csv`` has the plain names and all digits; the others have the paper's titles and two decimals. A LaTeX table
        needs no package.

    Returns
    -------
    str
        Without a line's end. What is undefined is empty.

    Raises
    ------
    ValueError
        If there is no such form.
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
    """Give rows and columns the paper's titles."""
    shown = pd.DataFrame(table).rename(index=_SCHEMES, level="scheme").rename(index=_LAYERS, level="layer")
    pairs = [name.partition("_") for name in map(str, shown.columns)]
    shown.columns = pd.MultiIndex.from_tuples([(_METRICS[metric], share) for metric, _, share in pairs])
    shown.index.names = [None if name in ("scheme", "layer") else name for name in shown.index.names]
    return shown


def _cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Give the titles of the columns, and the rows as text; a title that repeats the one above it is left out."""
    shown = _titled(table)
    head = [str(name or "") for name in shown.index.names] + [" ".join(pair).strip() for pair in shown.columns]
    rows: list[list[str]] = []
    before: tuple[object, ...] = ()
    for key, values in zip(shown.index, shown.to_numpy(), strict=True):
        titles = [str(part) if key[: i + 1] != before[: i + 1] else "" for i, part in enumerate(key)]
        rows.append(titles + ["" if pd.isna(value) else _two_decimals(value) for value in values])
        before = key
    return head, rows


def _markdown(table: pd.DataFrame) -> str:
    head, rows = _cells(table)
    rule = ["---" if i < table.index.nlevels else "---:" for i in range(len(head))]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (head, rule, *rows)]
    return "\n".join([*lines, *(f"\n{note}" for note in _notes(table))])


def _latex(table: pd.DataFrame) -> str:
    head, rows = _cells(table)
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (head, *rows)]
    blocks = [r"\hline" if rows[i][-len(COLUMNS) - 2] and i else "" for i in range(len(rows))]
    body = [part for pair in zip(blocks, lines[1:], strict=True) for part in pair if part]
    begin = rf"\begin{{tabular}}{{{'l' * table.index.nlevels}{'r' * table.shape[1]}}}"
    notes = [f"% {note}" for note in _notes(table)]
    return "\n".join([*notes, begin, r"\hline", lines[0], r"\hline", *body, r"\hline", r"\end{tabular}"])


def _escaped(cell: str) -> str:
    return "".join("\\" + letter if letter in "%&_#$" else letter for letter in cell)

"""The notebooks run from a fresh kernel without an error, and say what is committed: no output of theirs is stale."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
VARIES = "varies"
"""Tag of a cell whose figures are those of a machine, a training, or a library's own form: its text is not compared."""


@pytest.mark.filterwarnings("default")  # of the kernel's machinery, which is not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    committed = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [kinds(book).count("image/png") for book in (committed, notebook)]
    assert pictures[0] == pictures[1] > 0
    for old, new in zip(committed.cells, notebook.cells, strict=True):
        if VARIES not in old.metadata.get("tags", []):
            assert same(text(old), text(new)), f"run {path.name} again; its output was\n{text(old)}\nis\n{text(new)}"


def kinds(notebook: nbformat.NotebookNode) -> list[str]:
    return [k for cell in notebook.cells for output in cell.get("outputs", []) for k in output.get("data", {})]


def text(cell: nbformat.NotebookNode) -> str:
    """All that a cell prints; what an object shows as HTML, it shows as text, too."""
    outputs = cell.get("outputs", [])
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def same(old: str, new: str) -> bool:
    """Compare words exactly, and figures to a hundredth: arithmetic differs a little between machines."""
    words = [NUMBER.sub("#", one).split() for one in (old, new)]
    figures = [[float(found.replace(",", "")) for found in NUMBER.findall(one)] for one in (old, new)]
    return words[0] == words[1] and figures[0] == pytest.approx(figures[1], rel=0.01, abs=0.011, nan_ok=True)


@pytest.mark.parametrize(
    ("new", "right"),
    [
        ("15 shards,  150 MB, 0 faults", True),
        ("15 shards, 151 MB, 0 faults", True),
        ("15 shards, 150 MB, 1 faults", False),
        ("14 shards, 150 MB, 0 faults", False),
        ("15 shards, 150 MB", False),
        ("15 objects, 150 MB, 0 faults", False),
    ],
)
def test_a_stale_output_is_seen(new: str, right: bool) -> None:
    assert same("15 shards, 150 MB, 0 faults", new) is right
    assert same("190,424,535 pixels", "190,424,535 pixels")
    assert not same("190,424,535 pixels", "24,084,480 pixels")

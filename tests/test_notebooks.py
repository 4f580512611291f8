"""The notebooks run from a fresh kernel, without an error, and show their pictures."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("default")  # of the kernel's machinery, which is not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    committed = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [kinds(book).count("image/png") for book in (committed, notebook)]
    assert pictures[0] == pictures[1] > 0


def kinds(notebook: nbformat.NotebookNode) -> list[str]:
    return [k for cell in notebook.cells for output in cell.get("outputs", []) for k in output.get("data", {})]

"""The documentation, the package and its messages use standard terms: wordings that they do not contain."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
REJECTED = (
    *("is none", "are none", "told", "made again", "makes? again", "making again", "what lacks", "whoever", "somebody"),
    *("lives? with", "living with", "wish(es)?", "takes? away", "taken away", "for good", "unasked", "says? so"),
    *("of its own accord", "goes along", "go along", "anew", "shall", "mend(s|ed)?", "made ready", "know(s)? nothing"),
)
"""Regular expressions of whole words. Extend the list when a review finds another one."""
PATTERN = re.compile(rf"\b({'|'.join(REJECTED)})\b", re.IGNORECASE)
TEXT = {tokenize.COMMENT, tokenize.STRING, tokenize.FSTRING_MIDDLE}


def found(text: str) -> list[str]:
    return [text[max(m.start() - 30, 0) : m.end() + 30] for m in PATTERN.finditer(" ".join(text.split()))]


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file: comments, strings and names of a module, markdown cells of a notebook."""
    if path.suffix == ".ipynb":
        yield from (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    elif path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        for token in tokens:
            if token.type == tokenize.NAME:
                yield token.string.replace("_", " ")
            elif token.type in TEXT:
                yield token.string
    else:
        yield path.read_text()


def files() -> list[Path]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    return [*pages, *(ROOT / "notebooks").iterdir(), *(ROOT / "cloudsen12_cube").rglob("*.py")]


@pytest.mark.parametrize("path", sorted(files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    assert [hit for text in texts_of(path) for hit in found(text)] == []


def test_the_list_is_applied(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(
        'x = f"{1} is\\n"  # somebody\nsomebody = "as whoever said"\n"""What lacks\nis made\n   again."""\n'
    )
    assert sum(len(found(text)) for text in texts_of(page)) == 5
    assert len(files()) > 40

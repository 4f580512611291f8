"""The documentation: it builds strictly, needs no network, and its code runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import griffe
import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.cli.parser import make_parser
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("docs") / "site"
    result = build(ROOT, place)
    assert result.returncode == 0, result.stdout + result.stderr
    return place


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*src="(http[^"]*)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(http[^"]*)"', text)
        assert not loaded, page.name


def test_the_commands_are_printed(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text()
    for command in ("demo", "convert", "verify", "evaluate"):
        assert f'<h2 id="{command}">' in page
    assert "one share of N" in page


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    """With the validation that the documentation is built with."""
    settings = (ROOT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:\n")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nstrict: true\n{validation}")
    (tmp_path / "docs").mkdir()
    for text, right in (("# Here\n[here](#here)\n", True), ("[nowhere](none.md)\n", False), ("[no](#no)\n", False)):
        (tmp_path / "docs" / "index.md").write_text(text)
        assert (build(tmp_path, tmp_path / "site").returncode == 0) is right, text


def reference() -> list[str]:
    """Everything that the reference prints."""
    return re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in DOCS.glob("reference/*.md")), re.MULTILINE)


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    found = griffe.load("cloudsen12_cube", search_paths=[ROOT], docstring_parser="numpy")
    assert isinstance(found, griffe.Module)
    return found


def test_whatever_the_reference_prints_has_a_docstring(package: griffe.Module) -> None:
    for name in reference():
        top = package[name.removeprefix("cloudsen12_cube.")]
        members = [m for m in top.members.values() if not (m.is_alias or m.name.startswith("_")) and m.is_function]
        for item in (top, *members):
            assert item.docstring, item.path


def test_the_reference_is_complete(package: griffe.Module) -> None:
    printed = set(reference())
    modules = {name for name in printed if package[name.removeprefix("cloudsen12_cube.")].is_module}
    for name in c12.__all__:
        thing = getattr(c12, name)
        if isinstance(thing, ModuleType):
            assert any(known.startswith(thing.__name__) for known in printed), name
        else:
            assert f"{thing.__module__}.{thing.__name__}" in printed or thing.__module__ in modules, name


def test_the_picture_of_the_rooms_is_current() -> None:
    spec = importlib.util.spec_from_file_location("modules", DOCS / "modules.py")
    assert spec
    assert spec.loader
    drawing = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = drawing  # dataclasses look up their module
    spec.loader.exec_module(drawing)
    drawn = re.findall(r'class="name"[^>]*>([^<]+)<', (DOCS / "modules.svg").read_text())
    rooms = {
        p.stem for p in (ROOT / "cloudsen12_cube").iterdir() if not p.name.startswith("_") and p.suffix != ".typed"
    }
    assert len(drawn) == len(rooms) == 16
    assert set(drawn) == rooms
    current = (DOCS / "modules.svg").read_text() == drawing.picture()  # pytest would compare long lines for minutes
    assert current, "run: python docs/modules.py"
    with pytest.raises(ValueError, match="import each other"):
        drawing.layers({"a": {"b"}, "b": {"a"}})
    assert drawing.arrows({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == [("b", "a"), ("c", "b")]


def test_documented_commands_are_valid() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    lines = [line for page in pages for line in re.findall(r"^cloudsen12-cube .*$", page.read_text(), re.MULTILINE)]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert len(commands) > 40
    for command in commands:
        make_parser().parse_args(command)  # exits if an option or a value is unknown


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def run_python(code: str, folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr


def test_the_tutorial_runs(tmp_path: Path) -> None:
    run_python(python_blocks(DOCS / "tutorial.md"), tmp_path)
    assert (tmp_path / "overview.png").stat().st_size > 10_000


def test_the_readmes_lines_run(tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", options=ArchiveOptions(size=32))  # but for its size, the archive of the README
    run_python(python_blocks(ROOT / "README.md"), tmp_path)

"""The wheel: its content and metadata, that it runs from an empty folder, and that its types are visible."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "cloudsen12_cube").rglob("*") if p.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert package <= set(names)
    assert "cloudsen12_cube/py.typed" in names
    rooms = {path.parent.name for path in (ROOT / "cloudsen12_cube").glob("*/__init__.py")}
    assert len(rooms) == 13
    assert {f"cloudsen12_cube/{room}/__init__.pyi" for room in rooms} <= set(names)  # the lazy fronts read them
    assert any(name.startswith("cloudsen12_cube/plotting/page/") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cloudsen12_cube"}


def test_the_wheel_says_what_it_offers(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        found = {name.rpartition("/")[2]: file.read(name).decode() for name in file.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(found["METADATA"])
    assert {"torch", "s3", "plot", "geo", "notebooks", "test"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "cloudsen12-cube = cloudsen12_cube.cli:main" in found["entry_points.txt"]
    assert "cloudsen12 = cloudsen12_cube.backend:CubeBackend" in found["entry_points.txt"]


def test_an_unpacked_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """Engine, command and data files come from the wheel, not from the checkout."""
    ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import cloudsen12_cube, xarray, sys; "
        f"assert cloudsen12_cube.__file__.startswith({str(tmp_path)!r}); "
        "from cloudsen12_cube.cli import main; sys.exit(main(['demo', 'out', '--quiet']))"
    )
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(tmp_path / "site"), "MPLBACKEND": "agg", "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "overview.png").stat().st_size > 10_000


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {project['version']}\n" in citation
    assert "10.1038/s41597-022-01878-2" in citation

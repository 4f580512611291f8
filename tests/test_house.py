"""The house rules: lints, types, arrows that point one way, and documents that say what runs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import cloudsen12_cube

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cloudsen12_cube"

ORDER = (
    *("errors", "schema", "storage", "format", "archive", "inspection", "conversion", "dataset"),
    ("evaluation", "training", "exporters"),
    "plotting",
    ("accessor", "backend", "cli"),
)
"""The rooms from left to right: a room imports only what stands to its left; neighbours do not import each other."""

ONLY_IN = {
    "zarr": {"format/metadata", "storage/zarr_store"},
    "fsspec": {"storage/fsspec_store"},
    "obstore": {"storage/obstore_store"},
    "distributed": {"conversion/runner"},
    "tifffile": {"archive/tiff"},
    "imagecodecs": {"archive/tiff"},
    "rasterio": {
        *("archive/tiff", "archive/geotiff", "archive/taco", "inspection/verification", "testing/archive"),
        "exporters/cog",
    },
    "rioxarray": {"dataset/patch"},
    "torch": {"training/torch"},
    "pyarrow": {"archive/parquet", "exporters/stac"},
    "PIL": {"plotting/browser"},
    "rich": {"cli/render", "cli/commands", "cli/demo"},
}
"""Libraries that few modules use, and these modules."""


PROGRAM = """
from pathlib import Path

import xarray as xr
from typing_extensions import assert_type

import cloudsen12_cube as c12

report = c12.convert("archive", Path("cube.zarr"), products=["labels"], where=["label_type=high"])
assert_type(report, c12.Report)
assert_type(report.exit_code, int)
cube = c12.open_cube("cube.zarr", chunks="roi")
assert_type(cube, xr.DataTree)
asked = c12.CubeAccessor(cube)
assert_type(asked.query(label_type="high", difficulty=(1, 3)), xr.DataTree)
assert_type(asked.mask("thick_cloud", of="manual_hq"), xr.DataArray)
"""
"""Typed against the package, as a user's."""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{a.name}" for a in node.names} if node.module == "cloudsen12_cube" else {node.module}
            )
    return found


def rooms_of(path: Path) -> tuple[str, set[str]]:
    """Give the room of a module, and those that it imports from."""
    found = {module.split(".")[1] for module in imports(path) if module.startswith("cloudsen12_cube.")}
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py"), found


def test_imports_point_one_way() -> None:
    place = {name: i for i, rooms in enumerate(ORDER) for name in ((rooms,) if isinstance(rooms, str) else rooms)}
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or "__" not in path.stem]
    assert len(modules) > 80
    assert {rooms_of(path)[0] for path in modules} == {*place, "testing"}
    for path in modules:
        room, targets = rooms_of(path)
        if room == "testing":
            assert targets <= {"schema", "archive", "errors", "testing"}, path
        else:
            assert all(
                target == room or place.get(target, 99) < place[room] or (target == "testing" and room == "cli")
                for target in targets
            ), f"{path} imports {targets}"


def test_a_room_is_entered_by_its_door() -> None:
    """What another room uses stands in ``__all__`` of the room, or is a module of it."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cloudsen12_cube."):
                parts = (node.module or "").split(".")
                assert len(parts) == 2 or parts[1] == path.relative_to(PACKAGE).parts[0], f"{path}: {node.module}"


def test_no_module_has_the_name_of_a_public_function() -> None:
    for path in [PACKAGE, *(p for p in PACKAGE.iterdir() if (p / "__init__.py").exists())]:
        room = importlib.import_module(".".join(path.relative_to(ROOT).parts))
        modules = {p.stem for p in path.glob("*.py")} | {p.name for p in path.iterdir() if p.is_dir()}
        assert not [name for name in room.__all__ if name in modules and callable(getattr(room, name))]
        assert len(list(path.glob("[!_]*.py"))) <= (6 if path == PACKAGE else 15)


def test_no_class_name_stands_twice() -> None:
    names = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(names) > 100
    assert {name for name in names if names.count(name) > 1} == set()


def test_each_library_has_its_modules() -> None:
    for path in PACKAGE.rglob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        name = str(path.relative_to(PACKAGE).with_suffix(""))
        for library, modules in ONLY_IN.items():
            assert library not in roots or name in modules, f"{name} imports {library}"


def test_files_are_short_and_nothing_is_evaluated() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 700, path
        assert not re.search(r"\b(eval|exec|pickle)\s*[(.]", text), path
        assert "**kwargs" not in text


def test_ruff() -> None:
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout


def test_mypy() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "cloudsen12_cube"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_each_room_has_tests_that_import_no_other_test() -> None:
    """What two files of tests share stands in a helper module of ``tests/``."""
    tests = ROOT / "tests"
    rooms = {path.parent.name for path in PACKAGE.rglob("*.py") if path.parent.parent == PACKAGE}
    assert len(rooms) > 10
    for room in rooms:
        assert list((tests / room).glob("test_*.py")), f"no tests of {room}"
    for path in tests.rglob("*.py"):
        assert not [module for module in imports(path) if module.startswith("test_")], path


def test_a_typed_program_is_typed(tmp_path: Path) -> None:
    """After `test_mypy`, whose cache it uses."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    program.write_text(PROGRAM + 'c12.convert("archive", "cube.zarr", product="labels")\n')
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Unexpected keyword argument" in result.stdout


def test_public_names_are_documented() -> None:
    for name in cloudsen12_cube.__all__:
        assert getattr(cloudsen12_cube, name).__doc__, name


def test_the_readmes_commands_are_the_gates() -> None:
    readme, gate = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^python -m venv .*$", readme, re.MULTILINE)
    assert len(commands) == 2
    assert "demo" in commands[0]
    assert "pytest" in commands[1]
    assert "README.md" in gate


def test_committed_text_names_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        if name.endswith((".py", ".md", ".toml", ".ipynb")) or name.startswith(".ci/"):
            assert not re.search("/" + r"(work|root)/", (ROOT / name).read_text()), name

"""The house rules: lints, types, arrows that point one way, and documents that say what runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import cloudsen12_cube

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cloudsen12_cube"

FLOORS = (
    ("errors", "assets", "classes", "properties", "header", "redact"),
    ("access",),
    ("clients", "cluster"),
    ("client_obstore", "client_fsspec"),
    ("patient",),
    ("lease", "bucket", "remote_store", "ranges", "listing"),
    (
        *("costs", "metadata", "conditions", "codec", "layout", "raster", "scene", "labels", "lazy", "share"),
        *("rowwise", "evaluation", "split"),
    ),
    (
        *("catalogue", "shard", "sink", "place", "counting", "table_six", "tif_folder"),
        *("samples", "cutout"),
    ),
    ("form", "taco", "padding", "export_note"),
    ("form_tif", "form_dat", "form_taco"),
    ("archive",),
    ("grid", "record", "testing_metadata", "metadata_csv"),
    ("testing", "accept", "changes", "tally"),
    ("plan", "tables", "options"),
    ("fetch", "patch", "store", "report", "plan_document", "workers", "export_folder"),
    (
        *("cube", "reader", "info", "status", "verify_metadata", "verify_cube", "chunks", "statistics"),
        *("class_view", "query", "reflectance", "patch_view", "cog", "footprints"),
        *("planes", "virtual_array", "virtual_chunks"),
    ),
    ("opening", "origin", "resharding"),
    ("shared", "reshard"),
    ("cut", "excerpt"),
    ("copying", "provenance"),
    ("export_shard",),
    ("export",),
    ("convert", "finalise", "verify", "picture", "confusion", "patches", "recipe", "virtual"),
    ("target",),
    ("subset",),
    ("preview",),
    ("pipeline", "stream_inputs", "stream_weights", "census", "prediction"),
    ("explain",),
    ("stream",),
    ("torch_stream",),
    ("plot", "html", "accuracy", "plot_evaluation", "stac", "gallery"),
    ("stac_items", "browse"),
    ("plot_accessor",),
    ("accessor", "array_accessor", "backend"),
    ("terminal", "arguments"),
    ("demo",),
    ("cli", "__init__"),
)
"""A file imports from floors above its own place in this list, or its own, but never from one below."""

ONLY_IN = {
    "zarr": {"store", "remote_store"},
    "fsspec": {"client_fsspec"},
    "obstore": {"client_obstore"},
    "distributed": {"cluster"},
    "tifffile": {"raster"},
    "imagecodecs": {"raster"},
    "rasterio": {"raster", "verify", "testing", "cog", "form_tif", "form_taco"},
    "rioxarray": {"patch_view"},
    "geopandas": {"footprints", "stac", "stac_items", "accessor"},
    "shapely": {"footprints"},
    "matplotlib": {"plot", "plot_accessor", "plot_evaluation"},
    "PIL": {"gallery"},
    "pyarrow": {"stac_items", "taco"},
    "rich": {"terminal", "cli", "demo"},
    "xarray": {
        *("reader", "backend", "lazy", "class_view", "query", "reflectance", "patch_view", "cog", "footprints"),
        *("picture", "plot", "html", "stac", "stac_items", "gallery", "browse", "accessor", "array_accessor"),
        "plot_accessor",
        *("rowwise", "split", "tif_folder", "confusion", "accuracy", "plot_evaluation"),
        *("patches", "stream", "stream_inputs", "prediction", "virtual", "virtual_array"),
    },
    "torch": {"torch_stream"},
}


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


def test_imports_point_one_way() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = {path.stem: path for path in PACKAGE.glob("*.py")}
    assert set(files) == set(floor)
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        inner = {module.split(".")[1] for module in imports(path) if module.startswith("cloudsen12_cube.")} & set(floor)
        edges[name] = inner
        too_low = {other for other in inner if floor[other] > floor[name]}
        assert not too_low, f"{name} imports {too_low}"
    assert_no_circle(edges)


def assert_no_circle(edges: dict[str, set[str]]) -> None:
    while edges:
        free = {name for name, targets in edges.items() if not targets & edges.keys()}
        assert free, f"an import circle among {sorted(edges)}"
        edges = {name: targets for name, targets in edges.items() if name not in free}


def test_each_library_has_its_rooms() -> None:
    for path in PACKAGE.glob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        for library, rooms in ONLY_IN.items():
            assert library not in roots or path.stem in rooms, f"{path.name} imports {library}"


def test_files_are_short_and_nothing_is_evaluated() -> None:
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path.name
        assert not re.search(r"\b(eval|exec|pickle)\s*[(.]", text), path.name
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
        if name.endswith((".py", ".md", ".toml", ".ipynb")) or name == ".ci/run":
            assert not re.search("/" + r"(work|root)/", (ROOT / name).read_text()), name

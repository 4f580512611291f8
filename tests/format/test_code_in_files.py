"""No bytes of a file are run: no pickle of a Zarr store, and no call in this package that could run some."""

from __future__ import annotations

import ast
import json
import os
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zarr
from packaging.specifiers import SpecifierSet

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.testing import ArchiveOptions, make_archive

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "cloudsen12_cube").rglob("*.py"))
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}


def runs_code(tree: ast.AST) -> list[str]:
    """Lines that could run what a file contains."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                found.append(f"{node.lineno}: {function.id}")
            if isinstance(function, ast.Attribute) and function.attr in ("eval", "read_pickle"):
                found.append(f"{node.lineno}: {function.attr}")
            stated = {word.arg: word.value for word in node.keywords}
            allowed = stated.get("allow_pickle", ast.Constant(False))
            if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                found.append(f"{node.lineno}: allow_pickle")
        found += [f"{node.lineno}: {name}" for name in names if name in MODULES]  # type: ignore[attr-defined]
    return found


def test_no_call_runs_what_a_file_contains() -> None:
    assert len(PACKAGE) > 100
    found = {str(path.relative_to(ROOT)): runs_code(ast.parse(path.read_text(encoding="utf-8"))) for path in PACKAGE}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "exec(x)", "import pickle", "from pickle import load", "np.load(x, allow_pickle=True)", "t.eval(x)"],
)
def test_the_search_is_not_blind(line: str) -> None:
    assert runs_code(ast.parse(line))


def test_no_allowed_release_of_numcodecs_runs_pickles() -> None:
    """Tried under zarr 3.3.0: 0.16.1, 0.16.5 and 0.17.0 run them; `.ci/lowest` has the oldest that is allowed."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = SpecifierSet(next(row for row in named if row.startswith("numcodecs")).removeprefix("numcodecs"))
    releases = ["0.15.1", "0.16.1", "0.16.5", "0.16.6", "0.17.0", "0.17.1"]
    assert list(allowed.filter(releases)) == ["0.16.6", "0.17.1"]


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def store_with_pickle(place: Path, form: str, payload: bytes) -> Path:
    """A store whose only array, ``roi``, has a pickle as its chunk."""
    array = place / "roi"
    array.mkdir(parents=True)
    if form.startswith("2"):
        (place / ".zgroup").write_text('{"zarr_format": 2}')
        (place / ".zattrs").write_text('{"cloudsen12": {}}')
        kind, filters = ("|O" if form == "2 objects" else "<i4"), [{"id": "pickle", "protocol": 5}]
        compressor = filters.pop() if form == "2 compressor" else None
        node = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": kind, "fill_value": 0, "order": "C"}
        (array / ".zarray").write_text(json.dumps(node | {"compressor": compressor, "filters": filters or None}))
        (array / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["roi"]}')
        (array / "0").write_bytes(payload)
        return place
    (place / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"cloudsen12": {}}}')
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    keys = {"name": "default", "configuration": {"separator": "/"}}
    codecs = [{"name": form, "configuration": {"protocol": 5}}]
    if form == "numcodecs.pickle":
        codecs.append({"name": "bytes", "configuration": {"endian": "little"}})  # type: ignore[dict-item]
    node = {"zarr_format": 3, "node_type": "array", "shape": [1], "data_type": "int32", "chunk_grid": grid}
    node |= {"chunk_key_encoding": keys, "fill_value": 0, "codecs": codecs, "dimension_names": ["roi"]}
    (array / "zarr.json").write_text(json.dumps(node))
    (array / "c").mkdir()
    (array / "c" / "0").write_bytes(payload)
    return place


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
@pytest.mark.parametrize("form", ["2", "2 objects", "2 compressor", "numcodecs.pickle", "pickle"])
def test_a_pickle_in_a_store_is_refused(tmp_path: Path, form: str) -> None:
    mark = tmp_path / "ran"
    place = store_with_pickle(tmp_path / "store.zarr", form, pickle.dumps(_Payload(mark)))
    for read in (c12.open_cube, c12.status, c12.verify):
        with pytest.raises(CubeError):
            read(place)
    make_archive(tmp_path / "archive", rois=1, options=ArchiveOptions(size=16, times=1))
    c12.convert(tmp_path / "archive", tmp_path / "cube.zarr", ["labels"])
    with pytest.raises(CubeError, match=r"is no predicted layer|is no finished layer"):
        c12.open_cube(tmp_path / "cube.zarr").cloudsen12.with_layer(str(place))
    # Neither do zarr and numcodecs alone run it, in the releases that are allowed.
    with pytest.raises(Exception, match=r".") as refused:  # each release has its own
        zarr.open_array(str(place / "roi"), mode="r")[...]
    assert not isinstance(refused.value, FileNotFoundError)
    assert not mark.exists()

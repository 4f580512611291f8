"""A destination that is removed or replaced while a run writes to it: the run ends with one line, never with 0."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buckets import files_of, private
from s3server import PRIVATE

import cloudsen12_cube as c12
from cloudsen12_cube.errors import CubeError
from cloudsen12_cube.storage import open_store
from cloudsen12_cube.training import statistics

WAY_OUT = r"while this run wrote to .*: remove what is left of it, or give another"


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "cube.zarr"
    assert c12.convert(source, place).exit_code == 0
    return place


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def replace(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    shutil.copytree(folder.with_name("elsewhere"), folder)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def once(happens: Callable[[], Any]) -> Callable[[Any], None]:
    """Progress that does something after the second step."""
    steps: list[Any] = []

    def progress(step: Any) -> None:
        steps.append(step)
        if len(steps) == 2:
            happens()

    return progress


RUNS: dict[str, Callable[[Path, Path, Any, Callable[[Any], None]], Any]] = {
    "convert": lambda source, _, out, progress: c12.convert(
        source, out, options=c12.Options(workers=0), progress=progress
    ),
    "re-shard": lambda _, made, out, progress: c12.convert(
        made, out, options=c12.Options(workers=0, layout=c12.Layout(codec="lz4")), progress=progress
    ),
    "subset": lambda _, made, out, progress: c12.subset(
        made, out, options=c12.SubsetOptions(workers=0), progress=progress
    ),
    "export": lambda _, made, out, progress: c12.export(
        made, out, options=c12.ExportOptions(workers=0), progress=progress
    ),
}


@pytest.mark.parametrize("change", [remove, replace, empty])
@pytest.mark.parametrize("run", RUNS)
def test_a_folder(source: Path, made: Path, tmp_path: Path, run: str, change: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    with pytest.raises(CubeError, match=WAY_OUT):
        RUNS[run](source, made, out, once(lambda: change(out)))
    shutil.rmtree(out, ignore_errors=True)
    assert RUNS[run](source, made, out, lambda _: None).exit_code == 0


@pytest.mark.parametrize("client", ["obstore", "fsspec"])
@pytest.mark.parametrize("run", ["convert", "re-shard", "subset"])
def test_a_bucket(source: Path, made: Path, s3: str, run: str, client: Any) -> None:
    out = private(f"lost-{run}-{client}.zarr", s3, client)
    key = f"{PRIVATE}/lost-{run}-{client}.zarr"
    with pytest.raises(CubeError, match=WAY_OUT):
        RUNS[run](source, made, out, once(lambda: files_of(s3).rm(key, recursive=True)))
    files_of(s3).rm(key, recursive=True)
    assert RUNS[run](source, made, out, lambda _: None).exit_code == 0
    if run != "re-shard":
        assert c12.verify(out, source).exit_code == 0


@pytest.mark.parametrize("change", [remove, replace])
def test_statistics_of_a_folder(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    cube = Path(shutil.copytree(made, tmp_path / "cube.zarr"))
    compute = statistics._compute

    def changed(*arguments: Any) -> Any:
        found = compute(*arguments)
        change(cube)
        return found

    monkeypatch.setattr(statistics, "_compute", changed)
    with pytest.raises(CubeError, match=WAY_OUT):
        c12.stats(cube, split=None)


def test_statistics_in_a_bucket(made: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = private("lost-stats.zarr", s3)
    c12.subset(made, cube)
    compute = statistics._compute

    def changed(*arguments: Any) -> Any:
        found = compute(*arguments)
        files_of(s3).rm(f"{PRIVATE}/lost-stats.zarr", recursive=True)
        return found

    monkeypatch.setattr(statistics, "_compute", changed)
    with pytest.raises(CubeError, match=WAY_OUT):
        c12.stats(cube, split=None)
    assert not list(open_store(cube).list(".writers"))

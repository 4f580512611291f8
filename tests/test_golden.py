"""File formats: what is written is, byte for byte, what was written before; and what was written before is read."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import golden
import numpy as np
import pytest

import cloudsen12_cube as c12

NAMES = sorted(path.relative_to(golden.FOLDER).as_posix() for path in golden.FOLDER.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Written:
    files: Path
    """Of today, as they are in `golden.FOLDER`."""
    work: Path
    """The archives and cubes that they come from."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Written:
    both = Written(tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("work"))
    golden.write(both.files, both.work)
    return both


@pytest.fixture
def here(made: Written, tmp_path: Path) -> Iterator[Path]:
    """A folder with copies of what the files come from, which is the current one: paths in files are relative."""
    for name in ("archive", "cube.zarr", "faulty", "faulty.zarr", "export"):
        shutil.copytree(made.work / name, tmp_path / name)
    with chdir(tmp_path):
        yield tmp_path


def test_every_kind_of_file_is_there(made: Written) -> None:
    found = sorted(path.relative_to(made.files).as_posix() for path in made.files.rglob("*") if path.is_file())
    assert found == NAMES
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_what_it_was(made: Written, name: str) -> None:
    was, now = ((folder / name).read_bytes() for folder in (golden.FOLDER, made.files))
    if was != now:  # a diff of the texts is short, that of pytest takes minutes
        lines = difflib.unified_diff(was.decode().splitlines(), now.decode().splitlines(), "was", "now", n=0)
        pytest.fail("\n".join(line[:400] for line in lines) or "the ends of lines differ")


def test_nothing_names_the_machine_that_wrote_it() -> None:
    for name in NAMES:
        text = (golden.FOLDER / name).read_text()
        assert not any(word in text for word in ("/tmp/", "/home/", "/Users/", "/" + "root/", "file://")), name  # noqa: S108


def test_the_nodes_are_those_of_the_root() -> None:
    """A reader may take either: the root has the metadata of all groups and arrays, consolidated."""
    root = json.loads((golden.FOLDER / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    found = {}
    for part in (golden.FOLDER / "zarr_nodes.txt").read_text().split("# ")[1:]:
        key, _, text = part.partition("\n")
        found[key.removesuffix("/zarr.json")] = json.loads(text)
    assert found.keys() == root.keys()
    for key, node in found.items():
        assert {name: root[key][name] for name in ("shape", "codecs", "attributes") if name in root[key]} == {
            name: node[name] for name in ("shape", "codecs", "attributes") if name in node
        }


@pytest.mark.parametrize("name", golden.STREAMS)
def test_a_saved_stream_goes_on(here: Path, name: str) -> None:
    saved = json.loads((golden.FOLDER / "stream_states.json").read_text())[name]
    stream = golden.stream(c12.open_cube(here / "cube.zarr"), name)
    stream.load_state_dict(saved["state"])
    assert golden.digests(next(iter(stream))) == saved["next"]


def test_roots_of_before_are_read(here: Path) -> None:
    cube = here / "cube.zarr"
    before = c12.open_cube(cube).load()
    shutil.copy(golden.FOLDER / "zarr.json", cube / "zarr.json")
    after = c12.open_cube(cube).load()
    for product in before.children:
        np.testing.assert_array_equal(after[product][product].values, before[product][product].values)
    assert c12.verify(cube, here / "archive").exit_code == 0
    assert c12.convert("archive", "cube.zarr", options=golden.ONE).written == 0


@pytest.mark.parametrize("name", ["zarr_creating.json", "zarr_converting.json"])
def test_roots_of_unfinished_cubes_are_read(here: Path, name: str) -> None:
    place = here / "begun.zarr"
    place.mkdir()
    if name == "zarr_converting.json":  # the table of its patches is there by then
        c12.convert("archive", "begun.zarr", ["s1"], options=golden.ONE)
        shutil.rmtree(place / "s1/s1/records")
    shutil.copy(golden.FOLDER / name, place / "zarr.json")
    assert c12.status(place).state == name.removeprefix("zarr_").removesuffix(".json")
    assert c12.convert("archive", "begun.zarr", ["s1"], options=golden.ONE).written == 3
    assert c12.status(place).state == "final"
    assert c12.verify(place, here / "archive").exit_code == 0


def _with_golden_records(here: Path) -> None:
    shutil.copy(golden.FOLDER / "zarr_accepted.json", here / "faulty.zarr/zarr.json")
    for product in ("s1", "labels"):
        folder = here / f"faulty.zarr/{product}/{product}/records"
        shutil.rmtree(folder)
        shutil.copytree(golden.FOLDER / "records" / product, folder)


def test_records_of_before_are_read(here: Path) -> None:
    _with_golden_records(here)
    for name, arguments in {"status": (), "status_source": ("--source", "archive")}.items():
        printed = golden.command("status", "faulty.zarr", *arguments, "--json")
        assert printed == (golden.FOLDER / f"{name}.json").read_text()
    before = {path: path.read_bytes() for path in (here / "faulty.zarr").glob("*/*/c/*/0/0/0/0")}
    layout = c12.Layout("none")
    report = c12.convert("faulty", "faulty.zarr", ["s1", "labels"], options=c12.Options(workers=0, layout=layout))
    assert (report.written, report.failed, report.accepted) == (1, 1, 1)  # what failed is tried again
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("here")
def test_failures_of_before_are_accepted() -> None:
    options = c12.Options(workers=0, layout=c12.Layout("none"), accept=golden.FOLDER / "failures.json")
    report = c12.convert("faulty", "faulty.zarr", ["s1", "labels"], options=options)
    assert (report.exit_code, report.accepted) == (0, 2)


def test_an_export_of_before_goes_on(here: Path) -> None:
    _with_golden_records(here)
    journal = Path("export/.cloudsen12-export.jsonl")
    lines = []
    for line in (golden.FOLDER / "export/journal.jsonl").read_text().splitlines():
        *unit, files = json.loads(line)
        lines.append(json.dumps([*unit, {name: (Path("export") / name).stat().st_size for name in files}]))
    journal.write_text("\n".join(lines) + "\n")
    for name in ("cloudsen12_export.json", "cloudsen12_metadata.csv"):
        shutil.copy(golden.FOLDER / "export" / name, Path("export") / name)
    report = c12.export("faulty.zarr", "export", options=c12.ExportOptions(workers=0))
    assert (report.files, report.replaced, len(report.left_out)) == (0, (), 2)
    assert report.skipped == sum(len(json.loads(line)[-1]) for line in lines)


def test_statistics_of_before_are_read(here: Path) -> None:
    def batches() -> list[Any]:
        options = c12.StreamOptions(normalise="standard", shuffle=False)
        cube = c12.open_cube(here / "cube.zarr")
        return [batch["pixels"] for batch in cube.cloudsen12.stream({"s2l1c": None, "s1": None}, options=options)]

    now = batches()
    for product in ("s2l1c", "s1"):
        shutil.copy(
            golden.FOLDER / f"statistics/{product}.json", here / f"cube.zarr/{product}/{product}/statistics.json"
        )
    for was, new in zip(batches(), now, strict=True):
        np.testing.assert_allclose(was, new, rtol=1e-5)


@pytest.mark.parametrize("name", ["whole", "part"])
def test_notes_of_writers_are_respected(here: Path, name: str) -> None:
    bucket = fsspec.filesystem("memory")
    note = (golden.FOLDER / f"writer_{name}.json").read_bytes()
    run = json.loads(note)["run"]
    key = "whole.json" if name == "whole" else f"part-{run}.json"
    try:
        bucket.pipe_file(f"/noted.zarr/.writers/{key}", note)
        with pytest.raises(c12.CubeError, match="another run is writing"):
            c12.convert(here / "archive", "memory://noted.zarr", ["s1"], options=golden.ONE)
        options = c12.Options(workers=0, break_lock=True)
        assert c12.convert(here / "archive", "memory://noted.zarr", ["s1"], options=options).written == 3
    finally:
        bucket.rm("/noted.zarr", recursive=True)

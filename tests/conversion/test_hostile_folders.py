"""Nothing is followed out of a cube or an export folder, and nothing is removed but what this package names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import cloudsen12_cube as c12
from cloudsen12_cube.cli import main
from cloudsen12_cube.errors import CubeError, DestinationError
from cloudsen12_cube.exporters.folder import JOURNAL
from cloudsen12_cube.format.cube import open_stored_cube
from cloudsen12_cube.storage.local import LocalStore
from cloudsen12_cube.storage.lock import write_lock
from cloudsen12_cube.storage.zarr_store import from_zarr

PRODUCTS = ["s1", "labels"]


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "cube.zarr"
    assert c12.convert(source, place, PRODUCTS).exit_code == 0
    return place


@pytest.fixture
def hostile(made: Path, tmp_path: Path) -> Path:
    """A copy of a cube that a test changes, beside a folder that is not to be touched."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("letter.txt", "a" * 32, "ROI_0001.json", "zarr.json", "0"):
        (home / name).write_text("mine")
    return Path(shutil.copytree(made, tmp_path / "cube.zarr"))


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def records(cube: Path, product: str = "s1") -> list[Path]:
    return sorted((cube / product / product / "records").iterdir())


def link(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(to)


LINKS = [".partial", "s1", "s1/s1/records", "s1/s1/c", "labels/status/c"]
COMMANDS = {
    "convert": "convert {source} {cube} --products s1,labels",
    "repair": "convert {source} {cube} --products s1,labels --repair",
    "finalise": "finalise {cube}",
    "stats": "stats {cube} --split all",
    "subset": "subset {cube} {cube}.part",
    "export": "export {cube} {cube}.tifs",
    "verify": "verify {cube} --source {source}",
    "status": "status {cube}",
}


def command(name: str, source: Path, cube: Path) -> list[str]:
    return COMMANDS[name].format(source=source, cube=cube).split()


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    code = main(words)
    assert "Traceback" not in capsys.readouterr().err
    return code


@pytest.mark.parametrize("where", LINKS)
def test_links_out_of_a_cube(hostile: Path, source: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    home = hostile.parent / "home"
    before = state(home)
    link(hostile / where, home)
    for name in ("repair", "finalise", "stats", "subset"):
        assert run(command(name, source, hostile), capsys) in (0, 1, 2), name
        assert state(home) == before, name
    assert run(command("repair", source, hostile), capsys) == 2


@pytest.mark.parametrize("kind", ["file", "pipe", "folder"])
def test_what_lies_in_the_place_of_unfinished_files(
    hostile: Path, source: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An object that cannot be written is an error; it counted as one that is there already."""
    partial = hostile / ".partial"
    {"file": partial.touch, "pipe": lambda: os.mkfifo(partial), "folder": partial.mkdir}[kind]()
    if kind == "folder":
        (partial / "letter.txt").write_text("mine")
        (partial / ("a" * 32)).write_text("of a writer that died")
    records(hostile)[0].unlink()
    code = run(command("convert", source, hostile), capsys)
    assert code == (0 if kind == "folder" else 2)
    assert (kind != "folder") or [path.name for path in partial.iterdir()] == ["letter.txt"]


def test_no_key_leads_out_of_a_folder(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "cube"))
    (tmp_path / "letter.txt").write_text("mine")
    for key in ("../letter.txt", str(tmp_path / "letter.txt"), "a/../../letter.txt"):
        with pytest.raises(DestinationError, match="outside of"):
            store.put(key, b"theirs")
        with pytest.raises(DestinationError, match="outside of"):
            store.delete(key)
    assert (tmp_path / "letter.txt").read_text() == "mine"


RECORDS: dict[str, Any] = {
    "another product": {"product": "labels"},
    "a path as product": {"product": "../../home"},
    "another ROI": {"roi_id": "ROI_9999"},
    "a path as ROI": {"roi_id": "../../../../../home/letter"},
    "an absolute path": {"roi_id": "/home/letter"},
    "another position": {"index": 1},
    "a position far away": {"index": 2**62},
    "a negative position": {"index": -1},
    "a size that is a text": {"size": "12"},
    "a digest that is none": {"sha256": "x" * 64},
    "patches that are none": {"patches": {"time": 0}},
    "a deep list": [],
    "a far date": "time",
    "a date that is a text": "text",
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_are_none(hostile: Path, source: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, change = records(hostile)[0], RECORDS[name]
    document = json.loads(path.read_text())
    if change in ("time", "text"):
        document["patches"][0]["time"] = 99 if change == "time" else "0"
    path.write_text(json.dumps(document | change) if isinstance(change, dict) else json.dumps(document))
    if name == "a deep list":
        path.write_text("[" * 100_000)
    before = state(hostile.parent / "home")
    assert open_stored_cube(hostile).record("s1", path.stem) is None
    for verb in ("status", "subset"):
        assert run(command(verb, source, hostile), capsys) == 1, verb
    (hostile / "roi" / "c" / "0").write_bytes(b"damaged")  # the order is looked up in the records
    assert run(command("repair", source, hostile), capsys) in (0, 2)
    assert state(hostile.parent / "home") == before


def test_a_record_of_a_far_date_is_written_again(
    hostile: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records(hostile)[0]
    document = json.loads(path.read_text())
    document["patches"][0]["time"] = 2
    path.write_text(json.dumps(document))
    assert run(["convert", str(source), str(hostile), "--products", "s1,labels", "--rois", "ROI_0002"], capsys) in (
        0,
        2,
    )
    assert run(command("convert", source, hostile), capsys) == 0
    assert run(command("verify", source, hostile), capsys) == 0


@pytest.mark.parametrize("place", ["zarr.json", "s1/s1/records", "s1/s1/c/0/0/0/0/0", "roi/c/0"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_special_files(hostile: Path, source: Path, place: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = hostile / place
    path = records(hostile)[0] if path.name == "records" else path
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for name in ("verify", "subset", "stats"):
        assert run(command(name, source, hostile), capsys) in (0, 1, 2), name


def journal(folder: Path, *files: str, patch: tuple[str, str] | None = None) -> None:
    """Let the journal claim files of the first patch, of an older shard: a run removes those that it does not write."""
    line = json.loads((folder / JOURNAL).read_text().splitlines()[0])
    roi, image = patch or line[:2]
    (folder / JOURNAL).write_text(json.dumps([roi, image, line[2], "0" * 64, dict.fromkeys(files, 4)]) + "\n")


@pytest.mark.parametrize("how", ["absolute", "up", "below", "another patch", "not a tif", "not an asset"])
def test_a_journal_removes_no_file_of_others(made: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "tifs"
    assert c12.export(made, folder, PRODUCTS).exit_code == 0
    roi, image = json.loads((folder / JOURNAL).read_text().splitlines()[0])[:2]
    claimed = {
        "absolute": f"{tmp_path}/high/{roi}/{image}/S1.tif",
        "up": f"../high/{roi}/{image}/S1.tif",
        "below": f"letters/high/{roi}/{image}/S1.tif",
        "another patch": "high/ROI_0099/other/S1.tif",
        "not a tif": f"high/{roi}/{image}/letter.txt",
        "not an asset": f"high/{roi}/{image}/letter.tif",
    }[how]
    path = folder / claimed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    journal(folder, claimed)
    c12.export(made, folder, PRODUCTS)
    assert path.read_text() == "mine"


LINES = [
    "[" * 100_000,
    "null",
    '["a", "b", "s1", "x", {}]',
    json.dumps([1, 2, 3, 4, {}]),
    json.dumps(["../..", "x", "s1", "0" * 64, {"../../../x.tif": 1}]),
    json.dumps(["ROI_0001", "x", "s1", "0" * 64, {"high/ROI_0001/x/S1.tif": -1}]),
    json.dumps(["ROI_0001", "x", "s1", "0" * 64, [["a"]]]),
    "9" * 5000,
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_of_a_journal_that_are_none(made: Path, tmp_path: Path, line: str) -> None:
    folder = tmp_path / "tifs"
    assert c12.export(made, folder, PRODUCTS).exit_code == 0
    with open(folder / JOURNAL, "a", encoding="utf-8") as file:
        file.write(line)
    again = c12.export(made, folder, PRODUCTS)
    assert (again.exit_code, again.files) == (0, 0)


@pytest.mark.parametrize("where", [JOURNAL, "high", ".partial"])
def test_links_out_of_an_export(made: Path, tmp_path: Path, where: str) -> None:
    folder, home = tmp_path / "tifs", tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("mine")
    assert c12.export(made, folder, PRODUCTS).exit_code == 0
    link(folder / where, home / "letter.txt" if where == JOURNAL else home)
    with pytest.raises(CubeError, match=r"outside of|cannot write"):
        c12.export(made, folder, PRODUCTS)
    assert state(home) == {"letter.txt": b"mine"}


def test_a_journal_that_is_a_pipe(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tifs"
    assert c12.export(made, folder, PRODUCTS).exit_code == 0
    (folder / JOURNAL).unlink()
    os.mkfifo(folder / JOURNAL)
    with pytest.raises(CubeError, match=r"regular|cannot write"):
        c12.export(made, folder, PRODUCTS)


NOTES: list[Any] = [
    "[" * 100_000,
    [],
    {"pid": "1"},
    {"pid": 0},
    {"pid": 10**30},
    {"since": "yesterday"},
    {"since": "2026-01-01T00:00:00"},
    {"host": ["x"]},
    {"host": "x" * 10_000},
]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_lock_objects_that_are_none(note: Any) -> None:
    import zarr

    good = {"run": "r", "host": "h", "boot": "b", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    text = note if isinstance(note, str) else json.dumps(good | note if isinstance(note, dict) else note)
    store = from_zarr(zarr.storage.MemoryStore())
    store.put(".writers/whole.json", text.encode())
    with pytest.raises(DestinationError, match="cannot be read"), write_lock(store):
        pass
    with write_lock(store, force=True):
        pass

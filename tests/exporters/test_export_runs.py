"""An export as a process: killed at any moment and continued, on a full disk, on the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, failed, run
from crashes import EVERY_STEP, Killed, crash_steps, dying
from exported import contents, tifs

import cloudsen12_cube as c12
from cloudsen12_cube.archive.geotiff import NOTE_NAME
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.errors import DestinationError
from cloudsen12_cube.exporters.folder import JOURNAL
from cloudsen12_cube.testing import ArchiveOptions, make_archive


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    make_archive(folder / "archive", 2, 5, ArchiveOptions(16, 2))
    assert c12.convert(folder / "archive", folder / "cube.zarr", ["s1", "labels"]).exit_code == 0
    return folder / "cube.zarr"


@pytest.fixture(scope="module")
def undisturbed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("undisturbed") / "out"
    c12.export(small, place)
    return contents(place)


def noted(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file that the journal names: written again, it would have others."""
    found = {}
    for line in (folder / JOURNAL).read_text().splitlines(keepends=True) if (folder / JOURNAL).exists() else ():
        if line.endswith("\n"):
            for path in json.loads(line)[-1]:
                state = (folder / path).stat()
                found[path] = (state.st_ino, state.st_mtime_ns)
    return found


def test_a_killed_process_is_continued(cube: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments; what is noted is never written again, and the end is that of an undisturbed run."""
    c12.export(cube, tmp_path / "whole")
    draw, out, kills = random.Random(3), tmp_path / "out", 0  # noqa: S311 (nothing secret)
    for _ in range(4):
        before = len(tifs(out)) if out.exists() else 0
        process = subprocess.Popen(
            [*COMMAND, "export", str(cube), str(out), "--quiet"], stderr=subprocess.PIPE, start_new_session=True
        )
        target = before + draw.randrange(10, 60)
        while process.poll() is None and (not out.exists() or len(tifs(out)) < target):
            time.sleep(0.01)
        done = noted(out)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        assert all(cut_short(path) is False for path in tifs(out).values())
        done_after = noted(out)
        assert all(done_after[path] == state for path, state in done.items())
    assert kills >= 3
    done = noted(out)
    report = c12.export(cube, out)
    assert (report.exit_code, report.replaced) == (0, ())
    assert report.skipped == len(done)
    assert {path: state for path, state in noted(out).items() if path in done} == done
    assert contents(out) == contents(tmp_path / "whole")


def cut_short(path: Path) -> bool:
    """A tif here has its pixels behind its header: the file is as long as the last segment says."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        return max(o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)) > path.stat().st_size


@EVERY_STEP
def test_it_may_die_before_any_step(small: Path, undisturbed: dict[str, bytes], every: bool, tmp_path: Path) -> None:
    with dying(10**9) as steps:
        c12.export(small, tmp_path / "count", options=c12.ExportOptions(workers=0))
    assert steps[0] > 40
    for step in crash_steps(steps[0], every):
        out = tmp_path / str(step)
        with dying(step, torn=step % 2 == 1), pytest.raises(Killed):
            c12.export(small, out, options=c12.ExportOptions(workers=0))
        assert all(contents(out)[name] == undisturbed[name] for name in tifs(out))
        if (out / NOTE_NAME).exists():
            assert json.loads((out / NOTE_NAME).read_text())["state"] in ("exporting", "final")
        report = c12.export(small, out)
        assert (report.exit_code, report.replaced) == (0, ())
        assert contents(out) == undisturbed


def test_one_writer_at_a_time(small: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def meanwhile(_: Any) -> None:
        with pytest.raises(DestinationError, match="another process is writing"):
            c12.export(small, tmp_path / "out")
        said.append("told")

    c12.export(small, tmp_path / "out", progress=meanwhile)
    assert said == ["told"] * 4


def test_a_failure_stops_all_threads_and_is_continued(
    small: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = os.replace, [0]

    def full(*paths: Any) -> None:
        count[0] += 1
        if count[0] > 12:
            raise OSError(28, "No space left on device")
        real(*paths)

    with monkeypatch.context() as during:
        during.setattr(os, "replace", full)
        with pytest.raises(DestinationError, match="is full: free some space and run the same command again"):
            c12.export(small, tmp_path / "out", options=c12.ExportOptions(workers=3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("export")]
    c12.export(small, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


def test_the_command_line(cube: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("export", cube, out, "--products", "s1,labels", "--where", "split=train|validation", columns=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "15 patches: " in done.stdout
    assert "--test-meaning v1.1" in " ".join(done.stdout.split())  # the codes alone would be read as v1.0
    assert max(map(len, done.stdout.splitlines())) <= 60
    again = run("export", cube, out, "--products", "s1,labels", "--rois", "ROI_0012", "--workers", "0")
    assert "5 patches: 0 files written (0 B), 55 existed already" in again.stdout
    assert run("export", cube, out, "--bbox=-180,-90,180,90", "--quiet").stdout == ""
    planned = run("plan", out, tmp_path / "c.zarr")
    assert "`test` read as v1.1" in " ".join(planned.stdout.split())


def test_what_is_left_out_is_one_line_a_table_and_exit_code_1(cube: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(cube, copy)
    (copy / "s1/s1/c/0/0/0/0/0").unlink()
    result = run("export", copy, tmp_path / "out", "--products", "s1")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("cloudsen12-cube: 5 left out; the first: ROI_0012/")
    assert line.endswith(NOTE_NAME)
    assert "left out" in result.stdout
    assert "ROI_0012" in result.stdout


def test_errors_are_one_line(cube: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("x")
    assert "holds something else (note.txt)" in failed(run("export", cube, tmp_path / "mine"))
    assert "no cube" in failed(run("export", tmp_path / "mine", tmp_path / "out"))
    assert "is a URL: export writes to a local folder" in failed(run("export", cube, "s3://bucket/out"))
    assert "no property 'x'" in failed(run("export", cube, tmp_path / "out", "--where", "x=1"))
    assert "no ROI 'ROI_1'" in failed(run("export", cube, tmp_path / "out", "--rois", "ROI_1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rubbish", [["--bbox", "1,2"], ["--workers", "-1"], ["--workers", "many"], ["--nonsense"]])
def test_usage_errors_exit_with_2(cube: Path, rubbish: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", str(cube), "out", *rubbish])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err

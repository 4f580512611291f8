"""A disk that cannot read a file: each command names it and does the rest, and a repair writes it again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crashes import ONE, PRODUCTS, contents

import cloudsen12_cube as c12

COMPILER = shutil.which("cc")

# read and pread64 fail with EIO for the inodes in $EIO_INODES, as on a disk with bad sectors; a file that is replaced
# has another inode, and can be read.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static int bad(int fd) {
  const char *inodes = getenv("EIO_INODES");
  struct stat found;
  char text[32];
  if (!inodes || !*inodes || fstat(fd, &found)) return 0;
  snprintf(text, sizeof text, ",%lu,", (unsigned long)found.st_ino);
  return strstr(inodes, text) != 0;
}
ssize_t read(int fd, void *to, size_t n) {
  ssize_t (*next)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
  if (bad(fd)) { errno = EIO; return -1; }
  return next(fd, to, n);
}
ssize_t pread64(int fd, void *to, size_t n, off_t at) {
  ssize_t (*next)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread64");
  if (bad(fd)) { errno = EIO; return -1; }
  return next(fd, to, n, at);
}
"""

# Runs commands in one process; before each, a copy of the cube is made and some of its files become unreadable.
DRIVER = r"""
import contextlib, io, json, os, shutil, sys
from pathlib import Path
from cloudsen12_cube.cli.commands import main
cube, work, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin)
for number, (pattern, commands) in enumerate(cases):
    place = work / f"{number}.zarr"
    shutil.copytree(cube, place)
    files = sorted(path for path in place.glob(pattern) if path.is_file())
    for position, path in enumerate(files):
        os.link(path, work / f"{number}-{position}")  # else the system gives its inode to another file
    os.environ["EIO_INODES"] = "".join(f",{path.stat().st_ino}," for path in files)
    for command in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(place) if word == "CUBE" else word.replace("WORK", str(work)) for word in command])
        print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
Case = tuple[str, list[list[str]]]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "c.zarr"
    c12.convert(source, place, products=PRODUCTS, options=ONE)
    return place


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("reads are made to fail by a preloaded library, which needs Linux and a C compiler (cc)")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "eio.c").write_text(SHIM)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", folder / "eio.so", folder / "eio.c", "-ldl"], check=True)
    return folder / "eio.so"


def run(shim: Path, cube: Path, work: Path, cases: list[Case]) -> list[tuple[int, str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(cube), str(work)],
        input=json.dumps(cases),
        env=os.environ | {"LD_PRELOAD": str(shim), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    answers: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, out, err) for code, out, err in answers]


def convert(source: Path, *more: str) -> list[str]:
    return ["convert", str(source), "CUBE", "--products", ",".join(PRODUCTS), *more]


def test_a_repair_replaces_what_the_disk_cannot_read(shim: Path, source: Path, whole: Path, tmp_path: Path) -> None:
    patterns = ["s1/s1/c/1/0/0/0/0", "s1/s1/records/*.json", "*/s2_id_gee/c/**/*", "labels/status/c/0/0"]
    cases: list[Case] = [(pattern, [convert(source, "--repair")]) for pattern in patterns]
    for number, (code, _, err) in enumerate(run(shim, whole, tmp_path, cases)):
        assert code == 0, (patterns[number], err)
        assert contents(tmp_path / f"{number}.zarr") == contents(whole)


def test_one_unreadable_shard_does_not_hide_the_others(shim: Path, whole: Path, tmp_path: Path) -> None:
    verify, export, subset = run(
        shim,
        whole,
        tmp_path,
        [
            (
                "s1/s1/c/*/0/0/0/0",
                [["verify", "CUBE"], ["export", "CUBE", "WORK/out"], ["subset", "CUBE", "WORK/s.zarr"]],
            )
        ],
    )
    assert verify[0] == export[0] == subset[0] == 1
    assert verify[1].count("Input/output error): check the disk") == 2
    assert "4 shards checked" in verify[1]
    assert "4 left out; the first: ROI_" in export[2]
    assert len(list((tmp_path / "out").rglob("sen2cor.tif"))) == 4
    assert not list((tmp_path / "out").rglob("S1.tif"))
    assert "2 failures" in subset[2]


def test_a_command_that_needs_the_file_says_so_in_a_line(shim: Path, source: Path, whole: Path, tmp_path: Path) -> None:
    commands = [["info", "CUBE"], ["stats", "CUBE", "--split", "all"], ["evaluate", "CUBE"], ["finalise", "CUBE"]]
    commands += [["convert", "CUBE", "WORK/r.zarr"], ["subset", "CUBE", "WORK/s.zarr"], convert(source)]
    for code, _, err in run(shim, whole, tmp_path, [("zarr.json", commands)]):
        assert code == 2
        assert err.count("\n") == 1
        assert "zarr.json cannot be read (Input/output error): check the disk or give another place" in err

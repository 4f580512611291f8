"""A slice of the mutations of `benchmarks/hostile.py`: no traceback, no bomb, no write outside, no wrong pixel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import call

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cloudsen12_cube"
BAD = {"tracebacks", "died", "hung", "unprintable", "written outside", "wrong pixels", "more than a line", "no result"}
BAD |= {"more than 1 GiB", "more than 10 s", "different", "refused by GDAL alone"}


@pytest.mark.parametrize(("name", "arguments"), [("tifs", [500, 7]), ("tables", [30, 7]), ("cubes", [42, 7, False])])
def test_mutations_are_refused_or_read_right(
    name: str, arguments: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # from where the process imports the benchmarks
    found = call(f"benchmarks.hostile:{name}", [str(tmp_path / name), *arguments])["result"]
    assert not BAD & set(found["counts"]), found["findings"]
    assert sum(found["counts"].values()) >= arguments[0]


def test_the_guard_reports_what_ends_a_process() -> None:
    code = """
import os
from benchmarks.hostile import guarded
def work(job):
    if job == 1: os.abort()
    if job == 2: raise ValueError("two")
    return job
print([(job, found.result, found.failure.strip().split("\\n")[-1]) for job, found in guarded(work, [0, 1, 2, 3])])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[(0, 0, ''), (1, None, 'died (-6)'), (2, None, 'ValueError: two'), (3, 3, '')]\n"

"""Commands other than conversions are killed: nothing wrong is shown, and the next run ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from crashes import SMALL

from benchmarks.kills import COMMANDS, kill_command
from cloudsen12_cube.testing import make_archive


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed(name: str, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive", rois=1, seed=3, options=SMALL)
    counts = kill_command(name, str(archive), str(tmp_path / "work"), 3)
    assert counts["kills"] == 3
    assert counts["wrong results shown"] == 0
    assert counts["identical results at the end"] == 3

"""Run the command line in a process of its own, as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

COMMAND = [sys.executable, "-W", "error", "-m", "cloudsen12_cube"]


def run(*arguments: object, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "dumb"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )


def failed(result: subprocess.CompletedProcess[str]) -> str:
    """Check that a command could do nothing and said so in one line."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def interruptible() -> None:
    """Undo what a shell does that runs the tests in the background: its children never see an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a command that ends by an interrupt; a failed assertion ends it, too, instead of waiting for ever."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen([*map(str, command)], **pipes, preexec_fn=interruptible) as process:
        try:
            yield process
        finally:
            process.kill()

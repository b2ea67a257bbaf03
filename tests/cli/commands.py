"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}


def rftfast(*arguments: object, stdin: bytes | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rftfast.cli.main", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        input=b"" if stdin is None else stdin,
        capture_output=True,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(words: str, *arguments: object, **more: bytes) -> None:
    """The command ends with status 2 and one line that holds ``words``."""
    done = rftfast(*arguments, **more)  # type: ignore[arg-type]
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert words in done.stderr, done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr

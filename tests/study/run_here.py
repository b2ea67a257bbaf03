"""Steps of a study run in this process, one after the other: their very commands, without loading torch for each."""

from __future__ import annotations

import importlib
import sys

import pytest

from rftfast.study.graph import Step
from rftfast.study.state import DONE, State


def run_here(graph: dict[str, Step], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them; a step that fails fails the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for step in graph.values():
        command = step.command(threads=1)
        assert command[1] == "-m", command
        step.folder.mkdir(parents=True)
        monkeypatch.setattr(sys, "argv", [command[2], *command[3:]])
        try:
            status = importlib.import_module(command[2]).main()
        except SystemExit as end:
            status = end.code
        assert status in (0, None), f"{step.name}: exit status {status}: {' '.join(command[2:])}"
        State(step.name, step.kind.name, step.key, DONE, command, 1.0).write(step.folder)

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rftfast.data.lock import RunLock
from rftfast.errors import UserError
from rftfast.study.graph import Step
from rftfast.study.run import failure, run_study, statuses
from rftfast.study.state import DONE, FAILED, RUNNING, STATE_FILE, WAITING
from tests.cli.commands import ENVIRONMENT, ROOT
from tests.study.made_studies import WORLDS, graph_of, study_file

ALL = ["part-0", "part-1", "world-0", "world-1"]


def contents(graph: dict[str, Step]) -> dict[str, bytes]:
    return {f"{name}/{p.name}": p.read_bytes() for name, s in graph.items() for p in s.folder.glob("*.jsonl")}


def test_runs_what_is_not_done(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, WORLDS)
    said: list[str] = []
    outcome = run_study(graph, tmp_path / "out", 2, said.append)
    assert sorted(outcome.done) == ALL
    assert not outcome.failed and not outcome.blocked
    assert all(state.status == DONE and state.seconds > 0 for state in statuses(graph).values())
    assert len(contents(graph)) == 6
    said.clear()
    assert sorted(run_study(graph, tmp_path / "out", 2, said.append).done) == ALL
    assert not said


def test_a_failed_step_takes_its_branch_alone(tmp_path: Path) -> None:
    text = WORLDS.replace("limit: 3", "limit: 3\n        fraction: <fraction>").replace(
        "for: {seed: <seeds>}\n        kind: questions",
        "for: {of: [{seed: 0, fraction: 1.0}, {seed: 1, fraction: 2.0}]}\n        kind: questions",
    )
    text += "      again: {kind: questions, source: $part-1}\n      more: {kind: questions, source: $again}\n"
    graph = graph_of(tmp_path, text)
    said: list[str] = []
    outcome = run_study(graph, tmp_path / "out", 1, said.append)
    assert outcome.failed == ["part-1"]
    assert outcome.blocked == ["again", "more"]
    assert sorted(outcome.done) == ["part-0", "world-0", "world-1"]
    state = statuses(graph)["part-1"]
    assert (state.status, state.exit_status) == (FAILED, 2)
    lines = "\n".join(said)
    assert "part-1: FAILED, exit status 2" in lines
    assert "error: fraction is 2.0; it is a share of the questions" in lines
    alone = failure(graph["part-1"], state)[-1].removeprefix("  to run it alone: ")
    done = subprocess.run(alone, shell=True, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert "fraction is 2.0" in done.stderr
    # What failed is tried again, and only that.
    assert run_study(graph, tmp_path / "out", 1, said.append).failed == ["part-1"]
    assert statuses(graph)["world-0"].command


def test_one_process_at_a_time(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, WORLDS)
    (tmp_path / "out").mkdir()
    lock = RunLock(tmp_path / "out")
    with pytest.raises(UserError, match="in use by process"):
        run_study(graph, tmp_path / "out", 1, print)
    lock.release()


def test_a_folder_of_another_step_is_refused(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, WORLDS)
    run_study(graph, tmp_path / "out", 2, lambda line: None)
    file = graph["world-0"].folder / STATE_FILE
    whole = file.read_text()
    file.write_text(whole.replace(graph["world-0"].key, "0" * 32))
    with pytest.raises(UserError, match="belongs to another step"):
        statuses(graph)
    file.write_text(whole[:20])
    with pytest.raises(UserError, match=r"step\.json: damaged"):
        statuses(graph)


LONG = WORLDS.replace("train: 8", "train: 400")


def start(tmp_path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rftfast.cli.main", "study", str(tmp_path / "study.yaml"), "--out"]
    return subprocess.Popen([*command, str(tmp_path / "out")], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    return [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]


def wait_for_children(process: subprocess.Popen[bytes]) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = children(process.pid)
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("no step was started")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_anywhere_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = graph_of(tmp_path / "whole", LONG)
    run_study(whole, tmp_path / "whole" / "out", 2, lambda line: None)
    study_file(tmp_path, LONG)
    graph = graph_of(tmp_path, LONG)
    rng = random.Random(3)
    for _ in range(4):
        process = start(tmp_path)
        steps = wait_for_children(process)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while any(map(lives, steps)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(lives, steps))  # a step does not outlive its runner
        if all(state.status == DONE for state in statuses(graph).values()):
            break
    assert sorted(run_study(graph, tmp_path / "out", 2, lambda line: None).done) == ALL
    assert contents(graph) == contents(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_asked_to_stop_it_stops_its_steps(tmp_path: Path) -> None:
    study_file(tmp_path, LONG)
    process = start(tmp_path)
    steps = wait_for_children(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert not any(map(lives, steps))
    found = {state.status for state in statuses(graph_of(tmp_path, LONG)).values()}
    assert found <= {RUNNING, WAITING, DONE}
    assert os.path.exists(tmp_path / "out")

"""The run directory when the process is killed or interrupted and when the disk is full: nothing lost, nothing doubled."""

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rftfast.data import RunDir, summarize
from rftfast.data.rft_file import RftFile
from rftfast.errors import UserError
from tests.data.run_loop import ORDER, QUESTIONS, add, at_line, content, do_run, interrupt, open_run

LOOP = Path(__file__).with_name("run_loop.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, list[str]]:
    """What an undisturbed run ends with."""
    path = tmp_path_factory.mktemp("whole")
    do_run(path)
    found = content(path)
    assert len(found[1]) == 4 * len(QUESTIONS)
    return found


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_broken_off_at_random_lines(tmp_path, how):
    """SIGKILL, or Ctrl-C, between any two lines of the code, again and again, and then the same content."""
    answer = subprocess.run(
        [sys.executable, LOOP, tmp_path, how, "3", "20"], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    found = re.fullmatch(r"broken off (\d+) times in (\d+) lines\n", answer.stdout)
    assert found
    assert int(found[1]) >= 30
    assert int(found[2]) >= 500


def test_commit_interrupted_at_every_line_may_be_called_again(tmp_path, monkeypatch):
    """Ctrl-C between any two lines of a commit, caught by a caller that then goes on with the same object."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def go_on(path: Path, line: int) -> tuple[int, list[str]]:
        before = sys.gettrace()
        with open_run(path, commit_questions=100) as run:
            for question in QUESTIONS[:2]:
                add(run, question)
            lines = at_line(line, interrupt)
            with contextlib.suppress(KeyboardInterrupt):
                run.commit()
            sys.settrace(before)
            add(run, QUESTIONS[2])
            run.commit()
            written = (path / "rft.jsonl").read_bytes()
            summary = run.summary()
            assert run.done() == set(ORDER[:3])
        assert summarize(path) == summary
        gold = [row["question_id"] for row in map(json.loads, written.splitlines()) if row["source"] == "gold"]
        assert gold == ORDER[:3], line
        with open_run(path) as run:  # nothing stands in two parts
            assert (path / "rft.jsonl").read_bytes() == written
        return lines(), gold

    total, _ = go_on(tmp_path / "counted", 0)
    assert total > 50
    for line in range(1, total + 1):
        go_on(tmp_path / str(line), line)


def test_rft_rows_are_written_over_whatever_an_append_left(tmp_path):
    file = RftFile(tmp_path / "rft.jsonl", [("a", b"1\n")])
    with (tmp_path / "rft.jsonl").open("ab") as other:
        other.write(b"the beginning of a long row")
    file.append([("a", b"1\n"), ("b", b"2\n")])
    assert (tmp_path / "rft.jsonl").read_bytes() == b"1\n2\n"
    with (tmp_path / "rft.jsonl").open("ab") as other:
        other.write(b"torn")
    file.reorder(["a", "b"])
    assert (tmp_path / "rft.jsonl").read_bytes() == b"1\n2\n"
    file.reorder(["b", "none", "a"])
    file.append([("c", b"3\n")])
    file.reorder(["c", "b", "a"])
    assert (tmp_path / "rft.jsonl").read_bytes() == b"3\n2\n1\n"


def test_killed_at_random_times(tmp_path, whole):
    """SIGKILL from outside at random moments of a run with real time passing."""
    draw = random.Random(5)
    killed, progress = 0, [0]
    for attempt in range(100):
        child = subprocess.Popen([sys.executable, LOOP, tmp_path / "run", "run", "0.04"], stderr=subprocess.PIPE)
        try:
            _, complaint = child.communicate(timeout=draw.uniform(0.05, 0.35) * (1 + attempt / 5))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += 1
            if (tmp_path / "run" / "run.json").exists():
                progress.append(summarize(tmp_path / "run")["questions"])
            continue
        assert child.returncode == 0, complaint
        break
    assert killed >= 1
    assert progress == sorted(progress)  # what was stored stays stored
    assert content(tmp_path / "run") == whole


# Two for run.json, two for rft.jsonl at the start, two for each of five parts, two for the order at the end of a run that
# went backwards.
SYNCS = 16


@pytest.mark.parametrize(
    ("failing", "code"),
    [(1, errno.EIO), (7, errno.EDQUOT), *((number, errno.ENOSPC) for number in range(1, SYNCS + 1))],
)
def test_disk_errors_at_each_sync(tmp_path, monkeypatch, whole, failing, code):
    """The n-th fsync fails: one clear line, no half file, and the same command again ends with the same content."""
    real, calls = os.fsync, 0

    def fsync(handle):
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(code, os.strerror(code))
        real(handle)

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError) as caught:
            do_run(path, backwards=True)
    message = str(caught.value)
    expected = "cannot write" if code == errno.EIO else "disk full: cannot write"
    assert message.startswith(expected)
    assert "run the same command again; everything up to the last part is kept" in message
    assert str(path) in message
    assert not [item for item in path.rglob(".*") if item.name.endswith(".tmp")]
    do_run(path)
    assert content(path) == whole


def test_commit_may_be_called_again_after_the_disk_was_full(tmp_path, monkeypatch, whole):

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    failures = 0
    with open_run(tmp_path / "run") as run:
        for question in QUESTIONS:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                try:
                    add(run, question)
                except UserError:
                    failures += 1
                    patch.undo()
                    run.commit()
        run.finish(ORDER)
    assert failures == len(QUESTIONS) // 3
    assert content(tmp_path / "run") == whole


def test_a_file_limit_of_the_kernel(tmp_path, whole):
    """A real failed write, in the middle of a part and without any patch: the process may write files of 2,000 bytes."""
    path = tmp_path / "run"
    answer = subprocess.run([sys.executable, LOOP, path, "limit", "2000"], capture_output=True, text=True, timeout=60)
    assert "UserError: cannot write" in answer.stderr
    assert "File too large" in answer.stderr
    assert not [item for item in path.rglob(".*") if item.name.endswith(".tmp")]
    do_run(path)
    assert content(path) == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", ["rft.jsonl", "metrics.jsonl"])
def test_dev_full(tmp_path, name, whole):
    """Appending to a device that is always full."""
    path = tmp_path / "run"
    run = open_run(path)
    (path / name).unlink()
    (path / name).symlink_to("/dev/full")

    def go_on() -> None:
        for question in QUESTIONS[:3]:
            run.metrics({"question": question.id})
            add(run, question)

    with pytest.raises(UserError, match=f"disk full: cannot write .*{re.escape(name)}; free space"):
        go_on()
    (path / name).unlink()
    if name == "rft.jsonl":
        with pytest.raises(UserError, match=r"rft\.jsonl \(No such file"):
            run.close()  # told, not made anew from half of the questions
    else:
        run.close()
    do_run(path)
    assert content(path) == whole


def test_a_torn_line_of_metrics_is_taken_back(tmp_path, monkeypatch):
    real = os.write

    def half(handle, data):
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: len(data) // 2])

    with open_run(tmp_path) as run:
        whole = (tmp_path / "metrics.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(UserError, match="disk full"):
                run.metrics({"tokens": 1})
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_reading_while_a_run_writes(tmp_path):
    """Whoever reads a run at work sees whole questions only."""
    child = subprocess.Popen([sys.executable, LOOP, tmp_path, "run", "0.04"])
    try:
        seen = []
        while child.poll() is None:
            if (tmp_path / "run.json").exists():
                found = list(RunDir.read_questions(tmp_path))
                assert all(len(question.samples) == 4 for question in found)
                seen.append(len(found))
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) >= 2

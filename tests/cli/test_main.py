"""What all commands have in common: names are shown as they are, and Ctrl-C ends in a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rftfast.cli import main
from rftfast.data.run_dir import RunDir
from tests.cli.commands import ENVIRONMENT, ROOT, rftfast
from tests.made_runs import QUESTIONS, random_run
from tests.tiny_model import write_tiny_llama

ODD = "a[b] [/x]"
"""A folder whose name would be markup: it vanished from what was printed, or ended the command with a traceback."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / ODD
    write_tiny_llama(folder / "model[bold]")
    rows = [{"id": q.id, "question": q.question, "answer": q.answer} for q in QUESTIONS]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def shown(folder: Path, *arguments: object) -> str:
    done = rftfast(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-600:]
    return done.stdout


def test_brackets_in_names_are_no_markup(odd: Path) -> None:
    small = ("--questions", odd / "q.jsonl", "--shots", 0, "--max-tokens", 4, "--kv-memory", "16MiB")
    run = odd / "run[red]"
    text = shown(odd, "sample", "--model", odd / "model[bold]", *small, "--k", 2, "--out", run)
    assert f"{odd}/model[bold] (llama" in text
    assert f"run        {run}\n" in text
    assert f"training rows: {run}/rft.jsonl\n" in text
    text = shown(odd, "eval", odd / "model[bold]", *small, "--k", 0, "--out", odd / "eval[red]")
    assert f"samples in {odd}/eval[red]/model[bold]\n" in text
    assert f"{odd}/model[bold]: " in shown(odd, "cost", odd / "model[bold]", "--questions", odd / "q.jsonl")
    random_run(odd / "made[red]", model="m[i]")
    text = shown(odd, "stats", odd / "made[red]", "--adaptive", 7)
    assert "m[i]: 6 questions" in text
    assert f"on {odd}/made[red]: 7 samples" in text


def test_a_long_path_is_not_broken(odd: Path) -> None:
    path = odd / ("long" * 50)
    text = shown(odd, "sample", "--model", odd / "model[bold]", "--shots", 0, "--dry-run", "--out", path)
    assert f"{path}\n" in text


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind ``--out=`` no shell puts the home folder in its place, and a folder named ~ was made."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    random_run(home / "run")
    monkeypatch.setitem(ENVIRONMENT, "HOME", str(home))
    assert "written" in rftfast("select", "~/run", "--out=~/rows.jsonl", cwd=here).stderr
    shown(here, "stats", "~/run", "--json=~/stats.json")
    shown(here, "report", "~/run", "--out=~/page.html")
    assert {path.name for path in home.iterdir()} == {"run", "rows.jsonl", "stats.json", "page.html"}
    assert list(here.iterdir()) == []
    assert main._at_home("--stop=~") == "--stop=~"
    assert main._at_home("a=~/b") == "a=~/b"  # of --set; a study's paths are its own matter


def not_in_the_background() -> None:
    """What a shell starts with & ignores SIGINT, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_ends_it_in_a_line_that_says_how_to_go_on(odd: Path, tmp_path: Path, number: int, times: int) -> None:
    rows = [{"question": f"What is {i}?", "answer": "#### 1"} for i in range(5000)]  # minutes of work
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["sample", "--model", odd / "model[bold]", "--questions", tmp_path / "q.jsonl", "--shots", 0, "--k", 64]
    process = subprocess.Popen(
        [sys.executable, "-m", "rftfast.cli.main", *map(str, command), "--threads", "1", "--kv-memory", "32MiB"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=not_in_the_background,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/samples/part-*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        for _ in range(times):
            os.kill(process.pid, number)
            time.sleep(0.02)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    (out,) = (tmp_path / "runs").iterdir()
    assert "Traceback" not in said.decode(), said.decode()
    if times == 1:
        assert process.returncode == 128 + number
        assert f"--out {out.relative_to(tmp_path)}" in said.decode()
        assert said.decode().endswith("interrupted\n" if number == signal.SIGINT else "terminated\n")
    assert list(RunDir.read_questions(out)), "whole parts alone"

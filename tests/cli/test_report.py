"""``rftfast report``: one file, one line about it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import refused, rftfast
from tests.made_runs import random_run, write_jsonl


def test_a_page_is_written(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=30)
    done = rftfast("report", run, "--samples", 5)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(f"{run / 'report.html'} (")
    assert "of 180 samples)" in done.stdout
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    # The page lies in the run's folder and does not stand in the way of going on with it.
    assert rftfast("stats", run).returncode == 0


def test_several_runs_and_out(tmp_path: Path) -> None:
    runs = [random_run(tmp_path / name, seed=name, model=name, k=6) for name in "ab"]
    done = rftfast("report", *runs, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "2 runs pooled" in (tmp_path / "page.html").read_text()
    assert "text of 72 of 72 samples" in done.stdout
    done = rftfast("report", *runs, cwd=tmp_path)
    assert (tmp_path / "report.html").is_file()


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    refused("run.json: cannot be read", "report", tmp_path)
    refused("samples is -3", "report", random_run(tmp_path / "run", k=2), "--samples", -3)
    file = write_jsonl(tmp_path / "paths.jsonl", [])
    refused("name the folder of a run", "report", file)

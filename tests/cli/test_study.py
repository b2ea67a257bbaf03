"""``rftfast study``, as a user runs it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import refused, rftfast
from tests.study.made_studies import WORLDS, study_file


def test_what_ships_is_listed() -> None:
    done = rftfast("study")
    assert done.returncode == 0, done.stderr
    for name in ("paper", "data-fraction", "tiny", "gsm8k-smollm2", "negatives"):
        assert f"{name} " in done.stdout


def test_dry_run_then_run_then_dry_run(tmp_path: Path) -> None:
    file, out = study_file(tmp_path, WORLDS), tmp_path / "out"
    done = rftfast("study", file, "--out", out, "--dry-run", "--commands")
    assert done.returncode == 0, done.stderr
    assert "part-0   questions to do  after world-0" in done.stdout
    assert "--limit 3" in done.stdout
    assert not out.exists()
    done = rftfast("study", file, "--out", out, "--set", "seeds=[0]")
    assert done.returncode == 0, done.stderr
    assert "part-0: done in" in done.stdout
    assert (out / "table.md").exists()
    done = rftfast("study", file, "--out", out, "--dry-run")
    assert "done 2 of 4" in done.stdout
    assert "world-1  world     to do, about" in done.stdout
    assert "the rest takes about" in done.stdout


def test_a_failed_step_is_status_1(tmp_path: Path) -> None:
    file = study_file(tmp_path, WORLDS.replace("limit: 3", "fraction: 7"))
    done = rftfast("study", file, "--out", tmp_path / "out", "--set", "seeds=[0]")
    assert done.returncode == 1
    assert "error: fraction is 7.0" in done.stderr
    assert "to run it alone: " in done.stderr
    assert "1 of 2 steps failed (part-0), 0 that build on them have not run" in done.stderr
    assert (tmp_path / "out" / "report.json").exists()


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    file = study_file(tmp_path, WORLDS)
    refused("write NAME=VALUE", "study", file, "--set", "seeds")
    refused("no parameter 'sed'", "study", file, "--set", "sed=3")
    refused("no such file, and none of that name ships", "study", "none")
    refused("needs model, train, test", "study", "data-fraction")
    file = study_file(tmp_path, WORLDS.replace("train: 8", "trian: 8"))
    refused("step world-0: unknown key 'trian'", "study", file, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()

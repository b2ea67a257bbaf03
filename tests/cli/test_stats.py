"""``rftfast stats``: tables, JSON, PNG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import refused, rftfast
from tests.made_runs import random_run


def test_tables_json_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    runs = [random_run(tmp_path / name, seed=name, model=name, k=26) for name in "ab"]
    done = rftfast("stats", *runs, "--json", tmp_path / "s.json", "--png", tmp_path / "s.png")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "s.json").read_text())
    assert list(report["models"]) == ["a", "b"]
    assert [row["k"] for row in report["models"]["a"]["by_k"]] == [1, 3, 6, 12, 25]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    for words in ("pass@k", "all (26)", "share of the pool", "distinct correct equation lists", "Figure 7", "by value"):
        assert words in done.stdout
    row = report["models"]["b"]["by_k"][-1]
    assert f"{row['distinct_with_gold']:.2f}" in done.stdout
    assert f"{100 * row['maj']:.1f} %" in done.stdout


def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=6)
    done = rftfast("stats", run, "--json", "-", "--vote", "paper")
    assert json.loads(done.stdout)["vote"] == "paper"
    assert "pooled" not in json.loads(done.stdout)


def test_adaptive_k_is_played_from_the_record(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=24)
    done = rftfast("stats", run, "--adaptive", "6", "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    assert "adaptive k" in done.stdout
    found = json.loads((tmp_path / "s.json").read_text())["adaptive"][str(run)]
    assert found["adaptive_samples"] == 6 * found["questions"]
    assert found["gain"] == pytest.approx(found["adaptive_distinct"] / found["plain_distinct_at_equal_tokens"])
    refused("has 24 of one", "stats", run, "--adaptive", "25")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from rftfast.errors import UserError
    from rftfast.pipeline.figures import draw

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'rftfast\[plots\]'"):
        draw({}, tmp_path / "s.png")


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=2)
    refused("vote is 'x'", "stats", run, "--vote", "x")
    refused("run.json", "stats", tmp_path)

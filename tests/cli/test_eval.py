"""``rftfast eval``: on models and on runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import refused, rftfast
from tests.made_runs import CONFIG, make_run
from tests.tiny_model import write_tiny_llama

LITTLE = ["--shots", "0", "--max-tokens", "6", "--kv-memory", "64MiB", "--threads", "1"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "q.jsonl"
    file.write_text("".join(json.dumps({"question": f"{i} and {i}?", "answer": str(2 * i)}) + "\n" for i in range(4)))
    return file


def test_two_models_drawn_then_read_from_their_runs(tmp_path: Path, questions: Path) -> None:
    a, b = (write_tiny_llama(tmp_path / name / "m", seed=i) for i, name in enumerate("ab"))
    out = tmp_path / "out"
    done = rftfast("eval", a, "--against", b, "--questions", questions, "--k", 3, "--out", out, "--json", "-", *LITTLE)
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)
    assert [len(m["runs"]) for m in drawn["models"]] == [2, 2]
    assert list(drawn["models"][0]["scores"]) == ["maj1@1", "maj1@3", "pass@1", "pass@3"]
    assert drawn["comparison"]["maj1@1"]["questions"] == 4
    assert "prompt gsm8k with 0 shots" in done.stderr
    read = rftfast("eval", out / "m", "--against", out / "m-2", "--json", tmp_path / "e.json")
    assert read.returncode == 0, read.stderr
    assert json.loads((tmp_path / "e.json").read_text()) == drawn
    for words in ("maj1@1", "95 % interval", "0.0 %", "verdicts on the greedy paths", "A = a/m against B = b/m"):
        assert words in read.stdout, words


def test_greedy_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"q1": ["#### 3"], "q2": ["#### 4"]}, config={**CONFIG, "temperature": 0.0})
    done = rftfast("eval", run, "--vote", "paper")
    assert done.returncode == 0, done.stderr
    assert "50.0 %" in done.stdout
    assert "by seed" not in done.stdout
    assert "pass@" not in done.stdout


def test_a_run_that_is_not_finished_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"q1": ["#### 3"]}, config={**CONFIG, "temperature": 0.0})
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"questions_done": 1, "questions": 3}) + "\n")
    done = rftfast("eval", run, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    assert "is not finished: 1 of 3 questions" in done.stdout
    assert json.loads((tmp_path / "e.json").read_text())["models"][0]["runs"][0]["finished"] is False


def test_reading_runs_loads_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.cli.commands import ENVIRONMENT, ROOT

    run = make_run(tmp_path / "r", {"q1": ["#### 3"]}, config={**CONFIG, "temperature": 0.0})
    code = (
        "import sys, rftfast.cli.main as m; sys.argv = ['rftfast', 'eval', sys.argv[1]]\n"
        "try: m.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_gets_one_line(tmp_path: Path, questions: Path) -> None:
    run = make_run(tmp_path / "r", {"q1": ["#### 3"]}, config={**CONFIG, "temperature": 0.0})
    refused("vote is 'x'", "eval", run, "--vote", "x")
    refused("no such file or folder", "eval", "nowhere")
    refused("no run directory", "eval", "nowhere", run)
    refused("leave --questions", "eval", run, "--questions", questions)
    refused(
        "second greedy run",
        "eval",
        run,
        make_run(tmp_path / "s", {"q1": ["#### 3"]}, config=CONFIG | {"temperature": 0}),
    )

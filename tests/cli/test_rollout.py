"""``rftfast rollout`` and ``rftfast pairs`` as a user runs them, on a tiny model and given responses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import refused, rftfast
from tests.negatives.given_run import make_run
from tests.tiny_model import write_tiny_llama

RESPONSES = {
    "a": ["three\nand <<1+1=2>>\n#### 2", "five\n#### 5", "five\n#### 5", "so\nit is\n#### 7", "ends nowhere"],
    "b": ["that\n#### 9", "none\n#### 8"],
    "c": ["right\n#### 7"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    return make_run(folder, RESPONSES, "7", write_tiny_llama(folder / "model"), max_tokens=48)


def test_counts_rollouts_and_pairs(run: Path, tmp_path: Path) -> None:
    counted = rftfast("rollout", run, "--dry-run")
    assert counted.returncode == 0, counted.stderr
    assert "3 questions" in counted.stdout and "1 questions have both, 1 negatives alone, 1 positives" in counted.stdout
    assert not (run / "rollouts").exists()

    arguments = ["rollout", run, "--rollouts", 3, "--positives", 1, "--threads", 1, "--dtype", "float32"]
    arguments += ["--kv-memory", "8MiB"]
    done = rftfast(*arguments)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "rollouts" / "steps.jsonl").read_text().splitlines()]
    assert [(row["question_id"], row["right"]) for row in rows] == [
        ("a", False),
        ("a", False),
        ("a", True),
        ("b", False),
        ("b", False),
        ("c", True),
    ]
    assert all(step["rollouts"] == 3 for row in rows for step in row["steps"][:-1])
    before = (run / "rollouts" / "steps.jsonl").read_bytes()
    again = rftfast(*arguments)
    assert again.returncode == 0 and "going on: 3 questions are stored" in again.stdout
    assert (run / "rollouts" / "steps.jsonl").read_bytes() == before
    refused("rollouts 3 → 4", *[4 if a == 3 else a for a in arguments])

    paired = rftfast("pairs", run, "--out", tmp_path / "pairs.jsonl")
    assert paired.returncode == 0, paired.stderr
    assert "2 pairs of 1 questions (of 3)" in paired.stderr and "2 × no correct solution" in paired.stderr
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {"prompt", "chosen", "rejected", "rejected_ends", "steps"} <= set(pairs[0])
    outcome = rftfast("pairs", run, "--definition", "outcome", "--out", "-")
    # Two wrong answers of the one question with a right one.
    assert len(outcome.stdout.splitlines()) == 2, outcome.stderr


def test_what_cannot_be_used_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    refused("name the folder of a run", "rollout", tmp_path / "nowhere")
    refused("interval is 'wald'", "rollout", run, "--interval", "wald")
    refused("best of 9 cannot be estimated from 5", "rollout", run, "--best-of", 9)
    refused("'words' is no way to split", "rollout", run, "--steps", "words")
    refused("definition is 'both'", "pairs", run, "--definition", "both")
    refused("run 'rftfast rollout' first", "pairs", run, "--rollouts", tmp_path / "none")

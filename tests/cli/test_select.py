"""``rftfast select``: files and runs in, training rows out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.cli.commands import refused, rftfast
from tests.made_runs import QUESTIONS, random_paths, random_run, read_jsonl, write_jsonl


def test_a_run_gives_its_training_rows(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run")
    done = rftfast("select", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (run / "rft.jsonl").read_text()
    rows = read_jsonl(run / "rft.jsonl")
    sampled = sum(row["source"] == "sample" for row in rows)
    assert f"S = {sampled:,} distinct" in done.stderr
    assert "U = " in done.stderr
    assert f"written: {len(rows)} rows" in done.stderr


def test_runs_are_pooled(tmp_path: Path) -> None:
    runs = [random_run(tmp_path / name, seed=name, model=name) for name in "ab"]
    out = tmp_path / "out.jsonl"
    assert rftfast("select", *runs, "--out", out).returncode == 0
    pooled = read_jsonl(out)
    assert {row.get("model") for row in pooled} == {"a", "b", None}
    every = rftfast("select", *runs, "--no-dedup")
    assert len(every.stdout.splitlines()) > len(pooled)
    fewer = rftfast("select", *runs, "--key", "commutative")
    assert len(fewer.stdout.splitlines()) <= len(pooled)


@pytest.mark.parametrize("policy", [["--bare"], ["--equations", "off"], ["--marker", "first"], ["--stop", "x"]])
def test_a_policy_that_would_change_nothing_is_refused(tmp_path: Path, policy: list[str]) -> None:
    run = random_run(tmp_path / "run")
    refused("the verdicts of a run stand", "select", run, *policy)


def test_verified_rows_can_be_piped_on(tmp_path: Path) -> None:
    rows = [
        {"question": q.question, "response": text, "sample_index": i, "answer": q.answer}
        for q in QUESTIONS
        for i, text in enumerate(random_paths(q, 12, 0))
    ]
    results = set()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        file = write_jsonl(tmp_path / "in.jsonl", rows)
        verified = rftfast("verify", file)
        selected = rftfast("select", "-", stdin=verified.stdout.encode())
        assert selected.returncode == 0, selected.stderr
        assert rftfast("select", file).stdout == selected.stdout
        results.add(selected.stdout)
    assert len(results) == 1
    first = json.loads(results.pop().splitlines()[0])
    assert first["source"] == "gold"
    assert first["prompt"].startswith("Question: What is")


def test_what_is_taken_for_granted_is_said(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"question_id": 1, "completion": "<<1+1=2>>"}] * 2)
    done = rftfast("select", file)
    assert done.returncode == 0
    assert "2 rows have no sample_index" in done.stderr
    assert "2 rows have neither verdict nor gold answer" in done.stderr
    assert "1 questions have no gold solution" in done.stderr
    assert [json.loads(line)["completion"] for line in done.stdout.splitlines()] == ["<<1+1=2>>"]


def test_questions_prompts_and_stops(tmp_path: Path) -> None:
    questions = write_jsonl(
        tmp_path / "q.jsonl", [{"id": q.id, "question": q.question, "answer": q.answer} for q in QUESTIONS]
    )
    file = write_jsonl(tmp_path / "in.jsonl", [{"question_id": "q1", "completion": "three\n#### 3\n\nQ: #### 9"}])
    done = rftfast("select", file, "--questions", questions, "--prompt", "plain", "--stop", r"\n\n")
    assert done.returncode == 0, done.stderr
    gold, sample = (json.loads(line) for line in done.stdout.splitlines())
    assert gold == {
        "prompt": "What is 1+1+1?\n",
        "completion": QUESTIONS[0].answer,
        "question_id": "q1",
        "source": "gold",
    }
    assert sample["completion"] == "three\n#### 3"


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=2)
    refused("key is 'x'", "select", run, "--key", "x")
    refused("run.json", "select", tmp_path)
    refused("nowhere", "select", tmp_path / "nowhere")
    refused("line 1: invalid JSON", "select", "-", stdin=b"{")
    refused("cannot write", "select", run, "--out", tmp_path / "no" / "file")

"""Counts and lengths from files and runs; a byte is a token here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rftfast.data.prompts import load_template
from rftfast.errors import UserError
from rftfast.evaluate.workload import GSM8K, Workload, from_questions, from_run, stopped_at
from rftfast.models.tokenizer import Tokenizer
from rftfast.pipeline.early_stop import OnlineVerifier
from rftfast.verify import Policy
from tests.made_runs import QUESTIONS, make_run
from tests.tiny_model import write_tiny_llama

CONFIG = {
    "prompt": {
        "template": "gsm8k",
        "text": "{shots}Question: {question}\nAnswer:",
        "shot": "Question: {question}\nAnswer: {answer}\n\n",
    }
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(write_tiny_llama(tmp_path_factory.mktemp("model")))


def test_a_file_of_questions(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    rows = [{"question": "a" * n, "answer": "#### 7"} for n in (10, 20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = from_questions(str(file), tokenizer, load_template("gsm8k"), 0)
    assert found.questions == 2
    assert found.prompt == len("Question: \nAnswer:") + 15
    assert found.solution == found.path == len("#### 7") + 1
    assert found.header == 0
    assert from_questions(str(file), tokenizer, load_template("gsm8k"), None).header > 1000  # eight examples


def test_a_run(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Counts over everything; the RFT set's rows weigh prompts by how many paths were kept."""
    paths = {
        "q1": ["1+2 = <<1+2=3>>3\n#### 3", "2+1 = <<2+1=3>>3\n#### 3"],
        "q2": ["#### 9", "no"],
    }
    found = from_run(make_run(tmp_path / "r", paths, config=CONFIG), tokenizer)
    assert (found.questions, found.k, found.kept) == (2, 2, 1.0)
    assert found.path == 2  # as stored: the token ids (1, 2)
    prompts = [len(f"Question: {q.question}\nAnswer:") for q in QUESTIONS[:2]]
    solutions = [len(" " + q.answer) + 1 for q in QUESTIONS[:2]]
    assert found.prompt == sum(prompts) / 2
    assert found.solution == sum(solutions) / 2
    assert found.kept_prompt == (3 * prompts[0] + prompts[1]) / 4
    assert found.kept_path == (sum(solutions) + 2 * 2) / 4
    assert found.rft.count == 4
    assert found.saved == 0  # nothing to stop in these


def test_worked_examples_of_a_run(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shots = [{"question": "Q", "answer": "A"}]
    found = from_run(make_run(tmp_path / "r", {"q1": ["#### 3"]}, config=CONFIG | {"shots": shots}), tokenizer)
    assert found.header == len("Question: Q\nAnswer: A\n\n")


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("1+1 = <<1+1=3>>3 and so on\n#### 3", "1+1 = <<1+1=3>>"),
        ("1+1 = <<1+1=2>>2\n#### 2\nQuestion: again", "1+1 = <<1+1=2>>2\n#### 2\n"),
        ("1+1 = <<1+1=2>>2\n#### 2", "1+1 = <<1+1=2>>2\n#### 2"),
        ("", ""),
        ("é <<1+1=3>> …", "é <<1+1=3>>"),
    ],
)
def test_where_early_stop_ends_a_text(text: str, drawn: str) -> None:
    assert stopped_at(text, OnlineVerifier(Policy())) == len(drawn)


def test_what_early_stop_spares_is_replayed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "<<1+1=3>>" + "x" * 27  # a quarter of it is drawn
    found = from_run(make_run(tmp_path / "r", {"q1": [text, text]}, config=CONFIG), tokenizer)
    assert found.saved == pytest.approx(0.75)
    assert found.paths().path == 2
    assert found.paths(early_stop=True).path == pytest.approx(0.5)


def test_what_early_stop_spared_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A run that had it tells itself, process by process; its paths would have been longer without."""
    run = make_run(tmp_path / "r", {"q1": ["#### 3", "no"]}, config={**CONFIG, "early_stop": True})
    rows = [
        {"event": "start"},
        {"tokens": 10, "stop_saved_tokens": 2},
        {"tokens": 60, "stop_saved_tokens": 20},
        {"event": "resume"},
        {"event": "finished", "tokens": 20, "stop_saved_tokens": 0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = from_run(run, tokenizer)
    assert found.saved == pytest.approx(0.2)
    assert found.paths(early_stop=True).path == pytest.approx(2)  # as stored
    assert found.paths().path == pytest.approx(2.5)


@pytest.mark.parametrize("metrics", [None, '{"tokens": 4, "stop_saved', '{"event": "start"}\n'])
def test_a_run_whose_metrics_are_lost_or_cut_short_says_nothing_of_early_stop(
    tokenizer: Tokenizer, tmp_path: Path, metrics: str | None
) -> None:
    run = make_run(tmp_path / "r", {"q1": ["#### 3"]}, config={**CONFIG, "early_stop": True})
    (run / "metrics.jsonl").unlink()
    if metrics is not None:
        (run / "metrics.jsonl").write_text(metrics)
    found = from_run(run, tokenizer)
    assert found.saved is None and found.path == 2  # as stored


def test_the_paper_s_numbers() -> None:
    assert GSM8K.rft.count == pytest.approx(46.7e3, rel=0.01)  # "~47K" rows
    assert (GSM8K.rft.prompt, GSM8K.rft.completion) == (66, 130)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": 0}, "questions is 0"),
        ({"kept": -1}, "kept is -1"),
        ({"saved": 1}, "saved is 1"),
        ({"path": float("nan")}, "path is nan"),
    ],
)
def test_impossible_numbers(change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Workload(**change)

"""Run directories and path files with made-up samples, for the commands that read them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rftfast.data import Completion, Question, RunDir
from rftfast.select import select_paths
from rftfast.verify import verify

CONFIG = {"prompt": {"template": "gsm8k", "text": "{shots}Question: {question}\nAnswer:"}}
QUESTIONS = [
    Question(f"q{i}", f"What is {i}+{i}+1?", f"<<{i}+{i}={2 * i}>>{2 * i}, <<{2 * i}+1={2 * i + 1}>>\n#### {2 * i + 1}")
    for i in range(1, 7)
]


def random_paths(question: Question, count: int, seed: object) -> list[str]:
    """Texts that are right, wrong, falsely calculated or without an answer, some of them alike."""
    rnd = random.Random(f"{question.id} {seed}")
    i = int(question.id[1:])
    texts = []
    for _ in range(count):
        right = [f"{i}+{i}={2 * i}|{2 * i}+1={2 * i + 1}", f"2*{i}={2 * i}", f"{i}+{i + 1}={2 * i + 1}", ""]
        equations = rnd.choice([*right, f"{i}+1={i}"]).split("|")
        words = " ".join(rnd.choices(["so", "then", "we add", "it is"], k=rnd.randrange(1, 6)))
        answer = rnd.choice([2 * i + 1, 2 * i + 1, 2 * i, None])
        calculations = "".join(f" <<{e}>>" for e in equations if e)
        texts.append(words + calculations + ("" if answer is None else f"\n#### {answer}"))
    return texts


def make_run(
    path: Path,
    paths: dict[str, Sequence[str]],
    *,
    model: str = "m",
    questions: Sequence[Question] = QUESTIONS,
    arrival: int | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A finished run with ``paths`` (texts by question id, in sample order); ``arrival`` shuffles the questions' order."""
    order = [q for q in questions if q.id in paths]
    if arrival is not None:
        random.Random(arrival).shuffle(order)
    with RunDir.open(path, config or CONFIG, {"questions": "q"}, {}, notes={"model": model}, commit_questions=2) as run:
        for question in order:
            completions = [
                Completion(question.id, i, text, (1, 2), -1.0, "stop") for i, text in enumerate(paths[question.id])
            ]
            verdicts = [verify(c.text, question.answer) for c in completions]
            good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
            kept = select_paths([completions[i].text for i in good], equations=[verdicts[i].equations for i in good])
            run.add(
                question,
                completions,
                verdicts,
                [good[i] for i in kept],
                prompt=f"Question: {question.question}\nAnswer:",
                begin=" ",
            )
        run.finish([q.id for q in questions])
    return path


def random_run(path: Path, *, k: int = 30, seed: object = 0, **more: Any) -> Path:
    return make_run(path, {q.id: random_paths(q, k, seed) for q in more.get("questions", QUESTIONS)}, **more)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]

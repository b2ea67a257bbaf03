"""A run and its rollouts written by hand: no model, no sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rftfast.data import Completion, Question, RunDir
from rftfast.data.record_dir import RecordDir
from rftfast.negatives.records import Rolled, RolledQuestion, Rollout, State
from rftfast.select import select_paths
from rftfast.verify import verify

CONFIG: dict[str, Any] = {
    "prompt": {
        "template": "mine",
        "text": "Q: {question}\nA:",
        "shot": "Q: {question}\nA: {answer}\n\n",
        "stop": ["\n\n"],
    },
    "shots": [],
    "temperature": 0.7,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "max_tokens": 64,
    "seed": 0,
}
# Gold: 2 + 3 = 5, doubled.
QUESTION = Question("q", "2 and 3, doubled?", "<<2+3=5>>5\n<<5*2=10>>10\n#### 10")
RIGHT = ["Sum <<2+3=5>>5\nTwice <<5*2=10>>10\n#### 10", "<<2*2=4>>4\n<<3*2=6>>6\n<<4+6=10>>10\n#### 10"]
SLIP = "Sum <<2+3=6>>6\nTwice 5 is 10\n#### 10"  # the right answer behind a false equation
WRONG = ["Sum <<2+3=5>>5\nHalf <<5/2=2.5>>2.5\nso\n#### 2.5", "Product <<2*3=6>>6\nTwice <<6*2=12>>12\n#### 12"]
NONE = "Well\nwho knows"
SAMPLES = [
    (RIGHT[0], "stop"),
    (WRONG[0], "stop"),
    (SLIP, "stop"),
    (WRONG[1], "stop"),
    (RIGHT[1], "stop"),
    (NONE, "length"),
]


def ends_of(text: str) -> tuple[int, ...]:
    return (*(i + 1 for i, c in enumerate(text) if c == "\n"), len(text))


def response(index: int, **more: Any) -> Rolled:
    """Sample ``index``, with states numbered one after the other for its own steps (``first``: where they begin)."""
    text, reason = SAMPLES[index]
    verdict = verify(text, "10", truncated=reason == "length")
    first = more.pop("first", 0)
    ends = ends_of(text)
    states = more.pop("states", (None, *range(first, first + len(ends) - 1)))
    right = verdict.answer == "10"
    return Rolled(index, text, verdict.verdict, right, reason != "length", False, 0, ends, states, **more)


def state(right: str, texts: dict[int, str] | None = None, reasons: dict[int, str] | None = None) -> State:
    """A state whose rollouts were right (``+``) or wrong (``-``), with texts of their own."""
    rollouts = tuple(
        Rollout(
            i,
            (texts or {}).get(i, f"rollout {i}\n#### {10 if mark == '+' else 11}"),
            mark == "+",
            None,
            5,
            -1.0,
            (reasons or {}).get(i, "stop"),
        )
        for i, mark in enumerate(right)
    )
    return State(f"q/{right}", 3, False, rollouts)


def rolled(*responses: Rolled, states: Sequence[State], sampled: tuple[int, int] | None = (3, 6)) -> RolledQuestion:
    return RolledQuestion("q", "Q: 2 and 3, doubled?\nA:", " ", QUESTION.answer, sampled, responses, tuple(states))


def make_run(path: Path, samples: list[tuple[str, str]] = SAMPLES, *, answer_only: bool = False) -> Path:
    with RunDir.open(path, CONFIG, {"model": "m", "tokenizer": "t", "questions": "q"}, {}, notes={"model": "m"}) as run:
        completions = [Completion("q", i, text, (1, 2), -1.0, reason) for i, (text, reason) in enumerate(samples)]
        verdicts = [verify(c.text, "10", truncated=c.finish_reason == "length") for c in completions]
        good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
        kept = [good[i] for i in select_paths([completions[i].text for i in good])]
        prompt = "Q: 2 and 3, doubled?\nA:"
        run.add(QUESTION, completions, verdicts, kept, prompt=prompt, begin=" ", answer_only=answer_only)
        run.finish(["q"])
    return path


def make_rollouts(path: Path, *questions: RolledQuestion) -> Path:
    with RecordDir.open(path, {}, {}, {}) as directory:
        for question in questions:
            directory.add(question.to_record())
    return path

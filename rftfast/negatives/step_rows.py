"""``steps.jsonl``: every response that was taken apart, with value and advantage of each step; ``totals.json``: the sums over
them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.atomic import write_atomic
from rftfast.data.export import write_jsonl
from rftfast.data.record_dir import read_records
from rftfast.negatives.pits import first_pit
from rftfast.negatives.records import Rolled, RolledQuestion, advantages
from rftfast.negatives.values import Advantage, Value, wilson

STEPS_FILE, TOTALS_FILE = "steps.jsonl", "totals.json"


def read_rolled(path: str | Path) -> Iterator[RolledQuestion]:
    """The questions in a directory of rollouts, as stored. Raises UserError: no such directory, or a damaged one."""
    for record in read_records(path):
        yield RolledQuestion.of(record, str(path))


def step_row(question: RolledQuestion, response: Rolled, best_of: int, interval: str = "wilson") -> dict[str, Any]:
    """A response as trainers and the report read it.

    ``prompt + completion`` is the text to train on. Steps are ``completion[start:end]``; ``q`` is the chance of the right
    answer after the step with its 95 % interval, ``best`` that under best of ``best_of``, ``advantage`` and
    ``best_advantage`` what the step added to them. What was not estimated is null. ``pit``: the first step of lowest Q of a
    wrong response, from 0. ``spurious``: of a right response, a step that added nothing although there was something to gain.
    """
    values = question.values(response, best_of, interval=interval)
    gains = advantages(values)
    shift = len(question.begin)
    # What stands between begin and the text's first character never belongs to a step of its own.
    steps = []
    for i, (value, gain) in enumerate(zip(values[1:], gains, strict=True)):
        start = 0 if i == 0 else shift + response.ends[i - 1]
        steps.append({"start": start, "end": shift + response.ends[i], **_value(value), **_gain(gain)})
        if response.right:
            steps[-1]["spurious"] = spurious(values[i], gain)
    pit = first_pit(question, response)
    return {
        "question_id": question.id,
        "sample_index": response.sample_index,
        "prompt": question.prompt,
        "completion": question.begin + response.text,
        "verdict": response.verdict,
        "right": response.right,
        "complete": response.complete,
        "best_of": best_of,
        "start": _value(values[0]),
        "steps": steps,
        "pit": None if pit is None else pit - 1,
    }


def spurious(before: Value | None, gain: Advantage | None) -> bool | None:
    """Whether a step of a right response made no progress: A ≤ 0 though the state before it was not sure of success."""
    if before is None or gain is None:
        return None
    return gain.q <= 0 and before.q < 1


def _value(value: Value | None) -> dict[str, Any]:
    if value is None:
        return dict.fromkeys(("rollouts", "correct", "q", "low", "high", "best"))
    numbers = {"q": value.q, "low": value.low, "high": value.high, "best": value.best}
    return {"rollouts": value.trials, "correct": value.successes, **{k: round(v, 6) for k, v in numbers.items()}}


def _gain(gain: Advantage | None) -> dict[str, Any]:
    if gain is None:
        return dict.fromkeys(("advantage", "advantage_low", "advantage_high", "best_advantage"))
    numbers = {"advantage": gain.q, "advantage_low": gain.low, "advantage_high": gain.high, "best_advantage": gain.best}
    return {k: round(v, 6) for k, v in numbers.items()}


@dataclass
class StepTotals:
    """Sums over the rows of a directory."""

    questions: int = 0
    wrong: int = 0
    right: int = 0
    steps: int = 0
    retokenised: int = 0
    rollouts: int = 0
    right_rollouts: int = 0
    pits: Counter[int] = field(default_factory=Counter)
    """Wrong responses by the pit's step, from 1."""
    hopeless: int = 0
    """Wrong responses that no rollout saved, even from their first step on."""
    right_steps: int = 0
    spurious: int = 0
    harmful: int = 0
    """Of these, the steps whose whole interval of A is below 0."""

    def add(self, question: RolledQuestion, rows: Iterable[Mapping[str, Any]]) -> None:
        self.questions += 1
        self.rollouts += sum(len(s.rollouts) for s in question.states)
        self.right_rollouts += sum(s.right for s in question.states)
        self.retokenised += sum(r.retokenised for r in question.responses)
        for row in rows:
            self.steps += len(row["steps"])
            if row["right"]:
                self.right += 1
                known = [s for s in row["steps"] if s["spurious"] is not None]
                self.right_steps += len(known)
                self.spurious += sum(s["spurious"] for s in known)
                self.harmful += sum(s["advantage_high"] < 0 for s in known)
            else:
                self.wrong += 1
                self.pits[row["pit"] + 1] += 1
                self.hopeless += row["pit"] == 0

    def report(self) -> dict[str, Any]:
        """Plain values for JSON. ``spurious_share`` is of ``right_steps``, with Wilson's 95 % interval over steps; null without
        any."""
        share = None
        if self.right_steps:
            low, high = wilson(self.spurious, self.right_steps)
            share = {"value": self.spurious / self.right_steps, "low": low, "high": high}
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        pits = {str(step): count for step, count in sorted(self.pits.items())}
        return {**counts, "spurious_share": share, "pits": pits}


def write_steps(path: Path, order: Sequence[str], best_of: int, interval: str = "wilson") -> StepTotals:
    """Write ``steps.jsonl`` and ``totals.json`` from all records in ``path``, whole or not at all, questions in ``order``.

    Raises:
        UserError: a damaged record, fewer rollouts than ``best_of``, or a disk that refuses.
    """
    totals = StepTotals()
    rows: dict[str, list[dict[str, Any]]] = {}
    for question in read_rolled(path):
        rows[question.id] = [step_row(question, r, best_of, interval) for r in question.responses]
        totals.add(question, rows[question.id])
    write_jsonl(path / STEPS_FILE, (row for name in order if name in rows for row in rows[name]))
    write_atomic(path / TOTALS_FILE, [json.dumps(totals.report(), indent=1).encode() + b"\n"])
    return totals

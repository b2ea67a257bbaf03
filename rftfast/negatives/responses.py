"""Positives and negatives of a run: which responses are right, which are wrong, and how many of each a question has.

The reward is that of arXiv 2406.14532: is the final answer right. A path with the right answer behind a false equation
is rewarded, so it is no negative; but it is no positive to learn from, either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rftfast.data.parts import StoredQuestion

# Why a path may be complete and yet have no reward that is known: early stop ended it before its answer.
_STOPPED = "false_equation"


@dataclass(frozen=True)
class Response:
    """One sampled path of a run. ``token_ids`` are None where the run does not store them.

    ``right``: its final answer is right, whatever its equations. ``correct``: the equations are, too.
    """

    question_id: str
    sample_index: int
    text: str
    verdict: str
    answer: str | None
    finish_reason: str
    token_ids: tuple[int, ...] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Response:
        ids = row.get("token_ids")
        return cls(
            row["question_id"],
            row["sample_index"],
            row["completion"],
            row["verdict"],
            row.get("answer"),
            row.get("finish_reason", "eos"),
            tuple(ids) if ids is not None else None,
        )

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"

    @property
    def right(self) -> bool:
        return self.correct or (self.verdict == "wrong_equation" and self.answer is not None)

    @property
    def wrong(self) -> bool:
        """It gives an answer, and another one."""
        return self.verdict == "wrong_answer"

    @property
    def unfinished(self) -> bool:
        """It came to no answer of its own: cut at the most tokens allowed, or ended without one."""
        return self.verdict in ("no_answer", "truncated") and not self.stopped

    @property
    def stopped(self) -> bool:
        """Early stop ended it at a false equation; what its answer would have been is not known."""
        return self.finish_reason == _STOPPED and self.answer is None

    @property
    def complete(self) -> bool:
        """The policy ended it itself; it was not cut off."""
        return self.finish_reason not in ("length", _STOPPED)


def positives(responses: Iterable[Response], most: int | None = None) -> list[Response]:
    """The first ``most`` different texts with the right answer, by sample index."""
    return _first(responses, most, lambda r: r.right)


def negatives(responses: Iterable[Response], most: int | None = None, *, unfinished: bool = False) -> list[Response]:
    """The first ``most`` different texts with a wrong answer, by sample index; with ``unfinished`` also those that came
    to none. Samples are independent, so the first ones are as good as a random draw."""
    return _first(responses, most, lambda r: r.wrong or (unfinished and r.unfinished))


def _first(responses: Iterable[Response], most: int | None, wanted: Callable[[Response], bool]) -> list[Response]:
    found: dict[str, Response] = {}
    for response in sorted(responses, key=lambda r: r.sample_index):
        if wanted(response) and response.text.strip():
            found.setdefault(response.text, response)
    return list(found.values())[:most]


@dataclass(frozen=True)
class Counts:
    """Of one question; ``positives`` and ``negatives`` are different texts, the others paths."""

    question_id: str
    samples: int
    positives: int
    negatives: int
    false_equation: int
    """The right answer behind a false equation; among the positives, and never a chosen answer of a pair."""
    unfinished: int
    stopped: int

    @classmethod
    def of(cls, question: StoredQuestion) -> Counts:
        responses = [Response.of(row) for row in question.samples]
        return cls(
            question.id,
            len(responses),
            len(positives(responses)),
            len(negatives(responses)),
            sum(r.right and not r.correct for r in responses),
            sum(r.unfinished for r in responses),
            sum(r.stopped for r in responses),
        )


@dataclass
class Census:
    """Counts over a run."""

    questions: list[Counts] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(getattr(counts, name) for counts in self.questions)

    def having(self, *names: str) -> int:
        """Questions with at least one of each of ``names``."""
        return sum(all(getattr(counts, name) for name in names) for counts in self.questions)

    def histogram(self, name: str, edges: Sequence[int] = (0, 1, 2, 4, 8, 16, 32)) -> list[tuple[str, int]]:
        """Questions by how many of ``name`` they have, in ranges that begin at ``edges``."""
        counts = Counter(max(e for e in edges if e <= getattr(c, name)) for c in self.questions)
        labels = [(str(a) if b == a + 1 else f"{a}–{b - 1}") for a, b in pairwise(edges)] + [f"{edges[-1]}+"]
        return [(label, counts[edge]) for label, edge in zip(labels, edges, strict=True)]

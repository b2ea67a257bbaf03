"""From pooled paths to training rows, and the two counts of distinct paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rftfast.select.farthest import select_paths
from rftfast.select.keys import equation_key
from rftfast.select.union import Candidate, PooledQuestion


@dataclass(frozen=True)
class Selection:
    """What is kept of a question.

    ``kept``: one accepted path for each equation list, in the order in which the lists first appear (Algorithm 1).
    ``undeduplicated``: every path with the right answer, equations unchecked, as in the released code's set without
    deduplication. ``gold_is_new``: no kept path has the gold solution's equation list.
    """

    question: PooledQuestion
    kept: tuple[Candidate, ...]
    undeduplicated: tuple[Candidate, ...]
    gold_is_new: bool

    @property
    def sampled(self) -> int:
        """S: distinct equation lists among the sampled paths."""
        return len(self.kept)

    @property
    def union(self) -> int:
        """U: distinct equation lists among gold and sampled paths; S where there is no gold solution."""
        return len(self.kept) + self.gold_is_new

    def rows(self, *, dedup: bool = True, models: bool = False) -> Iterator[dict[str, Any]]:
        """Training rows as in a run's ``rft.jsonl``: the gold solution, then the paths, by model and sample index.

        ``prompt`` is left out where no source tells it. ``models`` adds each path's model, where it is known.
        """
        q = self.question
        head: dict[str, Any] = {} if q.prompt is None else {"prompt": q.prompt}
        if q.gold is not None:
            yield {**head, "completion": q.begin + q.gold, "question_id": q.id, "source": "gold"}
        for c in self.in_order(self.kept) if dedup else self.undeduplicated:
            row = {**head, "completion": c.completion, "question_id": q.id, "source": "sample"}
            yield {**row, "sample_index": c.sample_index, **({"model": c.model} if models and c.model else {})}

    def in_order(self, paths: tuple[Candidate, ...]) -> list[Candidate]:
        """``paths`` in the order of the question's candidates."""
        places = {id(c): i for i, c in enumerate(self.question.candidates)}
        return sorted(paths, key=lambda c: places[id(c)])


def select_question(question: PooledQuestion, key: str = "reference") -> Selection:
    """Fold a question's accepted paths, in (source, model, sample index) order; see ``select_paths`` for ``key``."""
    accepted = [c for c in question.candidates if c.accepted]
    chosen = select_paths([c.text for c in accepted], key, [c.equations for c in accepted])
    kept = tuple(accepted[i] for i in chosen)
    keys = {equation_key(c.equations, key) for c in kept}
    gold_is_new = question.gold is not None and equation_key(question.gold_equations, key) not in keys
    return Selection(question, kept, tuple(c for c in question.candidates if c.right_answer), gold_is_new)


@dataclass
class Totals:
    """Sums over questions, and in words."""

    questions: int = 0
    without_gold: int = 0
    paths: int = 0
    accepted: int = 0
    right_answer: int = 0
    sampled: int = 0
    union: int = 0
    rows: int = 0

    def add(self, selection: Selection) -> None:
        self.questions += 1
        self.without_gold += selection.question.gold is None
        self.paths += len(selection.question.candidates)
        self.accepted += sum(c.accepted for c in selection.question.candidates)
        self.right_answer += len(selection.undeduplicated)
        self.sampled += selection.sampled
        self.union += selection.union

    def lines(self) -> list[str]:
        """For people: what came in and both counts of distinct paths."""
        q = max(self.questions, 1)
        gold = self.questions - self.without_gold
        lines = [
            f"{self.questions:,} questions, {self.paths:,} paths: {self.right_answer:,} with the right answer, "
            f"{self.accepted:,} of them with right equations",
            f"S = {self.sampled:,} distinct among the sampled paths ({self.sampled / q:.2f} a question); "
            f"with {gold:,} gold solutions {gold + self.sampled:,} training rows",
            f"U = {self.union:,} distinct in gold and sampled paths together ({self.union / q:.2f} a question)",
            f"without deduplication: {gold + self.right_answer:,} rows (gold and every path with the right answer)",
        ]
        if self.without_gold:
            lines.append(f"{self.without_gold:,} questions have no gold solution: it is neither in U nor in the rows")
        return lines

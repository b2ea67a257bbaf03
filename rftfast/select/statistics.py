"""The figures people look at in a sampling run, gathered question by question."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb
from typing import Any

from rftfast.errors import UserError
from rftfast.select.keys import equation_key
from rftfast.select.union import Candidate, PooledQuestion
from rftfast.verify import parse_gold

KS = (1, 3, 6, 12, 25, 50, 100)
VOTES = ("value", "paper")
_PAPER_ANSWER = re.compile(r"#### (-?[0-9.,]+)")
_PAPER_TOLERANCE = 1e-4


@lru_cache(maxsize=1 << 16)
def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without repetition, hold one of the c right ones: 1 − C(n−c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, §2.1), in whole numbers until the one division.
    """
    assert 0 <= c <= n and 1 <= k <= n, (n, c, k)
    return 1 - comb(n - c, k) / comb(n, k)


def majority_is_right(candidates: Sequence[Candidate], vote: str = "value", gold: str | None = None) -> bool:
    """Whether the answer most candidates give is right; of answers with as many votes the one seen first counts.

    ``value``: answers are equal if their values are (18 and 18.0 are one vote), all markers count. ``paper``: as in the
    released evaluation of arXiv 2308.01825: the text behind the first ``#### ``, commas removed, is the vote, so 18 and
    18.0 are two; the winner must be within 1e-4 of ``gold``. Candidates without an answer do not vote; no vote is wrong.

    Raises:
        UserError: ``paper`` and a gold answer that holds no number.
    """
    if vote == "value":
        votes = Counter(c.answer for c in candidates if c.answer is not None)
        if not votes:
            return False
        winner = max(votes, key=votes.__getitem__)  # the first of the largest: insertion order
        return any(c.right_answer for c in candidates if c.answer == winner)
    assert vote == "paper", vote
    spelled = Counter(text for c in candidates if (text := _paper_answer(c.text)) is not None)
    if not spelled or gold is None:
        return False
    best = max(spelled, key=spelled.__getitem__)
    return abs(float(best) - float(parse_gold(gold))) < _PAPER_TOLERANCE


def _paper_answer(text: str) -> str | None:
    found = _PAPER_ANSWER.search(text.split("\0", 1)[0])
    if found is None:
        return None
    number = found[1].replace(",", "")
    try:
        float(number)
    except ValueError:
        return None
    return number


@dataclass
class _Sums:
    """Sums over questions for one k."""

    questions: int = 0
    samples: int = 0
    sampled: int = 0
    union: int = 0
    right: float = 0.0
    accepted: float = 0.0
    majority: int = 0

    def means(self) -> dict[str, float]:
        q = self.questions
        return {
            "questions": q,
            "samples_per_question": self.samples / q,
            "distinct_sampled": self.sampled / q,
            "distinct_with_gold": self.union / q,
            "pass": self.right / q,
            "pass_verified": self.accepted / q,
            "maj": self.majority / q,
        }


@dataclass
class ModelStatistics:
    """One model's (or pool's) figures. ``add`` each question, then ``report``."""

    key: str = "reference"
    vote: str = "value"
    questions: int = 0
    samples: int = 0
    by_k: dict[int, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    whole: _Sums = field(default_factory=_Sums)
    verdicts: Counter[str] = field(default_factory=Counter)
    solved: Counter[int] = field(default_factory=Counter)
    lists: Counter[int] = field(default_factory=Counter)
    lists_by_answer: Counter[int] = field(default_factory=Counter)

    def add(self, question: PooledQuestion, candidates: Sequence[Candidate]) -> None:
        """``candidates``: this model's of the question, in the order they were drawn (by sample index)."""
        n = len(candidates)
        if n == 0:
            return
        right = sum(c.right_answer for c in candidates)
        accepted = sum(c.accepted for c in candidates)
        keys = [equation_key(c.equations, self.key) if c.right_answer else "" for c in candidates]
        gold = {equation_key(question.gold_equations, self.key)} if question.gold is not None else set()
        marks = [k for k in KS if k <= n]
        found: set[str] = set()
        distinct: dict[int, tuple[int, int]] = {}
        for drawn, (c, key) in enumerate(zip(candidates, keys, strict=True), start=1):
            if c.accepted:
                found.add(key)
            if drawn in marks or drawn == n:
                distinct[drawn] = len(found), len(found | gold)
        for k in {*marks, n}:
            try:
                majority = majority_is_right(candidates[:k], self.vote, question.answer)
            except UserError as error:
                raise UserError(f"stats: question {question.id!r}: {error}; or leave --vote paper out") from None
            for sums in ([self.by_k[k]] if k in marks else []) + ([self.whole] if k == n else []):
                sums.questions += 1
                sums.samples += k
                sums.sampled += distinct[k][0]
                sums.union += distinct[k][1]
                sums.right += pass_at_k(n, right, k)
                sums.accepted += pass_at_k(n, accepted, k)
                sums.majority += majority
        self.questions += 1
        self.samples += n
        self.verdicts.update(c.verdict for c in candidates)
        self.solved[right] += 1
        self.lists[len(found)] += 1
        self.lists_by_answer[len({key for c, key in zip(candidates, keys, strict=True) if c.right_answer})] += 1

    def report(self) -> dict[str, Any]:
        """Plain values for JSON; shares are between 0 and 1, ``distinct_*`` are means a question."""
        right = sum(count * questions for count, questions in self.solved.items())
        return {
            "questions": self.questions,
            "samples": self.samples,
            "right_answers_per_question": right / self.questions if self.questions else 0.0,
            "verified_per_question": self.verdicts["correct"] / self.questions if self.questions else 0.0,
            "verdicts": dict(sorted(self.verdicts.items())),
            "by_k": [{"k": k, **self.by_k[k].means()} for k in sorted(self.by_k)],
            "all_samples": self.whole.means() if self.questions else {},
            "solved_histogram": _histogram(self.solved),
            "equation_lists_histogram": _histogram(self.lists),
            "equation_lists_by_answer_histogram": _histogram(self.lists_by_answer),
        }


@dataclass
class Overlap:
    """Which model found which equation lists (the paper's Figure 6)."""

    key: str = "reference"
    questions: int = 0
    lists: int = 0
    with_gold: int = 0
    by_count: Counter[int] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    exclusive: Counter[str] = field(default_factory=Counter)

    def add(self, question: PooledQuestion, by_model: dict[str, list[Candidate]]) -> None:
        owners: dict[str, set[str]] = defaultdict(set)
        for model, candidates in by_model.items():
            for c in candidates:
                if c.accepted:
                    owners[equation_key(c.equations, self.key)].add(model)
        gold = {equation_key(question.gold_equations, self.key)} if question.gold is not None else set()
        self.questions += 1
        self.lists += len(owners)
        self.with_gold += len(owners.keys() | gold)
        for who in owners.values():
            self.found.update(who)
            self.by_count[len(who)] += 1
            if len(who) == 1:
                self.exclusive.update(who)

    def report(self, models: Sequence[str]) -> dict[str, Any]:
        """``share`` is of all distinct lists of the pool: those that this model alone found."""
        whole = max(self.lists, 1)
        q = max(self.questions, 1)
        return {
            "questions": self.questions,
            "distinct_sampled": self.lists / q,
            "distinct_with_gold": self.with_gold / q,
            "found_by_all": self.by_count[len(models)],
            "models": {
                model: {
                    "lists": self.found[model],
                    "exclusive": self.exclusive[model],
                    "share": self.exclusive[model] / whole,
                }
                for model in models
            },
        }


def statistics(
    questions: Iterable[PooledQuestion], models: Sequence[str], *, key: str = "reference", vote: str = "value"
) -> dict[str, Any]:
    """All figures of a pool whose candidates come from ``models`` (names met beside these are added).

    Returns ``{"key", "vote", "models": {name: ModelStatistics.report()}}`` and, of several models, ``"pooled"``
    (``Overlap.report()``). Memory: one question.

    Raises:
        UserError: an unknown key or vote, or what reading the pool raises.
    """
    if vote not in VOTES:
        raise UserError(f"stats: vote is {vote!r}; choose one of {', '.join(VOTES)}")
    equation_key((), key)  # an unknown key is told before anything is read
    each = {model: ModelStatistics(key, vote) for model in models}
    overlap = Overlap(key)
    for question in questions:
        by_model: dict[str, list[Candidate]] = {}
        for c in question.candidates:
            by_model.setdefault(c.model, []).append(c)
        for model, candidates in by_model.items():
            each.setdefault(model, ModelStatistics(key, vote)).add(question, candidates)
        overlap.add(question, by_model)
    report: dict[str, Any] = {"key": key, "vote": vote, "models": {name: s.report() for name, s in each.items()}}
    if len(each) > 1:
        report["pooled"] = overlap.report(list(each))
    return report


def _histogram(counts: Counter[int]) -> dict[str, int]:
    """``{"0": questions with none, …}`` without gaps, so that it can be drawn as it is."""
    return {str(i): counts[i] for i in range(max(counts, default=-1) + 1)}

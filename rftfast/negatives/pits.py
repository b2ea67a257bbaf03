"""The first pit of a wrong response: the step from which it could no longer, or hardly, be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rftfast.errors import UserError
from rftfast.negatives.records import Rolled, RolledQuestion, advantages
from rftfast.negatives.values import Value

PITS = ("lowest", "least-advantage", "all-fail", "drop")


@dataclass(frozen=True)
class PitRule:
    """Which step is the pit. All of these have been published for the same idea:

    ``lowest``: the first step of lowest Q (arXiv 2406.14532). The end of a wrong response has Q = 0, so this is the first
    step with no right rollout after it.
    ``least-advantage``: the step of least A = Q_i − Q_{i−1}, under best of ``best_of`` (1: under the policy itself), the
    first of several (the same authors of their own method, in later words).
    ``all-fail``: the first step after which none of ``k`` rollouts is right (Self-Explore, k = 4).
    ``drop``: the first step with Q at most ``low`` behind a state with Q at least ``high``; none where there is no such.
    """

    definition: str = "lowest"
    best_of: int = 5
    k: int = 4
    low: float = 0.2
    high: float = 0.5

    def __post_init__(self) -> None:
        if self.definition not in PITS:
            raise UserError(f"pit is {self.definition!r}; choose one of {', '.join(PITS)}")
        if self.best_of < 1 or self.k < 1:
            raise UserError(f"pit: best of {self.best_of}, k {self.k}; both are at least 1")
        if not 0 <= self.low < self.high <= 1:
            raise UserError(f"pit: low {self.low} and high {self.high}; they must rise within 0 to 1")


def first_pit(question: RolledQuestion, response: Rolled, rule: PitRule = PitRule()) -> int | None:
    """The pit of ``response`` as a step from 1 to their number, or None where the rule finds none.

    Raises:
        UserError: the rule needs rollouts that were not drawn (of a bisection, or fewer than it counts).
    """
    if response.right:
        return None
    if response.search == "bisect":
        if rule.definition != "lowest":
            raise UserError(
                f"question {question.id!r}: rollouts were spent by bisection, which finds the pit 'lowest' alone; "
                f"for {rule.definition!r} roll out without --bisect"
            )
        return response.pit
    if rule.definition == "all-fail":
        return _all_fail(question, response, rule.k)
    best_of = rule.best_of if rule.definition == "least-advantage" else 1
    values = question.values(response, best_of)
    after: list[Value] = [v for v in values[1:] if v is not None]
    assert len(after) == len(response.ends), "every state of such a response is known"
    if rule.definition == "lowest":
        return 1 + _argmin([v.q for v in after])
    if rule.definition == "least-advantage":
        return 1 + _argmin([a.best for a in advantages(values) if a is not None])
    hopeful = values[0] is not None and values[0].q >= rule.high
    for step, value in enumerate(after, start=1):
        if hopeful and value.q <= rule.low:
            return step
        hopeful = hopeful or value.q >= rule.high
    return None


def _all_fail(question: RolledQuestion, response: Rolled, k: int) -> int:
    for step, number in enumerate(response.states[1:], start=1):
        assert number is not None
        rollouts = question.states[number].rollouts
        if len(rollouts) < k:
            raise UserError(
                f"pit: {k} rollouts are counted and {len(rollouts)} were drawn: use --pit-k {len(rollouts)}"
            )
        if not any(r.right for r in rollouts[:k]):
            return step
    return len(response.ends)


def _argmin(numbers: Sequence[float]) -> int:
    return min(range(len(numbers)), key=numbers.__getitem__)

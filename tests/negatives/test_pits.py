"""The first pit, by each published definition, on responses made by hand."""

from __future__ import annotations

import pytest

from rftfast.errors import UserError
from rftfast.negatives.pits import PitRule, first_pit
from tests.negatives.hand_made import response, rolled, state


def pit(marks: list[str], definition: str, sampled: tuple[int, int] | None = (3, 6), **rule: object) -> int | None:
    """Of the wrong response of four steps, with these rollouts after its first three."""
    question = rolled(response(1), states=[state(m) for m in marks], sampled=sampled)
    return first_pit(question, question.responses[0], PitRule(definition, **rule))  # type: ignore[arg-type]


TABLE = [
    # The first step of lowest Q; the end of a wrong response has Q = 0.
    (["+++++", "-----", "-----"], "lowest", {}, 2),
    (["+++++", "+----", "-----"], "lowest", {}, 3),
    (["++---", "+----", "+----"], "lowest", {}, 4),
    (["-----", "+++++", "-----"], "lowest", {}, 1),
    # Least advantage: the start has Q = 3/6.
    (["+++++", "-----", "-----"], "least-advantage", {"best_of": 1}, 2),
    (["++++-", "+++--", "-----"], "least-advantage", {"best_of": 1}, 3),  # 0.3, -0.2, -0.6, 0
    (["-----", "+----", "-----"], "least-advantage", {"best_of": 1}, 1),  # -0.5, 0.2, -0.2, 0
    # Under best of 5 all states with a right rollout are worth 1: only the last drop counts.
    (["++++-", "+----", "+----"], "least-advantage", {"best_of": 5}, 4),
    (["+----", "-----", "+----"], "least-advantage", {"best_of": 5}, 2),  # and the first of two
    # None of the first k is right, whatever comes after them.
    (["+----", "----+", "-----"], "all-fail", {"k": 4}, 2),
    (["+----", "----+", "-----"], "all-fail", {"k": 5}, 3),
    (["+----", "+----", "+----"], "all-fail", {"k": 4}, 4),
    # From a hopeful state down.
    (["+++++", "+----", "-----"], "drop", {"low": 0.2, "high": 0.5}, 2),
    (["++---", "+----", "-----"], "drop", {"low": 0.1, "high": 0.9}, None),
    (["++---", "+++++", "+----"], "drop", {"low": 0.2, "high": 0.9}, 3),
]


@pytest.mark.parametrize(("marks", "definition", "rule", "step"), TABLE)
def test_first_pit(marks: list[str], definition: str, rule: dict, step: int | None) -> None:
    assert pit(marks, definition, **rule) == step


def test_the_start_may_be_the_hopeful_state() -> None:
    assert pit(["-----"] * 3, "drop", sampled=(6, 6)) == 1
    assert pit(["-----"] * 3, "drop", sampled=(1, 6)) is None


def test_a_right_response_has_none() -> None:
    question = rolled(response(0), states=[state("-----"), state("-----")])
    assert first_pit(question, question.responses[0]) is None


def test_a_bisection_has_its_own() -> None:
    bisected = response(1, states=(None, None, 0, None), search="bisect", pit=2)
    question = rolled(bisected, states=[state("-----")])
    assert first_pit(question, bisected) == 2
    for definition in ("least-advantage", "all-fail", "drop"):
        with pytest.raises(UserError, match="without --bisect"):
            first_pit(question, bisected, PitRule(definition))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"definition": "deepest"}, "pit is 'deepest'"),
        ({"k": 0}, "at least 1"),
        ({"low": 0.6}, "must rise"),
    ],
)
def test_bad_rules_are_refused(rule: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PitRule(**rule)


def test_rules_that_lack_rollouts_say_so() -> None:
    with pytest.raises(UserError, match="8 rollouts are counted and 5 were drawn"):
        pit(["-----"] * 3, "all-fail", k=8)
    with pytest.raises(UserError, match="best of 6 cannot be estimated from 5"):
        pit(["-----"] * 3, "least-advantage", best_of=6)

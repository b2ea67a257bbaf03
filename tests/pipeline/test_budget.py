"""Adaptive k: dealt by the rules, better than plain k where questions differ, never worse by much where they do not."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.data.parts import StoredQuestion
from rftfast.errors import UserError
from rftfast.pipeline.budget import Allocator, Budget, compare, expected_new, simulate, windows


def pool(seed: int, questions: int, longest: int, solve: list[float], kinds: list[int]) -> dict[str, list[str | None]]:
    """Recorded samples: question i is solved at rate solve[i % n] by one of kinds[i % n] equation lists, likelier ones first."""
    rng = random.Random(seed)
    recorded: dict[str, list[str | None]] = {}
    for i in range(questions):
        rate, n = solve[i % len(solve)], kinds[i % len(kinds)]
        weights = [1 / (j + 1) for j in range(n)]
        recorded[f"q{i}"] = [
            str(rng.choices(range(n), weights)[0]) if rng.random() < rate else None for _ in range(longest)
        ]
    return recorded


def distinct(recorded: dict[str, list[str | None]], given: dict[str, int]) -> int:
    return sum(len({key for key in recorded[name][:n] if key is not None}) for name, n in given.items())


def test_expectation_is_good_turings() -> None:
    keys = ["a", "b", "b", "c", None, None]  # a and c were seen once
    assert expected_new(keys, 6) == pytest.approx((2 + 30 * (4.5 / 7 * 2.5 / 5)) / 36)
    assert expected_new(keys * 50, 300) == pytest.approx(30 * (200.5 / 301 * 2.5 / 201) / 330)  # all seen often
    many = [str(i) for i in range(500)] + ["x"] * 500
    assert expected_new(many, 1000) == pytest.approx(0.5, rel=0.02)  # the prior has nothing left to say
    stale, lively = expected_new(["a"] * 50 + ["b"], 51), expected_new(["a", "b"], 2)
    assert expected_new([None] * 99, 99) < stale < lively


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 1000), st.data())
def test_floor_cap_and_sum_hold(questions: int, k: int, seed: int, data: st.DataObject) -> None:
    budget = Budget(k, data.draw(st.integers(1, k)), data.draw(st.integers(k, 4 * k)))
    recorded = pool(seed, questions, budget.cap, [0.0, 0.3, 0.9], [1, 5, 50])
    allocator = Allocator(list(recorded), budget)
    dealt: dict[str, list[int]] = {name: [] for name in recorded}
    while round_ := allocator.next_round():
        for name, indices in round_.items():
            dealt[name] += indices
            allocator.record(name, recorded[name][indices.start : indices.stop])
    for indices in dealt.values():
        assert indices == list(range(len(indices))), "sample indices run from 0 without a gap"
        assert budget.floor <= len(indices) <= budget.cap
    assert sum(map(len, dealt.values())) == k * questions == sum(allocator.given().values())


def test_samples_go_where_paths_are_new() -> None:
    recorded = pool(0, 64, 400, [0.0, 0.9, 0.6], [1, 1, 60])
    given = simulate(recorded, Budget.of(100))
    rich = [n for name, n in given.items() if int(name[1:]) % 3 == 2]
    poor = [n for name, n in given.items() if int(name[1:]) % 3 != 2]
    assert sum(rich) / len(rich) > 4 * sum(poor) / len(poor)
    plain = distinct(recorded, dict.fromkeys(recorded, 100))
    assert distinct(recorded, given) > 1.2 * plain
    assert sum(given.values()) == 100 * len(recorded)


def test_little_is_lost_where_questions_are_alike() -> None:
    recorded = pool(1, 64, 400, [0.5], [20])
    plain = distinct(recorded, dict.fromkeys(recorded, 100))
    assert distinct(recorded, simulate(recorded, Budget.of(100))) > 0.95 * plain


def test_windows_are_independent() -> None:
    recorded = pool(2, 20, 40, [0.1, 0.8], [3, 30])
    names = list(recorded)
    whole = simulate(recorded, Budget.of(10), size=10)
    first = simulate({name: recorded[name] for name in names[:10]}, Budget.of(10), size=10)
    assert {name: whole[name] for name in names[:10]} == first
    assert list(itertools.chain(*windows(names, 7))) == names


def test_a_record_shorter_than_the_cap_bounds_it() -> None:
    recorded = pool(3, 8, 20, [0.0, 0.9], [1, 100])
    assert max(simulate(recorded, Budget.of(10)).values()) <= 20
    with pytest.raises(UserError, match="30 samples a question cannot be played on a record that has 20 of one"):
        simulate(recorded, Budget.of(30))
    with pytest.raises(UserError, match="no finished question"):
        compare([], Budget.of(30))


@pytest.mark.parametrize(("k", "floor", "cap"), [(10, 0, 40), (10, 11, 40), (10, 5, 9)])
def test_bounds_that_contradict_each_other(k: int, floor: int, cap: int) -> None:
    with pytest.raises(UserError, match="budget: floor"):
        Budget.of(k, floor, cap)


def test_comparison_at_equal_tokens() -> None:
    """Two questions: one yields a new list with every sample of 10 tokens, the other nothing with 30."""

    def stored(name: str, tokens: int, key: str | None, n: int) -> StoredQuestion:
        samples = tuple(
            {
                "sample_index": i,
                "verdict": "wrong_answer" if key is None else "correct",
                "equations": [f"{key} {i}"],
                "tokens": tokens,
            }
            for i in range(n)
        )
        return StoredQuestion(name, "", "", "#### 1", samples)

    found = compare([stored("rich", 10, "a", 40), stored("poor", 30, None, 40)], Budget(20, 5, 40))
    # The rich question ends at its cap. Hand count: 35 + 5 samples, or as the allocator has it, and plain k at that cost.
    assert found.adaptive_samples == 40
    rich = found.adaptive_distinct
    assert rich > 30
    assert found.adaptive_tokens == 10 * rich + 30 * (40 - rich)
    assert (found.plain_tokens, found.plain_distinct) == (20 * 40, 20)
    assert found.plain_distinct_at_equal_tokens == pytest.approx(found.adaptive_tokens / 40)
    assert found.gain == pytest.approx(rich / (found.adaptive_tokens / 40))

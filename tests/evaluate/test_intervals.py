"""Wilson's interval, for shares and for means of shares."""

from __future__ import annotations

import numpy as np
import pytest

from rftfast.evaluate.intervals import wilson, wilson_mean


# Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_examples(right: int, n: int, low: float, high: float) -> None:
    found = wilson(right / n, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_ends_stay_within_0_and_1() -> None:
    for n in (1, 3, 1319):
        assert wilson(0.0, n).low == 0.0
        assert wilson(1.0, n).high == 1.0
        assert 0 < wilson(0.0, n).high < 1


def test_the_paper_s_test_set() -> None:
    """At 1,319 questions and 41 % an accuracy is known to ± 2.6 points."""
    found = wilson(0.41, 1319)
    assert found.high - found.low == pytest.approx(0.053, abs=0.0005)


def test_of_right_and_wrong_it_is_wilson_itself() -> None:
    for right in (0, 1, 7, 20):
        values = [1.0] * right + [0.0] * (20 - right)
        mean, plain = wilson_mean(values), wilson(right / 20, 20)
        assert (mean.low, mean.high) == pytest.approx((plain.low, plain.high))


def test_several_draws_narrow_it_only_where_questions_vary_less() -> None:
    alike = [1.0] * 30 + [0.0] * 70  # every seed says the same: no more known than by one
    assert wilson_mean(alike, 5).low == pytest.approx(wilson(0.3, 100).low)
    spread = [0.2, 0.4] * 50
    assert wilson_mean(spread, 5).high < wilson(0.3, 100).high
    assert wilson_mean([0.5] * 100, 3).high == pytest.approx(wilson(0.5, 300).high)  # never more than all draws tell


def test_estimates_a_hair_above_1() -> None:
    assert wilson_mean([1.0 + 1e-16, 1.0]).value == 1.0


@pytest.mark.parametrize("draws", [1, 4, 100])
@pytest.mark.parametrize("kind", ["some always", "spread", "alike"])
def test_coverage(kind: str, draws: int) -> None:
    """95 % intervals hold the true mean about that often, also where some questions are always right."""
    rng = np.random.default_rng(draws)
    n, rounds = 200, 2000
    held = 0
    for _ in range(rounds):
        if kind == "some always":
            chances, true = (rng.random(n) < 0.2).astype(float), 0.2
        elif kind == "spread":
            chances, true = rng.beta(0.3, 0.7, n), 0.3
        else:
            chances, true = np.full(n, 0.6), 0.6
        found = wilson_mean((rng.binomial(draws, chances) / draws).tolist(), draws)
        held += found.low <= true <= found.high
    assert held / rounds > 0.935

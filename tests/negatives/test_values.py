"""Estimates and intervals, against exact probabilities."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from rftfast.errors import UserError
from rftfast.negatives.values import (
    Value,
    advantage,
    best_of,
    best_of_plain,
    clopper_pearson,
    ended,
    estimate,
    wilson,
)


def binomial(n: int, q: float) -> list[float]:
    return [math.comb(n, s) * q**s * (1 - q) ** (n - s) for s in range(n + 1)]


def coverage(n: int, q: float, interval) -> float:  # type: ignore[no-untyped-def]
    """The chance that the interval holds q, exactly."""
    return sum(p for s, p in enumerate(binomial(n, q)) if interval(s, n)[0] <= q <= interval(s, n)[1])


QS = [i / 200 for i in range(1, 200)]


@pytest.mark.parametrize("n", [1, 5, 8, 20, 60])
def test_clopper_pearson_covers_for_every_q(n: int) -> None:
    assert all(coverage(n, q, clopper_pearson) >= 0.95 for q in QS)


@pytest.mark.parametrize("n", [5, 8, 20, 60])
def test_wilson_covers_on_average(n: int) -> None:
    mean = sum(coverage(n, q, wilson) for q in QS) / len(QS)
    assert 0.94 < mean < 0.97
    widths = [sum(i(s, n)[1] - i(s, n)[0] for s in range(n + 1)) for i in (wilson, clopper_pearson)]
    assert widths[0] < widths[1], "the price of the exact one"


def test_against_published_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 0.1684), abs=5e-5)


def test_clopper_pearson_covers_when_drawing_stops_at_the_first_success() -> None:
    most = 8
    for q in QS:
        held = sum(
            (1 - q) ** (m - 1) * q
            for m in range(1, most + 1)
            if clopper_pearson(1, m)[0] <= q <= clopper_pearson(1, m)[1]
        )
        held += (1 - q) ** most * (clopper_pearson(0, most)[1] >= q)
        assert held >= 0.95, q


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 5), (8, 5), (20, 4)])
def test_best_of_is_unbiased_and_the_plain_form_is_not(n: int, k: int) -> None:
    for q in (0.05, 0.3, 0.8):
        wanted = 1 - (1 - q) ** k
        assert sum(p * best_of(s, n, k) for s, p in enumerate(binomial(n, q))) == pytest.approx(wanted)
        plain = sum(p * best_of_plain(s / n, k) for s, p in enumerate(binomial(n, q)))
        assert plain == pytest.approx(wanted) if k == 1 else plain < wanted


def test_best_of_counts_subsets() -> None:
    for n, s, k in ((5, 2, 3), (6, 1, 2), (4, 4, 4), (4, 0, 2)):
        sets = list(itertools.combinations([True] * s + [False] * (n - s), k))
        assert best_of(s, n, k) == pytest.approx(sum(map(any, sets)) / len(sets))


def test_with_five_rollouts_and_best_of_five_a_value_is_one_or_zero() -> None:
    assert [estimate(s, 5, 5).best for s in range(6)] == [0, 1, 1, 1, 1, 1]
    with pytest.raises(UserError, match="best of 5 cannot be estimated from 4"):
        estimate(2, 4, 5)


def test_estimates_lie_in_their_intervals() -> None:
    for n, k in ((1, 1), (5, 5), (9, 3)):
        for s in range(n + 1):
            for interval in ("wilson", "clopper-pearson"):
                v = estimate(s, n, k, interval=interval)
                assert 0 <= v.low <= v.q <= v.high <= 1 and 0 <= v.best_low <= v.best <= v.best_high <= 1


def test_advantages_by_hand() -> None:
    a = advantage(estimate(4, 5, 5), estimate(1, 5, 5))
    assert (a.q, a.best) == (pytest.approx(-0.6), 0)
    assert -1 <= a.low < -0.6 < a.high < 0.01
    last = advantage(estimate(2, 5, 5), ended(right=False))
    assert (last.q, last.best) == (pytest.approx(-0.4), -1)
    # Newcombe 1998 (Statistics in Medicine 17, 873), table II: 56/70 - 48/80, method 10.
    d = advantage(estimate(48, 80, 1), estimate(56, 70, 1))
    assert (d.low, d.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


def test_advantage_intervals_cover() -> None:
    """Simulated: pairs of states with n rollouts each; and exact ones at an end."""
    draw = random.Random(1)
    held = total = 0
    for _ in range(4000):
        q0, q1, n = draw.random(), draw.random(), draw.choice((5, 8, 20))
        s0, s1 = (sum(draw.random() < q for _ in range(n)) for q in (q0, q1))
        a = advantage(estimate(s0, n, 1), estimate(s1, n, 1))
        held += a.low <= q1 - q0 <= a.high
        total += 1
    assert 0.94 < held / total < 0.985
    sure: Value = ended(right=False)
    held = 0
    for _ in range(2000):
        q0 = draw.random()
        a = advantage(estimate(sum(draw.random() < q0 for _ in range(8)), 8, 1), sure)
        held += a.low <= -q0 <= a.high
    assert 0.93 < held / 2000 < 0.99

"""Values of steps from Monte Carlo rollouts, with intervals.

Q of a step is the chance that the policy, going on from its end, reaches the right answer (arXiv 2406.14532, §3 and §6.1;
γ = 1, reward at the end only). It is estimated from ``n`` rollouts of which ``s`` were right. The value under the policy
"best of K" is 1 − (1 − Q)^K; the advantage of step i is A_i = Q_i − Q_{i−1}, with Q_0 the value of the question itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from rftfast.errors import UserError

INTERVALS = ("wilson", "clopper-pearson")


@lru_cache(maxsize=1 << 12)
def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: covers ``level`` on average over proportions, not for each of them."""
    assert 0 <= successes <= trials and trials > 0 and 0 < level < 1
    z = NormalDist().inv_cdf((1 + level) / 2)
    q, shrink = successes / trials, 1 + z * z / trials
    middle = (q + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(q * (1 - q) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return low, high


@lru_cache(maxsize=1 << 12)
def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion: covers at least ``level``, whatever the proportion.

    It still does if drawing was stopped at the first success (it is then the geometric one's interval or wider).
    """
    assert 0 <= successes <= trials and trials > 0 and 0 < level < 1
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _solve(lambda q: 1 - _at_most(successes - 1, trials, q), tail)
    high = 1.0 if successes == trials else 1 - _solve(lambda p: _at_most(successes, trials, 1 - p), tail)
    return low, high


def _at_most(successes: int, trials: int, q: float) -> float:
    return math.fsum(math.comb(trials, i) * q**i * (1 - q) ** (trials - i) for i in range(successes + 1))


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Where a function that rises from 0 to 1 on [0, 1] takes the value ``target``."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2


def best_of_plain(q: float, k: int) -> float:
    """1 − (1 − q)^k: the closed form. Of an estimated q it is too low on average."""
    return 1 - (1 - q) ** k


def best_of(successes: int, trials: int, k: int) -> float:
    """The unbiased estimate of 1 − (1 − Q)^k: the share of the k-subsets of the rollouts that hold a right one.

    Needs ``trials >= k``; with as many as k it is 1 or 0.
    """
    assert 0 <= successes <= trials and 1 <= k <= trials
    return 1 - math.comb(trials - successes, k) / math.comb(trials, k)


@dataclass(frozen=True)
class Value:
    """What is known of one state. ``trials`` is None where the response has ended: then ``q`` is its reward, exactly.

    ``q`` is the point estimate, [``low``, ``high``] its interval; ``best`` the value under best of K with its own.
    """

    successes: int | None
    trials: int | None
    q: float
    low: float
    high: float
    best: float
    best_low: float
    best_high: float


def estimate(successes: int, trials: int, best_of_k: int, level: float = 0.95, interval: str = "wilson") -> Value:
    """From rollouts. Raises UserError if they are fewer than ``best_of_k``, as no unbiased value exists then."""
    if trials < best_of_k:
        raise UserError(
            f"best of {best_of_k} cannot be estimated from {trials} rollouts: use --best-of {trials} or draw more rollouts"
        )
    low, high = (wilson if interval == "wilson" else clopper_pearson)(successes, trials, level)
    best = best_of(successes, trials, best_of_k)
    ends = best_of_plain(low, best_of_k), best_of_plain(high, best_of_k)
    return Value(successes, trials, successes / trials, low, high, best, min(ends[0], best), max(ends[1], best))


def ended(right: bool) -> Value:
    """Of a response that is complete: its reward, with certainty."""
    r = float(right)
    return Value(None, None, r, r, r, r, r, r)


@dataclass(frozen=True)
class Advantage:
    """Of a step, a difference of two values, with an interval; ``best`` under the policy best of K."""

    q: float
    low: float
    high: float
    best: float
    best_low: float
    best_high: float


def advantage(before: Value, after: Value) -> Advantage:
    """A = Q_after − Q_before. Rollouts of the two states are independent; the interval of the difference is built from
    theirs (Newcombe 1998, method 10: the square-and-add of score intervals)."""
    q, low, high = _difference(before.q, before.low, before.high, after.q, after.low, after.high)
    best, best_low, best_high = _difference(
        before.best, before.best_low, before.best_high, after.best, after.best_low, after.best_high
    )
    return Advantage(q, low, high, best, best_low, best_high)


def _difference(
    q0: float, low0: float, high0: float, q1: float, low1: float, high1: float
) -> tuple[float, float, float]:
    d = q1 - q0
    return d, max(-1.0, d - math.hypot(q1 - low1, high0 - q0)), min(1.0, d + math.hypot(high1 - q1, q0 - low0))

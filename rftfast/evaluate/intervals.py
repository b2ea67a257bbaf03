"""Confidence intervals for accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the interval around it."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.value <= self.high, (self.low, self.value, self.high)

    def report(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(share: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval for ``share`` right of ``n`` questions (E. B. Wilson 1927); never leaves 0 ... 1.

    ``n`` may be fractional: an effective number, see ``wilson_mean``.
    """
    assert 0 <= share <= 1 and n > 0, (share, n)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and at 1 one end is the share itself; rounding must not put it on the wrong side.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def wilson_mean(values: Sequence[float], draws: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval for the mean of one value in 0 ... 1 a question, each the mean of ``draws`` draws or an estimate.

    The questions are the sample, so several draws of a question do not count as several questions: n is the number of
    independent right-or-wrong questions with the variance that the values have, at most n * draws. For values of 0 and 1
    it is n itself. The variance is taken with four made-up questions, two right and two wrong (after Agresti and Coull
    1998), as a few values near 0 or 1 show too little of it.
    """
    n = len(values)
    assert n and draws >= 1, (n, draws)
    mean = min(1.0, max(0.0, sum(values) / n))  # of estimates that are 1, rounding may leave a little more
    middle = (n * mean + 2) / (n + 4)
    variance = (sum(v * v for v in values) + 2) / (n + 4) - middle * middle
    most = float(n * draws)
    effective = n * middle * (1 - middle) / variance if variance > 0 else most
    return wilson(mean, min(effective, most), confidence)

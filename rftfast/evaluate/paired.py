"""Two models on the same questions: is one better?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from rftfast.evaluate.intervals import CONFIDENCE, Interval


@dataclass(frozen=True)
class Comparison:
    """Model A against model B, question by question."""

    questions: int
    better: int
    """Questions A does better than B; with one draw a question: A right, B wrong."""
    worse: int
    difference: Interval
    """Mean of A minus mean of B."""
    p: float | None
    """Two-sided, exact; None where the values are estimates instead of shares of draws."""

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "questions": self.questions,
            "better": self.better,
            "worse": self.worse,
            "difference": self.difference.report(),
            "p": self.p,
        }


def compare(a: Sequence[float], b: Sequence[float], draws: int | None, confidence: float = CONFIDENCE) -> Comparison:
    """``a[i]`` and ``b[i]`` are how well each model does on question i, 0 ... 1.

    ``draws``: the values are shares of so many draws (seeds), of both models; None: they are estimates, and no test is
    made. For one draw the test is McNemar's, exact.
    """
    assert len(a) == len(b) > 0, (len(a), len(b))
    p = None
    if draws is not None:
        gaps = [round((x - y) * draws) for x, y in zip(a, b, strict=True)]
        assert all(abs(g - (x - y) * draws) < 1e-6 for g, x, y in zip(gaps, a, b, strict=True)), draws
        p = sign_flip(gaps)
    return Comparison(
        len(a),
        sum(x > y for x, y in zip(a, b, strict=True)),
        sum(x < y for x, y in zip(a, b, strict=True)),
        difference(a, b, confidence),
        p,
    )


def compare_runs(
    runs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], confidence: float = CONFIDENCE
) -> Comparison:
    """Several runs of A, each against a run of B; of each run, question -> right (1) or wrong (0).

    The questions are the sample: one that several runs have is one question still, with the sum of its gaps, or else what all
    runs of a kind find easy would count as if it had been found on so many questions. Of a single run, ``compare``.
    """
    gaps: dict[str, list[float]] = {}
    for a, b in runs:
        for question in a:
            if question in b:
                gaps.setdefault(question, []).append(a[question] - b[question])
    assert gaps, "no question in common"
    sums = [round(sum(each)) for each in gaps.values()]
    means = [sum(each) / len(each) for each in gaps.values()]
    return Comparison(
        len(gaps),
        sum(each > 0 for each in sums),
        sum(each < 0 for each in sums),
        difference(means, [0.0] * len(means), confidence),
        sign_flip(sums),
    )


def sign_flip(gaps: Sequence[int]) -> float:
    """Exact two-sided p of the paired permutation test: each question's gap might as well have had the other sign.

    ``gaps`` are whole numbers (of s seeds, how many more A gets right than B). The chance, over all choices of signs,
    of a sum at least as far from 0 as the one seen. For gaps of -1, 0 and 1 that is McNemar's exact test.
    """
    seen = abs(sum(gaps))
    # Distribution of the sum's n-th part of signs: all gaps of one size m together are m * (2 Binomial(n, 1/2) - n).
    chances = np.ones(1)
    reach = 0
    for size, n in sorted(Counter(abs(g) for g in gaps if g).items()):
        one = np.zeros(2 * size * n + 1)
        one[:: 2 * size] = _coin_tosses(n)
        chances = np.convolve(chances, one)
        reach += size * n
    sums = np.arange(len(chances)) - reach
    return float(min(1.0, chances[abs(sums) >= seen].sum()))


def _coin_tosses(n: int) -> list[float]:
    """The chances of 0 ... n heads in n tosses; in whole numbers until the one division."""
    ways, found = 1, []
    for i in range(n + 1):
        found.append(ways / 2**n)
        ways = ways * (n - i) // (i + 1)
    return found


def difference(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of ``a`` minus mean of ``b``, each in 0 ... 1, with the adjusted Wald interval of Bonett and Price 2012.

    Two made-up questions are added, each model alone being right in one of them; then the mean gap of the n + 2 and its
    standard error. So it keeps a width where the models agree on every question. (Journal of Educational and Behavioral
    Statistics 37:479, given there for right and wrong; shares of several draws are a plain extension.)
    """
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    n = len(gaps) + 2
    middle = sum(gaps) / n
    variance = (sum(g * g for g in gaps) + 2) / n - middle * middle
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * sqrt(variance / n)
    value = sum(gaps) / len(gaps)
    return Interval(value, min(value, max(-1.0, middle - half)), max(value, min(1.0, middle + half)))

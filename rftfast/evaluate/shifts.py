"""How much data a method is worth: the horizontal distance of two curves of accuracy against the amount of data.

At equal accuracy, one method needs N problems and another M: the first is worth M / N times its problems (arXiv 2406.14532: twice
for rejection-sampling fine-tuning, eight times for per-step DPO). The distance is taken in doublings, at every accuracy
that both curves reach, and averaged; nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfast.evaluate.fits import ROUNDS, doublings
from rftfast.evaluate.intervals import CONFIDENCE, Interval

_LEVELS = 200  # accuracies at which the curves are held against each other


@dataclass(frozen=True)
class Curve:
    """Outcomes by amount of data: ``outcomes[i][q]`` is what the model trained on ``amounts[i]`` makes of question q."""

    amounts: Sequence[float]
    outcomes: Sequence[Sequence[float]]

    @property
    def accuracies(self) -> list[float]:
        return [float(np.mean(values)) for values in self.outcomes]


@dataclass(frozen=True)
class Shift:
    """``doublings``: how far the method's curve lies to the left of the baseline's, between accuracies ``low`` and ``high``."""

    doublings: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """How many times the data the baseline needs."""
        return float(2**self.doublings)


def horizontal_shift(
    baseline: tuple[Sequence[float], Sequence[float]], method: tuple[Sequence[float], Sequence[float]]
) -> Shift | None:
    """Of (amounts, accuracies) each; None where no accuracy is reached by both, or a curve does not rise.

    Between the amounts, accuracy goes in a straight line over doublings. A curve that falls somewhere is first made one that
    does not, by least squares, as each accuracy shall have one place. Raises UserError for an amount that is not positive.
    """
    curves = [_rising(*curve) for curve in (baseline, method)]
    low = max(float(y[0]) for _, y in curves)
    high = min(float(y[-1]) for _, y in curves)
    if not low < high:
        return None
    levels = low + (np.arange(_LEVELS) + 0.5) / _LEVELS * (high - low)
    theirs, ours = (np.interp(levels, y, x) for x, y in curves)
    return Shift(float((theirs - ours).mean()), low, high)


def shift_interval(baseline: Curve, method: Curve, confidence: float = CONFIDENCE) -> Interval | None:
    """The shift in doublings with an interval from drawing the questions anew, the same for both; None where there is no
    shift, or none in most draws."""
    found = horizontal_shift((baseline.amounts, baseline.accuracies), (method.amounts, method.accuracies))
    if found is None:
        return None
    values = [np.asarray(curve.outcomes, dtype=float) for curve in (baseline, method)]
    n = values[0].shape[1]
    assert values[1].shape[1] == n, [v.shape for v in values]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(ROUNDS):
        weights = np.bincount(generator.integers(n, size=n), minlength=n) / n
        theirs, ours = ((v @ weights).tolist() for v in values)
        again = horizontal_shift((baseline.amounts, theirs), (method.amounts, ours))
        if again is not None:
            drawn.append(again.doublings)
    if len(drawn) < ROUNDS / 2:
        return None
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    middle = found.doublings
    return Interval(middle, min(middle, float(low)), max(middle, float(high)))


def _rising(amounts: Sequence[float], accuracies: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(doublings, accuracies), the accuracies made to rise: neighbours that fall are pooled into their mean at their mean place."""
    assert len(amounts) == len(accuracies) > 0, (amounts, accuracies)
    order = np.argsort(amounts, kind="stable")
    pools: list[tuple[float, float, int]] = []  # sums of places and accuracies, number of points
    for x, y in zip(np.asarray(doublings(amounts))[order], np.asarray(accuracies, dtype=float)[order], strict=True):
        pools.append((float(x), float(y), 1))
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            (a, b, c), (d, e, f) = pools[-2:]
            pools[-2:] = [(a + d, b + e, c + f)]
    return np.array([x / n for x, _, n in pools]), np.array([y / n for _, y, n in pools])

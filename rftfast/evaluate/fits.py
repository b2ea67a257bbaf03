"""Straight lines through accuracies: against the amount of data, the pre-training loss, the number of distinct paths.

============================  ==============================  ==========================================
question                      x                               y
============================  ==============================  ==========================================
what does more data bring     ``doublings`` of the amount     accuracy
what does a better base bring pre-training loss, in nats      accuracy, of SFT or few-shot
what do distinct paths bring  ``doublings`` of paths a        accuracy of RFT minus that of SFT
                              question (U of ``rftfast stats``)
============================  ==============================  ==========================================

All are plain least squares through all the points given, as the dotted lines of arXiv 2308.01825, Figure 2, turn out to be;
which points belong to one line is the caller's choice. The paper gives no coefficients itself, and warns that the losses it
plots come from different corpora and tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rftfast.errors import UserError
from rftfast.evaluate.intervals import CONFIDENCE, Interval

ROUNDS = 2000
"""Bootstrap rounds; drawn from a fixed seed, so that the same figures give the same interval."""


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x."""

    slope: Interval
    """In units of y for each unit of x; with ``doublings``, for each doubling."""
    intercept: float
    r2: float
    """Share of the variance of y that the line explains; 1 where there is none to explain."""
    points: int

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"slope": self.slope.report(), "intercept": self.intercept, "r2": self.r2, "points": self.points}


def doublings(amounts: Sequence[float]) -> list[float]:
    """log2 of each amount. Raises UserError for one that is not positive."""
    for amount in amounts:
        if not amount > 0:
            raise UserError(f"an amount of {amount} has no logarithm; leave that point out of the fit")
    return [float(np.log2(amount)) for amount in amounts]


def fit_line(
    x: Sequence[float], y: Sequence[float], questions: int | None = None, confidence: float = CONFIDENCE
) -> Line:
    """A line through points, with a bootstrap interval for its slope.

    ``questions``: y are accuracies (shares) on so many questions; each is drawn anew as binomial, so the interval tells what
    the size of the test set leaves open. None: the points themselves are drawn anew, so the interval tells what the choice
    of points (models, runs) leaves open; that takes a handful of points. Raises UserError without two different x.
    """
    a, b = _checked(x, y)
    generator = np.random.default_rng(0)
    if questions is not None:
        assert ((b >= 0) & (b <= 1)).all(), y
        drawn = generator.binomial(questions, b, size=(ROUNDS, len(b))) / questions
        slopes = _slopes(np.broadcast_to(a, drawn.shape), drawn)
    else:
        chosen = generator.integers(len(a), size=(2 * ROUNDS, len(a)))
        # A draw of one point alone, or of several with one x, has no slope.
        chosen = chosen[np.ptp(a[chosen], axis=1) > 0][:ROUNDS]
        slopes = _slopes(a[chosen], b[chosen])
    return _line(a, b, slopes, confidence)


def fit_outcomes(x: Sequence[float], outcomes: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Line:
    """A line through mean outcomes, with an interval for its slope from drawing the questions anew.

    ``outcomes[i][q]``: what point i's model makes of question q (right or wrong, a share of seeds, or a gain over another
    model). The same questions for all points, drawn together: what makes a question hard for all does not count as noise.
    """
    values = np.asarray(outcomes, dtype=float)
    assert values.ndim == 2 and values.shape[1] > 0, values.shape
    a, b = _checked(x, values.mean(axis=1).tolist())
    generator = np.random.default_rng(0)
    n = values.shape[1]
    slopes = np.empty(ROUNDS)
    for i in range(ROUNDS):
        weights = np.bincount(generator.integers(n, size=n), minlength=n) / n
        slopes[i] = _slopes(a[None], (values @ weights)[None])[0]
    return _line(a, b, slopes, confidence)


def _line(x: np.ndarray, y: np.ndarray, slopes: np.ndarray, confidence: float) -> Line:
    slope = float(_slopes(x[None], y[None])[0])
    intercept = float(y.mean() - slope * x.mean())
    left = float(((y - intercept - slope * x) ** 2).sum())
    whole = float(((y - y.mean()) ** 2).sum())
    low, high = np.quantile(slopes, [0.5 - confidence / 2, 0.5 + confidence / 2])
    interval = Interval(slope, min(slope, float(low)), max(slope, float(high)))
    return Line(interval, intercept, 1 - left / whole if whole else 1.0, len(x))


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of [rounds, points]."""
    centred = x - x.mean(axis=1, keepdims=True)
    return (centred * y).sum(axis=1) / (centred * centred).sum(axis=1)


def _checked(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    assert len(x) == len(y), (len(x), len(y))
    if len(set(x)) < 2:
        raise UserError(f"a line needs points at two different places; there are {len(set(x))}")
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)

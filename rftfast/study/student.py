"""The mean of a few runs and how far it may be off: Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, mean, stdev

from rftfast.evaluate.intervals import Interval

# Two-sided 95 % quantiles for 1, 2, … degrees of freedom (any table of Student's t).
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of two or more independent runs with its 95 % interval, which knows nothing of what the runs are made of."""
    assert len(values) >= 2, values
    degrees = len(values) - 1
    t = _T[degrees - 1] if degrees <= len(_T) else NormalDist().inv_cdf(0.975)
    middle, half = mean(values), t * stdev(values) / sqrt(len(values))
    return Interval(middle, middle - half, middle + half)

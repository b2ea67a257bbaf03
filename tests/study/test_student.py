from __future__ import annotations

import pytest

from rftfast.study.student import mean_interval


def test_an_interval_by_hand() -> None:
    found = mean_interval([0.04, 0.06, 0.08])
    assert found.value == pytest.approx(0.06)
    # s = 0.02, t(2) = 4.3027: 4.3027 * 0.02 / sqrt(3)
    assert found.high - found.value == pytest.approx(0.04968, abs=1e-5)
    assert found.value - found.low == pytest.approx(0.04968, abs=1e-5)


@pytest.mark.parametrize("runs", [2, 3, 5, 11, 31])
def test_quantiles(runs: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [0.1 * (i % 4) for i in range(runs)]
    low, high = stats.t.interval(0.95, runs - 1, loc=sum(values) / runs, scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)

"""How much data a method is worth, on curves whose shift is known."""

from __future__ import annotations

import random

import pytest

from rftfast.errors import UserError
from rftfast.evaluate import shifts
from rftfast.evaluate.shifts import Curve, horizontal_shift, shift_interval

SIZES = [100, 200, 400, 800, 1600]


def rising(size: float, factor: float = 1.0) -> float:
    """An accuracy with a bend, as if there were ``factor`` times the data."""
    return 1 / (1 + (500 / (size * factor)) ** 0.8)


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 0.5])
def test_data_worth_so_many_times_is_found(factor: float) -> None:
    fine = [100 * 2 ** (i / 4) for i in range(17)]  # close together, so that straight lines follow the bend
    found = horizontal_shift((fine, [rising(n) for n in fine]), (fine, [rising(n, factor) for n in fine]))
    assert found is not None
    assert found.factor == pytest.approx(factor, rel=0.01)
    assert found.low == pytest.approx(max(rising(100), rising(100, factor)))
    assert found.high == pytest.approx(min(rising(1600), rising(1600, factor)))


def test_straight_lines_by_hand() -> None:
    """Baseline: 10 points a doubling; the method is 10 points above it at equal data: one doubling."""
    baseline = (SIZES, [0.1, 0.2, 0.3, 0.4, 0.5])
    found = horizontal_shift(baseline, (SIZES, [0.2, 0.3, 0.4, 0.5, 0.6]))
    assert found is not None and found.doublings == pytest.approx(1)
    steep = horizontal_shift(baseline, ([100, 200], [0.1, 0.3]))  # at 0.1 none, at 0.3 one doubling
    assert steep is not None and steep.doublings == pytest.approx(0.5)
    assert (steep.low, steep.high) == (0.1, 0.3)
    shuffled = horizontal_shift((SIZES[::-1], baseline[1][::-1]), ([200, 100], [0.3, 0.1]))
    assert shuffled == steep


def test_a_dip_is_smoothed() -> None:
    dipped = horizontal_shift((SIZES, [0.1, 0.2, 0.3, 0.4, 0.5]), (SIZES, [0.2, 0.45, 0.35, 0.5, 0.6]))
    assert dipped is not None
    # 0.45 and 0.35 are 0.4 midway between their places: half a doubling more than the line at first, less then.
    assert dipped.doublings == pytest.approx((1 + 1.5) / 2 * 0.2 / 0.3 + (1.5 + 1) / 2 * 0.1 / 0.3, abs=0.01)


def test_no_common_accuracy_no_shift() -> None:
    assert horizontal_shift((SIZES, [0.1, 0.2, 0.3, 0.4, 0.5]), (SIZES, [0.6, 0.7, 0.8, 0.8, 0.9])) is None
    assert horizontal_shift((SIZES, [0.3] * 5), (SIZES, [0.1, 0.2, 0.3, 0.4, 0.5])) is None
    with pytest.raises(UserError, match="no logarithm"):
        horizontal_shift(([0, 1], [0.1, 0.2]), (SIZES, [0.1, 0.2, 0.3, 0.4, 0.5]))


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shifts, "ROUNDS", 300)
    rng = random.Random(0)
    covered, widths = 0, []
    for _ in range(30):
        drawn = [
            Curve(SIZES, [[float(rng.random() < rising(n, factor)) for _ in range(500)] for n in SIZES])
            for factor in (1.0, 2.0)
        ]
        found = shift_interval(*drawn)
        assert found is not None
        covered += found.low <= 1.0 <= found.high
        widths.append(found.high - found.low)
    assert 26 <= covered <= 30
    assert 0.1 < sum(widths) / len(widths) < 0.6


def test_questions_that_say_nothing_give_no_interval() -> None:
    flat = Curve(SIZES, [[0.0, 1.0]] * 5)
    assert shift_interval(flat, flat) is None

"""Least-squares lines: on the paper's published points, and their intervals on made-up ones."""

from __future__ import annotations

import numpy as np
import pytest

from rftfast.errors import UserError
from rftfast.evaluate.fits import doublings, fit_line, fit_outcomes

QUESTIONS = 1319  # of GSM8K's test set

# arXiv 2308.01825, Figure 2 and Table 5: pre-training loss, SFT, few-shot (8 shots), in percent. Of the GPT models the first
# three are read off the plot; GPT-4 is on the SFT line though it is not fine-tuned on GSM8K, and none is on the other line.
LLAMA = [
    (1.80, 35.9, 11.0),
    (1.75, 41.6, 14.6),
    (1.73, 43.0, 17.8),
    (1.68, 50.0, 28.7),
    (1.62, 54.6, 35.6),
    (1.57, 59.3, 50.9),
    (1.50, 63.2, 56.8),
]
GPT = [(2.12, 15.0), (2.02, 18.0), (1.94, 22.0), (1.78, 34.0), (1.20, 92.0)]

# Table 5: SFT on 1, 1/2, 1/4, 1/8, 1/16, 1/32 of the data, the better of its two numbers of epochs; then slope (points per
# doubling) and R² over the four largest amounts, the range for which the paper speaks of a log-linear relation.
FRACTIONS = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
DATA = {
    "7B": ([35.9, 30.9, 22.7, 17.9, 14.3, 9.5], 6.22, 0.989),
    "7B-2": ([41.6, 34.6, 28.1, 21.8, 16.2, 14.2], 6.59, 0.999),
    "13B": ([43.0, 36.1, 27.4, 19.5, 14.2, 8.6], 7.92, 0.998),
    "13B-2": ([50.0, 45.3, 37.5, 33.4, 27.7, 17.1], 5.76, 0.986),
    "33B": ([54.6, 50.8, 44.6, 39.3, 29.2, 25.3], 5.21, 0.992),
    "65B": ([59.3, 55.6, 50.4, 46.0, 39.5, 28.9], 4.51, 0.996),
    "70B-2": ([63.2, 61.0, 57.8, 57.8, 52.8, 27.4], 1.94, 0.900),
}

# Tables 1, 2 and 5: SFT; RFT at k = 1, 3, 6, 12, 25, 50, 100, then U13B and U33B; distinct paths a question (U) of each.
GAINS = {
    "7B": (35.9, [37.6, 39.0, 39.5, 41.6, 40.9, 40.7, 41.7], [1.17, 1.44, 1.74, 2.20, 2.93, 3.94, 5.25], (49.3, 49.1)),
    "7B-2": (
        41.6,
        [43.4, 45.3, 45.6, 45.3, 46.5, 47.0, 47.5],
        [1.19, 1.47, 1.78, 2.23, 2.93, 3.91, 5.19],
        (50.3, 51.2),
    ),
    "13B": (43.0, [42.7, 45.2, 46.8, 48.0, 46.0, 49.4, 49.1], [1.15, 1.41, 1.69, 2.11, 2.88, 3.90, 5.26], (52.1, 51.4)),
    "13B-2": (
        50.0,
        [52.1, 51.9, 52.2, 53.1, 52.6, 54.5, 54.8],
        [1.18, 1.45, 1.76, 2.21, 2.94, 3.94, 5.29],
        (55.4, 55.3),
    ),
}
POOLED_PATHS = [12.84, 13.65]


def percent(values: list[float]) -> list[float]:
    return [v / 100 for v in values]


def test_loss_and_sft() -> None:
    points = [(loss, sft) for loss, sft, _ in LLAMA] + GPT
    line = fit_line([x for x, _ in points], percent([y for _, y in points]))
    assert 100 * line.slope.value == pytest.approx(-88.2, abs=0.05)
    assert 100 * line.intercept == pytest.approx(196.2, abs=0.05)
    assert line.r2 == pytest.approx(0.984, abs=5e-4)
    assert line.points == 12
    assert line.slope.low < -0.881 < line.slope.high  # the slope of the dotted line as drawn


def test_loss_and_sft_without_gpt() -> None:
    line = fit_line([x for x, _, _ in LLAMA], percent([y for _, y, _ in LLAMA]))
    assert 100 * line.slope.value == pytest.approx(-93.0, abs=0.05)
    assert line.r2 == pytest.approx(0.984, abs=6e-4)


def test_loss_and_few_shot() -> None:
    line = fit_line([x for x, _, _ in LLAMA], percent([y for _, _, y in LLAMA]))
    assert 100 * line.slope.value == pytest.approx(-166.4, abs=0.05)
    assert 100 * line.intercept == pytest.approx(307.67, abs=0.01)
    assert line.r2 == pytest.approx(0.977, abs=5e-4)


@pytest.mark.parametrize("model", DATA)
def test_data(model: str) -> None:
    accuracies, slope, r2 = DATA[model]
    line = fit_line(doublings(FRACTIONS[:4]), percent(accuracies[:4]), QUESTIONS)
    assert 100 * line.slope.value == pytest.approx(slope, abs=0.005)
    assert line.r2 == pytest.approx(r2, abs=5e-4)
    # What 1,319 questions leave open: standard error of about 1.3 points each over a spread of sqrt(5) doublings.
    assert 0.01 < line.slope.high - line.slope.low < 0.03


def test_the_smallest_amounts_leave_the_line() -> None:
    """Over 1 ... 1/32 the line of the best model explains two thirds only: the paper's claim is about 1 ... 1/8."""
    assert fit_line(doublings(FRACTIONS), percent(DATA["70B-2"][0])).r2 == pytest.approx(0.68, abs=0.005)


# [DERIVED] on the paper's figures; it draws these points (Figure 5), and fits nothing.
@pytest.mark.parametrize(
    ("model", "slope", "r2"), [("7B", 3.07, 0.89), ("7B-2", 1.90, 0.96), ("13B", 2.12, 0.85), ("13B-2", 1.06, 0.89)]
)
def test_gain_and_distinct_paths(model: str, slope: float, r2: float) -> None:
    sft, accuracies, paths, pooled = GAINS[model]
    gains = [a - sft for a in [*accuracies, *pooled]]
    line = fit_line(doublings(paths + POOLED_PATHS), percent(gains))
    assert 100 * line.slope.value == pytest.approx(slope, abs=0.005)
    assert line.r2 == pytest.approx(r2, abs=0.005)
    assert line.slope.low > 0


def test_questions_drawn_anew_cover_the_slope() -> None:
    rng = np.random.default_rng(5)
    x, rounds, held = [0.0, 1.0, 2.0, 3.0], 120, 0
    for _ in range(rounds):
        accuracies = [rng.binomial(400, 0.3 + 0.1 * at) / 400 for at in x]
        slope = fit_line(x, accuracies, 400).slope
        held += slope.low <= 0.1 <= slope.high
    assert held / rounds > 0.88


def test_hard_questions_are_not_noise() -> None:
    """Outcomes that rise together question by question give a narrow interval; drawn apart, a wide one."""
    rng = np.random.default_rng(6)
    hard = rng.random(300)
    x = [0.0, 1.0, 2.0]
    together = [(hard < 0.3 + 0.1 * at).astype(float) for at in x]
    line = fit_outcomes(x, [list(t) for t in together])
    means = [float(t.mean()) for t in together]
    apart = fit_line(x, means, 300)
    assert line.slope.value == pytest.approx(apart.slope.value)
    assert line.slope.high - line.slope.low < 0.75 * (apart.slope.high - apart.slope.low)


def test_a_line_is_found_exactly_and_again() -> None:
    x = [1.0, 2.0, 4.0, 8.0, 9.0]
    line = fit_line(x, [0.1 + 0.05 * v for v in x])
    assert line.slope.value == pytest.approx(0.05)
    assert line.slope.low == pytest.approx(0.05)  # whatever points are drawn
    assert line.r2 == pytest.approx(1.0)
    assert fit_line(x, [0.3, 0.2, 0.4, 0.4, 0.5]) == fit_line(x, [0.3, 0.2, 0.4, 0.4, 0.5])
    assert fit_line(x, [0.5] * 5).r2 == 1.0


def test_bad_points() -> None:
    with pytest.raises(UserError, match="two different places"):
        fit_line([1.0, 1.0], [0.1, 0.2])
    with pytest.raises(UserError, match="no logarithm"):
        doublings([1, 0])

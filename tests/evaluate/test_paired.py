"""Two models on the same questions: exact tests and intervals of differences."""

from __future__ import annotations

import itertools
import random
from math import comb

import numpy as np
import pytest

from rftfast.evaluate.paired import compare, compare_runs, difference, sign_flip


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact, of the questions that one model alone gets right."""
    return compare(*table(0, only_a, only_b, 1), draws=1).p


def test_mcnemar_published() -> None:
    """Armitage and Berry 1994, p. 127: two media, 12 and 2 discordant pairs, exact two-sided p = 0.0129."""
    assert mcnemar(12, 2) == pytest.approx(0.0129, abs=5e-5)
    assert mcnemar(2, 12) == mcnemar(12, 2)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == 2 / 64


def test_mcnemar_is_the_sign_test() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for b, c in [(3, 9), (40, 61), (0, 15), (400, 333)]:
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue)


def test_a_run_against_a_run_is_mcnemar() -> None:
    a, b = table(3, 9, 2, 6)
    names = [f"q{i}" for i in range(len(a))]
    assert compare_runs([(dict(zip(names, a, strict=True)), dict(zip(names, b, strict=True)))]) == compare(a, b, 1)


def test_a_question_in_many_runs_is_one_question() -> None:
    """Ten copies of a run tell no more than the run; runs on questions of their own do."""
    a = {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 1.0}
    b = {"q1": 0.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    one, ten = compare_runs([(a, b)]), compare_runs([(a, b)] * 10)
    assert one.p == ten.p == 2 / 2**3
    assert one.difference == ten.difference and ten.questions == 4
    apart = compare_runs([({f"{r}/{q}": a[q] for q in a}, {f"{r}/{q}": b[q] for q in b}) for r in range(2)])
    assert apart.questions == 8 and apart.p == 2 / 2**6
    mixed = compare_runs([(a, b), (b, a), ({"q1": 1.0}, {"q1": 0.0})])
    assert (mixed.questions, mixed.better, mixed.worse, mixed.p) == (4, 1, 0, 1.0)


def test_one_draw_is_mcnemar() -> None:
    rng = random.Random(1)
    for _ in range(50):
        cells = [rng.randrange(30) for _ in range(4)]
        cells[0] += 1
        found = compare(*table(*cells), draws=1)
        n, tail = cells[1] + cells[2], sum(comb(cells[1] + cells[2], i) for i in range(min(cells[1:3]) + 1))
        assert found.p == pytest.approx(min(1.0, 2 * tail / 2**n))
        assert (found.questions, found.better, found.worse) == (sum(cells), cells[1], cells[2])


def test_sign_flip_equals_trying_all_signs() -> None:
    rng = random.Random(2)
    for _ in range(30):
        gaps = [rng.randrange(-4, 5) for _ in range(rng.randrange(1, 11))]
        seen = abs(sum(gaps))
        signs = list(itertools.product((-1, 1), repeat=len(gaps)))
        far = sum(abs(sum(s * g for s, g in zip(each, gaps, strict=True))) >= seen for each in signs)
        assert sign_flip(gaps) == pytest.approx(far / len(signs))


def test_sign_flip_of_a_whole_test_set() -> None:
    assert sign_flip([1] * 1319) < 1e-300
    assert sign_flip([3] * 300 + [-3] * 300 + [1] * 200 + [-1] * 200) == pytest.approx(1.0)


def test_seeds_are_not_questions() -> None:
    """Five seeds that agree say as much as one: the p does not fall with the number of seeds."""
    a, b = table(50, 12, 4, 34)
    assert compare(a, b, draws=5).p == pytest.approx(compare(a, b, draws=1).p)


def test_estimates_are_not_tested() -> None:
    assert compare([0.25, 0.5], [0.1, 0.7], draws=None).p is None


def test_difference_bonett_price() -> None:
    """Each discordant cell plus one, n plus two: 36, 12, 2, 0 gives 10/52 ± 1.96 sqrt((16/52 - (10/52)²) / 52)."""
    found = difference(*table(36, 12, 2, 0))
    half = 1.959964 * ((16 / 52 - (10 / 52) ** 2) / 52) ** 0.5
    assert (found.low, found.high) == pytest.approx((10 / 52 - half, 10 / 52 + half), abs=1e-6)
    assert found.value == pytest.approx(0.2)


def test_difference_keeps_its_bounds_and_a_width() -> None:
    same = difference([1.0] * 30, [1.0] * 30)
    assert same.low < 0 < same.high and same.high < 0.2
    whole = difference([1.0] * 30, [0.0] * 30)
    assert whole.value == whole.high == 1.0
    assert 0.7 < whole.low < 1


@pytest.mark.parametrize("draws", [1, 4])
def test_coverage(draws: int) -> None:
    rng = np.random.default_rng(draws)
    held, wrong, rounds = 0, 0, 1000
    for _ in range(rounds):
        chances = rng.beta(0.4, 0.6, 150)
        a = (rng.binomial(draws, chances) / draws).tolist()
        b = (rng.binomial(draws, 0.8 * chances) / draws).tolist()
        found = difference(a, b)
        held += found.low <= 0.08 <= found.high
        again = (rng.binomial(draws, chances) / draws).tolist()
        p = compare(a, again, draws).p
        assert p is not None
        wrong += p < 0.05
    assert held / rounds > 0.935
    assert wrong / rounds < 0.07  # two draws of one model are told apart no more often than promised

"""What a study says of methods over growing data: how many times the problems each is worth, and which one is better.

A method is a series of rows with a place on the figure ``problems`` (``at: {problems: 400}``). Both figures compare evaluations of
one pair (a seed), question by question or curve by curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rftfast.evaluate.intervals import Interval
from rftfast.evaluate.paired import difference
from rftfast.evaluate.shifts import Curve, horizontal_shift, shift_interval
from rftfast.study.results import PROBLEMS, Evaluation, Row
from rftfast.study.student import mean_interval

Method = dict[str, dict[float, Evaluation]]
"""Of each pair (seed) the evaluations by number of problems."""


@dataclass(frozen=True)
class Efficiency:
    """``runs``: for each pair that has one, the shift in doublings; ``pairs`` is how many there are. ``doublings``: their mean
    with its interval over the runs (Student's t), of a single run over the questions; None where no run has a shift."""

    name: str
    runs: tuple[float, ...]
    pairs: int
    doublings: Interval | None

    @property
    def factor(self) -> Interval | None:
        """How many times the problems the baseline needs for the same accuracy."""
        d = self.doublings
        return None if d is None else Interval(2**d.value, 2**d.low, 2**d.high)

    def text(self, baseline: str) -> str:
        if self.factor is None:
            return f"no accuracy that {baseline} reaches, too"
        f = self.factor
        told = f"worth {f.value:.2g} ({f.low:.2g} – {f.high:.2g}) times the problems of {baseline}"
        return told + f", in {len(self.runs)} of {self.pairs} runs" * (len(self.runs) < self.pairs)

    def report(self) -> dict[str, Any]:
        f = self.factor
        return {
            "method": self.name,
            "doublings": list(self.runs),
            "runs": self.pairs,
            "factor": None if f is None else f.report(),
        }


@dataclass(frozen=True)
class Ordering:
    """Accuracy of ``first`` minus that of ``second``, the mean over the numbers of problems that both have."""

    first: str
    second: str
    runs: tuple[float, ...]
    interval: Interval

    @property
    def verdict(self) -> str:
        if self.interval.low > 0:
            return f"{self.first} is better"
        return f"{self.second} is better" if self.interval.high < 0 else "open"

    def report(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "runs": list(self.runs), **self.interval.report()}


def methods(rows: Sequence[Row]) -> dict[str, Method]:
    """By series, in the order of the rows."""
    found: dict[str, Method] = {}
    for row in rows:
        place = dict(row.labels.get("at") or {}).get(PROBLEMS)
        if place is not None:
            series = found.setdefault(str(row.labels.get("series") or row.name), {})
            for evaluation in row.evaluations:
                series.setdefault(evaluation.pair, {})[float(place)] = evaluation
    return found


def efficiencies(rows: Sequence[Row], baseline: str | None) -> list[Efficiency]:
    """Of every other method against the series ``baseline``; none without it."""
    found = methods(rows)
    basis = found.get(baseline or "")
    if basis is None:
        return []
    return [_efficiency(name, method, basis) for name, method in found.items() if name != baseline]


def orderings(rows: Sequence[Row]) -> list[Ordering]:
    """Of every two methods, where they have a pair and a number of problems in common."""
    found = methods(rows)
    made = []
    for (first, a), (second, b) in combinations(found.items(), 2):
        gaps = {pair: gap for pair in a if pair in b and (gap := _gaps(a[pair], b[pair]))}
        if not gaps:
            continue
        runs = tuple(sum(gap.values()) / len(gap) for gap in gaps.values())
        if len(runs) > 1:
            interval = mean_interval(runs)
        else:
            (gap,) = gaps.values()
            interval = difference(list(gap.values()), [0.0] * len(gap))
        made.append(Ordering(first, second, runs, interval))
    return made


def _efficiency(name: str, method: Method, basis: Method) -> Efficiency:
    pairs = [pair for pair in method if pair in basis]
    curves = [(_curve(basis[pair], method[pair]), _curve(method[pair], basis[pair])) for pair in pairs]
    found = []
    for theirs, ours in curves:
        shift = horizontal_shift((theirs.amounts, theirs.accuracies), (ours.amounts, ours.accuracies))
        if shift is not None:
            found.append((shift.doublings, theirs, ours))
    runs = tuple(doublings for doublings, _, _ in found)
    over = mean_interval(runs) if len(runs) > 1 else shift_interval(*found[0][1:]) if found else None
    return Efficiency(name, runs, len(pairs), over)


def _curve(of: dict[float, Evaluation], other: dict[float, Evaluation]) -> Curve:
    """On the questions that all evaluations of both have, in one order."""
    shared = set.intersection(*(set(e.right) for e in (*of.values(), *other.values())))
    names = sorted(shared)
    return Curve(sorted(of), [[of[size].right[q] for q in names] for size in sorted(of)])


def _gaps(a: dict[float, Evaluation], b: dict[float, Evaluation]) -> dict[str, float]:
    """By question the difference, a mean over the sizes that both have."""
    sizes = [size for size in a if size in b]
    if not sizes:
        return {}
    shared = set.intersection(*(set(m[size].right) for m in (a, b) for size in sizes))
    return {q: sum(a[s].right[q] - b[s].right[q] for s in sizes) / len(sizes) for q in sorted(shared)}

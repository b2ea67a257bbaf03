"""Adaptive k: a budget of samples goes where new paths are still to be found.

Questions are taken in windows. In each, every question first gets a floor of samples; then, round by round, the samples
left go to the questions with the highest expected number of new distinct paths for a further sample, until the window's
budget (k samples a question on average) is spent. That expectation is Good and Turing's: of n samples drawn, those whose
equation list was seen once, divided by n. What is decided depends on a window's own finished rounds alone, never on which
path came back first, so a run that was killed decides the same again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rftfast.data.parts import StoredQuestion
from rftfast.errors import UserError
from rftfast.select.keys import equation_key

WINDOW = 64
_ROUNDS = 16  # a round's share of what the floor leaves
_PRIOR_SAMPLES = 30  # how many samples the prior counts for


@dataclass(frozen=True)
class Budget:
    """k samples a question on average, at least ``floor`` and at most ``cap`` for each."""

    k: int
    floor: int
    cap: int

    @classmethod
    def of(cls, k: int, floor: int | None = None, cap: int | None = None) -> Budget:
        """Defaults: a quarter of k, and four times k."""
        return cls(k, max(1, k // 4) if floor is None else floor, 4 * k if cap is None else cap)

    def __post_init__(self) -> None:
        if not 1 <= self.floor <= self.k <= self.cap:
            raise UserError(
                f"budget: floor {self.floor}, k {self.k} and cap {self.cap}; they must rise from at least 1 on "
                "(--k-floor, --k, --k-cap)"
            )


def windows(ids: Sequence[str], size: int = WINDOW) -> list[tuple[str, ...]]:
    """The questions in their order, ``size`` at a time."""
    return [tuple(ids[i : i + size]) for i in range(0, len(ids), size)]


def expected_new(keys: Iterable[str | None], drawn: int) -> float:
    """New distinct paths that one further sample is expected to bring.

    ``keys``: the equation lists of the ``drawn`` samples so far, None for those that were not accepted. Good and Turing's
    estimate is what was seen once over what was drawn. Of few samples it says little (nothing seen once is no end of new
    ones), so it is drawn towards a smoother guess: a further sample is accepted as often as those so far, and its list is
    new with probability (1 + d/2) / (1 + m) where m accepted ones had d lists (a Pitman–Yor process of discount 1/2).
    """
    seen = Counter(key for key in keys if key is not None)
    once = sum(count == 1 for count in seen.values())
    accepted = seen.total()
    guess = (accepted + 0.5) / (drawn + 1) * (1 + len(seen) / 2) / (1 + accepted)
    return (once + _PRIOR_SAMPLES * guess) / (drawn + _PRIOR_SAMPLES)


class Allocator:
    """Deals out one window's samples. ``next_round``, then ``record`` for everything in it, and again until it is empty."""

    def __init__(self, ids: Sequence[str], budget: Budget) -> None:
        self.budget = budget
        self._left = budget.k * len(ids)
        self._keys: dict[str, list[str | None]] = {name: [] for name in ids}
        self._given = dict.fromkeys(ids, 0)
        self._quota = max(1, (self._left - budget.floor * len(ids)) // _ROUNDS)
        self.margin: float | None = None
        """Expected new paths of the last sample that was funded."""

    def next_round(self) -> dict[str, range]:
        """Sample indices to draw now, by question; empty when the window is done."""
        assert all(len(keys) == self._given[name] for name, keys in self._keys.items()), "a round is not recorded whole"
        wanted = self._first() if self._left == self.budget.k * len(self._given) else self._further()
        round_ = {name: range(self._given[name], self._given[name] + n) for name, n in wanted.items()}
        for name, n in wanted.items():
            self._given[name] += n
            self._left -= n
        return round_

    def record(self, name: str, keys: Sequence[str | None]) -> None:
        """The round's results of a question in sample order: an accepted path's equation list, else None."""
        self._keys[name].extend(keys)

    def given(self) -> Mapping[str, int]:
        """Samples dealt to each question so far."""
        return self._given

    def _first(self) -> dict[str, int]:
        return dict.fromkeys(self._given, self.budget.floor)

    def _further(self) -> dict[str, int]:
        """A round's samples, one after the other to the question that expects most of its next one.

        Within a round nothing is learnt, so each sample dealt lowers the question's expectation as if it had brought
        nothing new: by n / (n + 1).
        """
        heap: list[tuple[float, int, str]] = []
        for order, (name, keys) in enumerate(self._keys.items()):
            if self._given[name] < self.budget.cap:
                heap.append((-expected_new(keys, len(keys)), order, name))
        heapq.heapify(heap)
        wanted: Counter[str] = Counter()
        for _ in range(min(self._quota, self._left)):
            if not heap:
                break
            expected, order, name = heapq.heappop(heap)
            self.margin = -expected
            wanted[name] += 1
            drawn = self._given[name]
            if drawn + wanted[name] < self.budget.cap:
                later = expected * (drawn + wanted[name]) / (drawn + wanted[name] + 1)
                heapq.heappush(heap, (later, order, name))
        return dict(wanted)


def simulate(recorded: Mapping[str, Sequence[str | None]], budget: Budget, size: int = WINDOW) -> dict[str, int]:
    """How many samples each question would have been given, played from a recorded run.

    ``recorded``: for each question its samples' equation lists in sample order, None where not accepted. A question's
    samples end where the record ends: ``budget.cap`` is taken as at most the shortest record. Raises UserError if that is
    below k, or where nothing is recorded.
    """
    if not recorded:
        raise UserError("adaptive k: no finished question is stored to play it on; let 'rftfast sample' run on")
    longest = min(len(keys) for keys in recorded.values())
    if longest < budget.k:
        raise UserError(
            f"adaptive k: {budget.k} samples a question cannot be played on a record that has {longest} of one; name a k "
            "below that (a quarter of it shows all)"
        )
    limited = Budget(budget.k, budget.floor, min(budget.cap, longest))
    given: dict[str, int] = {}
    for names in windows(list(recorded), size):
        allocator = Allocator(names, limited)
        while round_ := allocator.next_round():
            for name, indices in round_.items():
                allocator.record(name, recorded[name][indices.start : indices.stop])
        given.update(allocator.given())
    return given


@dataclass(frozen=True)
class Comparison:
    """Adaptive k against plain k on one recorded run. Totals over its questions."""

    questions: int
    k: int
    cap: int
    adaptive_samples: int
    adaptive_tokens: int
    adaptive_distinct: int
    plain_tokens: int
    """Of the first k samples of every question."""
    plain_distinct: int
    plain_distinct_at_equal_tokens: float
    """Where plain k, more or fewer samples for every question alike, has used the adaptive run's tokens (interpolated)."""

    @property
    def gain(self) -> float:
        """Distinct verified paths for the same number of sampled tokens, adaptive over plain."""
        return self.adaptive_distinct / max(self.plain_distinct_at_equal_tokens, 1e-9)


def compare(questions: Iterable[StoredQuestion], budget: Budget, size: int = WINDOW) -> Comparison:
    """Plays ``budget`` on recorded questions and counts distinct verified paths and tokens. Raises as ``simulate``."""
    keys: dict[str, list[str | None]] = {}
    tokens: dict[str, list[int]] = {}
    for question in questions:
        samples = sorted(question.samples, key=lambda s: s["sample_index"])
        keys[question.id] = [equation_key(s["equations"]) if s["verdict"] == "correct" else None for s in samples]
        tokens[question.id] = [s["tokens"] for s in samples]
    given = simulate(keys, budget, size)
    spent = sum(sum(tokens[name][:n]) for name, n in given.items())
    longest = min(len(k) for k in keys.values())
    at = [sum(sum(t[:k]) for t in tokens.values()) for k in range(longest + 1)]
    found = [sum(_distinct(own, k) for own in keys.values()) for k in range(longest + 1)]
    return Comparison(
        questions=len(keys),
        k=budget.k,
        cap=min(budget.cap, longest),
        adaptive_samples=sum(given.values()),
        adaptive_tokens=spent,
        adaptive_distinct=sum(_distinct(keys[name], n) for name, n in given.items()),
        plain_tokens=at[budget.k],
        plain_distinct=found[budget.k],
        plain_distinct_at_equal_tokens=_interpolate(at, found, spent),
    )


def _distinct(keys: Sequence[str | None], n: int) -> int:
    return len({key for key in keys[:n] if key is not None})


def _interpolate(x: Sequence[int], y: Sequence[int], at: int) -> float:
    """y at ``at``, between the points of a rising x; beyond the last one, the last y."""
    i = bisect_left(x, at)
    if i == len(x):
        return float(y[-1])
    if i == 0 or x[i] == at:
        return float(y[i])
    share = (at - x[i - 1]) / (x[i] - x[i - 1])
    return y[i - 1] + share * (y[i] - y[i - 1])

"""Adaptive k at work: asks the engine for what the windows' allocators deal out, round by round.

Two windows are open at a time, so that the last paths of one's round are drawn beside the first of the other's. A question
stored by an earlier process is not drawn again: its samples are read from the run directory when its window needs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rftfast.data.parts import StoredQuestion
from rftfast.data.records import Question
from rftfast.engine.params import Request
from rftfast.errors import UserError
from rftfast.pipeline.budget import Allocator, Budget, windows
from rftfast.select.keys import equation_key

_OPEN_WINDOWS = 2


@dataclass(eq=False)
class _Window:
    allocator: Allocator
    names: tuple[str, ...]
    ask: deque[tuple[str, range]] = field(default_factory=deque)
    missing: int = 0
    """Requests of the round that have not come back."""
    results: dict[str, Sequence[str | None]] = field(default_factory=dict)


class AdaptiveDraws:
    """An iterable for ``Sampler.stream``; hand the paths of each request back with ``arrived``.

    Args:
        request: makes the request for some samples of a question.
        stored: ids of the questions that are in the run directory already.
        read: reads one of them.
        finished: called with the ids of a window whose samples are all there, those of ``stored`` left out.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        budget: Budget,
        request: Callable[[Question, tuple[int, ...]], Request],
        stored: set[str],
        read: Callable[[str], StoredQuestion],
        finished: Callable[[list[str]], None],
    ) -> None:
        self.budget = budget
        self._margins: list[float] = []
        self._questions = {q.id: q for q in questions}
        self._request, self._stored, self._read, self._finished = request, stored, read, finished
        self._coming = iter(windows([q.id for q in questions]))
        self._open: list[_Window] = []
        self._home: dict[str, _Window] = {}

    def __iter__(self) -> Iterator[Request | None]:
        while True:
            self._open_windows()
            asking = next((w for w in self._open if w.ask), None)
            if asking is not None:
                name, indices = asking.ask.popleft()
                yield self._request(self._questions[name], tuple(indices))
            elif self._open:
                yield None
            else:
                return

    def arrived(self, name: str, keys: Sequence[str | None]) -> None:
        """The paths of one request, judged: each one's equation list in sample order, None if it was not accepted."""
        window = self._home[name]
        window.results[name] = keys
        window.missing -= 1
        if window.missing == 0:
            self._record(window)
            self._next_round(window)

    @property
    def margin(self) -> float | None:
        """Expected new paths of the last sample dealt, averaged over the finished windows; None before the first."""
        return sum(self._margins) / len(self._margins) if self._margins else None

    def _open_windows(self) -> None:
        while len(self._open) < _OPEN_WINDOWS:
            names = next(self._coming, None)
            if names is None:
                return
            if not self._stored.issuperset(names):
                window = _Window(Allocator(names, self.budget), names)
                self._open.append(window)
                self._home.update(dict.fromkeys(names, window))
                self._next_round(window)

    def _next_round(self, window: _Window) -> None:
        while round_ := window.allocator.next_round():
            window.results = {}
            for name, indices in round_.items():
                if name in self._stored:
                    window.results[name] = self._stored_results(name, indices)
                else:
                    window.ask.append((name, indices))
                    window.missing += 1
            if window.missing:
                return
            self._record(window)
        self._close(window)

    def _record(self, window: _Window) -> None:
        for name, results in window.results.items():
            window.allocator.record(name, results)

    def _close(self, window: _Window) -> None:
        self._open.remove(window)
        for name in window.names:
            del self._home[name]
        if window.allocator.margin is not None:
            self._margins.append(window.allocator.margin)
        self._finished([name for name in window.names if name not in self._stored])

    def _stored_results(self, name: str, indices: range) -> list[str | None]:
        samples: Mapping[int, dict[str, object]] = {s["sample_index"]: s for s in self._read(name).samples}
        if not all(i in samples for i in indices):
            raise UserError(
                f"question {name!r} is stored with fewer samples than this budget gives it; the run directory was made "
                "by another version: use a new --out"
            )
        return [_stored_key(samples[i]) for i in indices]


def _stored_key(sample: Mapping[str, object]) -> str | None:
    equations = sample["equations"]
    assert isinstance(equations, list)
    return equation_key(equations) if sample["verdict"] == "correct" else None

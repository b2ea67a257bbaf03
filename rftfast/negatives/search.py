"""Which states are worth a rollout: all of a response's, or those that lead to its pit.

A state from which the right answer cannot be reached any more stays so until the response ends, so "no rollout is right"
can be searched for by bisection over the steps; and a single right rollout settles that a state is not of that kind, so
drawing from it can stop there. Both save rollouts and both spend those that remain where the pit may still be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

ROUND = 2  # rollouts drawn at a time where the first right one ends it


class StateTest:
    """The rollouts of one state: all ``most`` at once, or (``sequential``) a few at a time until one is right."""

    def __init__(self, most: int, *, sequential: bool) -> None:
        self.most = most
        self.sequential = sequential
        self.asked = 0
        self.outcomes: list[bool] = []

    def next(self) -> range:
        """Indices to draw now; none while some are out, or once it is decided."""
        if len(self.outcomes) < self.asked or self.decided:
            return range(0)
        start = self.asked
        self.asked = min(self.most, start + ROUND) if self.sequential else self.most
        return range(start, self.asked)

    def record(self, outcomes: Sequence[bool]) -> None:
        """Whether each rollout of the round was right, by index."""
        self.outcomes.extend(outcomes)
        assert len(self.outcomes) == self.asked, "a round is not recorded whole"

    @property
    def decided(self) -> bool:
        if not self.asked or len(self.outcomes) < self.asked:
            return False
        return len(self.outcomes) == self.most or (self.sequential and any(self.outcomes))

    @property
    def dead(self) -> bool:
        """No rollout from here was right."""
        assert self.decided
        return not any(self.outcomes)


class Search(Protocol):
    """Asks about states of one response; state i is the one after step i (0 is the question), the last is not asked for."""

    def wanted(self) -> list[int]:
        """States it must know of before it can go on, the longest first; none once it is done."""

    def tell(self, state: int, dead: bool) -> None: ...


class All:
    """Every state from ``first`` to the last but one of ``steps``."""

    def __init__(self, steps: int, first: int = 1) -> None:
        self._open = dict.fromkeys(range(steps - 1, first - 1, -1))

    def wanted(self) -> list[int]:
        return list(self._open)

    def tell(self, state: int, dead: bool) -> None:
        self._open.pop(state, None)


class Bisection:
    """The first dead state of a wrong response of ``steps`` steps; its end is one."""

    def __init__(self, steps: int) -> None:
        self._alive, self._dead = 0, steps

    def wanted(self) -> list[int]:
        return [] if self._dead - self._alive <= 1 else [(self._alive + self._dead) // 2]

    def tell(self, state: int, dead: bool) -> None:
        if self._alive < state < self._dead:
            if dead:
                self._dead = state
            else:
                self._alive = state

    @property
    def pit(self) -> int:
        """The step that led there, from 1, once it is done."""
        assert not self.wanted()
        return self._dead

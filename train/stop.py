"""SIGTERM and Ctrl-C: noted, and acted on between two rows, when everything can be saved."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from rftfast.train.parallel import World

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Training was told to stop and has saved. ``number`` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class StopSignals:
    """While it is open, the first SIGTERM or SIGINT is noted; a second one acts as ever."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def asked(self) -> int:
        """The signal that any process got, or 0; the same answer in all. A collective."""
        if self._world.size == 1:
            return self._seen
        return max(self._world.gather(self._seen))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

"""The monitor: someone outside who may end a path while it is being drawn.

The engine calls it when a token brings one of the bytes it waits for, and does not ask why it ends a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class DrawnPath:
    """A path as its monitor sees it: whose it is and the text so far."""

    def __init__(self, name: str, sample_index: int, token_bytes: Sequence[bytes], drawn: Sequence[int]) -> None:
        self.name = name
        self.sample_index = sample_index
        self._token_bytes = token_bytes
        self._drawn = drawn

    @property
    def text(self) -> str:
        """What has been drawn, the newest token included; a character that is not whole yet is a replacement mark."""
        return b"".join([self._token_bytes[t] for t in self._drawn]).decode(errors="replace")

    @property
    def newest(self) -> int:
        """Bytes that the newest token brought."""
        return len(self._token_bytes[self._drawn[-1]])


class Monitor(Protocol):
    """Ends paths early. A function of the path alone, or the promise that paths depend on their names alone is broken."""

    triggers: bytes
    """It is called when a token holds one of these bytes."""

    def __call__(self, path: DrawnPath) -> str | None:
        """None to go on; else why the path ends with its newest token, which becomes its ``finish_reason``."""


class Watch:
    """A monitor over one vocabulary. ``token_bytes[i]`` is what token i adds to the text."""

    def __init__(self, monitor: Monitor, token_bytes: Sequence[bytes]) -> None:
        wanted = set(monitor.triggers)
        self._monitor = monitor
        self._token_bytes = token_bytes
        self._triggers = np.array([not wanted.isdisjoint(b) for b in token_bytes], dtype=bool)

    def verdict(self, name: str, sample_index: int, drawn: Sequence[int]) -> str | None:
        """The monitor's word on a path that has just got its last token."""
        if not self._triggers[drawn[-1]]:
            return None
        return self._monitor(DrawnPath(name, sample_index, self._token_bytes, drawn))

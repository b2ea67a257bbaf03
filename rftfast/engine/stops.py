"""Stop strings, also across token borders, at next to no cost a token.

A stop string can only be complete once its last byte has been drawn, so only tokens that hold the last byte of some
stop string make us look, and then only at the end of the path.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class StopStrings:
    """The stop strings of one request over one vocabulary. ``token_bytes[i]`` is what token i adds to the text."""

    def __init__(self, stops: Sequence[str], token_bytes: Sequence[bytes]) -> None:
        self.stops = tuple(s.encode() for s in stops)
        self._bytes = token_bytes
        last = {s[-1] for s in self.stops}
        self.triggers = np.array([not last.isdisjoint(b) for b in token_bytes], dtype=bool) if last else None

    def found(self, tokens: Sequence[int], start: int) -> bool:
        """Whether the text of ``tokens[start:]`` has come to hold a stop string with its last token."""
        if self.triggers is None or not self.triggers[tokens[-1]]:
            return False
        newest = len(self._bytes[tokens[-1]])
        for stop in self.stops:
            tail = b""
            for token in reversed(tokens[start:]):
                tail = self._bytes[token] + tail
                if len(tail) >= newest + len(stop) - 1:
                    break
            if stop in tail[-(newest + len(stop) - 1) :]:
                return True
        return False


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first stop string in it."""
    ends = [at for at in (text.find(s) for s in stops) if at >= 0]
    return text[: min(ends)] if ends else text

"""Stop strings, also across token borders, at next to no cost a token.

A stop string can only be complete once its last byte has been drawn, so only tokens that hold the last byte of some
stop string make us look, and then only at the end of the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from rftfast.engine.params import SamplingParams
from rftfast.ops.stops import EOS, TEXT


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


class Endings:
    """What ends paths, by their sampling parameters. Made once for each, so that equal ones are the same object."""

    def __init__(self, vocab_size: int, eos_ids: Sequence[int], token_bytes: Callable[[int], list[bytes]]) -> None:
        """``token_bytes``: of the vocabulary's size, what each token adds to the text; asked when it is needed."""
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._read = token_bytes
        self._strings: dict[tuple[str, ...], StopStrings] = {}
        self._tokens: dict[tuple[tuple[str, ...], bool], np.ndarray] = {}

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return self._read(self._vocab_size)

    def strings(self, p: SamplingParams) -> StopStrings | None:
        if p.stop and p.stop not in self._strings:
            self._strings[p.stop] = StopStrings(p.stop, self.token_bytes)
        return self._strings.get(p.stop)

    def tokens(self, p: SamplingParams) -> np.ndarray:
        """uint8 [V]: which tokens end a path, and after which its text must be looked at (``ops.stops``)."""
        if (p.stop, p.ignore_eos) not in self._tokens:
            flags = np.zeros(self._vocab_size, dtype=np.uint8)
            stops = self.strings(p)
            if stops is not None and stops.triggers is not None:
                flags[stops.triggers] = TEXT
            if not p.ignore_eos:
                flags[self._eos_ids] |= EOS
            self._tokens[p.stop, p.ignore_eos] = flags
        return self._tokens[p.stop, p.ignore_eos]


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first stop string in it."""
    ends = [at for at in (text.find(s) for s in stops) if at >= 0]
    return text[: min(ends)] if ends else text

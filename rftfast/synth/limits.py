"""How fast one may ask: requests and tokens a minute, back-off after errors, and what a server says of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from rftfast.errors import UserError

_LONGEST_S = 60.0
_LONGEST_ASKED_S = 600.0  # a server that asks for more is taken at this much, and asked again then


@dataclass(frozen=True)
class Rates:
    """Limits a minute; None is none. ``retries``: further attempts after a failed one; ``backoff_s``: before the first of
    them, doubled for each next one up to a minute."""

    requests: float | None = None
    tokens: float | None = None
    retries: int = 6
    backoff_s: float = 1.0
    timeout_s: float = 120.0
    """Of one request, from its first byte to its answer's last."""

    def __post_init__(self) -> None:
        for name, value in (("requests", self.requests), ("tokens", self.tokens)):
            if value is not None and value <= 0:
                raise UserError(f"{name} a minute: {value}; use a positive number")
        if self.retries < 0:
            raise UserError(f"retries is {self.retries}: use 0 or more")
        if self.backoff_s < 0 or self.timeout_s <= 0:
            raise UserError(f"back-off {self.backoff_s} s, timeout {self.timeout_s} s: use positive numbers")


class Gate:
    """Everyone waits here before asking. Two buckets that fill evenly, and a pause for all where the server wants one."""

    def __init__(
        self,
        rates: Rates,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._requests = _Bucket(rates.requests, clock())
        self._tokens = _Bucket(rates.tokens, clock())
        self._closed_until = 0.0

    async def enter(self, tokens: float) -> None:
        """Wait for one's turn; ``tokens`` are what the request is expected to take."""
        while True:
            now = self._clock()
            wait = max(self._closed_until - now, self._requests.wait(1, now), self._tokens.wait(tokens, now))
            if wait <= 0:
                self._requests.take(1)
                self._tokens.take(tokens)
                return
            await self._sleep(wait)

    def settle(self, expected: float, used: float) -> None:
        """A request took ``used`` tokens."""
        self._tokens.take(used - expected)

    def pause(self, seconds: float) -> None:
        """Nobody asks for so long."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)


class _Bucket:
    """Holds a minute's worth at most, a tenth of it to begin with; asking for more than it can hold needs a full one."""

    def __init__(self, a_minute: float | None, now: float) -> None:
        self._rate = None if a_minute is None else a_minute / 60
        self._most = a_minute or 0.0
        self._level = max(1.0, self._most / 10)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        if self._rate is None:
            return 0.0
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return (min(amount, self._most) - self._level) / self._rate

    def take(self, amount: float) -> None:
        self._level -= amount


def backoff(rates: Rates, name: str, attempt: int) -> float:
    """Seconds before attempt ``attempt`` (from 1): doubling, with a share drawn by name so that not all come back at once."""
    whole = min(_LONGEST_S, rates.backoff_s * 2 ** (attempt - 1))
    return whole * (0.5 + random.Random(f"{name} {attempt}").random() / 2)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a server asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as a date; None if it does
    not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        try:
            return min(_LONGEST_ASKED_S, max(0.0, float(said) * unit))
        except ValueError:
            pass
        try:
            return min(_LONGEST_ASKED_S, max(0.0, parsedate_to_datetime(said).timestamp() - now()))
        except (ValueError, TypeError):
            continue  # no date either: the server said nothing of use
    return None

"""Several engines behind the interface of one: questions are dealt out, paths come back, each exactly once.

A request goes whole to one engine, so that its prompt is shared there. What an engine that is lost had not sent back is
dealt to the others; since a path depends on its name alone, who draws it makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from rftfast.engine.monitor import Monitor
from rftfast.engine.params import Generation, Request
from rftfast.engine.stats import Stats
from rftfast.errors import UserError
from rftfast.pipeline.engine_host import Collected, Described

_WAIT_S = 0.2
T = TypeVar("T")
_AHEAD = 2  # times an engine's batch that is dealt to it before its paths come back


class EngineLost(Exception):
    """The process or actor is gone; the message says what is known of it."""


class Remote(Protocol):
    """One engine, seen from the parent. Every method may raise ``EngineLost``."""

    name: str

    def describe(self) -> Described: ...
    def check(self, request: Request) -> str | None: ...
    def start(self, monitor: Monitor | None) -> None: ...
    def submit(self, request: Request) -> None: ...
    def ask(self, wait_s: float) -> None:
        """Asks for what has ended; ``answer`` takes it."""

    def answer(self) -> Collected:
        """The answer to the last ``ask``."""

    def close(self) -> None:
        """Ends it; never raises."""


Ready = Callable[[Sequence[Remote]], Sequence[Remote]]
"""Waits until one of the remotes that were asked has an answer, or is lost; gives those that do."""


@dataclass(eq=False)
class _Engine:
    remote: Remote
    described: Described
    missing: dict[tuple[str, int], Request] = field(default_factory=dict)
    """Paths that have not come back, and the requests that they are of."""
    stats: Stats = field(default_factory=Stats)
    asked: bool = False
    """An answer is on its way."""

    def check(self, request: Request) -> str | None:
        self._drop_answer()
        return self.remote.check(request)

    def start(self, monitor: Monitor | None) -> None:
        self._drop_answer()
        self.missing = {}
        self.remote.start(monitor)

    def ask(self) -> None:
        self.asked = True
        self.remote.ask(_WAIT_S)

    def answer(self) -> Collected:
        self.asked = False
        return self.remote.answer()

    def _drop_answer(self) -> None:
        """Takes what a stream that was left early had asked for."""
        if self.asked:
            self.answer()

    def wants_more(self) -> bool:
        return len(self.missing) < _AHEAD * self.described.max_running


class Fleet:
    """Draws like ``Sampler``. Raises UserError if the engines would not draw the same (dtype, invariance)."""

    def __init__(self, remotes: Sequence[Remote], ready: Ready) -> None:
        assert remotes
        self._ready = ready
        self.lost: list[str] = []
        """What is known of the engines that were lost."""
        self._gone = Stats()
        self._streaming = False
        self._engines: list[_Engine] = []
        try:
            self._engines = [_Engine(remote, remote.describe()) for remote in remotes]
        except (EngineLost, UserError) as error:
            for remote in remotes:
                remote.close()
            raise error if isinstance(error, UserError) else UserError(f"an engine did not start: {error}") from None
        kinds = {(e.described.dtype, e.described.invariant) for e in self._engines}
        if len(kinds) > 1:
            self.close()
            raise UserError(f"the engines differ in dtype or invariance ({sorted(kinds)}): set --dtype and --invariant")
        self.described = self._engines[0].described
        self.places = tuple(e.remote.name for e in self._engines)

    @property
    def dtype(self) -> str:
        return self.described.dtype

    @property
    def invariant(self) -> bool:
        return self.described.invariant

    @property
    def stats(self) -> Stats:
        """Sums over the engines."""
        total = replace(self._gone)
        for engine in self._engines:
            total.add(engine.stats)
        return total

    def check_request(self, request: Request) -> None:
        """Raises UserError if the request can never be served by one of the engines. Not while paths are being drawn."""
        assert not self._streaming, "what is being answered is paths"
        for engine in list(self._engines):
            why = self._guard(engine, [], partial(engine.check, request))
            if why is not None:
                raise UserError(why)

    def stream(self, requests: Iterable[Request | None], monitor: Monitor | None = None) -> Iterator[Generation]:
        """As ``Sampler.stream``. An engine that is lost is noted in ``lost``; without any left, UserError."""
        if self._streaming:
            raise UserError("these engines are still drawing: exhaust or close their other stream first")
        self._streaming = True
        try:
            yield from self._draw(iter(requests), monitor)
        finally:
            self._streaming = False

    def _draw(self, source: Iterator[Request | None], monitor: Monitor | None) -> Iterator[Generation]:
        again: list[Request] = []  # what lost engines had not drawn
        for engine in list(self._engines):
            self._guard(engine, again, partial(engine.start, monitor))
        more = True
        while True:
            more = self._deal(source, again, more)
            busy = [e for e in self._engines if e.missing]
            if not busy:
                assert not more and not again, "the source waits for paths and none is being drawn"
                return
            for engine in busy:
                if not engine.asked:
                    self._guard(engine, again, engine.ask)
            waiting = [e.remote for e in self._engines if e.asked]
            for remote in self._ready(waiting) if waiting else ():
                engine = next(e for e in self._engines if e.remote is remote)
                collected = self._guard(engine, again, engine.answer)
                if collected is None:
                    continue
                engine.stats = collected.stats
                for generation in collected.generations:
                    del engine.missing[generation.name, generation.sample_index]
                    yield generation
                if collected.error is not None:
                    raise UserError(collected.error)

    def close(self) -> None:
        for engine in self._engines:
            engine.remote.close()

    def _deal(self, source: Iterator[Request | None], again: list[Request], more: bool) -> bool:
        """Gives requests to the engines that have least to do; returns whether the source has more."""
        while True:
            open_ = [e for e in self._engines if e.wants_more()]
            if not open_:
                return more
            if again:
                request: Request | None = again.pop()
            elif more:
                request = next(source, _END)
                if request is _END:
                    return False
            else:
                return False
            if request is None:
                return True
            engine = min(open_, key=lambda e: len(e.missing))
            engine.missing.update(((request.name, i), request) for i in request.indices())
            self._guard(engine, again, partial(engine.remote.submit, request))

    def _guard(self, engine: _Engine, again: list[Request], call: Callable[[], T]) -> T | None:
        """``call``, or None where the engine turns out to be lost; its unfinished paths go to ``again``."""
        try:
            return call()
        except EngineLost as error:
            self._engines.remove(engine)
            self.lost.append(f"{engine.remote.name}: {error}")
            self._gone.add(engine.stats)
            engine.remote.close()
            left: dict[
                int, tuple[Request, list[int]]
            ] = {}  # by identity: a name may have been asked for more than once
            for (_, index), request in engine.missing.items():
                left.setdefault(id(request), (request, []))[1].append(index)
            again += [replace(request, samples=tuple(indices)) for request, indices in left.values()]
            if not self._engines:
                raise UserError(f"no engine is left; {'; '.join(self.lost)}") from None
            return None


_END: Request = Request("", ())

"""An engine somewhere else: the side that runs in the worker, the same for processes and Ray actors."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rftfast.engine.monitor import Monitor
from rftfast.engine.params import Generation, Request
from rftfast.engine.sampler import Sampler
from rftfast.engine.stats import Stats
from rftfast.errors import UserError


@dataclass(frozen=True)
class Described:
    """What the parent shows of an engine, and what it must know."""

    dtype: str
    invariant: bool
    kernels: str
    memory: tuple[str, ...]
    max_running: int


@dataclass(frozen=True)
class Collected:
    """Paths that ended since the last time, and the engine's counters. ``error``: it has stopped, and why."""

    generations: list[Generation] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)
    error: str | None = None


class EngineHost:
    """Loads a ``Sampler`` and draws on a thread of its own what is submitted, until closed.

    ``options`` are those of ``Sampler.from_pretrained``. Raises UserError as it does.
    """

    def __init__(self, folder: str, options: Mapping[str, Any]) -> None:
        self._sampler = Sampler.from_pretrained(folder, **options)
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Generation | str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def describe(self) -> Described:
        s = self._sampler
        backend, why = s.decoder.ops.backends["attention"]
        return Described(s.dtype, s.invariant, f"{backend} ({why})", tuple(s.memory.lines()), s.scheduler.max_running)

    def check(self, request: Request) -> str | None:
        """Why the request can never be served, or None."""
        try:
            self._sampler.check_request(request)
        except UserError as error:
            return str(error)
        return None

    def start(self, monitor: Monitor | None) -> None:
        """Begins a stream; ends the one before, whose paths are lost."""
        self.close()
        self._requests, self._done = queue.SimpleQueue(), queue.SimpleQueue()
        self._thread = threading.Thread(target=self._draw, args=(monitor,), daemon=True, name="engine")
        self._thread.start()

    def submit(self, request: Request) -> None:
        self._requests.put(request)

    def collect(self, wait_s: float) -> Collected:
        """What has ended; waits up to ``wait_s`` seconds for the first."""
        found: list[Generation] = []
        try:
            item = self._done.get(timeout=wait_s)
            while True:
                if isinstance(item, str):
                    return Collected(found, self._sampler.stats, item)
                found.append(item)
                item = self._done.get_nowait()
        except queue.Empty:
            return Collected(found, self._sampler.stats)

    def close(self) -> None:
        """Ends the stream when the paths being drawn are done."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join()
            self._thread = None

    def _draw(self, monitor: Monitor | None) -> None:
        try:
            for generation in self._sampler.stream(self._source(), monitor):
                self._done.put(generation)
        except UserError as error:
            self._done.put(str(error))
        except Exception as error:  # told to the parent, which raises it: here nobody would see it
            self._done.put(f"an engine failed: {type(error).__name__}: {error}")

    def _source(self) -> Iterator[Request | None]:
        while True:
            try:
                request = self._requests.get(block=not self._sampler.scheduler.busy)
            except queue.Empty:
                yield None
                continue
            if request is None:
                return
            yield request

"""Worker processes that compare LaTeX answers and can be killed: an expression bomb costs one of them, never the run."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rftfast.errors import UserError

SAME, DIFFERENT, TIMEOUT = "same", "different", "timeout"
_REMEMBERED = 1 << 16
# What a pair may take on the clock, in deadlines: workers share the processors with an engine that uses them all.
_PATIENCE = 12 if hasattr(signal, "setitimer") else 1
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class MathLimits:
    """Bounds on LaTeX comparison.

    ``deadline_s``: seconds of processor time for one pair of answers, so that a busy machine says what an idle one says
    (on the clock twelve times as much, and as much where the system cannot count processor time); ``max_chars``:
    characters of an answer that is still handed over; ``workers``: processes; ``renew_after``: pairs after which a worker
    makes way for a fresh one; ``start_s``: seconds that a worker may take to load math-verify; ``memory_mib``: address
    space of a worker.
    """

    deadline_s: float = 5.0
    max_chars: int = 400
    workers: int = 2
    renew_after: int = 1000
    start_s: float = 120.0
    memory_mib: int = 2048

    def __post_init__(self) -> None:
        for name in ("deadline_s", "max_chars", "workers", "renew_after", "start_s", "memory_mib"):
            if getattr(self, name) <= 0:
                raise UserError(f"math: {name} is {getattr(self, name)}; use a number above 0")


@cache
def require_math_verify() -> None:
    """Raises ``UserError`` where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("math: comparing LaTeX answers needs math-verify; install it with pip install 'rftfast[math]'")


class _Worker:
    """One process and the pair it works on."""

    def __init__(self, limits: MathLimits) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rftfast.verify.math_worker", str(limits.memory_mib), str(limits.deadline_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,  # where the package lies, however this process came to find it
            bufsize=0,
        )
        self.ready = False
        self.served = 0
        self.item: int | None = None
        self.deadline = time.monotonic() + limits.start_s
        self._read = b""

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def send(self, item: int, gold: str, answer: str, deadline: float) -> bool:
        """False where the process has gone."""
        assert self._process.stdin is not None
        line = json.dumps({"id": item, "gold": gold, "answer": answer}) + "\n"
        try:
            self._process.stdin.write(line.encode("ascii"))
        except OSError:
            return False
        self.item, self.deadline = item, deadline
        self.served += 1
        return True

    def receive(self) -> list[dict[str, object]] | None:
        """The replies that have come in; None where the process has ended."""
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._read = (self._read + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> int:
        self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return status


class MathPool:
    """Compares pairs of LaTeX answers with math-verify. May be used from any thread; one batch at a time runs."""

    def __init__(self, limits: MathLimits = MathLimits()) -> None:
        self.limits = limits
        self.killed = 0  # workers that overran the deadline or died
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._owner = os.getpid()
        atexit.register(self._end_all)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """``same``, ``different`` or ``timeout`` for each (gold, answer). A pair met before is not compared again.

        Raises ``UserError`` where math-verify is missing or cannot be started.
        """
        require_math_verify()
        with self._lock:
            if self._owner != os.getpid():  # a fork: the workers are the parent's
                self._workers, self._owner = [], os.getpid()
            found: dict[tuple[str, str], str] = {}
            todo: list[tuple[str, str]] = []
            for pair in dict.fromkeys(pairs):
                if pair in self._known:
                    self._known.move_to_end(pair)
                    found[pair] = self._known[pair]
                elif max(map(len, pair)) > self.limits.max_chars:
                    found[pair] = TIMEOUT
                else:
                    todo.append(pair)
            if todo:
                try:
                    results = self._run(todo)
                finally:
                    # Left early (an error, Ctrl-C): what is still calculating must not answer the next batch.
                    for worker in [w for w in self._workers if w.item is not None]:
                        self._drop(worker)
                for pair, result in zip(todo, results, strict=True):
                    found[pair] = self._known[pair] = result
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            return [found[pair] for pair in pairs]

    def close(self) -> None:
        """End all workers; a later ``compare`` starts new ones."""
        with self._lock:
            self._end_all()

    def _end_all(self) -> None:
        if self._owner == os.getpid():
            for worker in list(self._workers):
                self._drop(worker)

    def _drop(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.end()

    def _run(self, todo: list[tuple[str, str]]) -> list[str]:
        results: list[str | None] = [None] * len(todo)
        waiting = deque(range(len(todo)))
        while None in results:
            for worker in [w for w in self._workers if w.ready and w.item is None]:
                if worker.served >= self.limits.renew_after:
                    self._drop(worker)
                    continue
                if not waiting:
                    break
                deadline = time.monotonic() + _PATIENCE * self.limits.deadline_s
                if worker.send(waiting[0], *todo[waiting[0]], deadline):
                    waiting.popleft()
                else:
                    self._drop(worker)
            starting = sum(not w.ready for w in self._workers)
            while len(self._workers) < self.limits.workers and starting < len(waiting):
                self._workers.append(_Worker(self.limits))
                starting += 1
            self._wait(results)
        return [result for result in results if result is not None]

    def _wait(self, results: list[str | None]) -> None:
        """Until a reply, an end, or a deadline."""
        active = [w for w in self._workers if w.item is not None or not w.ready]
        with selectors.DefaultSelector() as selector:
            for worker in active:
                selector.register(worker, selectors.EVENT_READ, worker)
            left = min(w.deadline for w in active) - time.monotonic()
            heard = [key.data for key, _ in selector.select(max(left, 0.0))]
        for worker in heard:
            replies = worker.receive()
            if replies is None:
                self._lost(worker, results)
                continue
            for reply in replies:
                if "ready" in reply:
                    worker.ready = True
                    continue
                assert reply["id"] == worker.item, (reply, worker.item)
                results[worker.item] = {True: SAME, False: DIFFERENT, None: TIMEOUT}[reply["same"]]  # type: ignore[index]
                worker.item = None
        now = time.monotonic()
        for worker in active:
            if worker not in heard and worker.deadline <= now:
                self._lost(worker, results)

    def _lost(self, worker: _Worker, results: list[str | None]) -> None:
        status = self._drop(worker)
        self.killed += 1
        if not worker.ready:
            raise UserError(
                f"math: a worker ended with status {status} while loading math-verify; "
                "run python -m rftfast.verify.math_worker 2048 5 to see why"
            )
        if worker.item is not None:
            results[worker.item] = TIMEOUT

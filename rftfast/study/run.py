"""Runs the steps that are not done, several at a time, each as a process of its own, and goes on past those that fail."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from rftfast.cores import usable_cores
from rftfast.data.atomic import write_errors
from rftfast.data.lock import RunLock
from rftfast.study.graph import Step, dependents
from rftfast.study.state import DONE, FAILED, LOG_FILE, State, log_tail, read_state

_POLL_S = 0.1
_STOP_S = 60.0  # a trainer that is asked to stop writes a checkpoint first


@dataclass
class Outcome:
    """Names of steps. ``blocked``: not run, because a step they build on failed."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)


@dataclass
class _Running:
    step: Step
    state: State
    process: subprocess.Popen[bytes]
    log: BinaryIO
    began: float


def run_study(graph: dict[str, Step], out: Path, jobs: int, say: Callable[[str], None]) -> Outcome:
    """Run what is not done, ``jobs`` steps at a time.

    A step that fails takes those that build on it with it; all others go on. Started again, done steps stay done, and a step
    that was killed is run again in its folder, where the commands behind it go on from what they find.

    Raises:
        UserError: another process runs this study, or the disk refuses.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the running steps have been asked to stop and have stopped.
    """
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out)
    try:
        with _Signals() as signals:
            return _Runner(graph, jobs, say, signals).run()
    finally:
        lock.release()


class _Signals:
    """While it is open, the first SIGTERM or Ctrl-C is noted; a second one acts as ever.

    Noted, not raised where it strikes: an exception from a handler is lost when it strikes in a callback, such as those that
    Python runs when it starts a process.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Runner:
    def __init__(self, graph: dict[str, Step], jobs: int, say: Callable[[str], None], signals: _Signals) -> None:
        self.graph = graph
        self.signals = signals
        self.jobs = jobs
        self.say = say
        self.threads = max(1, usable_cores() // jobs)
        self.outcome = Outcome()
        self.running: list[_Running] = []

    def run(self) -> Outcome:
        states = {name: read_state(step) for name, step in self.graph.items()}
        self.outcome.done = [name for name, state in states.items() if state.status == DONE]
        waiting = [name for name in self.graph if states[name].status != DONE]
        try:
            while waiting or self.running:
                if self.signals.asked:
                    raise KeyboardInterrupt
                self._reap()
                blocked = dependents(self.graph, self.outcome.failed)
                self.outcome.blocked = [name for name in waiting if name in blocked]
                ready = [name for name in waiting if name not in blocked and self._ready(name)]
                if not ready and not self.running:
                    break
                for name in ready[: self.jobs - len(self.running)]:
                    waiting.remove(name)
                    self._start(self.graph[name], states[name])
                time.sleep(_POLL_S)
        except BaseException:
            self._stop_all()
            raise
        return self.outcome

    def _ready(self, name: str) -> bool:
        return all(other in self.outcome.done for other in self.graph[name].after)

    def _start(self, step: Step, state: State) -> None:
        command = step.command(self.threads)
        again = " again" if state.started else ""
        state = State(state.name, state.kind, state.key, state.status, command, state.seconds).begun()
        with write_errors(step.folder):
            state.write(step.folder)
            log = (step.folder / LOG_FILE).open("ab")
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
        self.say(f"{step.name}: started{again} ({step.kind.name})")
        # Not the terminal's Ctrl-C: the runner asks each step to stop, and waits for it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
            env=_environment(self.threads),
        )
        self.running.append(_Running(step, state, process, log, time.monotonic()))

    def _reap(self) -> None:
        for one in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(one)
            self._end(one)

    def _end(self, one: _Running) -> None:
        one.log.close()
        state = one.state.ended(one.process.returncode, time.monotonic() - one.began)
        state.write(one.step.folder)
        name = one.step.name
        if state.status == DONE:
            self.outcome.done.append(name)
            total = len(self.graph)
            self.say(f"{name}: done in {duration(state.seconds)} ({len(self.outcome.done)} of {total})")
            return
        self.outcome.failed.append(name)
        for line in failure(one.step, state):
            self.say(line)

    def _stop_all(self) -> None:
        for one in self.running:
            one.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for one in self.running:
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            one.log.close()
            # Not failed: the step was stopped, and goes on.
            seconds = one.state.seconds + time.monotonic() - one.began
            State(**{**vars(one.state), "seconds": round(seconds, 3)}).write(one.step.folder)


def failure(step: Step, state: State) -> list[str]:
    """What there is to say of a failed step: how it ended, its last words, and how to run it alone."""
    status = state.exit_status
    how = f"exit status {status}"
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        how = f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [f"{step.name}: FAILED, {how}; the end of {step.folder / LOG_FILE}:"]
    lines += [f"    {line}" for line in log_tail(step)]
    return [*lines, f"  to run it alone: {shlex.join(state.command)}"]


def statuses(graph: dict[str, Step]) -> dict[str, State]:
    return {name: read_state(step) for name, step in graph.items()}


def failed_steps(graph: dict[str, Step]) -> list[tuple[Step, State]]:
    return [(graph[name], state) for name, state in statuses(graph).items() if state.status == FAILED]


def _environment(threads: int) -> dict[str, str]:
    # Libraries that count the cores for themselves would take them all, though several steps run at once.
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux: the kernel ends a step whose runner was killed, so that a study that goes on finds no other at work."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        library.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was killed just now
            os._exit(1)

    return prepare


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"

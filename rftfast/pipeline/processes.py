"""Engines in processes of their own on this machine, one for each device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from rftfast.engine.monitor import Monitor
from rftfast.engine.params import Request
from rftfast.errors import UserError
from rftfast.pipeline.engine_host import Collected, Described, EngineHost
from rftfast.pipeline.fleet import EngineLost, Fleet

_CLOSE_S = 5.0


class ProcessEngine:
    """A ``fleet.Remote``: a child process with an ``EngineHost``, called through a pipe."""

    def __init__(self, folder: str, options: Mapping[str, Any]) -> None:
        self.name = f"engine on {options['device']}"
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_child, args=(there, folder, dict(options)), daemon=True, name=self.name)
        self.process.start()
        there.close()

    def describe(self) -> Described:
        found = self._result()  # the first thing it sends
        assert isinstance(found, Described)
        return found

    def check(self, request: Request) -> str | None:
        self._call("check", request)
        found = self._result()
        assert found is None or isinstance(found, str)
        return found

    def start(self, monitor: Monitor | None) -> None:
        self._call("start", monitor)
        self._result()

    def submit(self, request: Request) -> None:
        self._call("submit", request)

    def ask(self, wait_s: float) -> None:
        self._call("collect", wait_s)

    def answer(self) -> Collected:
        found = self._result()
        assert isinstance(found, Collected)
        return found

    def close(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_CLOSE_S)
            if self.process.is_alive():
                self.process.kill()

    def _call(self, method: str, argument: object) -> None:
        try:
            self.pipe.send((method, argument))
        except OSError:
            raise EngineLost(self._fate()) from None

    def _result(self) -> object:
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            raise EngineLost(self._fate()) from None
        if isinstance(found, UserError):
            raise found
        return found

    def _fate(self) -> str:
        self.process.join(_CLOSE_S)
        code = self.process.exitcode
        if code is None:
            return "it does not answer"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


def process_fleet(folder: str, devices: Sequence[str], options: Mapping[str, Any]) -> Fleet:
    """One engine for each of ``devices``. ``options``: as ``Sampler.from_pretrained``, without the device.

    The machine's threads and, for several engines on one device, its KV memory are the caller's to divide.
    """
    engines = [ProcessEngine(folder, {**options, "device": device}) for device in devices]
    for number, engine in enumerate(engines):
        engine.name += f" ({number})"
    return Fleet(engines, _ready)


def _ready(remotes: Sequence[Any]) -> Sequence[Any]:
    found = wait([remote.pipe for remote in remotes])
    return [remote for remote in remotes if remote.pipe in found]


def _child(pipe: Connection, folder: str, options: dict[str, Any]) -> None:
    _serve(pipe, folder, options)
    # Nothing is left to tidy up, and a thread that still draws would be torn down with Python, which ends in an abort.
    os._exit(0)


def _serve(pipe: Connection, folder: str, options: dict[str, Any]) -> None:
    """The child: loads the engine, then answers calls until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    calls: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_take_calls, args=(pipe, calls), daemon=True, name="calls").start()
    try:
        host = EngineHost(folder, options)
        _answer(pipe, host.describe())
        while (call := calls.get()) is not None:
            method, argument = call
            result = getattr(host, method)(argument)
            if method != "submit":
                _answer(pipe, result)
    except UserError as error:
        _answer(pipe, error)


def _take_calls(pipe: Connection, calls: queue.SimpleQueue[tuple[str, Any] | None]) -> None:
    """Calls are taken as they come: were both sides busy sending, each would wait for the other to read."""
    try:
        while True:
            calls.put(pipe.recv())
    except (EOFError, OSError):  # the parent is gone, or has closed us
        calls.put(None)


def _answer(pipe: Connection, value: object) -> None:
    with contextlib.suppress(OSError):  # likewise: there will be no further call
        pipe.send(value)

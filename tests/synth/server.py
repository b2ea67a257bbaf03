"""A teacher behind a real HTTP server on this machine, which misbehaves as it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = {
    "who": ["Mia", "Ben", "Old Tom", "The baker", "My aunt", "A farmer", "Nora", "Captain Reed", "The clerk", "Lena"],
    "verb": ["keeps", "finds", "carries", "counts", "paints", "sells", "buys", "stacks", "owns", "mends"],
    "what": [
        "pens",
        "boats",
        "red apples",
        "tin cups",
        "maps",
        "wool socks",
        "bricks",
        "lamps",
        "jars of jam",
        "kites",
    ],
    "where": [
        "in the attic",
        "by the river",
        "at the market",
        "on two shelves",
        "near the old mill",
        "behind the barn",
    ],
    "then": ["Later", "On Sunday", "After lunch", "A week on", "Before dark", "That evening"],
    "gift": ["a friend brings", "the neighbours leave", "the post delivers", "a cousin sends", "the shop adds"],
}
Fault = Callable[[int], str | tuple[int, bytes] | None]
FAULTS = (
    "500",
    "429",
    "cut json",
    "cut body",
    "html",
    "no choices",
    "drip",
    "hang",
    "close",
    "503",
    "no text",
    "bad bytes",
)


def toy_problem(key: str) -> tuple[str, int]:
    """A problem with its answer, a function of ``key``."""
    draw = random.Random(key)
    w = {name: draw.choice(words) for name, words in WORDS.items()}
    a, b = draw.randrange(2, 90), draw.randrange(2, 90)
    text = f"{w['who']} {w['verb']} {a} {w['what']} {w['where']}. {w['then']} {w['gift']} {b} more. How many are there now?"
    return text, a + b


def solve(problem: str, i: int) -> str:
    """The i-th solution; of one problem in six two of four are wrong, of one in seven the calculations are."""
    a, b = (int(word) for word in problem.split() if word.isdigit())
    kind = int(hashlib.blake2b(problem.encode(), digest_size=4).hexdigest(), 16)
    total = a + b + (7 if kind % 6 == 0 and i % 2 else 0)
    shown = a + b + 1 if kind % 7 == 0 else total
    return f"There are {a}+{b} = <<{a}+{b}={shown}>>{total} in all{'.' * i}\n#### {total}"


class TeacherServer(ThreadingHTTPServer):
    """``fault(number)`` says how request ``number`` (from 0) goes wrong, None if it does not; or it is the status and the
    body that are sent instead."""

    daemon_threads = True

    def __init__(self, fault: Fault = lambda number: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.key_echo = ""
        self.one_choice = False
        self.no_usage = False
        self.delay = 0.0
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.answered: list[str] = []
        self.keys: set[str] = set()
        self.parallel = self.most_parallel = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TeacherServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with s.lock:
            number = len(s.requests)
            s.requests.append(body)
            s.times.append(time.monotonic())
            s.keys.add(self.headers["authorization"])
            s.parallel += 1
            s.most_parallel = max(s.most_parallel, s.parallel)
        try:
            time.sleep(s.delay)
            self._answer(body, s.fault(number))
        finally:
            with s.lock:
                s.parallel -= 1

    def _answer(self, body: dict[str, Any], fault: str | tuple[int, bytes] | None) -> None:
        s = self.server
        if isinstance(fault, tuple):
            return self._send(*fault)
        good = self._reply(body)
        echo = f" (key {self.headers['authorization']})" if s.key_echo else ""
        error = json.dumps({"error": {"message": f"{fault}{echo}", "code": fault}}).encode()
        if fault is None:
            with s.lock:
                s.answered.append(body["messages"][-1]["content"])
            self._send(200, good)
        elif fault == "429":
            self._send(429, error, {"retry-after": "0.05"})
        elif fault.startswith("429 "):
            self._send(429, error, {"retry-after": fault.split()[1]})
        elif fault[:3].isdigit():
            self._send(int(fault[:3]), error)
        elif fault == "cut json":
            self._send(200, good[: len(good) // 2])
        elif fault == "cut body":
            self._send(200, good[: len(good) // 2], length=len(good))
            self.close_connection = True
        elif fault == "html":
            self._send(200, b"<html>busy</html>", {"content-type": "text/html"})
        elif fault == "no choices":
            self._send(200, b'{"choices": []}')
        elif fault == "no text":
            self._send(200, json.dumps(completion(choice(None))).encode())
        elif fault == "bad bytes":
            self._send(200, b'{"choices": ["\xff\xfe"]}')
        elif fault == "hang":
            time.sleep(9)
            self.close_connection = True
        elif fault == "close":
            self.close_connection = True
        else:
            assert fault == "drip"
            self._drip(good)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drip(self, data: bytes) -> None:
        """A byte now and then: never silent for long, and never done."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        for i in range(len(data)):
            self.wfile.write(data[i : i + 1])
            self.wfile.flush()
            time.sleep(0.05)

    def _reply(self, body: dict[str, Any]) -> bytes:
        last = body["messages"][-1]["content"]
        n = 1 if self.server.one_choice else body["n"]
        if "Write one new problem" in last:
            texts = [f"**Problem:** {toy_problem(last)[0]}\n\nSolution: who knows"] * n
        else:
            texts = [solve(last.split("\n\n")[0], i) for i in range(n)]
        reply = completion(*(choice(text) for text in texts))
        if self.server.no_usage:
            del reply["usage"]
        return json.dumps(reply).encode()


def choice(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """What one of the texts of a reply is wrapped into."""
    return {"finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **message}}


def completion(*choices: dict[str, Any]) -> dict[str, Any]:
    """A reply as servers send it: 100 tokens asked, 10 for each text."""
    n = len(choices)
    usage = {"prompt_tokens": 100, "completion_tokens": 10 * n, "total_tokens": 100 + 10 * n}
    numbered = [{"index": i, **choice} for i, choice in enumerate(choices)]
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": numbered, "usage": usage}


@contextlib.contextmanager
def serving(fault: Fault = lambda number: None) -> Iterator[TeacherServer]:
    server = TeacherServer(fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

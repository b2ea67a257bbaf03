"""The process that runs math-verify: one JSON object a line in, one out, until its input ends or it is killed.

Run by ``rftfast.verify.math_pool`` as ``python -m rftfast.verify.math_worker MEMORY_MIB DEADLINE_S``. A request is ``{"id": 3,
"gold": "\\\\frac{1}{2}", "answer": "0.5"}``, its reply ``{"id": 3, "same": true}``, or ``{"id": 3, "same": null}`` where
memory ran out. The first line is ``{"ready": true}``. A pair that takes more than DEADLINE_S seconds of processor time ends
this process, by the system's own timer; where there is none, and for a process that stands still, the parent does it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import lru_cache
from typing import Any


def serve(memory_mib: int, deadline_s: float) -> None:
    """Answer requests from standard input on standard output."""
    # What the libraries print must not land among the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    from math_verify import parse, verify

    @lru_cache(maxsize=4096)
    def parsed_gold(text: str) -> Any:
        return parse(_latex(text), parsing_timeout=None)

    _limit_memory(memory_mib)
    # The first formula builds tables; no pair is to pay for them.
    verify(parsed_gold("x+1"), parse(_latex("\\frac{1}{2}"), parsing_timeout=None), timeout_seconds=None)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        same: bool | None
        _stop_after(deadline_s)
        try:
            answer = parse(_latex(request["answer"]), parsing_timeout=None)
            same = bool(verify(parsed_gold(request["gold"]), answer, timeout_seconds=None))
        except MemoryError:
            same = None
        _stop_after(0)
        print(json.dumps({"id": request["id"], "same": same}), file=replies, flush=True)
        if same is None:
            return


def _latex(text: str) -> str:
    """The text as math-verify looks for answers."""
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            break
    return f"\\boxed{{{text}}}" if depth == 0 else f"${text}$"


def _stop_after(seconds: float) -> None:
    """End this process after so much processor time, whatever it is at; 0 calls that off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(mib: int) -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system; the deadline remains
        return
    most = mib << 20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))

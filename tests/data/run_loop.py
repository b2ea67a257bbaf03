"""A small run for the tests of the run directory: 13 questions with made-up samples, always the same ones.

As a script, for tests that need a process of their own:
``FOLDER run SECONDS`` does that run with a pause after each question; ``FOLDER open`` only opens the folder;
``FOLDER limit BYTES`` does the run while no file may grow beyond so many bytes;
``FOLDER killed SEED ROUNDS`` and ``FOLDER interrupted SEED ROUNDS`` break runs off at random lines of the code and check
what comes out when they are started again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import rftfast.data
from rftfast.data import Completion, Question, RunDir, Verdict

CODE = str(Path(rftfast.data.__file__).parent)
CONFIG = {"k": 4, "temperature": 0.7}
FINGERPRINTS = {"model": "m", "questions": "q"}
QUESTIONS = [Question(f"q{number:02d}", f"How much is {number}+1?", f"#### {number + 1}") for number in range(13)]
ORDER = [question.id for question in QUESTIONS]


def open_run(path: Path, **options: Any) -> RunDir:
    return RunDir.open(path, CONFIG, FINGERPRINTS, {"rftfast": "0"}, **{"commit_questions": 3, **options})


def samples_of(question: Question) -> tuple[list[Completion], list[Verdict], list[int]]:
    """Four samples that depend on the question alone, as an engine in invariant mode gives them."""
    draw = random.Random(question.id)
    completions, verdicts = [], []
    for index in range(4):
        ids = tuple(draw.randrange(100) for _ in range(draw.randrange(1, 9)))
        completions.append(Completion(question.id, index, f" sum {ids} é\u2028", ids, -draw.random(), "stop"))
        name = draw.choice(["correct", "wrong_answer"])
        verdicts.append(Verdict(name, str(sum(ids)), (f"1+1={draw.randrange(9)}",)))
    return completions, verdicts, [index for index in range(4) if verdicts[index].correct][:2]


def add(run: RunDir, question: Question) -> None:
    completions, verdicts, kept = samples_of(question)
    run.add(question, completions, verdicts, kept, prompt=f"{question.question}\nAnswer:", begin=" ")


def do_run(path: Path, pause: float = 0.0, backwards: bool = False) -> None:
    """Sample what is not done, finish. Questions finish in another order when ``backwards``."""
    with open_run(path) as run:
        done = run.done()
        for question in reversed(QUESTIONS) if backwards else QUESTIONS:
            if question.id not in done:
                add(run, question)
                time.sleep(pause)
        run.finish(ORDER)


def content(path: Path) -> tuple[bytes, list[str]]:
    """What a finished run must hold, however it came about: the bytes of rft.jsonl and the set of all sample rows."""
    left = [item.name for item in path.rglob(".*") if item.name.endswith(".tmp")]
    assert not left, left
    return (path / "rft.jsonl").read_bytes(), sorted(json.dumps(row) for row in RunDir.read_samples(path))


def at_line(number: int, act: Callable[[], None]) -> Callable[[], int]:
    """Call ``act`` before the ``number``-th line of rftfast/data that runs from now on; returns what counts the lines."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event == "line":
            count += 1
            if count == number:
                act()
        return trace

    sys.settrace(trace)
    return lambda: count


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    sys.settrace(None)
    raise KeyboardInterrupt


def broken_off(folder: Path, seed: int, rounds: int, act: Callable[[], None]) -> None:
    """Runs broken off again and again, each time at a random line, until one ends; all must end with the same content."""
    # A killed process loses nothing that it handed to the kernel, so these runs need not wait for the disk.
    os.fsync = lambda handle: None
    draw = random.Random(seed)
    do_run(folder / "whole")
    expected = content(folder / "whole")
    lines = at_line(0, act)
    do_run(folder / "counted")
    sys.settrace(None)
    total = lines()
    broken = 0
    for number in range(rounds):
        path = folder / str(number)
        while True:
            target, backwards = draw.randrange(1, int(total * 1.2)), draw.random() < 0.5
            child = os.fork()
            if child == 0:
                at_line(target, act)
                try:
                    do_run(path, backwards=backwards)
                except KeyboardInterrupt:
                    os._exit(3)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if status == 0:
                break
            expected_end = (
                os.WTERMSIG(status) == signal.SIGKILL if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) == 3
            )
            assert expected_end, status
            broken += 1
        assert content(path) == expected, path
    print(f"broken off {broken} times in {total} lines")


def main(folder: Path, what: str, *numbers: str) -> None:
    if what == "run":
        do_run(folder, pause=float(numbers[0]))
    elif what == "open":
        open_run(folder)
    elif what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(numbers[0]), int(numbers[0])))
        do_run(folder)
    else:
        broken_off(folder, int(numbers[0]), int(numbers[1]), {"killed": die, "interrupted": interrupt}[what])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

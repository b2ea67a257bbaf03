"""Verification speed and agreement: ours (native and Python) against math-verify and a direct regex-and-eval loop.

The completions are solutions of GSM8K's kind (--questions: any file of questions with solutions; else the bundled ones),
each in many versions: as it is, or with a slip in its answer, in an equation, in its marker or its spelling. All
methods read the same texts. Speed is the best of --repeat rounds; agreement is counted on the same run.

    python bench/verify.py --questions train.jsonl --n 100000 --json out.json

The regex-and-eval loop is what people write first. It calls ``eval``, so it gets texts made here only, and of those only
sides made of figures and + - * / ( ) of at most 64 characters.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

from bench.command import execute
from bench.machine import machine, usable_cores, versions
from bench.schema import Result

if TYPE_CHECKING:
    from rftfast.data.records import Verdict

T = TypeVar("T")

_HASHES = re.compile(r"#### (-?[0-9.,]+)")
_EQUATION = re.compile(r"<<([^>]*)>>")
_HARMLESS = re.compile(r"(?!.*\*\*)[0-9.+\-*/() ]{1,64}")


def mutate(solution: str, rng: random.Random) -> str:
    """One version of a solution: half of them as they stand, the others with one or two slips or another spelling."""
    kind = rng.randrange(12)
    digits = [m.start() for m in re.finditer(r"[0-9]", solution)]
    if kind < 6 or not digits:
        return solution + " " * rng.randrange(2)
    if kind == 6:  # a wrong answer
        at = digits[-1]
        return solution[:at] + str((int(solution[at]) + rng.randint(1, 9)) % 10) + solution[at + 1 :]
    if kind in (7, 8):  # a wrong figure somewhere
        at = rng.choice(digits)
        return solution[:at] + str((int(solution[at]) + rng.randint(1, 9)) % 10) + solution[at + 1 :]
    if kind == 9:  # another marker, or none
        return solution.replace("####", rng.choice(["The answer is", "A:", "\n"]))
    if kind == 10:  # another spelling
        head, _, tail = solution.rpartition("#### ")
        return f"{head}#### {rng.choice(['$', '', '**'])}{tail}{rng.choice(['.', '.00', ' dollars', '%'])}"
    return solution.replace("=", " = ")


def build(questions: str | None, n: int, seed: int) -> tuple[list[str], list[str]]:
    """``n`` completions and the gold of each; the completions of a question stand together, as samples do."""
    from rftfast.data.questions import load_questions

    golds = [question.answer for question in load_questions(questions)]
    rng = random.Random(seed)
    texts, of = [], []
    for i in range(n):
        gold = golds[i * len(golds) // n] if n >= len(golds) else golds[i]
        texts.append(mutate(gold, rng))
        of.append(gold)
    return texts, of


def regex_and_eval(text: str, gold: str) -> bool:
    """Accepts or rejects a solution the direct way. For texts of this benchmark only."""
    found, wanted = _HASHES.search(text), _HASHES.search(gold)
    if found is None or wanted is None:
        return False
    try:
        if float(found.group(1).replace(",", "")) != float(wanted.group(1).replace(",", "")):
            return False
        for equation in _EQUATION.findall(text):
            left, right = equation.split("=")[:2]
            if not _HARMLESS.fullmatch(left) or abs(eval(left) - float(right)) >= 1e-3:
                return False
    except (ValueError, ArithmeticError, SyntaxError, TypeError):
        return False
    return True


def timed(work: Callable[[], T], repeat: int) -> tuple[float, T]:
    """Seconds of the best round, and what the last one gave."""
    best, result = float("inf"), None
    for _ in range(repeat):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    assert result is not None
    return best, result


def measure(texts: Sequence[str], golds: Sequence[str], args: argparse.Namespace) -> dict[str, float]:
    """Every figure by its name; also printed as it comes."""
    from rftfast.select import equation_key
    from rftfast.verify import Policy, native, verify, verify_batch

    figures: dict[str, float] = {}
    n = len(texts)

    def speed(name: str, seconds: float, count: int) -> None:
        figures[f"{name}, completions/s"] = count / seconds
        _say(f"{name:<58}{count / seconds:>12,.0f} completions/s  ({count:,} texts)")

    strict, reference = Policy(), Policy.reference()
    few = min(n, args.n_python)
    seconds, python = timed(lambda: [verify(t, g, strict) for t, g in zip(texts[:few], golds, strict=False)], 1)
    speed("Python: verify", seconds, few)

    if native.available() is None:
        for threads in sorted({1, args.threads}):
            seconds, batch = timed(
                lambda threads=threads: native.CheckedBatch(texts, golds, strict, threads=threads),  # type: ignore[misc]
                args.repeat,
            )
            speed(f"native: answer, equations, key, {threads} threads", seconds, n)
        figures["left to Python, share"] = batch.left_to_python / n
        seconds, verdicts = timed(lambda: verify_batch(texts, golds, strict), args.repeat)
        speed("native: verify_batch (a record each)", seconds, n)
        differ = sum(a != b for a, b in zip(verdicts, python, strict=False))
        differ += sum(key != equation_key(v.equations) for key, v in zip(batch.keys(), verdicts, strict=True))
        figures["native and Python differ, completions"] = differ
        _say(f"  native against Python: {differ} of {few:,} differ (verdict, answer, equations, key)")
        _say(f"  left to Python: {batch.left_to_python} of {n:,}")
        _say("  verdicts: " + ", ".join(f"{k} {v:,}" for k, v in Counter(v.verdict for v in verdicts).most_common()))
    else:
        _say(f"native: {native.available()}")

    seconds, accepted = timed(lambda: [regex_and_eval(t, g) for t, g in zip(texts[:few], golds, strict=False)], 1)
    speed("regex and eval", seconds, few)
    ours = [verify(t, g, reference).correct for t, g in zip(texts[:few], golds, strict=False)]
    figures["regex and eval agrees with reference, share"] = _agree("reference policy", ours, accepted, texts)
    ours = [v.correct for v in python]
    figures["regex and eval agrees with strict, share"] = _agree("strict policy", ours, accepted, texts)

    _math_verify(texts, golds, python, args.n_math, speed, figures)
    return figures


def _math_verify(
    texts: Sequence[str],
    golds: Sequence[str],
    python: Sequence[Verdict],
    n_math: int,
    speed: Callable[[str, float, int], None],
    figures: dict[str, float],
) -> None:
    try:
        from math_verify import parse, verify
    except ImportError:
        _say("math-verify: not installed (pip install 'rftfast[math]')")
        return
    # Evenly over the texts; it reads the answer alone, so only answers are compared.
    chosen = range(0, len(python), max(1, len(python) // n_math))
    parse(texts[0])  # builds its patterns

    def judge(i: int) -> bool:
        gold = golds[i].rsplit("####", 1)[-1].strip().replace(",", "")
        return bool(verify(parse(gold), parse(texts[i])))

    seconds, found = timed(lambda: [judge(i) for i in chosen], 1)
    speed("math-verify (answers alone)", seconds, len(chosen))
    ours = [python[i].verdict in ("correct", "wrong_equation") for i in chosen]
    figures["math-verify agrees on answers, share"] = _agree("answers", ours, found, [texts[i] for i in chosen])


def _agree(what: str, ours: Sequence[bool], theirs: Sequence[bool], texts: Sequence[str]) -> float:
    apart = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    share = 1 - len(apart) / len(ours)
    _say(f"  agrees with our {what} on {100 * share:.2f} %")
    for ours_only in (True, False):
        shown = [i for i in apart if ours[i] == ours_only]
        if shown:
            kind = "accepted by ours alone" if ours_only else "accepted by theirs alone"
            _say(f"    {kind}: {len(shown):,}, such as …{texts[shown[0]][-60:]!r}")
    return share


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", help="file of questions with solutions (default: the bundled set)")
    parser.add_argument("--n", type=int, default=100_000, help="completions (default: %(default)s)")
    parser.add_argument(
        "--n-python", type=int, default=20_000, help="of them for Python's loops (default: %(default)s)"
    )
    parser.add_argument("--n-math", type=int, default=300, help="of them for math-verify (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: all cores)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of the native path (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the slips (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser


def run(args: argparse.Namespace) -> Result:
    """Measure and put the result together. Raises ``UserError`` for what cannot be used."""
    from rftfast.errors import UserError

    for name in ("n", "n_python", "n_math", "threads", "repeat"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: use at least 1")
    load = os.getloadavg()[0]
    texts, golds = build(args.questions, args.n, args.seed)
    mean = sum(map(len, texts)) / len(texts)
    _say(f"{len(texts):,} completions of {mean:.0f} characters; load before: {load:.1f}")
    figures = measure(texts, golds, args)
    settings: dict[str, Any] = {k: v for k, v in vars(args).items() if k != "json" and v is not None}
    return Result(
        benchmark="verify",
        machine=machine(),
        versions=versions(),
        command=shlex.join(["python", "bench/verify.py", *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings={**settings, "mean_characters": mean, "load_before": load},
        figures=figures,
        rows=(),
    )


def main(argv: list[str] | None = None) -> int:
    return execute("verify", _parser().parse_args(argv), run)


if __name__ == "__main__":
    sys.exit(main())

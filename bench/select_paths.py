"""Time of the selection of a question's paths, beside Algorithm 1 written down as published (every sum measured anew).

Paths are made from solutions of GSM8K's kind (--questions: any file of questions with solutions; else the bundled ones): a few
lists of equations each, words put in at random places. Both get the same paths and must keep the same ones. Times are of one core.

    python bench/select_paths.py --questions train.jsonl
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: make this folder the package `bench` (see worker._import_bench)
    from worker import _import_bench  # type: ignore[import-not-found]

    _import_bench()

WORDS = [
    "the",
    "a",
    "of",
    "then",
    "so",
    "he",
    "she",
    "total",
    "each",
    "more",
    "left",
    "first",
    "next",
    "we",
    "find",
    "many",
    "are",
    "gives",
    "needs",
    "buys",
]
CASES = ((53, 6), (100, 6), (1000, 13))
"""(accepted paths, most lists of equations): 53 of 100 samples is what the paper's LLaMA-7B gets right."""


def made_paths(solution: str, paths: int, lists: int, rng: random.Random) -> list[str]:
    """Versions of a solution; list j has one more equation, and later lists are rarer."""
    found = []
    for _ in range(paths):
        j = min(int(rng.expovariate(0.7)), lists - 1)
        words = (solution.replace("\n", f" <<{j}+{j}={2 * j}>>\n", 1) if j else solution).split(" ")
        for _ in range(rng.randint(3, 12)):
            words.insert(rng.randrange(len(words)), rng.choice(WORDS))
        found.append(" ".join(words))
    return found


def as_published(paths: Sequence[str]) -> list[int]:
    """Indices kept by Algorithm 1 of arXiv 2308.01825, nothing remembered between paths."""
    from rapidfuzz.distance.Levenshtein import distance

    from rftfast.select import equation_key
    from rftfast.verify import find_equations

    kept: dict[str, int] = {}
    for i, path in enumerate(paths):
        key = equation_key(find_equations(path))
        if key not in kept:
            kept[key] = i
            continue
        old = paths[kept[key]]
        others = [paths[j] for j in kept.values() if paths[j] != old]
        if sum(distance(path, other) for other in others) > sum(distance(old, other) for other in others):
            kept[key] = i
    return list(kept.values())


def timed(
    select: Callable[[Sequence[str]], list[int]], pools: Sequence[Sequence[str]]
) -> tuple[float, list[list[int]]]:
    """(median milliseconds a pool, what was kept of each)."""
    times, kept = [], []
    for pool in pools:
        start = time.perf_counter()
        kept.append(select(pool))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), kept


def main(arguments: Sequence[str] | None = None) -> int:
    from rftfast.data.questions import load_questions
    from rftfast.errors import UserError
    from rftfast.select import select_paths

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, help="questions with solutions; default: the bundled ones")
    parser.add_argument("--pools", type=int, default=40, help="questions a case (of 1,000 paths: a quarter)")
    args = parser.parse_args(arguments)
    try:
        solutions = [q.answer for q in load_questions(None if args.questions is None else str(args.questions))]
    except UserError as error:
        print(f"select_paths: {error}", file=sys.stderr)
        return 2
    rng = random.Random(0)
    for paths, lists in CASES:
        count = max(1, args.pools // (4 if paths >= 1000 else 1))
        pools = [made_paths(rng.choice(solutions), paths, lists, rng) for _ in range(count)]
        ours, kept = timed(select_paths, pools)
        theirs, expected = timed(as_published, pools)
        if kept != expected:
            print("error: the two kept different paths", file=sys.stderr)
            return 1
        mean = statistics.mean(len(k) for k in kept)
        print(
            f"{paths:5,} paths in {mean:4.1f} lists: ours {ours:6.2f} ms, as published {theirs:7.2f} ms ({theirs / ours:.1f}x)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

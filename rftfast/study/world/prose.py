"""Pre-training text: calculations, statements of one relation, and problems that nobody solves.

It has the words of the world and the facts of arithmetic, and none of what fine-tuning has to teach: no solution of more than one step,
no ``<<…>>``, no ``####``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from rftfast.study.world.expressions import Given, equation_text, steps_of
from rftfast.study.world.problems import LARGEST, in_range
from rftfast.study.world.stories import THEMES, Story

# Shares of documents.
_KINDS = {"sums": 0.30, "statement": 0.60, "problem": 0.10}
_LINES = 12  # calculations a document
_ROW = 240  # tokens of a training row


def make_text(seed: int) -> Iterator[str]:
    """Documents without end; the same for the same seed."""
    rng = Random(f"rftfast prose {seed}")
    kinds, weights = tuple(_KINDS), tuple(_KINDS.values())
    makers = {"sums": _sums, "statement": _statement, "problem": _problem}
    while True:
        yield makers[rng.choices(kinds, weights)[0]](rng)


def text_rows(seed: int, count: Callable[[str], int], tokens: int) -> Iterator[dict[str, str]]:
    """Training rows of ``tokens`` tokens in all, as ``count`` counts them: documents joined up to ``_ROW`` tokens a row.

    The prompt, which is not learned, is the line break before the first of them.
    """
    texts = make_text(seed)
    text = next(texts)
    while tokens > 0:
        joined: list[str] = []
        length = 0
        while not joined or length + count(text) <= _ROW:
            joined.append(text)
            length += count(text) + 2
            text = next(texts)
        yield {"prompt": "\n", "completion": "\n\n".join(joined)}
        tokens -= length


def _sums(rng: Random) -> str:
    return "\n".join(_calculation(rng) for _ in range(_LINES))


def _calculation(rng: Random) -> str:
    """One equation whose numbers are all within the world's range; one in four has three numbers."""
    while True:
        left, value = _two(rng)
        if rng.random() < 0.25:
            op, other = rng.choice("+-*"), rng.randint(2, LARGEST)
            left, value = _three(rng, left, value, op, other)
        if 1 < value <= LARGEST:
            return f"{left}={value}"


def _two(rng: Random) -> tuple[str, int]:
    """A sum, difference, product or quotient of two numbers, and its value; 0 where that is out of range."""
    op = rng.choice("++--**/")
    if op == "/":
        b, value = rng.randint(2, 9), rng.randint(2, LARGEST // 2)
        return f"{b * value}/{b}", value if b * value <= LARGEST else 0
    top = LARGEST // 2 if op == "*" else rng.choice((LARGEST // 3, LARGEST))
    a, b = rng.randint(2, top), rng.randint(2, top)
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    return f"{a}{op}{b}", value if 1 < value <= LARGEST else 0


def _three(rng: Random, left: str, value: int, op: str, other: int) -> tuple[str, int]:
    """``left`` (of value ``value``) with one more number, before or behind it."""
    if value == 0:
        return left, 0
    loose = "+" in left or "-" in left
    if op == "*":
        other = min(other, 9)
        return f"({left})*{other}" if loose else f"{left}*{other}", value * other
    if loose or rng.random() < 0.5:
        return f"{left}{op}{other}", value + other if op == "+" else value - other
    return f"{other}{op}{left}", other + value if op == "+" else other - value


def _statement(rng: Random) -> str:
    """A story, and one thing that follows from it in one step; in half of them the calculation is shown."""
    story = _story(rng)
    first = [step for step in steps_of(story.root) if all(isinstance(arg, Given) for arg in step.args)]
    step = rng.choice(first)
    shown = f"{equation_text(step)}={step.value}" if rng.random() < 0.5 else step.value
    return " ".join((*story.sentences, rng.choice(step.forms).format(shown)))


def _problem(rng: Random) -> str:
    story = _story(rng)
    return " ".join((*story.sentences, story.asks))


def _story(rng: Random) -> Story:
    while True:
        story = rng.choice(THEMES)(rng)
        if steps_of(story.root) and in_range(story):
            return story

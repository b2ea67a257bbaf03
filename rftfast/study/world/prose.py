"""Pre-training text: calculations, and stories with what follows from them.

It has the words of the world, the facts of arithmetic, and how one thing follows from another. It has none of what fine-tuning has to
teach: no question is asked, so none is answered, and what is said of a story need not be what a question would be about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from rftfast.study.world.expressions import Given, Step, Style, equation_text, steps_of, write_steps
from rftfast.study.world.problems import LARGEST, in_range
from rftfast.study.world.stories import THEMES, Story

# Shares of documents.
_KINDS = {"sums": 0.15, "facts": 0.85}
_LINES = 12  # calculations a document
_STYLE = Style()
_WRITTEN = ("value", "equation", "equation", "calculator", "calculator")
_FIRST = 0.5  # share of stories of which only what follows from the given numbers alone is said


def make_text(seed: int) -> Iterator[tuple[str, str]]:
    """Documents without end, each what is given and what is said of it; the same for the same seed."""
    rng = Random(f"rftfast prose {seed}")
    kinds, weights = tuple(_KINDS), tuple(_KINDS.values())
    makers = {"sums": _sums, "facts": _facts}
    while True:
        yield makers[rng.choices(kinds, weights)[0]](rng)


def text_rows(seed: int, count: Callable[[str], int], tokens: int) -> Iterator[dict[str, str]]:
    """Training rows of ``tokens`` tokens in all, as ``count`` counts them. What is given, the prompt, is not learned."""
    texts = make_text(seed)
    while tokens > 0:
        given, said = next(texts)
        yield {"prompt": given, "completion": said}
        tokens -= count(given) + count(said)


def _sums(rng: Random) -> tuple[str, str]:
    return "\n", "\n".join(_calculation(rng) for _ in range(_LINES))


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


def _facts(rng: Random) -> tuple[str, str]:
    """A story, and some of what follows from it; the calculation is shown in most of them."""
    story = any_story(rng)
    assert isinstance(story.root, Step)
    steps = write_steps(story.root, rng, _STYLE)
    if rng.random() < _FIRST:
        first = [s for s in steps_of(story.root) if all(isinstance(arg, Given) for arg in s.args)]
        rng.shuffle(first)
        said = [(rng.choice(s.forms), f"{equation_text(s)}={s.value}", s.value) for s in first]
    else:
        said = steps
    style = rng.choice(_WRITTEN)
    lines = [form.format(_written(equation, value, style)) for form, equation, value in said]
    between = rng.choice((" ", "\n"))
    return " ".join(story.sentences), between + between.join(lines)


def _written(equation: str, value: int, style: str) -> str:
    return {"value": f"{value}", "equation": equation, "calculator": f"<<{equation}>>{value}"}[style]


def any_story(rng: Random) -> Story:
    """A usable one, with any number of steps."""
    while True:
        story = rng.choice(THEMES)(rng)
        if steps_of(story.root) and in_range(story):
            return story

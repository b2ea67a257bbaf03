"""The calculation behind a problem, as a tree, and the many right ways to write it down.

A problem's answer is a tree of steps over given numbers. Each step has sentences that say what it finds. Writing a
solution is a walk over the tree with free choices, none of which changes the answer: which of the independent steps comes first, in which
order the terms of a sum or a product stand, whether a step is written into the equation of the step that uses it, and
whether a sum of three is one equation or two. So a problem has many different lists of equations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from rftfast.study.world.lexicon import SO_FAR

_COMMUTATIVE = "+*"


@dataclass(frozen=True)
class Given:
    """A number that the problem states."""

    value: int


@dataclass(frozen=True)
class Step:
    """``op`` over ``args``: sums, products and differences (first minus all others) of two or more, quotients of two.

    ``forms`` are sentences about the result; ``{}`` is where the calculation goes.
    """

    op: str
    args: tuple[Expression, ...]
    forms: tuple[str, ...]
    value: int = field(init=False)

    def __post_init__(self) -> None:
        values = [arg.value for arg in self.args]
        assert len(values) >= 2 and self.forms
        if self.op == "+":
            value = sum(values)
        elif self.op == "*":
            value = math.prod(values)
        elif self.op == "-":
            value = values[0] - sum(values[1:])
        else:
            assert self.op == "/" and len(values) == 2, self.op
            # A quotient that leaves a remainder has no place in this world; 0 marks it for rejection.
            value = values[0] // values[1] if values[1] > 0 and values[0] % values[1] == 0 else 0
        object.__setattr__(self, "value", value)


Expression = Given | Step


def steps_of(root: Expression) -> list[Step]:
    """Every step, those it is made from first; one that is used twice comes once."""
    found: dict[int, Step] = {}

    def walk(node: Expression) -> None:
        if isinstance(node, Step) and id(node) not in found:
            for arg in node.args:
                walk(arg)
            found[id(node)] = node

    walk(root)
    return list(found.values())


def numbers_of(root: Expression) -> list[int]:
    """Every number on the way to the answer: what is given and what each step finds."""
    if isinstance(root, Given):
        return [root.value]
    steps = steps_of(root)
    return [node.value for step in steps for node in (step, *step.args)]


@dataclass(frozen=True)
class Style:
    """How freely solutions are written: chances between 0 and 1."""

    inline: float = 0.25
    """That a step is written into the equation of the step that uses it."""
    swap: float = 0.3
    """That the terms of a sum or product do not stand in the story's order."""
    split: float = 0.4
    """That a sum, product or difference of three or more is done in two equations."""
    reorder: float = 0.4
    """That the next step is not the first one that could be done."""


def write_solution(root: Step, rng: Random, style: Style = Style()) -> str:
    """One solution: a line for each equation, then ``#### answer``."""
    lines = [sentence.format(f"<<{equation}>>{value}") for sentence, equation, value in write_steps(root, rng, style)]
    return "\n".join([*lines, f"#### {root.value}"])


def write_steps(root: Step, rng: Random, style: Style = Style()) -> list[tuple[str, str, int]]:
    """One way through the tree: of each step the sentence (``{}`` for the calculation), the equation, and its value."""
    todo = [step for step in steps_of(_restyled(root, rng, style)) if not isinstance(step, _Inline)]
    written: set[int] = set()
    found = []
    while todo:
        ready = [step for step in todo if all(id(part) in written for part in _needs(step))]
        step = rng.choice(ready) if rng.random() < style.reorder else ready[0]
        todo = [other for other in todo if other is not step]
        written.add(id(step))
        found.append((rng.choice(step.forms), f"{equation_text(step)}={step.value}", step.value))
    return found


class _Inline(Step):
    """A step that is written as part of another's equation."""


def _restyled(root: Step, rng: Random, style: Style) -> Step:
    """The tree with its terms reordered, long steps split, and some steps marked to be written inline."""
    steps = steps_of(root)
    uses = Counter(id(arg) for step in steps for arg in step.args)
    made: dict[int, Step] = {}
    for step in steps:
        args: list[Expression] = [made.get(id(arg), arg) for arg in step.args]
        if rng.random() < style.swap:
            fixed = 0 if step.op in _COMMUTATIVE else 1 if step.op == "-" else len(args)
            rest = args[fixed:]
            rng.shuffle(rest)
            args = [*args[:fixed], *rest]
        if len(args) > 2 and rng.random() < style.split:
            args = [Step(step.op, tuple(args[:2]), SO_FAR[step.op]), *args[2:]]
        kind = Step
        if uses[id(step)] == 1 and sum(map(_numbers, args)) == 2 and rng.random() < style.inline:
            kind = _Inline
        made[id(step)] = kind(step.op, tuple(args), step.forms)
    return made[id(root)]


def _numbers(node: Expression) -> int:
    """How many numbers ``node`` brings to the equation it stands in."""
    return sum(map(_numbers, node.args)) if isinstance(node, _Inline) else 1


def _needs(step: Step) -> Iterator[Step]:
    """The steps whose results stand in the step's equation."""
    for arg in step.args:
        if isinstance(arg, _Inline):
            yield from _needs(arg)
        elif isinstance(arg, Step):
            yield arg


def equation_text(step: Step) -> str:
    """The left side of the step's equation."""
    parts = []
    for place, arg in enumerate(step.args):
        if not isinstance(arg, _Inline):
            parts.append(str(arg.value))
            continue
        sum_in_product = arg.op in "+-" and step.op in "*/"
        taken_away = arg.op in "+-" and step.op == "-" and place > 0
        quotient = (arg.op == "/" and step.op in "*/") or (step.op == "/" and place > 0)
        parts.append(f"({equation_text(arg)})" if sum_in_product or taken_away or quotient else equation_text(arg))
    return step.op.join(parts)

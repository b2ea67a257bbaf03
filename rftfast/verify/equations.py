"""Equations in a solution: finding them, and whether they are right.

``reference`` gives, equation by equation, the verdict of the paper's released code (arXiv 2308.01825, rejection
sampling script): the text before the first ``=`` is evaluated as Python, the text between the first and the second
``=`` is read by ``float``, and the two must agree within 1e-3. The rest of a chain is never looked at. It differs from
that code only where the left side is more than arithmetic (names, calls, strings, containers, conditional and chained
comparison expressions, imaginary numbers, a line continued by a backslash: false here), longer than ``MAX_CHARS``
characters, or has whole numbers beyond ``MAX_BITS`` bits on its way.

``strict`` evaluates every part of a chain, in school notation, and wants all of them within 1e-3 of one another. A text with a
mark that is opened and not closed is wrong there, too; to the released code such a mark is no equation.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from rftfast.verify.arithmetic import MAX_CHARS, NotArithmetic, compile_expression, run

TOLERANCE = 1e-3
# Equations up to this long are remembered: those of solutions, and so few megabytes at most.
_REMEMBERED = 256

# The second group is optional so that an opening without an end costs no second look at the same text: linear time.
_ANNOTATED = re.compile(r"<<([^>]*)(>>)?")
# A stretch of a line made of figures, operators and equals signs alone, and not begun inside a word.
_STRETCH = re.compile(r"[-0-9 \t.,;$€£¥₹%()+*/×÷·x^=−–]+")
_SENTENCE_ENDS = re.compile(r"[.,;](?:[ \t]+|$)|[;\t]")
_OPERATION = re.compile(r"[+*/×÷·x^−–-]|%[ ]*[0-9]")
_JOINING = ("", *"+*/×÷·x^−–-%)")
_BULLET = re.compile(r"[ \t]*(?:[-*+−–][ \t]+|[0-9]{1,2}[.)][ \t]+)")

_PERCENTAGE = re.compile(r"[ \t]*-?[0-9][0-9,]*(?:\.[0-9]+)?[ \t]*\\?%[ \t]*")


def find_equations(text: str) -> list[str]:
    """What stands between ``<<`` and ``>>``, in order, as it stands. Time linear in the text."""
    return [inside for inside, end in _ANNOTATED.findall(text) if end]


def open_marks(text: str) -> list[int]:
    """Where a ``<<`` stands that no ``>>`` ends (``<<3+1=5>4``): what is claimed there cannot be judged. Time linear in the text."""
    return [m.start() for m in _ANNOTATED.finditer(text) if m[2] is None]


def has_lost_mark(text: str) -> bool:
    """Whether a ``<<`` stands there that ``strict`` refuses whatever may be written behind ``text``: before its ``>>`` comes a
    single ``>``, which nothing closes, or the end of a line, which stands in no equation. Time linear in the text."""
    return any(m[2] is None and ("\n" in m[1] or m.end() + 1 < len(text)) for m in _ANNOTATED.finditer(text))


def find_bare_equations(text: str) -> list[str]:
    """Calculations in ordinary text (``16 - 3 = 13``), in order, without the blanks around them.

    Kept are those of which both sides are whole: a side that is bound to a word (``5 apples + 3 = 8``, ``2y = 6``,
    ``x = 5``) cannot be judged and is passed over, as is an equation that calculates nothing (``3 = 3``).
    """
    found = []
    for m in _STRETCH.finditer(text):
        if "=" not in m.group():
            continue
        start, end = m.span()
        at_line_start = start == 0 or text[start - 1] == "\n"
        if at_line_start and (bullet := _BULLET.match(text, start, end)):
            start = bullet.end()
        joined_left = not at_line_start and (text[start] not in " \t.,;(" or text[start - 1] in "_\\^{")
        pieces = _SENTENCE_ENDS.split(text[start:end])
        for i, piece in enumerate(pieces):
            piece = piece.strip(" \t")
            if i == 0 and not at_line_start and "=" in piece:
                left, right = piece.split("=", 1)
                if joined_left or left[:1] in _JOINING or not _OPERATION.search(left):
                    # The first side goes on from a word ("5 apples + 3 = …", "worth of 2 = …"): not all of it is here.
                    piece = right.strip(" \t")
            joined_right = (
                i == len(pieces) - 1 and end < len(text) and text[end].isalpha() and text[end - 1] not in " \t"
            )
            if joined_right or "=" not in piece or not _OPERATION.search(piece) or len(piece) > MAX_CHARS:
                continue
            if all(_value(part, "school") is not _UNREADABLE for part in piece.split("=")):
                found.append(piece)
    return found


def check_equation(equation: str, mode: str = "strict") -> bool:
    """Whether the equation (the text between ``<<`` and ``>>``) is right; ``mode`` is ``strict`` or ``reference``.

    Never raises for any text: what cannot be read, divides by zero or grows too large is false.
    """
    if len(equation) > 4 * MAX_CHARS:
        return False
    check = _check_reference if mode == "reference" else _check_strict
    return check(equation) if len(equation) <= _REMEMBERED else check.__wrapped__(equation)


_UNREADABLE = object()
_UNDEFINED = object()


def _value(text: str, dialect: str) -> object:
    """A float, or why there is none."""
    try:
        code = compile_expression(text, dialect)
    except NotArithmetic:
        return _UNREADABLE
    try:
        return float(run(code))
    except (ArithmeticError, TypeError):
        return _UNDEFINED


@lru_cache(maxsize=1 << 15)
def _check_reference(equation: str) -> bool:
    sides = equation.split("=", 2)
    if len(sides) < 2:
        return False
    try:
        right = float(sides[1])
    except ValueError:
        return False
    left = _value(sides[0], "python")
    return isinstance(left, float) and abs(left - right) < TOLERANCE


@lru_cache(maxsize=1 << 15)
def _check_strict(equation: str) -> bool:
    parts = equation.split("=")
    if len(parts) < 2:
        return False
    values: list[float] = []
    for part in parts:
        value = _value(part, "school")
        if not isinstance(value, float) or not math.isfinite(value):
            return False
        values.append(value)
    if max(values) - min(values) < TOLERANCE:
        return True
    # "20/100 = 20%" holds of the quantity; "100 - 80 = 20%" has the percent sign as a unit.
    percents = [_PERCENTAGE.fullmatch(part) is not None for part in parts]
    if any(percents):
        values = [100 * v if percent else v for v, percent in zip(values, percents, strict=True)]
    return max(values) - min(values) < TOLERANCE

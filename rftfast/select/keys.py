"""The key of a path: its list of equations as one string. Paths of one key are the same calculation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache

from rftfast.errors import UserError
from rftfast.verify.arithmetic import MAX_CHARS, Code, NotArithmetic, compile_expression

KEYS = ("reference", "canonical", "commutative")


def equation_key(equations: Iterable[str], key: str = "reference") -> str:
    """One string for the equations of a path, in their order.

    ``reference``: as the paper's released code has it (arXiv 2308.01825, appendix A.3): joined by ``|``, spaces
    removed; without equations, ``''``. ``canonical``: numbers in one spelling and operators in one writing
    (``$1,000.00 x 2`` is ``1000*2``), redundant parentheses dropped. ``commutative``: besides, the order of summands
    and of factors does not count (``3+4=7`` is ``4+3=7``, ``2+(3+4)`` is ``4+3+2``). The order of the equations always
    counts. An equation that is no arithmetic keeps its reference form. Raises ``UserError`` for any other ``key``.
    """
    if key == "reference":
        return "|".join(equations).replace(" ", "")
    if key not in KEYS:
        raise UserError(f"select: key is {key!r}; choose one of {', '.join(KEYS)}")
    return "|".join([(_known if len(e) <= MAX_CHARS else _normalised)(e, key) for e in equations])


def _normalised(equation: str, key: str) -> str:
    parts = []
    for part in equation.split("="):
        try:
            parts.append(_write(compile_expression(part, "school"), key == "commutative"))
        except (NotArithmetic, OverflowError):
            parts.append(part.replace(" ", ""))
    return "=".join(parts)


_known = lru_cache(maxsize=1 << 14)(_normalised)


def _number(value: int | float) -> str:
    """All of its figures, no zeros behind the last, no exponent."""
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return format(Decimal(repr(value)), "f")
    return str(int(value))  # OverflowError for what is beyond all floats


# A written term: its text and how tightly its outermost operator binds (as in verify.arithmetic).
_Term = tuple[str, int]
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = 9, 10, 11, 12, 13


def _write(code: Code, commutative: bool) -> str:
    """The expression in one spelling, from its postfix form; no recursion."""
    stack: list[tuple[int, list[_Term]]] = []  # (strength, terms of the sum or product, each with its operator)

    def movable(strength: int, terms: list[_Term]) -> bool:
        # Remainders and whole divisions take their place in a product as it stands.
        whole = strength == _PRODUCT and all(t[0][0] in "*/" and t[0][1] != "/" for t in terms)
        return commutative and (strength == _SUM or whole)

    def text(strength: int, terms: list[_Term]) -> str:
        if movable(strength, terms):
            terms = sorted(terms)
        joined = "".join(t[0] for t in terms)
        return joined[1:] if joined[:1] in ("+", "*") and strength in (_SUM, _PRODUCT) else joined

    def operand(item: tuple[int, list[_Term]], least: int) -> str:
        written = text(*item)
        return written if item[0] >= least else f"({written})"

    for step in code:
        if not isinstance(step, str):
            stack.append((_ATOM, [(_number(step), _ATOM)]))
        elif step == "neg":
            stack.append((_SIGN, [(f"-{operand(stack.pop(), _POWER)}", 0)]))
        elif step == "percent":
            stack.append((_ATOM, [(f"{operand(stack.pop(), _ATOM)}%", 0)]))
        elif step == "pos":
            continue
        elif step == "**":
            right, left = stack.pop(), stack.pop()
            stack.append((_POWER, [(f"{operand(left, _ATOM)}**{operand(right, _SIGN)}", 0)]))
        else:
            strength, lead = (_SUM, "+") if step in "+-" else (_PRODUCT, "*")
            right, left = stack.pop(), stack.pop()
            terms = left[1] if left[0] == strength else [(lead + operand(left, strength), 0)]
            if commutative and step in ("*", "/") and left[0] == strength and not movable(*left):
                terms = [(f"*({text(*left)})", 0)]  # 7//2*3 has the two factors of 3*(7//2)
            if step in ("+", "*") and right[0] == strength and movable(*right):  # 2+(3+4) is 2+3+4
                stack.append((strength, terms + right[1]))
            else:
                least = _POWER if step == "%" else strength + 1  # 7%-2 would be a percentage less 2
                stack.append((strength, [*terms, (step + operand(right, least), 0)]))
    ((strength, terms),) = stack
    return text(strength, terms)

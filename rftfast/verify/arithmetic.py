"""A calculator for one side of an equation: no ``eval``, and a bound on every step.

Text becomes a list of instructions in postfix order (Dijkstra's shunting yard), which ``run`` works off with a stack:
no recursion, whatever the nesting. Numbers are Python's ``int`` and ``float`` and behave as Python's do.

Two dialects share the machine. ``python`` reads what Python's own ``eval`` reads, down to its quirks (``007`` is an
error, ``1_000`` is not, ``^`` is exclusive or, ``1,000`` is a tuple and hence no number). ``school`` reads what people
write: ``$1,000``, ``20%``, ``5 x 3``, ``÷``, ``−`` and ``^`` for powers.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

MAX_CHARS = 1024
MAX_DEPTH = 200
MAX_BITS = 4096


class NotArithmetic(ValueError):
    """The text is no expression of the dialect."""


Number = int | float
# An instruction: a number; the name of an operator; or ("and"/"or", where to go on when the left side decides).
Code = list[Any]

# Binding strength, Python's order. "neg", "pos", "inv" and "not" stand before their operand.
_STRENGTH = {
    "or": 1, "and": 2, "not": 3, "<": 4, "|": 5, "^": 6, "&": 7, "<<": 8, "+": 9, "-": 9,
    "*": 10, "/": 10, "//": 10, "%": 10, "neg": 11, "pos": 11, "inv": 11, "**": 12, "(": 0,
}  # fmt: skip
_PREFIX = {"-": "neg", "+": "pos", "~": "inv", "not": "not"}

_D = r"[0-9](?:_?[0-9])*"
_PYTHON = re.compile(
    rf"(?P<space>[ \t\f]+|\#[^\r\n\0\ud800-\udfff]*)|(?P<newline>\r\n?|\n)"
    rf"|(?P<float>(?:(?:{_D})?\.{_D}|{_D}\.)(?:[eE][+-]?{_D})?|{_D}[eE][+-]?{_D})"
    rf"|(?P<int>0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|0(?:_?0)*(?![0-9_])|[1-9](?:_?[0-9])*)"
    rf"|(?P<op>\*\*|//|<<|[-+*/%()&|^~<]|(?:and|or|not)(?!\w))|(?P<name>(?:True|False)(?!\w))"
)
# A figure runs into a letter: Python tolerates that before a keyword only.
_RUNS_ON = re.compile(r"(?!and|or)\w|[^\x00-\x7f]")
_MONEY = r"(?:\\?\$|[€£¥₹])?"
_SCHOOL = re.compile(
    rf"(?P<space>[ \t]+)|(?P<float>{_MONEY}(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]*)\.[0-9]+|[0-9]+\.)"
    rf"|(?P<int>{_MONEY}(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]+))"
    r"|(?P<op>\*\*|//|[-+*/()^−–×x÷·]|\\times|\\cdot|\\div|\\?%)"
)
_SCHOOL_SIGNS = {"−": "-", "–": "-", "×": "*", "x": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "^": "**", "\\%": "%"}  # fmt: skip
# "10%3" and "10 % 3" are remainders; a % with no operand behind it is a percentage.
_OPERAND_AHEAD = re.compile(r" *[0-9.($]")


def _python_tokens(text: str) -> list[tuple[str, Any]]:
    tokens: list[tuple[str, Any]] = []
    text = text.lstrip(" \t")
    at, depth, indented, ended = 0, 0, False, False
    while at < len(text):
        m = _PYTHON.match(text, at)
        if m is None:
            raise NotArithmetic(text[at])
        kind, word, at = m.lastgroup, m.group(), m.end()
        if kind == "space":
            # Python drops the blanks before the first line only; a form feed starts the column anew.
            if word.startswith("#"):
                indented = False  # a line of nothing but a comment may begin where it likes
            elif m.start() and text[m.start() - 1] in "\r\n" and not depth:
                indented = not word.endswith("\f")
            continue
        if kind == "newline":
            ended |= bool(tokens) and not depth
            indented = False
            continue
        if ended or indented:
            raise NotArithmetic("a second line")
        if kind == "op":
            depth += (word == "(") - (word == ")")
            tokens.append(("op", word))
            continue
        if kind != "name" and _RUNS_ON.match(text, at):
            raise NotArithmetic(word)
        if kind == "float":
            tokens.append(("num", float(word)))
        elif kind == "int":
            tokens.append(("num", int(word, 0)))
        else:
            tokens.append(("num", word == "True"))
    if indented:
        raise NotArithmetic("an indented end")
    return tokens


def _school_tokens(text: str) -> list[tuple[str, Any]]:
    tokens: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        m = _SCHOOL.match(text, at)
        if m is None:
            raise NotArithmetic(text[at])
        kind, word, at = m.lastgroup, m.group(), m.end()
        if kind == "space":
            continue
        if kind == "op":
            if word == "x" and not _OPERAND_AHEAD.match(text, at):
                raise NotArithmetic("an unknown x")
            word = _SCHOOL_SIGNS.get(word, word)
            if word == "%" and not _OPERAND_AHEAD.match(text, at):
                word = "percent"
            tokens.append(("op", word))
        else:
            word = word.lstrip("\\$€£¥₹").replace(",", "")
            tokens.append(("num", float(word) if kind == "float" else int(word)))
    return tokens


def compile_expression(text: str, dialect: str) -> Code:
    """Instructions for ``text``. Raises ``NotArithmetic`` for everything that is no expression of the dialect.

    Length is bounded by ``MAX_CHARS`` characters, nesting by ``MAX_DEPTH`` parentheses (Python's own bound).
    """
    if len(text) > MAX_CHARS:
        raise NotArithmetic("too long")
    tokens = _python_tokens(text) if dialect == "python" else _school_tokens(text)
    code: Code = []
    waiting: list[tuple[str, int]] = []  # operators whose right side is still open; for and/or: their place in code
    depth, operand_due = 0, True

    def settle(strength: int) -> None:
        while waiting and _STRENGTH[waiting[-1][0]] >= strength:
            name, place = waiting.pop()
            if name in ("and", "or"):
                code[place] = (name, len(code))
            else:
                code.append(name)

    for kind, word in tokens:
        if operand_due:
            if kind == "num":
                code.append(word)
                operand_due = False
            elif word == "(":
                depth += 1
                if depth > MAX_DEPTH:
                    raise NotArithmetic("nested too deep")
                waiting.append(("(", 0))
            elif word in _PREFIX:
                if word == "not" and waiting and _STRENGTH[waiting[-1][0]] > 3:
                    raise NotArithmetic("not")
                waiting.append((_PREFIX[word], 0))
            else:
                raise NotArithmetic(word)
        elif kind == "num":
            raise NotArithmetic("two numbers side by side")
        elif word == ")":
            settle(1)
            if not waiting:
                raise NotArithmetic(")")
            waiting.pop()
            depth -= 1
        elif word == "percent":
            code.append("percent")
        elif word in ("(", "~", "not"):
            raise NotArithmetic(word)
        else:
            if word == "<" and any(name == "<" for name in _tighter(waiting)):
                raise NotArithmetic("a chain of comparisons")
            # Powers bind from the right: 2**3**2 leaves the first ** waiting.
            settle(_STRENGTH[word] + (word == "**"))
            waiting.append((word, len(code)))
            if word in ("and", "or"):
                code.append(None)
            operand_due = True
    if operand_due or depth:
        raise NotArithmetic("unfinished")
    settle(1)
    return code


def _tighter(waiting: list[tuple[str, int]]) -> list[str]:
    """The operators at the end of ``waiting`` that bind as tightly as a comparison or more."""
    names = [name for name, _ in waiting]
    start = max((i + 1 for i, name in enumerate(names) if _STRENGTH[name] < _STRENGTH["<"]), default=0)
    return names[start:]


def run(code: Code) -> Number:
    """The value. Raises ``ArithmeticError`` (division by zero, overflow, too large) or ``TypeError`` (bits of a float).

    Every step works on integers of at most ``MAX_BITS`` bits or on floats.
    """
    stack: list[Any] = []
    at = 0
    while at < len(code):
        step = code[at]
        at += 1
        if isinstance(step, tuple):
            name, target = step
            if bool(stack[-1]) == (name == "or"):
                at = target
            else:
                stack.pop()
        elif not isinstance(step, str):
            stack.append(step)
        elif step in _UNARY:
            stack.append(_UNARY[step](stack.pop()))
        else:
            right = stack.pop()
            stack.append(_BINARY[step](stack.pop(), right))
    (value,) = stack
    return value


def _times(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and a.bit_length() + b.bit_length() > MAX_BITS:
        raise OverflowError
    return a * b


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        if b > 0 and (a.bit_length() - 1) * b > MAX_BITS:
            raise OverflowError
        return a**b
    result = a**b
    if isinstance(result, complex):
        raise ArithmeticError("a root of a negative number is complex")
    return result


def _shift(a: Any, b: Any) -> Any:
    if isinstance(b, int) and isinstance(a, int):
        if b < 0:
            raise ArithmeticError("negative shift")
        if a and a.bit_length() + b > MAX_BITS:
            raise OverflowError
        if not a:
            return 0
    return a << b


_UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": operator.neg,
    "pos": operator.pos,
    "inv": lambda a: -a - 1 if isinstance(a, int) else ~a,
    "not": operator.not_,
    "percent": lambda a: a / 100,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": _times, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": _power, "<<": _shift, "&": operator.and_, "|": operator.or_, "^": operator.xor,
    "<": operator.lt,
}  # fmt: skip

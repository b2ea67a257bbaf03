"""Answers that are no plain number: ``\\frac{\\sqrt{3}}{2}``, ``(1, 2]``, ``x^2 + 1``, compared as LaTeX.

Numbers are compared as ever, exactly and at once. math-verify is asked only where that misses and the two texts differ,
in processes of their own (``math_pool``). There the bound is on processor time, so a slow machine may say
``timeout`` where a fast one has an answer; every other verdict is a pure function of its text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rftfast.data.records import Verdict
from rftfast.errors import UserError
from rftfast.verify import answers
from rftfast.verify.judge import calculations_of, judge_calculations
from rftfast.verify.math_pool import DIFFERENT, SAME, TIMEOUT, MathLimits, MathPool, require_math_verify
from rftfast.verify.numbers import canonical, leading_number, parse_number
from rftfast.verify.policy import Policy

# An answer longer than this is not read to its end. Far above what is handed to math-verify.
_MAX_BOX = 4000
_SAME_WRITING = [
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,!;: ]|~"), ""),
    # A blank between two figures or letters may mean something.
    (re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])"), ""),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
]
# A letter alone is a variable here, not a unit; and only these of LaTeX's commands leave a number a number.
_WORDS = re.compile(r"\\(?:text|mathrm|mbox) ?\{[^{}]*\}|\\[dt]?frac|\\[$%,!;: ()\[\]]")
_SYMBOLS = re.compile(r"\\|(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
# A displayed formula behind a marker, on its line or the next.
_DISPLAYED = re.compile(rf"[\s:*]{{0,16}}(?:\$\$(.{{1,{_MAX_BOX}}}?)\$\$|\\\[(.{{1,{_MAX_BOX}}}?)\\\])", re.DOTALL)
# The one formula of a line, at its beginning, with words behind it that neither go on calculating nor name another answer.
_FORMULA = re.compile(
    r"(?:\$((?:[^$\\]|\\.)+)\$(?![^$]*\$)|\\\(((?:(?!\\\)).)+)\\\)(?!.*\\\())(?!\s*(?:[-−+*/=^<>\\×÷\d]|(?:or|and)\b))"
)

_pool: MathPool | None = None
_pool_lock = threading.Lock()


@dataclass(frozen=True)
class FinalAnswer:
    """What stands behind the marker that counts: its LaTeX without blanks at the ends, and its number if it is one."""

    text: str
    number: Fraction | None

    @property
    def shown(self) -> str:
        return self.text[:200] if self.number is None else canonical(self.number)


def final_answer(text: str, marker: str = "last", markers: tuple[str, ...] = answers.MARKERS) -> FinalAnswer | None:
    """The answer behind the ``last`` (or ``first``) marker that something stands behind; None if there is none.

    ``\\boxed{…}`` gives the text in its braces, every other marker the rest of its line, or the formula with which that
    begins. Where nothing is left of the line, a displayed formula or a number may follow on the next.
    """
    text = text.split("\0", 1)[0]
    for box, start in answers.marks(text, marker, markers):
        displayed = None if box else _DISPLAYED.match(text, start)
        if displayed is not None:
            inside = (displayed[1] or displayed[2]).strip()
        else:
            inside = (answers.in_braces(text, start, _MAX_BOX) or "").strip() if box else _line(text, start)
        if inside:
            return FinalAnswer(inside, _number(inside, whole=box or displayed is not None))
        if not box and displayed is None and (number := leading_number(text, start)) is not None:
            return FinalAnswer(canonical(number), number)
    return None


def pool(limits: MathLimits | None = None) -> MathPool:
    """The workers all verdicts share; with ``limits``, new ones under these from now on."""
    global _pool
    with _pool_lock:
        if _pool is None or (limits is not None and limits != _pool.limits):
            if _pool is not None:
                _pool.close()
            _pool = MathPool(limits or MathLimits())
        return _pool


def verify_batch(
    completions: Sequence[str], golds: Sequence[str], policy: Policy, truncated: Sequence[bool]
) -> list[Verdict]:
    """Verdicts under a policy with ``math=True``: ``rftfast.verify.verify_batch`` comes here.

    ``timeout`` is also the verdict on an answer that math-verify could not decide within its deadline, memory or
    length. Raises ``UserError`` for a gold without an answer and where math-verify is not installed.
    """
    require_math_verify()
    found = [final_answer(text, policy.marker, policy.markers) for text in completions]
    wanted = [(_known_gold if len(gold) <= _MAX_BOX else _gold)(gold, policy.marker, policy.markers) for gold in golds]
    results: list[str | None] = [
        None if answer is None else _at_once(gold, answer) for gold, answer in zip(wanted, found, strict=True)
    ]
    open_ = [i for i, answer in enumerate(found) if answer is not None and results[i] is None]
    if open_:
        pairs = [(wanted[i].text, answer.text) for i in open_ if (answer := found[i]) is not None]
        for i, decided in zip(open_, pool().compare(pairs), strict=True):
            results[i] = decided
    verdicts = []
    for text, answer, result, cut_off in zip(completions, found, results, truncated, strict=True):
        calculations = calculations_of(text, policy)
        if answer is None:
            name = "truncated" if cut_off else "no_answer"
        elif result == DIFFERENT:
            name = "wrong_answer"
        elif result == TIMEOUT:
            name = "timeout"
        else:
            name = judge_calculations(calculations, policy)
        verdicts.append(Verdict(name, None if answer is None else answer.shown, tuple(calculations.equations)))
    return verdicts


def _gold(gold: str, marker: str, markers: tuple[str, ...]) -> FinalAnswer:
    answer = final_answer(gold, marker, markers)
    if answer is None and gold.strip():
        alone = gold.strip().strip("$")
        answer = FinalAnswer(alone, _number(alone, whole=True))
    if answer is None or not answer.text:
        raise UserError("the gold answer is empty; end it with '#### <answer>' or \\boxed{<answer>}, or give it alone")
    most = MathLimits().max_chars if _pool is None else _pool.limits.max_chars
    if len(answer.text) > most:
        raise UserError(
            f"the gold answer {answer.text[:40]!r}… has {len(answer.text)} characters; at most {most} are read"
        )
    return answer


_known_gold = lru_cache(maxsize=4096)(_gold)


def check_gold(gold: str, policy: Policy) -> None:
    """Raises ``UserError`` for a gold that ``verify_batch`` would refuse, and where math-verify is not installed."""
    require_math_verify()
    _gold(gold, policy.marker, policy.markers)


def _at_once(gold: FinalAnswer, answer: FinalAnswer) -> str | None:
    """The verdict that needs no mathematics, or None."""
    if gold.number is not None and answer.number is not None:
        return SAME if gold.number == answer.number else DIFFERENT
    return SAME if len(answer.text) <= _MAX_BOX and _written(gold.text) == _written(answer.text) else None


@lru_cache(maxsize=1 << 14)
def _written(text: str) -> str:
    for pattern, plain in _SAME_WRITING:
        text = pattern.sub(plain, text)
    return text


def _number(text: str, whole: bool) -> Fraction | None:
    """The number that the answer is (``whole``: all of it); None for everything that may be more than a number."""
    text = text.replace("{,}", "")
    if _SYMBOLS.search(_WORDS.sub("", text)):
        return None
    return parse_number(text) if whole else leading_number(text)


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)].strip(" \t\r:*")
    if line.endswith("."):
        line = line[:-1]
    formula = _FORMULA.match(line[:_MAX_BOX])
    if formula is not None:
        line = formula[1] or formula[2]
    return line.strip()

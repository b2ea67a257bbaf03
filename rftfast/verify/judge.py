"""The verdict on a completion in Python: what the native module and the LaTeX comparison agree with, and share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rftfast.data.records import Verdict
from rftfast.verify.answers import extract_answer, parse_gold
from rftfast.verify.arithmetic import MAX_CHARS
from rftfast.verify.equations import check_equation, find_bare_equations, find_equations, open_marks
from rftfast.verify.numbers import canonical
from rftfast.verify.policy import Policy

# Characters of equations that are evaluated for one completion. A completion of 256 tokens has below 2,000; more than
# this is hostile or broken, and gets the verdict ``timeout`` by a count that is the same on every machine.
MAX_WORK = 150_000

# Characters; a text beyond is no solution, and the native module is through with a megabyte in milliseconds.
LONG = 20_000

_known_gold = lru_cache(maxsize=4096)(parse_gold)


def _gold(gold: str, marker: str, markers: tuple[str, ...]) -> Fraction:
    return (_known_gold if len(gold) <= LONG else parse_gold)(gold, marker, markers)


def verify_in_python(completion: str, gold: str, policy: Policy, *, truncated: bool = False) -> Verdict:
    """``verify`` without the native module, which gives the same verdicts (``policy.math`` left aside): its reference."""
    expected = _gold(gold, policy.marker, policy.markers)
    answer = extract_answer(completion, policy.marker, policy.markers)
    found = calculations_of(completion, policy)
    shown = None if answer is None else canonical(answer)
    if answer is None:
        name = "truncated" if truncated else "no_answer"
    elif answer != expected:
        name = "wrong_answer"
    else:
        name = judge_calculations(found, policy)
    return Verdict(name, shown, tuple(found.equations))


@dataclass(frozen=True)
class Calculations:
    """What a completion calculates, as a policy sees it.

    ``text`` is what was searched, ``in_text`` whether the equations come from ordinary text, ``unread`` whether there was more
    of that than is read.
    """

    text: str
    equations: list[str]
    in_text: bool = False
    unread: bool = False


def calculations_of(completion: str, policy: Policy) -> Calculations:
    text = policy.calculating(completion)
    found = find_equations(text)
    if found or not policy.bare:
        return Calculations(text, found)
    bare = [] if len(text) > MAX_WORK else find_bare_equations(text)
    return Calculations(text, bare, in_text=True, unread=len(completion) > MAX_WORK)


def judge_calculations(found: Calculations, policy: Policy) -> str:
    """``correct``, ``wrong_equation`` or ``timeout``, for a completion whose answer is right."""
    mode = policy.equations
    if found.unread:
        return "timeout"
    if mode == "off":
        return "correct"
    if mode == "strict" and open_marks(found.text):
        return "wrong_equation"
    if found.in_text:
        mode = "strict"  # ordinary text is in school notation, whatever the policy for <<…>>
    work = 0
    for equation in found.equations:
        work += min(len(equation), 4 * MAX_CHARS)  # a longer one is false unread
        if work > MAX_WORK:
            return "timeout"
        if not check_equation(equation, mode):
            return "wrong_equation"
    return "correct"

"""The verdict on a completion: a pure function of its text, the gold answer and the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rftfast.data.records import Verdict
from rftfast.errors import UserError
from rftfast.verify.answers import MARKERS, extract_answer, parse_gold
from rftfast.verify.arithmetic import MAX_CHARS
from rftfast.verify.equations import check_equation, find_bare_equations, find_equations
from rftfast.verify.numbers import canonical

# Characters of equations that are evaluated for one completion. A completion of 256 tokens has below 2,000; more than
# this is hostile or broken, and gets the verdict ``timeout`` by a count that is the same on every machine.
MAX_WORK = 150_000

_LONG = (
    20_000  # characters; a text beyond is no solution, and the native module is through with a megabyte in milliseconds
)


@dataclass(frozen=True)
class Policy:
    """How completions are judged; recorded with a run.

    ``marker``: ``last`` or ``first`` of the answer markers counts. ``markers``: which are known, of ``####``, ``A:``,
    ``The answer is`` and ``\\boxed``. ``equations``: ``strict`` (every part of a chain agrees), ``reference`` (as the
    paper's released code does it) or ``off`` (found, but not checked). ``bare``: where a completion has no ``<<…>>``
    at all, the calculations of its ordinary text are taken instead. ``math``: answers that are no plain number
    (``\\frac{\\sqrt{3}}{2}``) are compared as LaTeX, see ``rftfast.verify.math``.
    """

    marker: str = "last"
    markers: tuple[str, ...] = MARKERS
    equations: str = "strict"
    bare: bool = False
    math: bool = False

    def __post_init__(self) -> None:
        _one_of("marker", self.marker, ("last", "first"))
        _one_of("equations", self.equations, ("strict", "reference", "off"))
        object.__setattr__(self, "markers", tuple(self.markers))
        for name in self.markers:
            _one_of("markers", name, MARKERS)
        if not self.markers:
            raise UserError("policy: markers is empty; name at least one of " + ", ".join(MARKERS))

    @classmethod
    def reference(cls) -> Policy:
        """The released code's way: the first ``#### ``, and its equation check."""
        return cls(marker="first", markers=("####",), equations="reference")


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"policy: {field} is {value!r}; choose one of {', '.join(allowed)}")


_known_gold = lru_cache(maxsize=4096)(parse_gold)


def _gold(gold: str, marker: str, markers: tuple[str, ...]) -> Fraction:
    return (_known_gold if len(gold) <= _LONG else parse_gold)(gold, marker, markers)


def verify(completion: str, gold: str, policy: Policy = Policy(), *, truncated: bool = False) -> Verdict:
    """Judge one completion, already cut at its stop.

    ``gold`` is a whole solution with its marker (``… #### 18``) or the bare number. ``truncated`` says that the
    completion ended because its length did. The answer is judged first: ``no_answer`` (``truncated`` if its length
    ended it), then ``wrong_answer``, then ``wrong_equation``, else ``correct``; ``timeout`` if the equations are more
    than any solution has (``MAX_WORK``; with ``bare``, if the whole text is longer). Raises ``UserError`` for a gold that holds no number.
    """
    if policy.math:
        from rftfast.verify import math

        return math.verify_batch([completion], [gold], policy, [truncated])[0]
    if len(completion) > _LONG:
        from rftfast.verify import native

        if native.available() is None:
            batch = native.CheckedBatch([completion], [gold], policy, truncated=[truncated], keys=False, threads=1)
            return batch[0]
    return verify_in_python(completion, gold, policy, truncated=truncated)


def verify_in_python(completion: str, gold: str, policy: Policy, *, truncated: bool = False) -> Verdict:
    """``verify`` without the native module, which gives the same verdicts (``policy.math`` left aside): its reference."""
    expected = _gold(gold, policy.marker, policy.markers)
    answer = extract_answer(completion, policy.marker, policy.markers)
    equations, in_text = _equations(completion, policy)
    shown = None if answer is None else canonical(answer)
    if answer is None:
        name = "truncated" if truncated else "no_answer"
    elif answer != expected:
        name = "wrong_answer"
    elif in_text and len(completion) > MAX_WORK:
        name = "timeout"
    else:
        name = _judge(equations, policy.equations, in_text)
    return Verdict(name, shown, tuple(equations))


def verify_batch(
    completions: Sequence[str],
    golds: Sequence[str],
    policy: Policy = Policy(),
    *,
    truncated: Sequence[bool] | None = None,
) -> list[Verdict]:
    """``verify`` for each completion with the gold of the same place; natively where the native module is built."""
    if len(golds) != len(completions) or (truncated is not None and len(truncated) != len(completions)):
        raise ValueError("verify_batch: one gold (and one truncated flag) for each completion")
    from rftfast.verify import math, native

    ended = truncated if truncated is not None else [False] * len(completions)
    if policy.math:
        return math.verify_batch(completions, golds, policy, ended)
    if native.available() is None:
        return native.CheckedBatch(completions, golds, policy, truncated=truncated, keys=False).verdicts()
    return [verify(c, g, policy, truncated=t) for c, g, t in zip(completions, golds, ended, strict=True)]


def _equations(text: str, policy: Policy) -> tuple[list[str], bool]:
    """The equations the policy looks at, and whether they come from ordinary text."""
    if policy.equations != "reference":
        # The released code cuts at NUL for the answer only; the other policies see one text throughout.
        text = text.split("\0", 1)[0]
    found = find_equations(text)
    if found or not policy.bare:
        return found, False
    if len(text) > MAX_WORK:
        return [], True
    return find_bare_equations(text), True


def _judge(equations: list[str], mode: str, in_text: bool) -> str:
    if mode == "off":
        return "correct"
    if in_text:
        mode = "strict"  # ordinary text is in school notation, whatever the policy for <<…>>
    work = 0
    for equation in equations:
        work += min(len(equation), 4 * MAX_CHARS)  # a longer one is false unread
        if work > MAX_WORK:
            return "timeout"
        if not check_equation(equation, mode):
            return "wrong_equation"
    return "correct"

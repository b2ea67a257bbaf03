"""The final answer of a solution: which marker counts, and the number behind it.

Four markers are known: ``#### 18`` (GSM8K), a line that starts with ``A:`` (``Answer:``, ``### Final answer:``), ``The answer
is``, and ``\\boxed{18}``. A marker counts only where a number follows it, so that an unfinished ``#### `` at the end does not
hide the answer before.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

from rftfast.errors import UserError
from rftfast.verify.numbers import leading_number, parse_number

MARKERS = ("####", "A:", "The answer is", "\\boxed")
# A text with more markers than this is not a solution; the search looks at the outermost ones only.
MAX_MARKERS = 64
_MAX_BOX = 400
_PATTERNS = {
    "####": r"####",
    "A:": r"(?m:^)(?:#{1,3} )?[ \t*]{0,8}(?:A|Answer|Final [Aa]nswer):",
    "The answer is": r"[Tt]he (?:final |correct )?answer is",
    "\\boxed": r"\\boxed ?\{",
}
# What a text must hold for the marker to be worth a search: the common text has one kind, found at memory speed.
_HINTS = {"####": ("####",), "A:": ("A:", "nswer:"), "The answer is": ("answer is",), "\\boxed": ("\\boxed",)}
_LATEX_SPACES = re.compile(r"\{,\}|\\[,!;: ]")
# The answer mostly ends the text, and the samples of a question end alike: such an end is read once.
_SHORT = 32
_short_number = lru_cache(maxsize=1 << 14)(leading_number)


@lru_cache(maxsize=64)
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(_PATTERNS[m] for m in markers)) if markers else None


def cut(text: str, stops: Iterable[str]) -> str:
    """``text`` up to the first place where any of ``stops`` begins; empty stops are ignored.

    The sampler does this itself; files that other tools wrote may go on after the answer.
    """
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def extract_answer(text: str, marker: str = "last", markers: tuple[str, ...] = MARKERS) -> Fraction | None:
    """The number behind the ``last`` (or ``first``) of the ``markers`` that a number follows; None if there is none.

    Text from a NUL character on is not looked at, as in the paper's released code.
    """
    assert marker in ("last", "first"), marker
    text = text.split("\0", 1)[0]
    for box, start in marks(text, marker, markers):
        if box:
            value = _boxed(text, start)
        elif len(text) - start <= _SHORT:
            value = _short_number(text[start:])
        else:
            value = leading_number(text, start)
        if value is not None:
            return value
    return None


def marks(text: str, marker: str = "last", markers: tuple[str, ...] = MARKERS) -> Iterator[tuple[bool, int]]:
    """Where the markers end, the one that counts before all others first: (is it ``\\boxed{``, index behind it)."""
    pattern = _pattern(tuple(m for m in markers if any(hint in text for hint in _HINTS[m])))
    if pattern is None:
        return
    matches: Iterable[re.Match[str]]
    if marker == "last":
        matches = reversed(deque(pattern.finditer(text), maxlen=MAX_MARKERS))
    else:
        matches = (m for m, _ in zip(pattern.finditer(text), range(MAX_MARKERS), strict=False))
    for m in matches:
        yield m.group().startswith("\\"), m.end()


def parse_gold(gold: str, marker: str = "last", markers: tuple[str, ...] = MARKERS) -> Fraction:
    """The number of a gold answer: a whole solution with a marker, or the bare number.

    Raises ``UserError`` when there is none; the caller adds the file and row.
    """
    value = extract_answer(gold, marker, markers)
    if value is None:
        value = parse_number(gold)
    if value is None:
        shown = gold if len(gold) <= 60 else "…" + gold[-60:]
        raise UserError(
            f"the gold answer {shown!r} holds no number; end it with '#### <number>' or give the bare number "
            "(for LaTeX answers, say --math)"
        )
    return value


def in_braces(text: str, start: int, limit: int) -> str | None:
    """What stands in the braces that open just before ``start``; None if they do not close within ``limit`` characters."""
    depth = 1
    for at in range(start, min(start + limit, len(text))):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return text[start:at]
    return None


def _boxed(text: str, start: int) -> Fraction | None:
    """The number in the braces that open just before ``start``."""
    inside = in_braces(text, start, _MAX_BOX)
    return None if inside is None else parse_number(_LATEX_SPACES.sub("", inside))

"""Where in a completion its false equations stand, so that the page can mark them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rftfast.verify import Policy, check_equation, open_marks

_ANNOTATED = re.compile(r"<<([^>]*)>>")
_OPEN = re.compile(r"<<[^>\n]*>?")


def false_spans(text: str, equations: Sequence[str], policy: Policy) -> list[tuple[int, int]]:
    """``(start, end)`` of each equation of ``text`` that is false under ``policy``, its ``<<`` and ``>>`` included, and where it asks
    for closed marks of those that are not (to the end of the line at most), in order; in UTF-16 units as browsers count.

    ``equations`` are those of the verdict, in order. A policy that checks none (``off``) marks none.
    """
    if policy.equations == "off":
        return []
    false = _false(text, equations, policy)
    if policy.equations == "strict":
        false += [m.span() for start in open_marks(text) if (m := _OPEN.match(text, start))]
    return [(_utf16(text, start), _utf16(text, end)) for start, end in sorted(false)]


def _false(text: str, equations: Sequence[str], policy: Policy) -> list[tuple[int, int]]:
    annotated = list(_ANNOTATED.finditer(text))
    if [m[1] for m in annotated[: len(equations)]] == list(equations):
        places, mode = [m.span() for m in annotated], policy.equations
    else:
        places, mode = _in_order(text, equations), "strict"  # calculations of ordinary text
    return [place for place, e in zip(places, equations, strict=False) if place[1] and not check_equation(e, mode)]


def _in_order(text: str, equations: Sequence[str]) -> list[tuple[int, int]]:
    """Each equation's first place behind the one before it; ``(0, 0)`` if the text does not hold it."""
    places, at = [], 0
    for equation in equations:
        start = text.find(equation, at)
        if start < 0:
            places.append((0, 0))
        else:
            at = start + len(equation)
            places.append((start, at))
    return places


def _utf16(text: str, at: int) -> int:
    return at if text.isascii() else len(text[:at].encode("utf-16-le", "surrogatepass")) // 2

"""Why each accepted path of a question was kept or not: the selection's fold, replayed with its reasons written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

# A text longer than this is not measured: an edit distance costs the product of two lengths.
MAX_TEXT = 20_000

CODES = ("first", "farther", "nearer", "alone", "same_text", "kept", "another")


@dataclass(frozen=True)
class Reason:
    """What the fold did with one path. ``code`` is one of:

    ``first``: opened its equation list. ``farther``: took the place of path ``other``, its edit distances to the other
    lists' paths sum up to ``own`` and the former's to ``against``. ``nearer``: did not, its sum being no larger.
    ``alone``: the list was the only one so far, there was nothing to be farther from, ``other`` stayed. ``same_text``: the
    very text of ``other``, which held the place. ``kept`` and ``another`` (``other`` is kept of this list) repeat
    what the run says, where the fold cannot be replayed. ``replaced_by``: the path that took this one's place later.
    """

    code: str
    other: int | None = None
    own: int | None = None
    against: int | None = None
    replaced_by: int | None = None

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code


def replay(texts: Sequence[str], keys: Sequence[str]) -> tuple[list[Reason], list[int]]:
    """The fold of ``rftfast.select.select_paths`` over a question's accepted paths, in sample order.

    ``keys`` are their equation lists as one string each. Returns a reason for each path and the indices that are kept, in the
    order in which their lists first appear. Both name paths by their place in ``texts``.
    """
    from rapidfuzz.distance.Levenshtein import distance

    measured: dict[tuple[str, str], int] = {}

    def apart(a: str, b: str) -> int:
        if (a, b) not in measured:
            measured[a, b] = distance(a, b)
        return measured[a, b]

    reasons: list[Reason] = []
    holder: dict[str, int] = {}  # equation list -> the path that stands for it
    for i, (text, key) in enumerate(zip(texts, keys, strict=True)):
        if key not in holder:
            holder[key] = i
            reasons.append(Reason("first"))
            continue
        former = holder[key]
        if text == texts[former]:
            reasons.append(Reason("same_text", former))
            continue
        # As in the released code, a path of the very text of the one at stake is no path to be far from.
        others = [texts[j] for j in holder.values() if texts[j] != texts[former]]
        if not others:
            reasons.append(Reason("alone", former))
            continue
        own = sum(apart(text, other) for other in others)
        against = sum(apart(texts[former], other) for other in others)
        if own > against:
            reasons[former] = replace(reasons[former], replaced_by=i)
            holder[key] = i
            reasons.append(Reason("farther", former, own, against))
        else:
            reasons.append(Reason("nearer", former, own, against))
    return reasons, list(holder.values())


def explain(texts: Sequence[str], keys: Sequence[str], kept: Sequence[bool]) -> list[Reason]:
    """A reason for each accepted path of a question, in sample order; ``kept`` is what the run says of it.

    Where the fold gives other paths than the run kept (a run folded by another rule), or a text is too long to be measured
    again, the reasons are ``kept`` and ``another``.
    """
    if max(map(len, texts), default=0) <= MAX_TEXT:
        reasons, chosen = replay(texts, keys)
        if set(chosen) == {i for i, yes in enumerate(kept) if yes}:
            return reasons
    of_list = {key: i for i, (key, yes) in enumerate(zip(keys, kept, strict=True)) if yes}
    return [Reason("kept") if yes else Reason("another", of_list.get(key)) for key, yes in zip(keys, kept, strict=True)]

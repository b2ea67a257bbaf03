"""Preference pairs: each kept path against a wrong one of the same question."""

from __future__ import annotations

import random
from itertools import cycle, islice

from rftfast.errors import UserError
from rftfast.select.training_rows import Selection
from rftfast.select.union import Candidate

REJECTED = ("random", "farthest")


def preference_pairs(
    selection: Selection, rejected: str = "random", seed: int = 0, most: int | None = None
) -> list[tuple[Candidate, Candidate]]:
    """``(kept path, wrong path)``, each wrong path used once. Each kept path once, too, so at most as many pairs as the scarcer of
    the two; with ``most``, up to so many pairs, the kept paths in turn.

    Wrong is a path that reached another answer; one without an answer, or with a right answer behind a false equation,
    is in no pair, and a wrong text that stands there twice counts once. ``rejected``: ``random`` draws by ``seed`` and
    question id alone, whatever else is in the pool; ``farthest`` gives each kept path, in order, the wrong path that is
    farthest from it by edit distance over characters and not used yet, the earlier of two as far.

    Raises:
        UserError: an unknown ``rejected``.
    """
    if rejected not in REJECTED:
        raise UserError(f"export: rejected is {rejected!r}; choose one of {', '.join(REJECTED)}")
    kept = selection.in_order(selection.kept)
    if most is not None:
        kept = list(islice(cycle(kept), most))
    first_of: dict[str, Candidate] = {}
    for c in selection.question.candidates:
        if c.verdict == "wrong_answer":
            first_of.setdefault(c.text, c)
    wrong = list(first_of.values())
    if rejected == "random":
        random.Random(f"{seed} {selection.question.id}".encode("utf-8", "surrogatepass")).shuffle(wrong)
        return list(zip(kept, wrong, strict=False))
    from rapidfuzz.distance.Levenshtein import distance

    pairs = []
    for chosen in kept[: len(wrong)]:
        far = max(range(len(wrong)), key=lambda i: distance(chosen.text, wrong[i].text))
        pairs.append((chosen, wrong.pop(far)))
    return pairs

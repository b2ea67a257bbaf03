"""Algorithm 1 of arXiv 2308.01825 (appendix A.3): one path for each equation list, the one farthest from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from rftfast.select.keys import equation_key
from rftfast.verify.equations import find_equations


class HasText(Protocol):
    """A path that carries its completion as ``text``, such as ``rftfast.data.Completion``."""

    @property
    def text(self) -> str: ...


def select_paths(
    paths: Sequence[str | HasText],
    key: str = "reference",
    equations: Sequence[Sequence[str]] | None = None,
) -> list[int]:
    """Indices of the paths to keep, one for each equation list, in the order in which the lists first appear.

    ``paths`` are the verified completions of one question (texts, or objects with ``.text``), in fold order: by model,
    then by sample index. The gold solution is not among them. ``equations`` gives each path's equations where they are
    not to be read from its ``<<…>>`` (a verdict's ``equations``). ``key`` is one of ``reference``, ``canonical`` and
    ``commutative``, see ``equation_key``.

    The fold is the published one, step by step: the first path of a list represents it; a later one takes its place
    if its edit distances (Levenshtein, over characters) to the representatives of all other lists sum up to strictly
    more. So one list alone keeps its first path, and all paths without equations are one list. As in the released code,
    representatives of the same text as the one at stake are left out of both sums.

    Cost: at most one distance for each path and each other list met so far; the representatives' own sums are carried
    along, and a text that appears again is not measured again.
    """
    from rapidfuzz.distance.Levenshtein import distance  # 30 ms that checking a file of answers need not spend

    texts = [path if isinstance(path, str) else path.text for path in paths]
    if equations is not None and len(equations) != len(texts):
        raise ValueError("select_paths: one list of equations for each path")
    keys = [equation_key(find_equations(t) if equations is None else equations[i], key) for i, t in enumerate(texts)]

    bucket_of: dict[str, int] = {}
    kept: list[int] = []  # for each bucket, the index of its representative
    held: list[str] = []  # and that one's text
    apart: list[list[int]] = []  # distances between the representatives
    repeated = {text for text, n in Counter(texts).items() if n > 1}
    measured: dict[tuple[str, str], int] = {}

    # What distances come to at most, as far as is known: rapidfuzz looks only so far off the diagonal and, where that was too
    # little, looks again from the start.
    hint = 64

    def distances(text: str) -> list[int]:
        nonlocal hint
        if text not in repeated:
            row: list[int] = [distance(text, other, score_hint=hint) for other in held]
            hint = max([hint, *row])
            return row
        row = []
        for other in held:
            found = measured.get((text, other))
            if found is None:
                found = measured[text, other] = distance(text, other)
            row.append(found)
        return row

    totals: list[int] = []  # for each bucket, the sum of its representative's distances to the others
    twins = False  # two representatives of one text: only where the equations were given from outside
    for i, text in enumerate(texts):
        bucket = bucket_of.get(keys[i])
        if bucket is None:
            twins = twins or text in held
            row = distances(text)
            bucket_of[keys[i]] = len(kept)
            for j, d in enumerate(row):
                apart[j].append(d)
                totals[j] += d
            apart.append([*row, 0])
            totals.append(sum(row))
            kept.append(i)
            held.append(text)
            continue
        if len(kept) == 1 or text == held[bucket]:
            continue
        row = distances(text)
        row[bucket] = 0
        score = sum(row)
        if twins:
            score = sum(d for d, other in zip(row, held, strict=True) if other != held[bucket])
        if score > totals[bucket]:
            twins = twins or text in held
            for j, d in enumerate(row):
                totals[j] += d - apart[j][bucket]
                apart[j][bucket] = d
            apart[bucket] = row
            totals[bucket] = sum(row)
            kept[bucket] = i
            held[bucket] = text
    return kept

"""From drawn texts to the number of distinct verified paths, by the project's own verifier and selection."""

from __future__ import annotations

from collections.abc import Sequence

from rftfast.select import select_paths
from rftfast.verify import cut, verify


def distinct_verified(texts: Sequence[Sequence[str]], golds: Sequence[str], stop: Sequence[str]) -> int:
    """Paths that are kept of all questions' samples: right answer, right equations, one per equation list.

    ``texts[i]`` are the samples of question i (uncut or cut at ``stop``, it does not matter), ``golds[i]`` its solution.
    """
    assert len(texts) == len(golds), (len(texts), len(golds))
    kept = 0
    for samples, gold in zip(texts, golds, strict=True):
        paths = [cut(text.lstrip(), stop) for text in samples]
        kept += len(select_paths([path for path in paths if verify(path, gold).correct]))
    return kept

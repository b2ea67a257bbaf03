"""The replayed fold is the selection's own, and its reasons are true."""

from __future__ import annotations

import random

import pytest
from rapidfuzz.distance.Levenshtein import distance

from rftfast.report.why import MAX_TEXT, Reason, explain, replay
from rftfast.select import equation_key, select_paths


def _random_question(seed: int) -> tuple[list[str], list[tuple[str, ...]]]:
    rnd = random.Random(seed)
    texts, lists = [], []
    for _ in range(rnd.randrange(1, 40)):
        text = "".join(rnd.choices("ab ", k=rnd.randrange(0, 7)))
        texts.append(text)
        lists.append(tuple(rnd.choices(["1+1=2", "2+1=3", "3"], k=rnd.randrange(0, 3))))
    return texts, lists


@pytest.mark.parametrize("seed", range(120))
def test_the_fold_is_the_selections_own(seed: int) -> None:
    # Few letters and few lists: ties, texts that appear again, and equal texts under different lists are common.
    texts, lists = _random_question(seed)
    reasons, kept = replay(texts, [equation_key(e) for e in lists])
    assert kept == select_paths(texts, equations=lists)
    standing = [i for i, r in enumerate(reasons) if r.code in ("first", "farther") and r.replaced_by is None]
    assert sorted(standing) == sorted(kept)


def test_each_reason_is_true() -> None:
    texts = ["aa", "bbbb", "aa", "cccccc", "aac", "b"]
    keys = ["x", "y", "x", "x", "x", "y"]
    reasons, kept = replay(texts, keys)
    assert reasons[0] == Reason("first", replaced_by=3)
    assert reasons[1] == Reason("first")
    assert reasons[2] == Reason("same_text", 0)
    assert reasons[3] == Reason("farther", 0, distance("cccccc", "bbbb"), distance("aa", "bbbb"))
    assert reasons[4] == Reason("nearer", 3, distance("aac", "bbbb"), 6)
    assert reasons[5] == Reason("nearer", 1, distance("b", "cccccc"), distance("bbbb", "cccccc"))
    assert kept == [3, 1]
    assert replay(["a", "bb"], ["x", "x"])[0] == [Reason("first"), Reason("alone", 0)]


def test_a_run_that_kept_others_is_repeated_not_contradicted() -> None:
    assert explain(["a", "bb"], ["x", "x"], [False, True]) == [Reason("another", 1), Reason("kept")]
    assert explain(["a", "bb"], ["x", "x"], [True, False]) == [Reason("first"), Reason("alone", 0)]
    assert explain(["a"], ["x"], [False]) == [Reason("another")]
    assert explain([], [], []) == []


def test_megabytes_are_not_measured() -> None:
    long = "a" * (MAX_TEXT + 1)
    assert explain([long, "b"], ["x", "y"], [True, True]) == [Reason("kept"), Reason("kept")]

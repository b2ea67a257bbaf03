"""Stop strings: found at the very token that completes them, wherever the token borders lie."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.engine.params import SamplingParams
from rftfast.engine.stops import Endings, StopStrings, cut
from rftfast.ops.stops import EOS, TEXT

VOCABULARY = [b"a", b"b", b"ab", b"ba", b"bab", b"", "é".encode(), "é".encode()[:1], "é".encode()[1:], b"\n\n", b"x\ny"]
TEXTS = st.text("abé\n", min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    stops=st.lists(TEXTS, min_size=1, max_size=3),
    prompt=st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=4),
    drawn=st.lists(st.integers(0, len(VOCABULARY) - 1), min_size=1, max_size=12),
)
def test_found_exactly_when_the_drawn_bytes_first_hold_a_stop(
    stops: list[str], prompt: list[int], drawn: list[int]
) -> None:
    watch = StopStrings(stops, VOCABULARY)
    text = b""
    for n, token in enumerate(drawn, 1):
        before, text = text, text + VOCABULARY[token]
        holds = [any(s.encode() in t for s in stops) for t in (before, text)]
        if holds[0]:
            return
        assert watch.found(prompt + drawn[:n], len(prompt)) == holds[1]


@pytest.mark.parametrize(
    ("tokens", "start", "found"),
    [
        ([0, 1], 0, True),
        ([0, 1], 1, False),  # the prompt's "a" does not count
        ([2], 0, True),
        ([4], 0, True),
        ([3], 0, False),
        ([3, 1], 0, True),
        ([0, 5, 1], 0, True),  # a token without bytes in between
        ([0, 1, 5], 0, False),  # nothing new
    ],
)
def test_the_stop_string_ab(tokens: list[int], start: int, found: bool) -> None:
    assert StopStrings(["ab"], VOCABULARY).found(tokens, start) is found


def test_no_stop_strings_never_stop():
    assert not StopStrings([], VOCABULARY).found([0, 1, 2], 0)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one\ntwo", ("\n",), "one"),
        ("one\ntwo", ("two", "\n"), "one"),
        ("one", ("\n",), "one"),
        ("\none", ("\n",), ""),
        ("aaa", ("aa",), ""),
        ("one", (), "one"),
    ],
)
def test_cut(text: str, stops: tuple[str, ...], expected: str) -> None:
    assert cut(text, stops) == expected


def test_endings_are_made_once_for_equal_parameters() -> None:
    asked: list[int] = []

    def token_bytes(size: int) -> list[bytes]:
        asked.append(size)
        return VOCABULARY

    endings = Endings(len(VOCABULARY), [1], token_bytes)
    plain, last = SamplingParams(), VOCABULARY[2].decode()[-1]
    assert endings.strings(plain) is None and endings.tokens(plain).nonzero()[0].tolist() == [1] and not asked
    assert endings.tokens(SamplingParams(ignore_eos=True)).sum() == 0
    one, other = (SamplingParams(stop=(last,), temperature=t) for t in (0.5, 1.0))
    assert endings.tokens(one) is endings.tokens(other) and endings.strings(one) is endings.strings(other)
    flags = endings.tokens(one)
    assert asked == [len(VOCABULARY)] and flags[1] & EOS and flags[2] & TEXT
    assert all(bool(flags[i] & TEXT) == (last.encode() in token) for i, token in enumerate(VOCABULARY))

"""Where steps end: in the text, and among the tokens that were drawn."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfast.errors import UserError
from rftfast.negatives.steps import StepPolicy, align, split

SENTENCES = StepPolicy("sentences", least=1)

TABLE = [
    # lines
    ("lines", "a\nb\n#### 3", ["a\n", "b\n", "#### 3"]),
    ("lines", "a\n\n \n  b\n", ["a\n\n \n", "  b\n"]),
    ("lines", "one line. Two sentences.", ["one line. Two sentences."]),
    ("lines", "a \t\nb", ["a \t\n", "b"]),
    # sentences
    ("sentences", "He has 3. She has 4.", ["He has 3.", " She has 4."]),
    ("sentences", "It costs $3.50. So 2 cost $7.", ["It costs $3.50.", " So 2 cost $7."]),
    ("sentences", "Mr. Smith has 3 apples. Dr. Who!", ["Mr. Smith has 3 apples.", " Dr. Who!"]),
    ("sentences", "Fruit, e.g. apples. i.e. none", ["Fruit, e.g. apples. i.e. none"]),
    ("sentences", "J. Doe walks. K", ["J. Doe walks.", " K"]),
    ("sentences", "1. First this.\n2. Then that.", ["1. First this.\n", "2. Then that."]),
    ("sentences", 'She said "Go." Then he went.', ['She said "Go."', " Then he went."]),
    ("sentences", "So <<3. + 4.=7.>>7. Done", ["So <<3. + 4.=7.>>7.", " Done"]),
    ("sentences", "We get\n\\[\nx = 1.\n\ny\n\\]\nSo 1.", ["We get\n", "\\[\nx = 1.\n\ny\n\\]\n", "So 1."]),
    ("sentences", "Really?! Yes... Maybe", ["Really?!", " Yes...", " Maybe"]),
    ("sentences", "所以是3。然后4。", ["所以是3。", "然后4。"]),
    ("sentences", "end.\n\n\nnext", ["end.\n\n\n", "next"]),
]


@pytest.mark.parametrize(("kind", "text", "steps"), TABLE)
def test_split(kind: str, text: str, steps: list[str]) -> None:
    ends = split(text, StepPolicy(kind, least=1), "")
    assert [text[a:b] for a, b in pairwise([0, *ends])] == steps


def test_auto_looks_at_the_gold_solution() -> None:
    text = "One. Two.\nThree. Four."
    assert len(split(text, StepPolicy(least=1), "so <<1+1=2>>2\n#### 2")) == 2
    assert len(split(text, StepPolicy(least=1), "so $x = 2$, \\boxed{2}")) == 4


def test_short_steps_are_joined() -> None:
    text = "A long enough sentence here. No. Another long enough sentence. Ok."
    ends = split(text, StepPolicy("sentences", least=20), "")
    assert [text[a:b] for a, b in pairwise([0, *ends])] == [
        "A long enough sentence here.",
        " No. Another long enough sentence. Ok.",
    ]
    assert split("No.", StepPolicy("sentences", least=20), "") == [3]
    assert split(" \n ", StepPolicy(), "") == []


def test_at_most_so_many_steps() -> None:
    text = "".join(f"{'x' * n}\n" for n in (9, 1, 2, 9, 9, 9))
    ends = split(text, StepPolicy("lines", most=4), "")
    assert [text[a:b].split() for a, b in pairwise([0, *ends])] == [
        ["x" * 9, "x", "xx"],
        ["x" * 9],
        ["x" * 9],
        ["x" * 9],
    ]


@pytest.mark.parametrize("bad", [{"kind": "words"}, {"least": 0}, {"most": 0}])
def test_bad_policies_are_refused(bad: dict) -> None:
    with pytest.raises(UserError, match="steps"):
        StepPolicy(**bad)


def test_borders_move_over_white_space_to_the_tokens_end_or_two_steps_are_one() -> None:
    text = "ab\ncd\nef"
    ends = [3, 6, 8]
    assert align(text, ends, [b" ", b"ab", b"\n", b"cd", b"\n", b"ef", b"\n\n"]).tokens == (3, 5, 7)  # type: ignore[union-attr]
    spaced = align("ab\n  cd", [3, 7], [b"ab", b"\n ", b" cd"])
    assert spaced is not None and (spaced.ends, spaced.tokens, spaced.joined) == ((4, 7), (2, 3), 0)
    early = align("ab\ncd", [3, 5], [b"ab", b"\ncd"])  # the line break belongs to the token of the next word
    assert early is not None and (early.ends, early.tokens, early.joined) == ((2, 5), (1, 2), 0)
    both = align(text, ends, [b"ab", b"\n", b"cd\ne", b"f"])
    assert both is not None and (both.ends, both.tokens, both.joined) == ((3, 8), (2, 4), 1)


def test_characters_of_several_bytes_and_tokens_of_none() -> None:
    text = "2 € –\nüber 3"
    raw = text.encode()
    single = [raw[i : i + 1] for i in range(len(raw))]
    found = align(text, [6, len(text)], [b"", *single, b""])
    assert found is not None
    assert b"".join([b"", *single][: found.tokens[0]]).decode() == "2 € –\n"
    assert found.tokens[-1] == len(single) + 2


def test_tokens_that_spell_another_text_are_refused() -> None:
    assert align("ab", [2], [b"ac"]) is None
    assert align("ab", [2], [b"a"]) is None
    assert align("", [], []) is None


@given(st.text("ab .\n1#é", min_size=1, max_size=60), st.integers(0, 1 << 30), st.sampled_from(["lines", "sentences"]))
def test_steps_are_the_text_and_tokens_spell_them(text: str, seed: int, kind: str) -> None:
    text = text.lstrip()
    ends = split(text, StepPolicy(kind, least=1), "")
    assert ("".join(text[a:b] for a, b in pairwise([0, *ends])) == text) or not text.strip()
    assert ends == sorted(set(ends)) and all(text[a:b].strip() for a, b in pairwise([0, *ends]))
    raw, draw = (" " + text + "\n\nmore").encode(), random.Random(seed)
    cuts = sorted({0, len(raw), *(draw.randrange(len(raw)) for _ in range(draw.randrange(20)))})
    pieces = [raw[a:b] for a, b in pairwise(cuts)]
    steps = align(text, ends, pieces)
    if not text.strip():
        assert steps is None
        return
    assert steps is not None
    assert "".join(steps.texts(text)) == text and len(steps.ends) + steps.joined == len(ends)
    for end, tokens in zip(steps.ends[:-1], steps.tokens[:-1], strict=True):
        assert b"".join(pieces[:tokens]).decode().lstrip() == text[:end]

"""What a caller may ask for, and the one line that every bad value gets."""

from __future__ import annotations

from typing import Any

import pytest

from rftfast.engine import Generation, Request, SamplingParams
from rftfast.errors import UserError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("k", 0),
        ("k", -3),
        ("temperature", -0.1),
        ("temperature", NAN),
        ("temperature", INF),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("top_p", NAN),
        ("top_k", -1),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("min_p", NAN),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("stop", ("\n", "")),
    ],
)
def test_a_bad_value_is_named_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(**{field: value})
    message = str(caught.value)
    assert field.replace("_", "-") in message and "\n" not in message
    assert field == "stop" or str(value) in message


def test_edges_are_allowed():
    params = SamplingParams(k=1, temperature=0, top_p=1, top_k=0, min_p=1, max_tokens=1, stop=["\n", "Q:"])  # type: ignore[arg-type]
    assert params.stop == ("\n", "Q:")
    assert hash(params) == hash(SamplingParams(k=1, temperature=0, min_p=1, max_tokens=1, stop=("\n", "Q:")))


def test_a_stop_given_as_one_string_is_one_stop():
    assert SamplingParams(stop="Question:").stop == ("Question:",)  # type: ignore[arg-type]


def test_a_request_draws_all_of_k_unless_told_which():
    assert Request("q", (1,), SamplingParams(k=3)).indices() == (0, 1, 2)
    assert Request("q", (1,), SamplingParams(k=3), samples=(7, 3)).indices() == (7, 3)
    assert Request("q", (1,), samples=()).indices() == ()


def test_logprob_of_a_generation_is_the_sum():
    assert Generation("q", 0, "", (1, 2), (-0.5, -1.25), "length").logprob == -1.75

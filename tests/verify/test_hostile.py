"""Texts made to hang or crash a verifier: a verdict every time, and soon."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.data.records import VERDICTS
from rftfast.verify import Policy, verify
from rftfast.verify.judge import verify_in_python

MEGA = 1_000_000
HOSTILE = {
    "a megabyte of text": "word " * (MEGA // 5),
    "a million digits": "#### " + "9" * MEGA,
    "a million digits after commas": "#### " + ",999" * (MEGA // 4),
    "a million digits in an equation": f"<<{'9' * MEGA}=1>>#### 18",
    "a million decimals": "#### 0." + "9" * MEGA,
    "unclosed openings": "<<" * (MEGA // 2),
    "openings closed once": "<<" * (MEGA // 2) + "1=1>>#### 18",
    "single closings": "<<1>" * (MEGA // 4),
    "nested parentheses": f"<<{'(' * 500_000}5{')' * 500_000}=5>>#### 18",
    "parentheses to the limit": f"<<{'(' * 200}5{')' * 200}=5>>" * 1000 + "#### 18",
    "many markers": "#### " * (MEGA // 5),
    "many answers": "The answer is " * (MEGA // 14),
    "many boxes": "\\boxed{" * (MEGA // 7),
    "towers of powers": "<<9**9**9=1>>" * 1000 + "#### 18",
    "slow powers": "".join(f"<<{i}**400%7=1>>" for i in range(2, 2000)) + "#### 18",
    "ten thousand equations": "".join(f"<<{i}+1={i + 1}>>" for i in range(10_000)) + "#### 18",
    "long equations": "".join(f"<<{'1+' * 400}{i}={400 + i}>>" for i in range(500)) + "#### 18",
    "signs": "<<" + "-" * 1000 + "5=5>>#### 18",
    "equals signs": "<<" + "=" * MEGA + ">>#### 18",
    "bare figures": "1 " * (MEGA // 2) + "#### 18",
    "bare equations": "1+1=2, " * 20_000 + "#### 18",
    "bare chain": "1+" * (MEGA // 2) + "1=1 #### 18",
    "bare equals": "1=" * (MEGA // 2) + " #### 18",
    "blanks": " " * MEGA + "#### 18",
    "blank lines": "\n \t" * (MEGA // 3) + "#### 18",
    "stars": "*" * MEGA,
    "nul": "\0" * MEGA,
    "surrogates": "\ud800" * MEGA + "<<5#\ud800=5>>#### 18",
    "exponents": "#### 1e" + "9" * MEGA,
}


@pytest.mark.parametrize(
    "policy", [Policy(), Policy.reference(), Policy(bare=True)], ids=["strict", "reference", "bare"]
)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gets_a_verdict_soon(name, policy):
    began = time.process_time()
    verdict = verify(HOSTILE[name], "18", policy)
    took = time.process_time() - began
    assert verdict.verdict in VERDICTS
    # At most 20 ms on a quiet machine (200 in Python alone); the slack is for a crowded one.
    assert took < 1.0, took
    assert verify_in_python(HOSTILE[name], "18", policy) == verdict


def test_ten_thousand_true_equations_are_all_checked():
    good = HOSTILE["ten thousand equations"]
    assert verify(good, "18").verdict == "correct"
    assert verify(good.replace("<<9999+1=10000>>", "<<9999+1=10001>>"), "18").verdict == "wrong_equation"


def test_one_endless_equation_is_false_not_a_timeout():
    assert verify(HOSTILE["nested parentheses"], "18").verdict == "wrong_equation"


def test_endless_ordinary_text_is_not_searched_for_equations():
    assert verify("1+1=2, " * 50_000 + "#### 18", "18", Policy(bare=True)).verdict == "timeout"
    assert verify("1+1=2, " * 50_000 + "#### 18", "18").verdict == "correct"


def test_more_equations_than_any_solution_has_are_a_timeout():
    assert verify("<<1+1=2>>" * 50_000 + "#### 18", "18").verdict == "timeout"


pieces = st.sampled_from(
    [
        "<<",
        ">>",
        "=",
        "####",
        "#### ",
        "\\boxed{",
        "}",
        "The answer is",
        "\n",
        "\0",
        "9**9",
        "(",
        ")",
        "1,000",
        "$",
        "%",
        "1/0",
        "-",
        "é",
        "\ud800",
        "A: ",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces | st.text(max_size=4), max_size=30).map("".join), st.booleans())
def test_any_text_gets_the_same_verdict_twice(text, truncated):
    for policy in (Policy(), Policy.reference(), Policy(bare=True)):
        verdict = verify(text, "18", policy, truncated=truncated)
        assert verdict == verify(text, "18", policy, truncated=truncated)
        assert (verdict.verdict in ("no_answer", "truncated")) == (verdict.answer is None)

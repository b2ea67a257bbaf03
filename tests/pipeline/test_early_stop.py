"""The online verifier against the verifier itself, character by character and token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.data.records import Verdict
from rftfast.engine.monitor import DrawnPath
from rftfast.pipeline.early_stop import ANSWERED, FALSE_EQUATION, OnlineVerifier, SavedTokens, judged
from rftfast.verify import Policy, check_equation, extract_answer, find_equations, verify

STRICT = OnlineVerifier(Policy())


def stop(text: str, pieces: list[str] | None = None, online: OnlineVerifier = STRICT) -> tuple[str, str] | None:
    """(why, what had been drawn) of a path that comes in ``pieces``, by default character by character."""
    tokens = [p.encode() for p in (pieces if pieces is not None else list(text))]
    for n in range(1, len(tokens) + 1):
        if set(online.triggers) & set(tokens[n - 1]):
            why = online(DrawnPath("q", 0, tokens, range(n)))
            if why:
                return why, b"".join(tokens[:n]).decode()
    return None


@pytest.mark.parametrize(
    ("text", "why", "drawn"),
    [
        ("2*3 = <<2*3=6>>6\n#### 6\nmore", ANSWERED, "2*3 = <<2*3=6>>6\n#### 6\n"),
        ("2*3 = <<2*3=7>>7\n#### 7\n", FALSE_EQUATION, "2*3 = <<2*3=7>>"),
        ("<<2*3=6>> and <<1+1=3>> and on", FALSE_EQUATION, "<<2*3=6>> and <<1+1=3>>"),
        ("The answer is 5.\nBut", ANSWERED, "The answer is 5.\n"),
        ("so \\boxed{5}\n", ANSWERED, "so \\boxed{5}\n"),
        ("#### \n18", None, None),  # a marker that no number follows in its line
        ("#### 18", None, None),  # the line may go on: #### 18,000
        ("a > b >> c\n << 2*3=7 \n", None, None),  # never closed
        ("<<no equation>>", FALSE_EQUATION, "<<no equation>>"),  # the verifier takes it for a false one, too
        ("<<<3=3>>>", FALSE_EQUATION, "<<<3=3>>"),
    ],
)
def test_where_a_path_ends(text: str, why: str | None, drawn: str | None) -> None:
    assert stop(text) == (None if why is None else (why, drawn))


def test_reference_policy_looks_at_two_parts_only() -> None:
    assert stop("<<1+1=2=3>> x") == (FALSE_EQUATION, "<<1+1=2=3>>")
    assert stop("<<1+1=2=3>> x", online=OnlineVerifier(Policy.reference())) is None
    assert stop("<<1+1=3>>", online=OnlineVerifier(Policy(equations="off"))) is None


def test_one_token_may_bring_a_whole_line_and_more() -> None:
    assert stop("", ["so <<1+1=3>> and <<", "1+1=2>>"]) == (FALSE_EQUATION, "so <<1+1=3>> and <<")
    assert stop("", ["####", " 1", "8\n\nNext", " one"]) == (ANSWERED, "#### 18\n\nNext")
    assert STRICT.cut("so\n#### 18\n\nNext") == "so\n#### 18"
    assert STRICT.cut("no answer") == "no answer"


pieces = st.lists(
    st.sampled_from(["<<", ">>", "<", ">", "1+1=2", "1+1=3", "2*3=6", "=", " ", "\n", "#### ", "18", "é", "A: ", "x"]),
    max_size=14,
)


@settings(max_examples=600, deadline=None)
@given(pieces, st.sampled_from(["strict", "reference"]))
def test_it_stops_where_the_verifiers_own_functions_first_say_so(parts: list[str], mode: str) -> None:
    """Token by token: the first prefix that holds a false closed equation, or a whole line with an answer."""
    online = OnlineVerifier(Policy(equations=mode))
    expected = None
    for n in range(1, len(parts) + 1):
        text = "".join(parts[:n])
        closed = find_equations(text[: text.rfind(">>") + 2] if ">>" in text else "")
        if any(not check_equation(e, mode) for e in closed):
            expected = FALSE_EQUATION, text
        elif any(extract_answer(line) is not None for line in text.split("\n")[:-1]):
            expected = ANSWERED, text
        if expected:
            break
    assert stop("", parts, online) == expected


@settings(max_examples=300, deadline=None)
@given(pieces)
def test_no_path_that_would_be_accepted_is_lost(parts: list[str]) -> None:
    """What stops at a false equation is refused whole; what stops after the answer keeps the first line's answer."""
    found = stop("", parts)
    if found and found[0] == FALSE_EQUATION:
        assert not verify("".join(parts), "18").correct
        assert judged(verify(found[1], "18"), FALSE_EQUATION).verdict in ("wrong_equation", "wrong_answer")


def test_verdict_of_a_stopped_path() -> None:
    verdict = verify("<<1+1=3>>", "18")
    assert verdict.verdict == "no_answer"
    assert judged(verdict, FALSE_EQUATION) == Verdict("wrong_equation", None, ("1+1=3",))
    assert judged(verdict, "eos") == verdict


def test_saved_tokens_are_a_lifetime_estimate() -> None:
    """Lengths are geometric and stops independent of them, so a stop saves 1/p tokens on average."""
    rng = np.random.default_rng(0)
    lengths, stops = rng.geometric(1 / 40, 20_000), rng.geometric(1 / 30, 20_000)
    saved = SavedTokens(1000)
    for length, stopped in zip(lengths, stops, strict=True):
        saved.add(int(min(length, stopped)), FALSE_EQUATION if stopped < length else "eos")
    early = stops < lengths
    true = (lengths - stops)[early].sum()
    assert saved.paths == early.sum()
    assert saved.estimate() == pytest.approx(true, rel=0.05)


def test_nothing_is_claimed_before_a_path_has_ended_by_itself() -> None:
    saved = SavedTokens(100)
    saved.add(10, FALSE_EQUATION)
    assert saved.estimate() == 0
    saved.add(30, "answered")
    assert saved.estimate() == pytest.approx(20)

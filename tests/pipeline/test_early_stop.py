"""The online verifier against the verifier itself, character by character and token by token; and at work in a run."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.data.records import Verdict
from rftfast.data.run_dir import RunDir
from rftfast.engine.monitor import DrawnPath, Monitor, Watch
from rftfast.engine.params import Generation, Request
from rftfast.engine.stats import Stats
from rftfast.pipeline.early_stop import ANSWERED, FALSE_EQUATION, OnlineVerifier, SavedTokens, judged
from rftfast.pipeline.job import SampleOptions, prepare
from rftfast.pipeline.sample import Progress, run
from rftfast.verify import Policy, check_equation, extract_answer, find_equations, verify
from tests.tiny_model import write_tiny_llama

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
        ("a > b >> c\n << 2*3=7 \nso", FALSE_EQUATION, "a > b >> c\n << 2*3=7 \n"),  # closed or not, it is wrong
        ("<<3+1=5>4 and 2\n", FALSE_EQUATION, "<<3+1=5>4 and 2\n"),  # never closed; seen at the next trigger
        ("<<3+1=5>4, <<1+1=2>> on", FALSE_EQUATION, "<<3+1=5>4, <<1+1=2>"),
        ("a << b, c < d and so on", None, None),  # >> may yet come
        ("#### 18\0<<1+1=3>> <<1\n>", ANSWERED, "#### 18\0<<1+1=3>> <<1\n"),  # behind a NUL, nothing counts
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
    for mode in ("reference", "off"):
        assert stop("<<1+1=3>4\n<<", online=OnlineVerifier(Policy(equations=mode))) is None
    assert stop("\0<<1+1=3>>", online=OnlineVerifier(Policy.reference())) == (FALSE_EQUATION, "\0<<1+1=3>>")


def test_one_token_may_bring_a_whole_line_and_more() -> None:
    assert stop("", ["so <<1+1=3>> and <<", "1+1=2>>"]) == (FALSE_EQUATION, "so <<1+1=3>> and <<")
    assert stop("", ["####", " 1", "8\n\nNext", " one"]) == (ANSWERED, "#### 18\n\nNext")
    assert STRICT.cut("so\n#### 18\n\nNext") == "so\n#### 18"
    assert STRICT.cut("no answer") == "no answer"


pieces = st.lists(
    st.sampled_from(
        ["<<", ">>", "<", ">", "1+1=2", "1+1=3", "2*3=6", "=", " ", "\n", "#### ", "18", "é", "A: ", "x", "\0"]
    ),
    max_size=14,
)


@settings(max_examples=600, deadline=None)
@given(pieces, st.sampled_from(["strict", "reference"]))
def test_it_stops_where_the_verifiers_own_functions_first_say_so(parts: list[str], mode: str) -> None:
    """Token by token: the first prefix that holds a false closed equation, or a mark that cannot be closed, or a whole line
    with an answer."""
    online = OnlineVerifier(Policy(equations=mode))
    expected = None
    for n in range(1, len(parts) + 1):
        text = "".join(parts[:n])
        if not set(parts[n - 1]) & set(">\n"):
            continue
        seen = text.partition("\0")[0] if mode == "strict" else text
        closed = find_equations(seen[: seen.rfind(">>") + 2] if ">>" in seen else "")
        lost = mode == "strict" and re.search(r"<<[^>]*(\n|>[^>])", seen)
        if lost or any(not check_equation(e, mode) for e in closed):
            expected = FALSE_EQUATION, text
        elif any(extract_answer(line) is not None for line in text.split("\n")[:-1]):
            expected = ANSWERED, text
        if expected:
            break
    assert stop("", parts, online) == expected


@settings(max_examples=1500, deadline=None)
@given(pieces, pieces, st.sampled_from([Policy(), Policy(bare=True), Policy(equations="reference")]))
def test_no_path_that_would_be_accepted_is_lost(parts: list[str], rest: list[str], policy: Policy) -> None:
    """What stops at a false equation is refused whatever follows it, and however right the answer is."""
    found = stop("", parts, OnlineVerifier(policy))
    if found and found[0] == FALSE_EQUATION:
        for further in ("", "".join(rest)):
            for text in (found[1] + further, found[1] + further + "\n#### 18", "#### 18\n" + found[1] + further):
                assert not verify(text, "18", policy).correct
        assert judged(verify(found[1], "18", policy), FALSE_EQUATION).verdict in ("wrong_equation", "wrong_answer")


def test_hostile_marks_are_read_in_linear_time() -> None:
    for text in ("<<" * 100_000, "<<1>" * 50_000 + ">", "<" * 200_001):
        began = time.process_time()
        STRICT.word(text + "\n", 1)
        assert time.process_time() - began < 1.0


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


BYTES = [bytes([b]) for b in range(256)]
TEXTS = (
    " 2*3 = <<2*3=6>>6\n#### 6\nand on it goes\n#### 7",  # right, and wrong if it were drawn to its end
    " 2*3 = <<2*3=7>>7, so <<7-1=6>>6\n#### 6",  # a false equation on the way to the right answer
    " #### 5\n <<1+1=2>>",  # a wrong answer
    " 3*2 = <<3*2=6>>6\n#### 6",  # right; ends by itself
    " <<3+3=5>>",  # false at its very end
    " no idea at all",
)


class Typist:
    """Stands in for ``Sampler``: types TEXTS byte by byte under the eyes of the monitor."""

    def __init__(self) -> None:
        self.stats = Stats()

    def check_request(self, request: Request) -> None:
        assert request.tokens

    def stream(self, requests: Iterable[Request | None], monitor: Monitor | None = None) -> Iterator[Generation]:
        watch = Watch(monitor, BYTES) if monitor else None
        for request in requests:
            assert request is not None
            for i in request.indices():
                drawn: list[int] = []
                reason = None
                for byte in TEXTS[i].encode():
                    drawn.append(byte)
                    reason = watch.verdict(request.name, i, drawn) if watch else None
                    if reason:
                        break
                yield Generation(
                    request.name, i, bytes(drawn).decode(), tuple(drawn), (-0.5,) * len(drawn), reason or "eos"
                )


def sampled(folder: Path, *, early_stop: bool) -> tuple[list[dict[str, Any]], Progress, str]:
    """(the stored samples, the process's figures, the summary that ``rftfast sample`` prints)."""
    from rich.console import Console

    from rftfast.cli.sample import _summary

    folder.mkdir()
    questions = folder / "q.jsonl"
    questions.write_text(json.dumps({"id": "q", "question": "What is 2*3?", "answer": "#### 6"}) + "\n")
    options = SampleOptions(
        model=str(write_tiny_llama(folder / "model")),
        questions=str(questions),
        shots=0,
        k=len(TEXTS),
        max_tokens=64,
        early_stop=early_stop,
    )
    job = prepare(options)
    out = io.StringIO()
    with RunDir.open(folder / "run", job.identity(), job.fingerprints(), {}) as directory:
        progress = run(job, Typist(), directory, lambda _: None)  # type: ignore[arg-type]
        _summary(Console(file=out, width=200), directory.summary(), progress, folder / "run")
    (question,) = RunDir.read_questions(folder / "run")
    return sorted(question.samples, key=lambda s: s["sample_index"]), progress, out.getvalue()


def test_a_run_ends_paths_counts_what_it_saved_and_says_so(tmp_path: Path) -> None:
    samples, progress, said = sampled(tmp_path / "on", early_stop=True)
    reasons = [ANSWERED, FALSE_EQUATION, ANSWERED, "eos", FALSE_EQUATION, "eos"]
    assert [s["finish_reason"] for s in samples] == reasons
    verdicts = ["correct", "wrong_equation", "wrong_answer", "correct", "wrong_equation", "no_answer"]
    assert [s["verdict"] for s in samples] == verdicts
    assert samples[0]["completion"].endswith("#### 6")  # cut behind the answer
    assert samples[1]["completion"].endswith("<<2*3=7>>")
    assert [s["tokens"] for s in samples[:3]] == [
        TEXTS[0].index("and on"), TEXTS[1].index("7, so"), TEXTS[2].index(" <<")
    ]  # fmt: skip
    assert progress.stopped == 2
    assert progress.tokens == sum(s["tokens"] for s in samples)
    assert 0 < progress.stop_saved_tokens < 64
    assert f"about {progress.stop_saved_tokens:,.0f} new tokens" in said and "2 paths ended at a false equation" in said

    whole, without, silent = sampled(tmp_path / "off", early_stop=False)
    assert [s["finish_reason"] for s in whole] == ["eos"] * len(TEXTS)
    assert without.tokens == sum(len(t) for t in TEXTS) > progress.tokens
    assert (without.stopped, without.stop_saved_tokens) == (0, 0)
    assert "saved by early stop" in said and "saved by early stop" not in silent

"""The parts of synth that need no teacher: reading answers, agreement, duplicates, decontamination, limits."""

from __future__ import annotations

import asyncio
import random
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from rftfast.data import Question, load_questions
from rftfast.errors import UserError
from rftfast.synth.agree import agreement
from rftfast.synth.decontaminate import Evaluation
from rftfast.synth.limits import Gate, Rates, backoff, retry_after
from rftfast.synth.prompts import problem_ask, read_problem, solution_ask
from rftfast.synth.teacher import Prices, Text, Usage, scrub, shorten
from rftfast.verify import Policy

PROBLEM = "Mia has 3 pens and buys 4 more. How many pens has she?"


@pytest.mark.parametrize(
    "answer",
    [
        PROBLEM,
        f"  {PROBLEM}\n",
        f"Problem: {PROBLEM}",
        f"**Problem:** {PROBLEM}",
        f"### New problem\n{PROBLEM}",
        f"Sure, here it is.\n\n### New problem\n\n{PROBLEM}\n\n### Solution\n3+4=7",
        f"{PROBLEM}\n\nSolution: She has 7.",
        f"Question 5: {PROBLEM}\nAnswer: 7",
        f"{PROBLEM}\n\n**Solution**\n7",
        f"### Problem 5\n{PROBLEM}\n\n### Problem 6\nAnother one",
        f"**Problem**: {PROBLEM}\n**Solution** 3+4=7",
        f"Problem 5:\n{PROBLEM}\nProblem 6: Another one",
    ],
)
def test_the_problem_in_an_answer(answer: str) -> None:
    assert read_problem(answer) == PROBLEM


@pytest.mark.parametrize(
    "problem",
    [
        "Questions of a test are worth 5 points each. Ann answers 7 of them. How many points has she?",
        "Problem solving is a club of 5 members, and each solves 4 puzzles. How many in all?",
        "Solution A is 20 % acid, and there are 5 liters of it. How much acid is in it?",
        "Tom mixes two liquids.\nSolution A has 3 liters, the other 4.\nHow many liters are there?",
        "Ann has 5 apples and eats 2 of them.\nAnswer in whole apples: how many are left?",
    ],
)
def test_a_word_that_is_no_title_is_left_where_it_stands(problem: str) -> None:
    assert read_problem(problem) == read_problem(f"**Problem:** {problem}\n\n**Solution:** 7") == problem


@pytest.mark.parametrize("answer", ["", "   ", "No.", "Solution: 7", "x" * 2001])
def test_an_answer_without_a_problem(answer: str) -> None:
    assert read_problem(answer) is None


def test_asks_show_the_given_problems() -> None:
    shown = [Question("a", "First?", "so\n#### 1"), Question("b", "Second?", "so\n#### 2")]
    ask = problem_ask("p", shown, 64, 1.0)
    assert "First?" in ask.messages[0]["content"] and "#### 1" not in ask.messages[0]["content"]
    assert ask.plain.endswith("Question: Second?\n\nQuestion:")
    solving = solution_ask("s", "Third?", shown, 3, 64, 0.7)
    assert [m["role"] for m in solving.messages] == ["user", "assistant"] * 2 + ["user"]
    assert solving.messages[-1]["content"].startswith("Third?") and solving.plain.endswith("Question: Third?\nAnswer:")


def texts(*answers: str) -> list[Text]:
    return [Text(f"so <<1+1=2>>2\n#### {a}") for a in answers]


@pytest.mark.parametrize(
    ("solutions", "answer", "votes", "good", "tied"),
    [
        (texts("7", "7", "7"), "7", 3, (0, 1, 2), False),
        (texts("8", "7", "7.0", "$7"), "7", 3, (1, 2, 3), False),
        (texts("8", "7", "8", "7"), "8", 2, (0, 2), True),
        ([Text("no idea"), *texts("7")], "7", 1, (1,), False),
        ([Text("no idea")], None, 0, (), False),
        ([], None, 0, (), False),
        ([Text("<<1+1=3>>3\n#### 3"), *texts("3", "3")], "3", 3, (1, 2), False),
        ([Text("so 7\n#### 7", cut=True), *texts("7")], "7", 1, (1,), False),
    ],
)
def test_agreement(solutions: list[Text], answer: str | None, votes: int, good: tuple[int, ...], tied: bool) -> None:
    found = agreement(solutions, Policy())
    assert (found.answer, found.votes, found.good, found.tied) == (answer, votes, good, tied)
    words = found.votes_of(len(solutions))
    assert words.startswith("none of " if answer is None else f"{votes} of ") and "None" not in words
    assert words.endswith("as many for another") == tied


def seen(near: float = 0.7):  # type: ignore[no-untyped-def]
    pytest.importorskip("datasketch")
    from rftfast.synth.duplicates import Seen

    return Seen(near)


def test_exact_and_near_duplicates() -> None:
    known = seen()
    known.add("a", "Mia has 3 pens and buys 4 more at the shop by the river. How many pens has she in all?")
    known.add("b", "A train leaves the town at noon and goes 60 miles an hour. When is it 150 miles away?")
    same = known.twin("mia has 3 pens and buys 4 more at the shop by the river!  How many pens has she in all")
    assert same is not None and (same.name, same.similarity) == ("a", 1.0)
    numbers = known.twin("Mia has 13 pens and buys 27 more at the shop by the river. How many pens has she in all?")
    assert numbers is not None and numbers.similarity == 1.0
    near = known.twin("Mia has 3 pens and buys 4 more at the shop by the river. How many pens has she got in all?")
    assert near is not None and near.name == "a" and 0.7 <= near.similarity < 1
    assert known.twin("Nobody knows how many stars there are, but Tom counts 12 of them.") is None
    assert known.twin("Two") is None
    known.add("a", "Nobody knows how many stars there are, but Tom counts 12 of them.")  # a name may come again
    again = known.twin("Nobody knows how many stars there are, but Tom counts 14 of them!")
    assert again is not None and (again.name, again.similarity) == ("a", 1.0)
    with pytest.raises(UserError, match="near is 0"):
        seen(0)


def test_every_pair_above_the_threshold_is_found() -> None:
    """Against comparing each with each."""
    from rftfast.synth.duplicates import _jaccard, _triples

    draw = random.Random(2)
    base = [
        " ".join(draw.choices(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"], k=30))
        for _ in range(12)
    ]
    problems = []
    for text in base:
        for changes in (0, 1, 2, 3, 5, 8):
            found = text.split()
            for _ in range(changes):
                found[draw.randrange(30)] = draw.choice(["uno", "due", "tre"])
            problems.append(" ".join(found))
    known, kept, missed = seen(0.6), [], 0
    for i, text in enumerate(problems):
        slow = any(_jaccard(_triples(text), _triples(problems[j])) >= 0.6 for j in kept)
        fast = known.twin(text) is not None
        assert slow or not fast
        missed += slow and not fast
        if not slow:
            known.add(str(i), text)
            kept.append(i)
    assert missed == 0 and 12 <= len(kept) < 60


def test_overlap_with_the_evaluation() -> None:
    held = Evaluation(
        [Question("e1", "How many apples does the old farmer sell on Monday?", "1"), Question("e2", "One two?", "")], 5
    )
    found = held.overlap("Say how many APPLES does, the old farmer eat?")
    assert found is not None and (found.question_id, found.words) == ("e1", "how many apples does the")
    assert held.overlap("How many pears does the old farmer sell on Tuesday?") is not None  # "the old farmer sell on"
    assert held.overlap("How many pears does the young farmer sell on Monday?") is None
    short = held.overlap("So one, two: go!")
    assert short is not None and short.question_id == "e2"
    assert Evaluation([], 8).overlap("anything at all") is None
    eggs = Evaluation([Question("e3", "She sells 1,000 eggs in 2,5 days, 12,345,678 in all", "")], 5)
    assert eggs.overlap("Who sells 1000 eggs in 2,5 days?") is not None
    assert eggs.overlap("eggs in 2,5 days, 12345678!") is not None and eggs.overlap("eggs in 25 days, 12345678") is None
    with pytest.raises(UserError, match="at least 3"):
        Evaluation([], 2)


def test_few_of_gsm8ks_training_questions_overlap_with_its_test(gsm8k_dir: Path) -> None:
    test = load_questions(gsm8k_dir / "test.jsonl")
    train = load_questions(gsm8k_dir / "train.jsonl", limit=1500)
    held = Evaluation(test, 10)
    assert all(held.overlap(question.question) for question in test)
    assert sum(held.overlap(question.question) is not None for question in train) < 0.005 * len(train)


class Clock:
    """Time that passes only while someone waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_requests_and_tokens_a_minute() -> None:
    async def times(rates: Rates, tokens: float, count: int) -> list[float]:
        clock = Clock()
        gate = Gate(rates, clock, clock.sleep)
        found = []
        for _ in range(count):
            await gate.enter(tokens)
            found.append(clock.now - 100)
        return found

    requests = asyncio.run(times(Rates(requests=60), 1, 130))
    assert all(sum(t <= x < t + 60 for x in requests) <= 67 for t in requests), "60 and the tenth it begins with"
    assert requests[-1] == pytest.approx(124, abs=1)
    tokens = asyncio.run(times(Rates(tokens=6000), 1000, 12))
    assert tokens[-1] == pytest.approx((12 * 1000 - 600) / 100, abs=1)
    huge = asyncio.run(times(Rates(tokens=600), 1e6, 1))
    assert huge[0] == pytest.approx(54), "more than a minute's worth waits for a full bucket, not for ever"
    assert asyncio.run(times(Rates(), 1e9, 5)) == [0.0] * 5


def test_a_pause_holds_everyone() -> None:
    async def run() -> float:
        clock = Clock()
        gate = Gate(Rates(), clock, clock.sleep)
        gate.pause(7)
        gate.pause(3)
        await gate.enter(1)
        return clock.now - 100

    assert asyncio.run(run()) == 7


def test_back_off_doubles_up_to_a_minute_and_differs_by_name() -> None:
    rates = Rates(backoff_s=1)
    waits = [backoff(rates, "a", attempt) for attempt in range(1, 12)]
    assert all(0.5 * 2**i <= w <= 2**i for i, w in enumerate(waits[:6])) and max(waits) <= 60
    assert waits == [backoff(rates, "a", attempt) for attempt in range(1, 12)]
    assert backoff(rates, "b", 1) != waits[0]


def test_what_a_server_asks_to_wait() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "-4"}) == 0
    assert retry_after({"retry-after": "86400"}) == 600
    assert retry_after({"retry-after": "soon"}) is None
    now = time.time()
    assert retry_after({"retry-after": formatdate(now + 30, usegmt=True)}, lambda: now) == pytest.approx(30, abs=1)
    assert retry_after({"retry-after": formatdate(now - 30, usegmt=True)}, lambda: now) == 0


def test_costs_and_secrets() -> None:
    usage = Usage(1, 1000, 200) + Usage(2, 0, 300, 1)
    assert usage == Usage(3, 1000, 500, 1) and Prices(2.0, 10.0).of(usage) == pytest.approx(0.007)
    assert scrub("bad key sk-123456, I say sk-123456", ["sk-123456", ""]) == "bad key ***, I say ***"
    assert shorten("a\nb " + "c" * 300) == "a b " + "c" * 195 + "…"


@pytest.mark.parametrize("bad", [{"requests": 0}, {"tokens": -1}, {"retries": -1}, {"timeout_s": 0}, {"backoff_s": -1}])
def test_bad_rates_are_refused(bad: dict) -> None:
    with pytest.raises(UserError):
        Rates(**bad)

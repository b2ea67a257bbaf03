"""LaTeX answers: equal or not, bombs, lost workers, threads."""

import json
import os
import signal
import threading
import time

import pytest

from rftfast.data.records import Verdict
from rftfast.errors import UserError
from rftfast.verify import Policy, verify, verify_batch
from rftfast.verify import math as rft_math
from rftfast.verify.math_pool import DIFFERENT, SAME, TIMEOUT, MathLimits, MathPool, require_math_verify
from rftfast.verify.rows import verify_rows

MATH = Policy(math=True)


@pytest.fixture
def installed():
    pytest.importorskip("math_verify", reason="math-verify is not installed (pip install 'rftfast[math]')")


@pytest.fixture
def pool(installed):
    made = MathPool(MathLimits(deadline_s=2.0, workers=2))
    yield made
    made.close()


# Found without math-verify: numbers, and one answer written twice.
AT_ONCE = [
    ("18", "#### 18", "correct", "18"),
    ("#### 1,080", "\\boxed{1{,}080}", "correct", "1080"),
    ("\\boxed{\\frac{1}{2}}", "The answer is 0.5.", "correct", "0.5"),
    ("0.5", "\\boxed{0.51}", "wrong_answer", "0.51"),
    ("\\frac{\\sqrt{3}}{2}", "\\boxed{\\dfrac{\\sqrt{3}}{2}}", "correct", "\\dfrac{\\sqrt{3}}{2}"),
    ("(1,2]", "\\boxed{\\left( 1, 2\\right]}", "correct", "\\left( 1, 2\\right]"),
    ("2\\pi", "so\n#### $2 \\pi$.", "correct", "2 \\pi"),
    ("\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", "correct", "\\text{Evelyn}"),
    ("x", "no marker", "no_answer", None),
    ("x", "\\boxed{x", "no_answer", None),
    ("x", "\\boxed{}", "no_answer", None),
    ("x", "\\boxed{x}\n#### ", "correct", "x"),
    ("x", "\\boxed{x}\0\\boxed{y}", "correct", "x"),
    # words behind a formula; a formula or a number on the line after its marker
    ("\\sqrt{2}", "The answer is $\\sqrt{2}$, as x = 3 shows.", "correct", "\\sqrt{2}"),
    ("\\sqrt{2}", "The answer is \\(\\sqrt{2}\\) because of x.", "correct", "\\sqrt{2}"),
    ("\\sqrt{2}", "The answer is:\n\\[\n\\sqrt{2}\n\\]\nDone", "correct", "\\sqrt{2}"),
    ("\\sqrt{2}", "#### $$ \\sqrt{2} $$", "correct", "\\sqrt{2}"),
    ("18", "The answer is:\n\n18", "correct", "18"),
    ("18", "####\n18", "correct", "18"),
    ("5", "#### $\\$5$", "correct", "5"),
    ("5", "The answer is $5 and she has $3 left", "correct", "5"),
    ("x", "\\boxed{x}\nThe answer is:\n\nthis", "correct", "x"),
]
# Not the formula alone: the line goes on with it, or names two.
WHOLE_LINES = ["$x$ + 1", "$x$ or 5", "$x$ and $y$", "\\(x\\) and \\(y\\)", "$x$ = 5", "$x$5"]
BY_MATHEMATICS = [
    ("\\frac{\\sqrt{3}}{2}", "\\boxed{\\frac{3}{2\\sqrt{3}}}", "correct"),
    ("x^2+1", "\\boxed{1 + x^2}", "correct"),
    ("x^2+1", "\\boxed{x^2-1}", "wrong_answer"),
    ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", "correct"),
    ("\\sqrt{2}", "\\boxed{1.414}", "wrong_answer"),
    ("34", "\\boxed{x = 34}", "correct"),
    ("34", "\\boxed{3 + 4}", "wrong_answer"),
    ("7", "\\boxed{5}, no: \\boxed{\\sqrt{49}}", "correct"),
]


@pytest.mark.parametrize(("gold", "completion", "verdict", "answer"), AT_ONCE)
def test_what_needs_no_mathematics(installed, monkeypatch, gold, completion, verdict, answer):
    monkeypatch.setattr(rft_math, "pool", lambda: pytest.fail("math-verify was asked"))
    assert verify(completion, gold, MATH) == Verdict(verdict, answer, ())


@pytest.mark.parametrize("line", WHOLE_LINES)
def test_a_formula_that_is_not_all_of_the_answer(line):
    answer = rft_math.final_answer(f"The answer is {line}.")
    assert answer is not None and answer.text == line


LINES = [
    "\\(" + "a\\)" * 300_000 + "\\(",
    "$" + "a" * 10**6,
    "$a" * 500_000,
    "\\[" * 500_000,
    "\n" * 10**6,
    "$\\" * 500_000,
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_endless_lines_are_read_soon(line):
    began = time.process_time()
    for text in (line, line[:4000] * 250):
        rft_math.final_answer("The answer is " + text)
        rft_math.final_answer(("The answer is " + text[:4000]) * 250)
    assert time.process_time() - began < 2.0  # 0.1 s on a quiet machine


@pytest.mark.parametrize(("gold", "completion", "verdict"), BY_MATHEMATICS)
def test_equal_by_mathematics(installed, gold, completion, verdict):
    assert verify(completion, gold, MATH).verdict == verdict


def test_equations_and_truncation_are_judged_as_ever(installed):
    texts = ["<<1+1=3>>\\boxed{x+1}", "<<1+1=2>>\\boxed{1+x}", "cut"]
    found = verify_batch(texts, ["x+1"] * 3, MATH, truncated=[False, False, True])
    assert [v.verdict for v in found] == ["wrong_equation", "correct", "truncated"]
    assert found[0].equations == ("1+1=3",)


def test_a_bomb_costs_its_worker_and_nothing_else(pool):
    bomb = "9^{9^{9^{9}}}"
    pairs = [("\\sqrt{2}", "2^{1/2}"), ("\\sqrt{2}", bomb), ("x", "y"), ("\\sqrt{2}", bomb), ("x+y", "y+x")]
    assert pool.compare(pairs) == [SAME, TIMEOUT, DIFFERENT, TIMEOUT, SAME]
    assert pool.killed == 1
    began = time.monotonic()
    assert pool.compare([("\\sqrt{2}", bomb)]) == [TIMEOUT]  # remembered
    assert time.monotonic() - began < 1
    assert pool.compare([("a+b", "b+a")]) == [SAME]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system counts no processor time")
def test_a_worker_that_waits_for_a_processor_is_waited_for(installed):
    """One second off the clock is no fifth of a second of work; one that never goes on is ended all the same."""
    pool = MathPool(MathLimits(deadline_s=0.3, workers=1))
    assert pool.compare([("x+1", "1+x")]) == [SAME]
    (worker,) = pool._workers
    found: list[list[str]] = []
    os.kill(worker._process.pid, signal.SIGSTOP)
    asking = threading.Thread(target=lambda: found.append(pool.compare([("x+2", "2+x")])))
    asking.start()
    time.sleep(1.0)
    assert not found
    os.kill(worker._process.pid, signal.SIGCONT)
    asking.join()
    assert (found, pool.killed, pool._workers) == ([[SAME]], 0, [worker])
    os.kill(worker._process.pid, signal.SIGSTOP)
    assert pool.compare([("x+3", "3+x")]) == [TIMEOUT]
    assert (pool.killed, pool._workers) == (1, [])


def test_an_endless_answer_is_not_handed_over(pool):
    assert pool.compare([("x", "x+" * 300 + "x")]) == [TIMEOUT]
    assert pool._workers == []


def test_workers_are_renewed(installed):
    pool = MathPool(MathLimits(workers=1, renew_after=2))
    first = pool.compare([("x+1", "1+x"), ("x+2", "2+x")])
    (old,) = pool._workers
    assert pool.compare([("x+3", "3+x")]) == [SAME]
    (new,) = pool._workers
    pool.close()
    assert first == [SAME, SAME]
    assert new is not old
    assert pool.killed == 0


def test_a_worker_that_dies_between_batches_is_replaced(pool):
    assert pool.compare([("x+1", "1+x")]) == [SAME]
    for worker in pool._workers:
        worker._process.kill()
        worker._process.wait()
    assert pool.compare([("x+2", "2+x")]) == [SAME]


def test_works_in_every_thread(pool):
    found: dict[int, list[str]] = {}

    def work(n: int) -> None:
        found[n] = pool.compare([(f"x+{n}", f"{n}+x"), (f"x+{n}", f"{n}-x")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [SAME, DIFFERENT] for n in range(2, 6)}


HOSTILE = ["\0", "{", "}", "$", "\\", "\\frac", "\ud800", "\n", "\\begin{pmatrix}1", "1" * 399, "(" * 300, "é", '"']


def test_hostile_answers_get_a_result(pool):
    found = pool.compare([("x", answer) for answer in HOSTILE])
    assert set(found) <= {SAME, DIFFERENT, TIMEOUT}
    assert SAME not in found
    assert pool.compare([("x+1", "1+x")]) == [SAME]


def test_rows_of_a_file(installed):
    """A bomb is a verdict and costs its worker; the rows around it are judged as ever, and a bad gold is named."""
    rows = [
        {"completion": "\\boxed{1 + x}", "answer": "x+1"},
        {"completion": "\\boxed{9^{9^{9^{9}}}}", "answer": "\\sqrt{2}"},
        {"completion": "\\boxed{" + "x+" * 300 + "x}", "answer": "x"},
        {"completion": "so <<1+1=3>> \\boxed{x}", "answer": "$x$"},
        {"completion": "so x", "answer": "x", "finish_reason": "length"},
    ]
    lines = [json.dumps(row).encode() for row in rows]
    rft_math.pool(MathLimits(deadline_s=2.0, workers=1))
    try:
        found = list(verify_rows(lines, "f", MATH))
        assert [row["verdict"] for row in found] == ["correct", "timeout", "timeout", "wrong_equation", "truncated"]
        assert [row["parsed_answer"] for row in found[:2]] == ["1 + x", "9^{9^{9^{9}}}"]
        assert rft_math.pool().killed == 1
        with pytest.raises(UserError, match="f, line 6: the gold answer is empty"):
            list(verify_rows([*lines, b'{"completion": "#### 5", "answer": ""}'], "f", MATH))
    finally:
        rft_math.pool(MathLimits())


def test_an_empty_gold_is_an_input_error(installed):
    with pytest.raises(UserError, match="gold answer is empty"):
        verify("#### 1", " ", MATH)
    with pytest.raises(UserError, match="at most 400"):
        verify("#### 1", "x" * 401, MATH)


def test_math_without_math_verify_is_an_input_error(monkeypatch):
    require_math_verify.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        with pytest.raises(UserError, match="pip install"):
            verify("#### 1", "1", MATH)
    finally:
        require_math_verify.cache_clear()
    assert verify("#### 1", "1").correct


def test_limits_must_be_positive():
    with pytest.raises(UserError, match="deadline_s"):
        MathLimits(deadline_s=0)

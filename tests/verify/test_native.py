"""The native path against the Python one: every verdict, answer, equation and key."""

import json
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.data.records import VERDICTS
from rftfast.errors import UserError
from rftfast.select import equation_key
from rftfast.verify import Policy, native, verify_batch
from rftfast.verify.judge import verify_in_python
from rftfast.verify.native import CheckedBatch, verify_codes
from tests.verify.test_hostile import HOSTILE

if native.available() is not None:
    pytest.skip(str(native.available()), allow_module_level=True)

POLICIES = [
    Policy(),
    Policy.reference(),
    Policy(bare=True),
    Policy(marker="first"),
    Policy(equations="reference", bare=True),
    Policy(equations="off", bare=True),
]
NO_HASHES = Policy(markers=("\\boxed", "A:"))


def agree(texts, golds, truncated=None, policies=POLICIES):
    """Everything the two paths say of these texts; the number left to Python under each policy."""
    left = []
    for policy in policies:
        batch = CheckedBatch(texts, golds, policy, truncated=truncated, threads=2)
        flags = truncated or [False] * len(texts)
        want = [verify_in_python(t, g, policy, truncated=f) for t, g, f in zip(texts, golds, flags, strict=True)]
        for text, one, other in zip(texts, batch.verdicts(), want, strict=True):
            assert one == other, (policy, text[:500])
        assert list(batch) == want
        assert [VERDICTS[code] for code in batch.codes()] == [v.verdict for v in want]
        assert batch.keys() == [equation_key(v.equations) for v in want]
        left.append(batch.left_to_python)
    return left


def test_gsm8k_gold_solutions(gsm8k_dir):
    golds = [
        json.loads(line)["answer"]
        for name in ("train", "test")
        for line in (gsm8k_dir / f"{name}.jsonl").open(encoding="utf-8")
    ]
    assert agree(golds, golds) == [0] * len(POLICIES)
    # And with answers and equations that are mostly wrong.
    rng = random.Random(0)
    wrong = ["".join(rng.choice("0123456789") if c.isdigit() and rng.random() < 0.1 else c for c in g) for g in golds]
    agree(wrong, golds, policies=POLICIES[:3])


@pytest.mark.parametrize("policy", POLICIES[:3], ids=["strict", "reference", "bare"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name, policy):
    text = HOSTILE[name]
    began = time.process_time()
    batch = CheckedBatch([text], ["18"], policy)
    verdicts, keys = batch.verdicts(), batch.keys()
    took = time.process_time() - began
    assert verdicts == [verify_in_python(text, "18", policy)]
    assert keys == [equation_key(verdicts[0].equations)]
    # Milliseconds on a quiet machine, tens where Python decides; the slack is for a crowded one.
    assert took < 1.0, took


PIECES = ["<<", ">>", "=", "####", "#### ", "\\boxed{", "\\boxed {", "}", "The answer is", "the final answer is ", "The correct answer is: ", "\n", "\0", "9**9", "(", ")", "1,000", "1,00,000", "$", "\\$", "US$", "%", "\\%", "1/0", "-", "−", "–", "×", "÷", "·", "€", "é", "\ud800", "A: ", "Answer:", "Final answer:", "\n### ", "\n# ", " ", "  ", "*", "**", "//", "/", "x", "5", "12", "0.5", ".5", "5.", "3 1/2", "1/3", "1e3", "x 10^3", "10^", "\\frac{1}{2}", "\\times", "\\cdot ", "+", "^", "apples", "y", "pi", "sqrt", "g", "#", "|", "007", "1_000", "True", "and", "not ", "\t", "\r", "\f", "\x1c", "\x85", "\u3000", ";", ".", ",", ":", "~", "{,}", "\\,", "16-3=13", "4*3=12", "10%3=1", "2**3=8", "1.05**2=1.1025", "20%=0.2", "9" * 18, "9" * 19, "0." + "3" * 17]  # fmt: skip
GOLDS = ["18", "#### 5", "1/3", "1000", "0.5", "-12", "9" * 30]


@settings(max_examples=600, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join),
            st.sampled_from(GOLDS),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text(rows):
    texts, golds, truncated = (list(column) for column in zip(*rows, strict=True))
    agree(texts, golds, truncated)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="0123456789,./-−$%eEx^{} *+(:=~_\\afrctgk\n", max_size=16), min_size=1, max_size=20))
def test_any_number(answers):
    texts = ["#### " + a for a in answers] + [f"\\boxed{{{a}}}" for a in answers] + [f"A:{a}" for a in answers]
    agree(texts, ["5"] * len(texts), policies=[*POLICIES[:4], NO_HASHES])


SIDE = st.lists(
    st.sampled_from(["**", "//", "\\%", "\\times", "\\div", "1,000", "2.5", "0.1", "€5", "5%", "x", " ", *"0123456789.+-*/%()−×÷·^,$"]),
    min_size=1,
    max_size=9,
).map("".join)  # fmt: skip
NUMBER = st.integers(-3, 60).map(str) | st.decimals(0, 50, places=2).map(str)
SUM = st.lists(st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%", " x ", " - "]), NUMBER), min_size=1, max_size=4).flatmap(
    lambda rest: NUMBER.map(lambda n: n + "".join(sign + value for sign, value in rest))
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(SIDE | SUM | NUMBER, min_size=1, max_size=4).map("=".join), min_size=1, max_size=20))
def test_any_equation(equations):
    texts = [f"<<{e}>>#### 5" for e in equations] + [f"So {e} apples. {e}\n- {e}, then\n#### 5" for e in equations]
    agree(texts, ["5"] * len(texts))


def true_equation(rng):
    signs = [rng.choice(["+", "-", "*", "/", "//", "%"]) for _ in range(rng.randint(1, 3))]
    left = str(rng.randint(1, 99)) + "".join(
        f"{s}{rng.choice([rng.randint(1, 30), rng.randint(1, 999) / 100])}" for s in signs
    )
    from rftfast.verify.arithmetic import compile_expression, run

    value = run(compile_expression(left, "python"))
    return f"{left}={rng.choice([value, round(value, 2), round(value, 3), round(value, 4)])}"


def test_equations_that_are_nearly_right():
    rng = random.Random(1)
    texts = [f"<<{true_equation(rng)}>><<{true_equation(rng)}>>#### 5" for _ in range(4000)]
    agree(texts, ["5"] * len(texts), policies=POLICIES[:2])
    codes = verify_codes(texts, ["5"] * len(texts))
    assert set(codes) == {VERDICTS.index("correct"), VERDICTS.index("wrong_equation")}


def test_many_chunks_and_threads_change_nothing():
    texts = [f"<<{i}+1={i + 1 + (i % 7 == 0)}>> é{'−' * (i % 2)}\n#### {i % 5}" for i in range(3000)]
    golds = [str(i // 100 % 5) for i in range(3000)]
    one = CheckedBatch(texts, golds, threads=1)
    many = CheckedBatch(texts, golds, threads=5)
    want = [verify_in_python(t, g, Policy()) for t, g in zip(texts, golds, strict=True)]
    assert one.verdicts() == many.verdicts() == want
    assert one.keys() == many.keys()
    assert len({v.verdict for v in want}) == 3


def test_one_item_and_slices():
    batch = CheckedBatch(["#### 18", "<<1+1=3>>#### 18", "#### " + "9" * 30], ["18"] * 3)
    assert batch.left_to_python == 1
    assert batch[1] == verify_in_python("<<1+1=3>>#### 18", "18", Policy())
    assert batch[-1].answer == "9" * 30
    assert batch[:2] == [batch[0], batch[1]]
    assert len(CheckedBatch([], [])) == 0
    with pytest.raises(IndexError):
        batch[3]


def test_an_undecided_gold_is_left_to_python():
    big = "9" * 30
    assert CheckedBatch([f"#### {big}", "#### 1"], [big, big]).verdicts() == [
        verify_in_python(f"#### {big}", big, Policy()),
        verify_in_python("#### 1", big, Policy()),
    ]


def test_a_gold_without_a_number_is_an_input_error():
    for completion in ("#### 18", "nothing", "<<1=2>>"):
        with pytest.raises(UserError, match="holds no number"):
            verify_batch(["#### 18", completion], ["18", "no number"])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="one gold"):
        CheckedBatch(["a"], [])
    with pytest.raises(TypeError, match="completion 1 is int"):
        CheckedBatch(["a", 5], ["1", "1"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="without keys"):
        CheckedBatch(["a"], ["1"], keys=False).keys()


def test_it_runs_off_the_gil():
    """While a large batch is judged, another Python thread goes on counting."""
    text = "<<1+1=2>> " * 10_000 + "#### 18"
    texts = [text + " " * (i % 2) for i in range(300)]
    counted: list[int] = []
    done = threading.Event()

    def count() -> None:
        n = 0
        while not done.is_set():
            n += 1
            if n % 1000 == 0:
                time.sleep(0)
        counted.append(n)

    other = threading.Thread(target=count)
    other.start()
    began = time.perf_counter()
    CheckedBatch(texts, ["18"] * len(texts), keys=False, threads=1)
    took = time.perf_counter() - began
    done.set()
    other.join()
    # Held throughout, the GIL would leave the other thread a few thousand rounds of the start and the end.
    assert counted[0] > 200_000 * took, (counted, took)

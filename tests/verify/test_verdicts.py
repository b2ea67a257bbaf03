"""Tables of (gold, completion, verdict), grouped by the failure that public verifiers are known for."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from rftfast.data.records import Verdict
from rftfast.errors import UserError
from rftfast.verify import Policy, verify, verify_batch
from rftfast.verify.judge import MAX_WORK, verify_in_python

TABLE = {
    "plain": [
        ("18", "<<9*2=18>>\n#### 18", "correct"),
        ("steps\n#### 18", "#### 18", "correct"),
        ("18", "#### 17", "wrong_answer"),
    ],
    "first against last marker": [
        ("18", "#### 17\nwait\n#### 18", "correct"),
        ("17", "#### 17\nwait\n#### 18", "wrong_answer"),
        ("18", "The answer is 17.\n#### 18", "correct"),
    ],
    "two #### of one value": [("18", "#### 18\n#### 18", "correct")],
    "thousands comma": [
        ("1,080", "#### 1080", "correct"),
        ("1080", "#### 1,080", "correct"),
        ("1080", "#### $1,080.00", "correct"),
        ("1080", "#### 1", "wrong_answer"),
        ("1", "#### 1,080", "wrong_answer"),
    ],
    "numbers, not strings": [
        ("18", "#### 18.0", "correct"),
        ("18", "#### 18.", "correct"),
        ("0.5", "#### .50", "correct"),
        ("18", "#### 18.0001", "wrong_answer"),
        ("9007199254740993", "#### 9007199254740992", "wrong_answer"),
    ],
    "fractions": [("1", "#### 9/9", "correct"), ("0.25", "#### 1/4", "correct"), ("1/3", "#### 0.333", "wrong_answer")],
    "negatives": [("-5", "#### −5", "correct"), ("-5", "#### -$5", "correct"), ("5", "#### -5", "wrong_answer")],
    "unit suffix": [
        ("18", "#### 18 dollars", "correct"),
        ("18", "#### 18km", "correct"),
        ("20", "#### 20%", "correct"),
    ],
    "text after the answer": [("18", "#### 18\nThat is all, 5 of them.", "correct")],
    "no marker": [("18", "it is 18", "no_answer"), ("18", "", "no_answer"), ("18", "#### ", "no_answer")],
    "symbolic answer": [
        ("18", "#### x + 1", "no_answer"),
        ("3", "#### 3x", "no_answer"),
        ("5", "#### 5+3", "no_answer"),
    ],
    "equations": [
        ("18", "<<9*2=19>>\n#### 18", "wrong_equation"),
        ("18", "<<9*2=18>> <<1/0=0>>\n#### 18", "wrong_equation"),
        ("18", "<<>>\n#### 18", "wrong_equation"),
        ("18", "<<9*2=18\n#### 18", "wrong_equation"),  # not closed: what it claims cannot be judged
        ("18", "9*2 = <<9*2=18>18\n#### 18", "wrong_equation"),
        ("18", "<<9*2=18>>18, <<9<<2\n#### 18", "wrong_equation"),
        ("18", "<<<9*2=18>>\n#### 18", "wrong_equation"),
        ("18", "9 < 18, 9 <\n<<9*2=18>>>\n#### 18", "correct"),
        ("18", "<<9*2=18>>\n#### 18\0<<", "correct"),
        ("18", "<<9**9**9=1>>#### 18", "wrong_equation"),
        ("18", "<<3*3=9*2=18>>\n#### 18", "wrong_equation"),
    ],
    "the answer is judged before the equations": [
        ("18", "<<9*2=19>>\n#### 17", "wrong_answer"),
        ("18", "<<9*2=19>>", "no_answer"),
    ],
}


@pytest.mark.parametrize(("gold", "completion", "verdict"), [row for rows in TABLE.values() for row in rows])
def test_table(gold, completion, verdict):
    assert verify(completion, gold).verdict == verdict


def test_the_verdict_carries_answer_and_equations():
    verdict = verify("<< 3 * 3 = 9 >> then <<9+9=18>>\n#### $1,018.50", "18")
    assert verdict == Verdict("wrong_answer", "1018.5", (" 3 * 3 = 9 ", "9+9=18"))
    assert verify("#### 2/6", "1/3").answer == "1/3"


def test_truncated_is_said_only_when_there_is_no_answer():
    assert verify("so 3", "18", truncated=True).verdict == "truncated"
    assert verify("#### 18", "18", truncated=True).verdict == "correct"
    assert verify("#### 17", "18", truncated=True).verdict == "wrong_answer"


def test_policies():
    chain = "<<3+4=7=8>>\n#### 18"
    assert verify(chain, "18").verdict == "wrong_equation"
    assert verify(chain, "18", Policy(equations="reference")).verdict == "correct"
    assert verify("<<1=2>>\n#### 18", "18", Policy(equations="off")) == Verdict("correct", "18", ("1=2",))
    cut = "<<3+4=7>7\n#### 18"
    assert [verify(cut, "18", Policy(equations=mode)).verdict for mode in ("strict", "reference", "off")] == [
        "wrong_equation",
        "correct",
        "correct",
    ]
    assert verify("#### 17\n#### 18", "17", Policy(marker="first")).verdict == "correct"
    assert verify("The answer is 18", "18", Policy.reference()).verdict == "no_answer"


def test_bare_equations_on_request():
    good, bad = "16 - 3 = 13 eggs\n#### 13", "16 - 3 = 12 eggs\n#### 13"
    assert verify(bad, "13").verdict == "correct"
    assert verify(bad, "13", Policy(bare=True)).verdict == "wrong_equation"
    assert verify(good, "13", Policy(bare=True)) == Verdict("correct", "13", ("16 - 3 = 13",))
    # With <<…>> at hand, the text around it is not looked at.
    assert verify("16 - 3 = <<16-3=13>>12\n#### 13", "13", Policy(bare=True)).equations == ("16-3=13",)


def test_nul_ends_the_text_and_the_reference_still_reads_its_equations():
    text = "#### 18\0<<1=2>>#### 19"
    assert verify(text, "18") == Verdict("correct", "18", ())
    assert verify(text, "18", Policy.reference()) == Verdict("wrong_equation", "18", ("1=2",))
    # The whole text counts towards what is read of ordinary text; by either path.
    long = "16 - 3 = 13 eggs\n#### 13\0" + "x" * MAX_WORK
    for judged in (verify_in_python(long, "13", Policy(bare=True)), verify(long, "13", Policy(bare=True))):
        assert judged == Verdict("timeout", "13", ("16 - 3 = 13",))


def test_batch_is_verify_for_each():
    texts, golds = ["#### 18", "so", "#### 3"], ["18", "18", "4"]
    flags = [False, True, False]
    assert verify_batch(texts, golds, truncated=flags) == [
        verify(c, g, truncated=t) for c, g, t in zip(texts, golds, flags, strict=True)
    ]
    with pytest.raises(ValueError, match="one gold"):
        verify_batch(texts, golds[:2])


@pytest.mark.parametrize("fields", [{"marker": "middle"}, {"equations": "eval"}, {"markers": ("Q:",)}, {"markers": ()}])
def test_an_unknown_policy_is_an_input_error(fields):
    with pytest.raises(UserError, match="policy"):
        Policy(**fields)


def test_a_gold_without_a_number_is_an_input_error():
    with pytest.raises(UserError, match="holds no number"):
        verify("#### 18", "no number")


def test_gsm8k_gold_solutions(gsm8k_dir):
    golds = [
        json.loads(line)["answer"]
        for name in ("train", "test")
        for line in (gsm8k_dir / f"{name}.jsonl").open(encoding="utf-8")
    ]
    assert len(golds) == 7473 + 1319
    assert Counter(v.verdict for v in verify_batch(golds, golds)) == {"correct": 8792}
    reference = verify_batch(golds, golds, Policy.reference())
    rejected = [v for v in reference if v.verdict != "correct"]
    # One gold solution writes <<3/4=3/4>>: the released code's float("3/4") fails, and so must this mode.
    assert [v.verdict for v in rejected] == ["wrong_equation"]
    assert "3/4=3/4" in rejected[0].equations
    assert sum(len(v.equations) for v in reference) == 27998


def test_the_rooms_load_neither_torch_nor_numpy():
    code = "import sys, rftfast.verify, rftfast.select; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

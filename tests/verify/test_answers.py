import pytest

from rftfast.errors import UserError
from rftfast.verify import cut, extract_answer, parse_gold

LAST = [
    # one marker of each kind
    ("#### 18", 18),
    ("####18", 18),
    ("so\n#### 18\n", 18),
    ("A: 18", 18),
    ("work\nAnswer: $18", 18),
    ("The answer is 18.", 18),
    ("So the final answer is: **18** apples.", 18),
    (r"thus \boxed{18}.", 18),
    (r"thus $\boxed{\frac{9}{3}}$", 3),
    (r"\boxed{1{,}080 \text{ miles}}", 1080),
    (r"\boxed{1\,080}", 1080),
    # the last one counts, whatever its kind
    ("#### 17\n#### 18", 18),
    ("#### 17\nThe answer is 18", 18),
    (r"The answer is 17, no: \boxed{18}", 18),
    (r"The answer is $\boxed{18}$.", 18),
    # a marker with no number does not hide the one before
    ("#### 18\n#### ", 18),
    ("#### 18\nThe answer is unknown", 18),
    # none
    ("18", None),
    ("", None),
    ("####", None),
    ("#### x + 1", None),
    ("#### 3x", None),
    (r"\boxed{x}", None),
    (r"\boxed{18", None),
    ("DNA: 18", None),
    ("### Answer: 18", 18),
    ("so\n# **Final Answer:** 18", 18),
    ("**Final answer:** $18", 18),
    ("\t ** Answer: 18", 18),
    ("#         Answer: 18", 18),  # a blank of the heading and eight more
    ("#          Answer: 18", None),
    ("         Answer: 18", None),
    ("#### Answer: 18", None),  # GSM8K's marker, without a number
    ("#Answer: 18", None),
    ("#\tAnswer: 18", None),
    (" # Answer: 18", None),
    ("My Final answer: 18", None),
    ("final answer: 18", None),
    ("Final  answer: 18", None),
    ("Train A: 60 mph", None),
    # NUL ends the text
    ("#### 18\0#### 19", 18),
    ("\0#### 18", None),
]


@pytest.mark.parametrize(("text", "value"), LAST)
def test_last_marker(text, value):
    assert extract_answer(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("#### 17\n#### 18", 17), ("The answer is 17\n#### 18", 17), ("#### \n#### x\n#### 18", 18), ("none", None)],
)
def test_first_marker_on_request(text, value):
    assert extract_answer(text, "first") == value


def test_only_the_named_markers_count():
    text = "#### 17\nThe answer is 18"
    assert extract_answer(text, markers=("####",)) == 17
    assert extract_answer(text, markers=("\\boxed",)) is None


@pytest.mark.parametrize(
    ("gold", "value"), [("steps 1 2\n#### 1,080", 1080), ("18", 18), ("$18.50 dollars", 18.5), ("-3", -3)]
)
def test_gold(gold, value):
    assert parse_gold(gold) == value


@pytest.mark.parametrize("gold", ["", "x + 1", "#### ", "it is 5", "nothing " * 1000])
def test_gold_without_a_number_is_an_input_error(gold):
    with pytest.raises(UserError, match="holds no number") as error:
        parse_gold(gold)
    assert len(str(error.value)) < 220
    assert "\n" not in str(error.value)


def test_cut_at_the_earliest_stop():
    assert cut("a\n\nQ: b</s>", ["</s>", "\n\nQ:"]) == "a"
    assert cut("a", ["", "x"]) == "a"
    assert cut("</s>a", ["</s>"]) == ""

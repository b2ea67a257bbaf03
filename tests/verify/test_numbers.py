from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.verify.numbers import canonical, leading_number, parse_number

READ = [
    ("18", F(18)),
    ("  18  ", F(18)),
    ("18.", F(18)),
    ("18.0", F(18)),
    ("018", F(18)),
    ("1,080", F(1080)),
    ("109,200,000", F(109_200_000)),
    ("1,00,000", F(100_000)),
    ("$18", F(18)),
    ("\\$18", F(18)),
    ("€ 2.50", F(5, 2)),
    ("20%", F(20)),
    ("20 %", F(20)),
    ("20\\%", F(20)),
    ("18 dollars", F(18)),
    ("18 dollars per hour.", F(18)),
    ("10am", F(10)),
    ("5g", F(5)),
    ("-5", F(-5)),
    ("−5", F(-5)),
    ("–5", F(-5)),
    ("- 5", F(-5)),
    ("-$5", F(-5)),
    ("$-5", F(-5)),
    ("+5", F(5)),
    (".5", F(1, 2)),
    ("0.125", F(1, 8)),
    ("9/9", F(1)),
    ("1/3", F(1, 3)),
    ("-1/3", F(-1, 3)),
    ("3 1/2", F(7, 2)),
    ("-3 1/2", F(-7, 2)),
    ("1e3", F(1000)),
    ("1.5E-3", F(3, 2000)),
    ("1.5 x 10^3", F(1500)),
    ("1.5 \\times 10^{-3}", F(3, 2000)),
    ("\\frac{9}{9}", F(1)),
    ("-\\dfrac{1}{4}", F(-1, 4)),
    ("**18**", F(18)),
    ("\\(18\\)", F(18)),
    ("18 \\text{ apples}", F(18)),
]
NOT_READ = [
    "", "abc", "x", "$", "-", ".", "1/0", "\\frac{1}{0}", "3x+1", "3x", "3y", "2\\pi", "2 \\pi", "2 \\sqrt{3}", "18 \\times 3", "2pi", "5 + 3", "5*3", "5-3", "20 - 30",
    "12:30", "1.2.3", "5^2", "5/x", "10,00", "1,2", "3, 4", "18 or 19", "1e999999", "1e9999999999", "9" * 401, "9" * 10**6, "٣", "nan", "inf", "(5", "5 x 3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), READ)
def test_reads(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", NOT_READ, ids=lambda t: t[:12] or "empty")
def test_does_not_read(text):
    assert parse_number(text) is None


def test_the_rest_of_the_text_may_follow_a_leading_number():
    assert leading_number("#### 18 apples in 3 baskets", 4) == 18
    assert leading_number("18\n\nQ: 5 + 5") == 18


@given(st.integers(-(10**30), 10**30))
def test_integers_come_back(n):
    assert parse_number(str(n)) == parse_number(f"{n:,}") == parse_number(f"{n}.00") == n
    assert canonical(F(n)) == str(n)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact(d):
    value = parse_number(f"{d:f}")
    assert value == F(d)
    assert F(canonical(value)) == value


@given(st.fractions())
def test_fractions_are_exact_and_canonical_is_one_to_one(q):
    if len(str(q)) < 300:
        assert parse_number(f"{q.numerator}/{q.denominator}") == q
        assert F(canonical(q)) == q


@settings(max_examples=300)
@given(st.text(alphabet="0123456789,./-−$%eEx^{}\\ afrct\n+*(", max_size=40))
def test_any_text_gives_a_number_or_none(text):
    value = parse_number(text)
    assert value is None or isinstance(value, F)

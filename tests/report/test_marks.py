"""Where the false equations of a text stand, in the units in which browsers count."""

from __future__ import annotations

import pytest

from rftfast.report.marks import false_spans
from rftfast.verify import Policy, verify


def _marked(text: str, policy: Policy = Policy()) -> list[str]:
    utf16 = text.encode("utf-16-le", "surrogatepass")
    spans = false_spans(text, verify(text, "1", policy).equations, policy)
    return [utf16[2 * a : 2 * b].decode("utf-16-le", "surrogatepass") for a, b in spans]


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("<<1+1=2>> <<1+1=3>> <<2+2=5>>", ["<<1+1=3>>", "<<2+2=5>>"]),
        ("<<1+1=2>>2", []),
        ("no equations", []),
        ("<<1+1=3", ["<<1+1=3"]),
        ("<<1+1=2>2 and <<1+1=3>>, <<1+1=2\nso", ["<<1+1=2>", "<<1+1=3>>", "<<1+1=2"]),
        ("<<1+1=2>><<1+1=2>><<1+1=3>>", ["<<1+1=3>>"]),
        ("<<>> <<x=1>>", ["<<>>", "<<x=1>>"]),
        ("\U0001f600\U0001f600 <<1+1=3>> \U0001f600<<2=3>>", ["<<1+1=3>>", "<<2=3>>"]),
        ("\ud800 <<1+1=3>>", ["<<1+1=3>>"]),
        ("<<1+1=2>>\0<<1+1=3>>", []),  # what follows NUL is not judged
    ],
)
def test_false_equations(text: str, false: list[str]) -> None:
    assert _marked(text) == false


def test_the_policy_decides() -> None:
    text = "<<1+1=2=3>>"
    assert _marked(text) == ["<<1+1=2=3>>"]
    assert _marked(text, Policy(equations="reference")) == []  # it looks at the first two sides only
    assert _marked(text, Policy(equations="off")) == []


def test_marks_that_are_not_closed_are_wrong_where_the_policy_says_so() -> None:
    assert _marked("<<1+1=2>2") == ["<<1+1=2>"]
    assert _marked("<<1+1=2>2", Policy(equations="reference")) == []
    assert _marked("<<1+1=2>2", Policy(equations="off")) == []


def test_calculations_of_ordinary_text() -> None:
    policy = Policy(bare=True)
    assert _marked("First 16 - 3 = 13.\nThen 13 * 2 = 27.\n", policy) == ["13 * 2 = 27"]
    assert _marked("1 + 1 = 3\n<<1+1=2>>", policy) == []  # with <<…>> in it, these count


def test_equations_that_are_not_in_the_text_mark_nothing() -> None:
    assert false_spans("cut short", ["1+1=3"], Policy()) == []

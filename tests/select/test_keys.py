import pytest

from rftfast.errors import UserError
from rftfast.select import equation_key


def test_reference_joins_and_drops_spaces_only():
    assert equation_key([]) == ""
    assert equation_key([" 3 + 4 = 7 ", "7*2=14"]) == "3+4=7|7*2=14"
    assert equation_key(["3+4\n=7"]) == "3+4\n=7"
    assert equation_key(["3+4=7"]) != equation_key(["4+3=7"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4=7", "3 + 4 = 7.0"),
        ("$1,000.00 x 2 = 2,000", "1000*2=2000"),
        (".5*4=2", "0.50*4=2"),
        ("(3+4)=7", "3+4=7"),
        ("(3*4)+2=14", "3*4+2=14"),
        ("6÷3=2", "6/3=2"),
    ],
)
def test_canonical_spells_numbers_and_operators_one_way(one, other):
    assert equation_key([one], "canonical") == equation_key([other], "canonical")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4=7", "4+3=7"),
        ("8/2*3=12", "2*8/3=12"),
        ("(3+4)*2=14", "3+4*2=11"),
        ("5-(3-1)=3", "5-3-1=1"),
        ("2**3=8", "3**2=9"),
        ("8/(2/2)=8", "8/2/2=2"),
    ],
)
def test_canonical_keeps_different_calculations_apart(one, other):
    assert equation_key([one], "canonical") != equation_key([other], "canonical")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4=7", "4+3=7"),
        ("2*3*5=30", "5*3*2=30"),
        ("2*(3+4)=14", "(4+3)*2=14"),
        ("8/2*3=12", "3*8/2=12"),
        ("5-3+2=4", "2+5-3=4"),
    ],
)
def test_commutative_forgets_the_order_of_operands(one, other):
    assert equation_key([one], "commutative") == equation_key([other], "commutative")


@pytest.mark.parametrize(
    ("one", "other"),
    [("5-3=2", "3-5=-2"), ("6/3=2", "3/6=.5"), ("7%4*2=6", "2*7%4=2"), ("7//2*2=6", "2*7//2=7"), ("2**3=8", "3**2=9")],
)
def test_commutative_keeps_what_does_not_commute(one, other):
    assert equation_key([one], "commutative") != equation_key([other], "commutative")


def test_the_order_of_equations_always_counts():
    for key in ("reference", "canonical", "commutative"):
        assert equation_key(["1+2=3", "3+4=7"], key) != equation_key(["3+4=7", "1+2=3"], key)


def test_what_is_no_arithmetic_keeps_its_spelling():
    for key in ("canonical", "commutative"):
        assert equation_key(["a + b = c", "1e999=2"], key) == "a+b=c|1e999=2"


def test_an_unknown_key_is_an_input_error():
    with pytest.raises(UserError, match="choose one of"):
        equation_key(["1=1"], "random")

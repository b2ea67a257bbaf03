"""The bundled questions and exemplars: every calculation is right, and none of them is anyone else's."""

import re
from fractions import Fraction

import pytest

from rftfast.data import exemplars, load_questions

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
EVERYTHING = [*load_questions(), *exemplars(8)]


def test_counts_and_no_overlap():
    questions, shots = load_questions(), exemplars(8)
    assert (len(questions), len(shots)) == (16, 8)
    assert len({question.question for question in EVERYTHING}) == 24
    assert len({question.id for question in EVERYTHING}) == 24


@pytest.mark.parametrize("question", EVERYTHING, ids=lambda question: question.id)
def test_worked_solution(question):
    assert len(question.question.split()) < 40
    *steps, last = question.answer.split("\n")
    assert 1 <= len(steps) <= 3
    result = None
    for step in steps:
        # One calculation a line: the sum in words, the annotation, and the result after it.
        found = re.fullmatch(r"[^<>]*?(\d+)([-+*/])(\d+) = \$?<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)\b[^<>]*\.", step)
        assert found, step
        left, sign, right, *annotated, value, shown = found.groups()
        assert annotated == [left, sign, right], step
        result = OPERATIONS[sign](Fraction(left), Fraction(right))
        assert result == Fraction(value) == Fraction(shown), step
    assert last == f"#### {result}"


@pytest.mark.parametrize("question", EVERYTHING, ids=lambda question: question.id)
def test_every_number_comes_from_the_question_or_an_earlier_step(question):
    words = {"half": "2", "twice": "2", "quarter": "4", "four": "4"}
    known = set(re.findall(r"\d+", question.question))
    known |= {number for word, number in words.items() if word in question.question.lower()}
    for left, right, value in re.findall(r"<<(\d+)[-+*/](\d+)=(\d+)>>", question.answer):
        assert {left, right} <= known
        known.add(value)


def test_nothing_is_taken_from_gsm8k(gsm8k_dir):
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z]+", text.lower())
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    theirs: set[tuple[str, ...]] = set()
    for name in ("train.jsonl", "test.jsonl"):
        for question in load_questions(gsm8k_dir / name):
            theirs |= runs(question.question)
    assert len(theirs) > 100_000
    common = {question.id: runs(question.question) & theirs for question in EVERYTHING}
    assert {key: found for key, found in common.items() if found} == {}

"""The made-up world: right by our own verifier, the same for a seed, train and test apart, and nothing solved beforehand."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from rftfast.study.world import build_tokenizer, make_problems, make_text, split_problems
from rftfast.study.world.expressions import Given, Step, Style, write_solution, write_steps
from rftfast.study.world.problems import LARGEST
from rftfast.study.world.prose import text_rows
from rftfast.verify import verify

FORMS = ("It is {}.",)


def tree() -> Step:
    """(3 × 4 + 5 + 6) / 2 - with a sum of three, a product in it, and a quotient of it."""
    product = Step("*", (Given(3), Given(4)), FORMS)
    total = Step("+", (product, Given(5), Given(7)), FORMS)
    return Step("/", (total, Given(2)), FORMS)


def test_every_way_to_write_it_is_right_and_there_are_many() -> None:
    root = tree()
    assert root.value == 12
    found = {write_solution(root, Random(seed), Style(0.4, 0.5, 0.5, 0.5)) for seed in range(200)}
    verdicts = [verify(text, "#### 12") for text in found]
    assert all(v.correct for v in verdicts)
    assert len({tuple(v.equations) for v in verdicts}) > 15


def test_a_step_comes_after_those_it_needs() -> None:
    root = tree()
    for seed in range(50):
        known = {2, 3, 4, 5, 7}
        for _, equation, value in write_steps(root, Random(seed), Style(0.0, 0.5, 0.5, 1.0)):
            left = equation.split("=")[0]
            assert {int(n) for n in left.replace("*", " ").replace("+", " ").replace("/", " ").split()} <= known
            known.add(value)


def test_what_is_written_into_another_equation_keeps_its_value() -> None:
    inner = Step("-", (Given(9), Given(2)), FORMS)
    for outer, value in (
        (Step("*", (inner, Given(3)), FORMS), 21),
        (Step("-", (Given(20), inner), FORMS), 13),
        (Step("/", (Given(14), inner), FORMS), 2),
        (Step("+", (inner, Given(1)), FORMS), 8),
    ):
        texts = {write_solution(outer, Random(seed), Style(inline=1.0, swap=0.5)) for seed in range(20)}
        assert outer.value == value
        for text in texts:
            verdict = verify(text, f"#### {value}")
            assert verdict.correct and len(verdict.equations) == 1, text


def test_problems_are_right_different_and_the_same_for_a_seed() -> None:
    problems = make_problems(120, seed=3)
    assert problems == make_problems(120, seed=3)
    assert problems != make_problems(120, seed=4)
    assert len({p.question for p in problems}) == 120
    assert {p.steps for p in problems} == {1, 2, 3, 4, 5, 6}
    assert len({p.theme for p in problems}) == 6
    for p in problems:
        assert verify(p.answer, p.answer).correct
        assert 1 < int(p.answer.rsplit("#### ", 1)[1]) <= LARGEST


def test_train_and_test_are_apart() -> None:
    train, test = split_problems(60, 40, seed=1)
    assert (len(train), len(test)) == (60, 40)
    assert not {p.question for p in train} & {p.question for p in test}


def test_pretraining_text_is_true_and_solves_no_question() -> None:
    documents = list(islice(make_text(5), 400))
    assert documents == list(islice(make_text(5), 400))
    stories = [d for d in documents if d[0] != "\n"]
    assert 0.7 < len(stories) / len(documents) < 0.95
    for given, said in documents:
        assert "?" not in given + said and "####" not in given + said
    for given, said in documents:
        if given == "\n":
            for line in said.split("\n"):
                left, right = line.split("=")
                assert verify(f"<<{line}>>{right}\n#### {right}", f"#### {right}").correct, (left, right)
    shown = [d for d in stories if "<<" in d[1]]
    assert len(shown) > 50
    for _, said in shown:
        last = said.rsplit(">>", 1)[1].split()[0].strip(".,")
        assert verify(f"{said}\n#### {last}", f"#### {last}").correct, said


def test_rows_of_pretraining_text_hold_the_tokens_asked_for() -> None:
    rows = list(text_rows(0, len, 20_000))
    held = sum(len(row["prompt"]) + len(row["completion"]) for row in rows)
    assert 20_000 <= held < 21_000


def test_the_tokenizer_knows_words_and_numbers_and_spells_the_rest() -> None:
    text = "Ada buys 12 hats for $3 each.\nThat is $<<12*3=36>>36.\n#### 36"
    tokenizer = build_tokenizer([text])
    found = tokenizer.encode(text)
    assert tokenizer.decode(found.ids) == text
    assert {"12", "36", "####"} <= set(found.tokens)
    strange = "Zürich 99!"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange


def test_the_blank_model_is_the_same_for_a_seed_and_samples(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from rftfast.engine import Request, Sampler, SamplingParams
    from rftfast.study.world.model import write_blank_model

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_blank_model(tmp_path / name, seed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    sampler = Sampler.from_pretrained(tmp_path / "a", threads=1, kv_memory="8MiB")
    tokens = tuple(sampler.tokenizer.encode("Ada has 3 hats."))
    assert len(tokens) < 8  # words, not bytes
    (found,) = sampler.stream([Request("q", tokens, SamplingParams(k=1, max_tokens=5))])
    assert len(found.token_ids) <= 5
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["vocab_size"] == sampler.config.vocab_size

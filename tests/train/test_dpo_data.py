"""Preference files and what becomes of them: pairs of documents, with ends and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rftfast.errors import UserError
from rftfast.models.tokenizer import Tokenizer
from rftfast.negatives.pairs import PairOptions, write_pairs
from rftfast.train.documents import Document
from rftfast.train.preference import read_preferences
from rftfast.train.preference_documents import Pair, fingerprint, pair_documents
from rftfast.train.preference_steps import Span, weighted
from tests.negatives.hand_made import make_rollouts, make_run, response, rolled, state
from tests.tiny_model import EOS, write_tiny_llama
from tests.train.dpo_run import write_rows

PLAIN = {"prompt": "Q: 1+1?\nA:", "chosen": " 2\n#### 2", "rejected": " 3\n"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.from_folder(write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny"))


def read(folder: Path, *rows: dict[str, Any]) -> Any:
    return read_preferences(write_rows(folder / "pairs.jsonl", list(rows)))


def test_texts(tmp_path):
    first, second = read(tmp_path, PLAIN, {**PLAIN, "chosen_ends": True, "rejected_ends": False, "weight": 2.5})
    assert (first.chosen.example.prompt, first.chosen.example.completion) == (PLAIN["prompt"], PLAIN["chosen"])
    assert first.rejected.example.completion == PLAIN["rejected"]
    assert (first.chosen.ends, first.rejected.ends, first.weight) == (True, True, 1.0)
    assert (second.chosen.ends, second.rejected.ends, second.weight) == (True, False, 2.5)
    assert first.id != second.id and first.chosen.example.group == second.rejected.example.group
    assert (first.chosen.example.id, first.rejected.example.id) == (f"{first.id}/chosen", f"{first.id}/rejected")


def test_ids_are_the_files_own(tmp_path):
    pairs = read(tmp_path, *({**PLAIN, "question_id": "q7"} for _ in range(2)), {**PLAIN, "id": "mine"})
    assert [pair.id for pair in pairs][:2] == ["q7", "q7#2"] and pairs[2].id == "mine"


USER = {"role": "user", "content": "1+1?"}


def said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [said("2")], "rejected": [said("3")]},
        {"chosen": [USER, said("2")], "rejected": [USER, said("3")]},
        {"prompt": "1+1?", "chosen": [USER, said("2")], "rejected": [USER, said("3")]},
        {"prompt": [USER], "chosen": "2", "rejected": "3"},
    ],
)
def test_messages(tmp_path, row):
    (pair,) = read(tmp_path, row)
    assert pair.chosen.example.prompt == pair.rejected.example.prompt == (USER,)
    assert (pair.chosen.example.completion, pair.rejected.example.completion) == ("2", "3")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"chosen": None}, "line 2: 'chosen'"),
        ({"chosen": "  "}, "line 2: the text to learn in 'chosen' is empty"),
        ({"rejected": PLAIN["chosen"]}, "line 2: 'chosen' and 'rejected' are the same text"),
        ({"prompt": None}, "line 2: 'prompt'"),
        ({"rejected_ends": "no"}, "line 2: 'rejected_ends' is 'no'; write true or false"),
        ({"weight": -1}, "line 2: 'weight' is -1; write a number, 0 or more"),
        ({"weight": True}, "line 2: 'weight' is True"),
        ({"weight": 0}, "line 2: 'weight' is 0; remove the row"),
        ({"shared": -3}, "line 2: 'shared' is -3"),
        ({"steps": 3}, "line 2: 'steps' is no list of steps"),
        ({"steps": [{"start": 0}]}, "line 2: step 1 in 'steps' lacks its characters"),
        ({"steps": [{"start": 0, "end": 99}]}, "line 2: step 1 in 'steps' is characters 0 to 99 of a text with 3"),
        ({"steps": [{"start": 1, "end": 1}]}, "step 1 in 'steps' is characters 1 to 1"),
        ({"steps": [{"start": -2, "end": 1}]}, "step 1 in 'steps' is characters -2 to 1"),
        ({"steps": [{"start": 0, "end": 2}, {"start": 1, "end": 3}]}, "step 2 in 'steps' begins before"),
        ({"steps": [{"start": 0, "end": 2, "weight": "x"}]}, "step 1 in 'steps': 'weight' is 'x'"),
        (
            {"chosen_steps": [{"start": 0, "end": 99}]},
            "step 1 in 'chosen_steps' is characters 0 to 99 of a text with 9",
        ),
        ({"chosen": [said("2")], "rejected": [said("3")]}, "line 2: no message before the answers"),
        ({"chosen": [USER, said("2")], "rejected": [said("3")]}, "answer different messages"),
        ({"chosen": [USER], "rejected": [USER, said("3")]}, "'chosen' is to end with a message of the assistant"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, changes, expected):
    with pytest.raises(UserError) as caught:
        read(tmp_path, PLAIN, {**PLAIN, **changes})
    assert expected in str(caught.value) and "pairs.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_something_else(tmp_path):
    with pytest.raises(UserError, match=r"no preference pairs \(found prompt, completion\); use prompt"):
        read(tmp_path, {"prompt": "a", "completion": "b"})
    with pytest.raises(UserError, match="is a folder; name the file of its pairs"):
        read_preferences(tmp_path)
    with pytest.raises(UserError, match="no column 'prompt'"):
        read(tmp_path, {"chosen": "a", "rejected": "b"})


def test_no_end_token_after_a_step(tmp_path, tokenizer):
    (pair,) = pair_documents(read(tmp_path, {**PLAIN, "rejected_ends": False}), tokenizer, eos_id=EOS)
    prompt, chosen, rejected = (list(PLAIN[name].encode()) for name in ("prompt", "chosen", "rejected"))
    ids = {byte: tokenizer.encode(chr(byte))[0] for byte in {*prompt, *chosen, *rejected}}
    assert pair.chosen.tokens.tolist() == [ids[b] for b in [*prompt, *chosen]] + [EOS]
    assert pair.rejected.tokens.tolist() == [ids[b] for b in [*prompt, *rejected]]
    assert pair.chosen.prompt_length == pair.rejected.prompt_length == len(prompt)
    assert pair.rejected.weights is None


def tail(pair_side: Any) -> list[float]:
    return pair_side.weights[pair_side.prompt_length :].tolist()


def test_steps_weigh_their_tokens(tmp_path, tokenizer):
    steps = [{"start": 0, "end": 2, "weight": 0.5}, {"start": 2, "end": 3, "weight": 2}]
    (pair,) = pair_documents(read(tmp_path, {**PLAIN, "steps": steps}), tokenizer, eos_id=EOS)
    assert tail(pair.rejected) == [0.5, 0.5, 2, 2]  # the end token goes with the last step
    assert pair.chosen.weights is None
    (cut,) = pair_documents(read(tmp_path, {**PLAIN, "steps": steps, "rejected_ends": False}), tokenizer, eos_id=EOS)
    assert tail(cut.rejected) == [0.5, 0.5, 2]


def test_steps_that_stand_in_the_prompt_are_passed_over(tmp_path, tokenizer):
    row = {**PLAIN, "prompt": PLAIN["prompt"] + " 1+1\n", "shared": 5, "rejected": "=3\n#", "rejected_ends": False}
    row["steps"] = [{"start": 0, "end": 5, "weight": 9}, {"start": 5, "end": 8, "weight": 0}]
    (preference,) = read(tmp_path, row)
    assert preference.rejected.spans == (Span(0, 3, 0.0),)
    (pair,) = pair_documents([preference], tokenizer, eos_id=EOS)
    assert tail(pair.rejected) == [0, 0, 0, 1]  # outside all steps the weight is 1
    assert pair.rejected.response_tokens == 1


def test_what_follows_the_last_weight_is_cut_off(tmp_path, tokenizer):
    row = {**PLAIN, "chosen_steps": [{"start": 0, "end": 3, "weight": 1}, {"start": 3, "end": 9, "weight": 0}]}
    (pair,) = pair_documents(read(tmp_path, row), tokenizer, eos_id=EOS)
    assert len(pair.chosen) == pair.chosen.prompt_length + 3
    assert pair.chosen.weights is None  # all that is left has weight 1
    row["chosen_steps"][0]["weight"] = 0
    with pytest.raises(UserError, match="/chosen: all its steps have weight 0"):
        pair_documents(read(tmp_path, row), tokenizer, eos_id=EOS)


def test_the_same_tokens_are_no_pair(tmp_path, tokenizer):
    row = {**PLAIN, "rejected": PLAIN["chosen"] + " so", "rejected_ends": False}
    row |= {"chosen_ends": False, "steps": [{"start": 0, "end": 9}, {"start": 9, "end": 12, "weight": 0}]}
    with pytest.raises(UserError, match="the same tokens"):
        pair_documents(read(tmp_path, row), tokenizer, eos_id=EOS)


# Pieces of several characters, as in a real vocabulary.
WORDS = (b"<end>", b" one", b".\n", b"\n\n", b"Two", b" \xe2\x82", b"\xac", b" x", b"  ", b"y")


@pytest.mark.parametrize(
    ("tokens", "text", "bounds", "expected"),
    [
        ([1, 2, 4], " one.\nTwo", [6, 9], [1, 1, 2]),
        ([1, 3, 4], " one\n\nTwo", [5, 9], [1, 1, 2]),  # white space over the border belongs where it begins
        ([4, 7, 7], "Two x x", [3, 5, 7], [1, 2, 3]),  # a space before a word goes with it
        ([4, 7, 7], "Two x x", [4, 6, 7], [1, 2, 3]),
        ([4, 5, 6, 4], "Two €Two", [5, 8], [1, 1, 1, 2]),  # a character of two tokens
        ([4, 8, 9], "Two  y", [4, 6], [1, 1, 2]),
    ],
)
def test_tokens_belong_to_the_step_of_their_first_word(tmp_path, tokens, text, bounds, expected):
    document = Document("d", np.array([9, *tokens, 0], np.int32), 1, "g")
    spans = [Span(a, b, float(i)) for i, (a, b) in enumerate(zip([0, *bounds], bounds, strict=False), start=1)]
    found = weighted(document, text, spans, WORDS, ends=True)
    weights = [1.0] * (len(tokens) + 1) if found.weights is None else found.weights[1:].tolist()
    assert weights == [*expected, expected[-1]]


def test_tokens_that_do_not_spell_the_text(tokenizer):
    document = Document("d", np.array([9, 1, 0], np.int32), 1, "g")
    with pytest.raises(UserError, match="does not give its text back"):
        weighted(document, " ONE", [Span(0, 4, 0.5)], WORDS, ends=True)


def test_fingerprints_tell_pairs_apart(tmp_path, tokenizer):
    one = pair_documents(read(tmp_path, PLAIN, {**PLAIN, "question_id": "b"}), tokenizer, eos_id=EOS)
    assert fingerprint(one) == fingerprint(one[::-1])
    heavier = Pair(one[0].id, one[0].chosen, one[0].rejected, 2.0)
    assert fingerprint([heavier, one[1]]) != fingerprint(one)


@pytest.mark.parametrize("definition", ["paper", "shared-prefix", "outcome", "edit-distance"])
def test_what_rftfast_pairs_writes_is_read(tmp_path, tokenizer, definition):
    make_run(tmp_path / "run")
    states = [state("++++-"), state("-----"), state("-----"), state("-----"), state("-----")]
    make_rollouts(tmp_path / "rollouts", rolled(response(1), response(3, first=3), response(0, first=3), states=states))
    file = tmp_path / "pairs.jsonl"
    write_pairs(tmp_path / "run", tmp_path / "rollouts", file, PairOptions(definition))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = pair_documents(read_preferences(file), tokenizer, eos_id=EOS)
    assert len(pairs) == len(rows) > 0
    for pair, row in zip(pairs, rows, strict=True):
        for document, side in zip(pair.documents, ("chosen", "rejected"), strict=True):
            ends = row[f"{side}_ends"]
            assert (document.tokens[-1] == EOS) == ends
            assert len(document) == len((row["prompt"] + row[side]).encode()) + ends
            assert document.weights is None and document.group == row["question_id"]

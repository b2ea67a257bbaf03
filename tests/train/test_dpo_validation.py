"""Validation of training on pairs: what held-out pairs say of the model, measured without a trace in the training."""

import dataclasses
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rftfast.errors import UserError
from rftfast.train.dpo_job import prepare
from rftfast.train.dpo_trainer import PreferenceTrainer
from rftfast.train.dry_run import show_job
from rftfast.train.trainer import run_job
from tests.train.dpo_run import config, metrics, rows, write_rows

TIMES = ("seconds", "tokens_per_second", "mfu", "memory")
MEASURED = ("validation_loss", "validation_accuracy", "validation_margin")


def settings(root, **changes):
    """The usual run, and 7 pairs of weights 1 to 3 that are not in it, the first by itself, then two a question."""
    held_out = [{**row, "weight": 1 + i % 3} for i, row in enumerate(rows(20)[13:])]
    return config(root, **{"validation": str(write_rows(root / "held-out.jsonl", held_out))} | changes)


def train(asked):
    return run_job(prepare(asked, "dpo"), PreferenceTrainer)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    train(settings(root, sft=0.5))
    return root


def logprobs(folder, documents):
    """Of the completions by transformers' own model, a document at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype("int64"))[None]
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        places = range(document.prompt_length, len(document))
        found.append(sum(float(scores[i - 1, ids[0, i]]) for i in places))
    return found


def test_it_is_what_the_exported_model_says_of_the_pairs(run):
    job = prepare(settings(run, sft=0.5), "dpo")
    assert len(job.held_out) == 7 and len(job.validation) == 14
    policy, base = (logprobs(folder, job.validation) for folder in (run / "out" / "model", run / "base"))
    rewards = [0.1 * (a - b) for a, b in zip(policy, base, strict=True)]
    margins = [chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2], strict=True)]
    weights = [pair.weight for pair in job.held_out]
    preference = [w * math.log1p(math.exp(-m)) for w, m in zip(weights, margins, strict=True)]
    supervised = [-w * p for w, p in zip(weights, policy[::2], strict=True)]
    tokens = sum(pair.chosen.response_tokens for pair in job.held_out)
    found = metrics(run / "out")[-1]
    assert found["validation_loss"] == pytest.approx(sum(preference) / 7 + 0.5 * sum(supervised) / tokens, rel=1e-4)
    assert found["validation_margin"] == pytest.approx(sum(margins) / 7, rel=1e-4)
    assert found["validation_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 7)
    assert found["validation_margin"] != pytest.approx(found["margin"], rel=0.01)


def test_training_does_not_notice(run, tmp_path):
    train(config(tmp_path, sft=0.5))
    lasting = [
        [{k: v for k, v in row.items() if k not in (*TIMES, *MEASURED)} for row in metrics(root / "out")]
        for root in (run, tmp_path)
    ]
    assert lasting[0] == lasting[1]
    ours, theirs = (load_file(root / "out" / "model" / "model.safetensors") for root in (run, tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_when_it_is_measured(run, tmp_path):
    for out, expected in ((run / "out", [3, 6, 9]), (tmp_path / "out", [4, 6])):
        if not out.exists():
            train(settings(tmp_path, validate_every=4, max_steps=6))
        for name in MEASURED:
            assert [row["step"] for row in metrics(out) if row[name] is not None] == expected


def test_what_is_said(tmp_path, capsys):
    asked = settings(tmp_path, epochs=1, max_steps=1)
    train(asked)
    said = capsys.readouterr().out
    assert "log-probabilities of 14 completions (validation), " in said
    (row,) = metrics(tmp_path / "out")
    shown = f"loss {row['validation_loss']:.4f}, margin {row['validation_margin']:.2f}, "
    shown += f"{100 * row['validation_accuracy']:.0f} % right"
    assert f"validation after step 1: {shown} (7 pairs)" in said and f", validation {shown}, lr" in said
    train(dataclasses.replace(asked, out=str(tmp_path / "again")))
    assert "log-probabilities of 14 completions (validation) are known" in capsys.readouterr().out


def test_a_run_goes_on_with_and_without_it(tmp_path):
    assert settings(tmp_path).identity() == config(tmp_path).identity()


def test_going_on_it_is_measured_against_the_base(tmp_path):
    """Not against the model that is gone on with."""
    asked = settings(tmp_path, checkpoint_every=3)
    train(asked)
    before = metrics(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000009")
    train(dataclasses.replace(asked, reference=str(tmp_path / "computed anew")))
    after = metrics(tmp_path / "out")
    assert [[row[name] for row in before] for name in MEASURED] == [[row[name] for row in after] for name in MEASURED]


def test_pairs_that_are_trained_on_are_told(tmp_path, capsys):
    job = prepare(settings(tmp_path, validation=config(tmp_path).data, limit=3), "dpo")
    assert "4 of 12 validation pairs have the prompt of a training pair" in job.notes
    show_job(job)
    assert "validation 12 pairs: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": "none.jsonl"}, "none.jsonl"),
        ({"validate_every": 0}, "--validate-every is 0"),
        ({"validation": None, "validate_every": 2}, "name a file with --validation"),
    ],
)
def test_what_can_be_wrong(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        prepare(settings(tmp_path, **changes), "dpo")


def test_pairs_too_long_are_refused_as_in_training(tmp_path):
    long = {"prompt": "Question: Why?\nAnswer:", "chosen": " so" * 45, "rejected": " no", "question_id": "endless"}
    file = str(write_rows(tmp_path / "long.jsonl", [*rows(2), long]))
    with pytest.raises(UserError, match="1 of 3 validation pairs are longer than --max-length 120 tokens: endless"):
        prepare(settings(tmp_path, validation=file), "dpo")
    assert len(prepare(settings(tmp_path, validation=file, drop_long=True), "dpo").held_out) == 2
    with pytest.raises(UserError, match="1 of 3 validation pairs take more than the 160 tokens of a row: endless"):
        prepare(settings(tmp_path, validation=file, max_length=160), "dpo")

"""Validation: the loss of examples that are not trained on, measured without a trace in the training."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rftfast.errors import UserError
from rftfast.train.config import RftConfig
from rftfast.train.dry_run import show_job
from rftfast.train.job import prepare
from rftfast.train.trainer import train
from tests.train.tiny_run import config, metrics, options

TIMES = ("seconds", "tokens_per_second", "mfu", "memory")


def settings(root, **changes):
    """The usual run, and 5 questions that are not in it."""
    file = root / "held-out.jsonl"
    rows = [
        {"id": f"v{i}", "question": f"And {i} + 7" + " or so" * (i % 3), "answer": f"#### {i + 7}"} for i in range(5)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config(root, **{"validation": str(file)} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    train(settings(root), "sft")
    return root


def test_it_is_measured_behind_each_epoch(run):
    rows = metrics(run / "out")
    assert [row["step"] for row in rows if row["validation_loss"] is not None] == [3, 6, 9]


def test_it_is_the_loss_of_the_model_that_is_exported(run):
    """By transformers' own model, a document at a time: the mean over the response tokens."""
    job = prepare(settings(run), "sft")
    model = AutoModelForCausalLM.from_pretrained(run / "out" / "model", dtype=torch.float32)
    total = tokens = 0
    for document in job.validation:
        ids = torch.from_numpy(document.tokens.astype("int64"))[None]
        scores = model(ids).logits[0].log_softmax(-1)
        for i in range(document.prompt_length, len(document)):
            total -= float(scores[i - 1, ids[0, i]].detach())
            tokens += 1
    assert metrics(run / "out")[-1]["validation_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_training_does_not_notice(run, tmp_path):
    train(config(tmp_path), "sft")
    lasting = [
        [{k: v for k, v in row.items() if k not in (*TIMES, "validation_loss")} for row in metrics(root / "out")]
        for root in (run, tmp_path)
    ]
    assert lasting[0] == lasting[1]
    ours, theirs = (load_file(root / "out" / "model" / "model.safetensors") for root in (run, tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_so_often_as_asked_and_at_the_end(tmp_path):
    train(settings(tmp_path, validate_every=4, max_steps=6), "sft")
    assert [row["step"] for row in metrics(tmp_path / "out") if row["validation_loss"] is not None] == [4, 6]


def test_a_run_goes_on_with_and_without_it(tmp_path):
    settled = settings(tmp_path, max_steps=4)
    assert settled.identity() == config(tmp_path, max_steps=4).identity()


def test_examples_that_are_trained_on_are_told(tmp_path, capsys):
    job = prepare(settings(tmp_path, validation=str(tmp_path / "q.jsonl"), limit=3), "sft")
    assert "3 of 12 validation examples have the prompt of a training example" in job.notes
    show_job(job)
    assert "validation 12 examples" in capsys.readouterr().out


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
        prepare(settings(tmp_path, **changes), "sft")


def test_one_that_is_too_long_is_refused_as_in_training(tmp_path):
    asked = settings(tmp_path, max_length=100)
    with open(asked.validation, "a") as file:
        file.write(json.dumps({"id": "long", "question": "long " * 30, "answer": "#### 1"}) + "\n")
    with pytest.raises(UserError, match="1 of 6 validation examples are longer than --max-length 100"):
        prepare(asked, "sft")
    assert len(prepare(dataclasses.replace(asked, drop_long=True), "sft").validation) == 5


def test_of_a_run_of_rejection_sampling(tmp_path):
    """Questions are put as the run's paths were."""
    rows = [{"prompt": f"Question: {i}?\nAnswer:", "completion": f" {i}\n#### {i}"} for i in range(3)]
    (tmp_path / "paths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = settings(tmp_path, data=str(tmp_path / "paths.jsonl")).validation
    job = prepare(RftConfig(**options(tmp_path, data=str(tmp_path / "paths.jsonl"), validation=held_out)), "rft")
    first = job.validation[0]
    assert job.base.tokenizer.decode(first.tokens[: first.prompt_length].tolist()) == "Question: And 0 + 7\nAnswer:"
    rows[0]["prompt"] = "Q: 0?"
    (tmp_path / "paths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="name the template to put them in with --prompt"):
        prepare(RftConfig(**options(tmp_path, data=str(tmp_path / "paths.jsonl"), validation=held_out)), "rft")

"""Advantage-filtered fine-tuning: which tokens carry loss, from which responses, in which template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rftfast.errors import UserError
from rftfast.negatives.step_rows import write_steps
from rftfast.train import entry
from rftfast.train.advantages import RftConfig, prepare, read_valued
from rftfast.train.attention import use_packed_attention
from rftfast.train.batch import collate
from rftfast.train.loss import batch_loss
from rftfast.train.packing import Row, Unit
from rftfast.train.trainer import Trainer, run_job
from tests.negatives.hand_made import make_rollouts, make_run, response, rolled, state
from tests.tiny_model import EOS
from tests.train.dpo_run import write_rows
from tests.train.tiny_run import metrics, write_model

PROMPT = "Question: 1 + 1?\nAnswer:"
STEPS = (" 1+1=2\n", "so it is two\n", "#### 2")


def row(*advantages: float | None, **changes: Any) -> dict[str, Any]:
    text, steps = "", []
    for step, advantage in zip(STEPS, advantages, strict=True):
        steps.append({"start": len(text), "end": len(text + step), "advantage": advantage})
        text += step
    return {"prompt": PROMPT, "completion": text, "complete": True, "steps": steps, "question_id": "q", **changes}


def settings(root: Path, data: Path, **changes: Any) -> RftConfig:
    if not (root / "base").exists():
        write_model(root / "base")
    plain = {"model": str(root / "base"), "data": str(data), "out": str(root / "out"), "batch_size": 2, "lr": 1e-2}
    plain |= {"dtype": "float32", "threads": 1, "tensorboard": False, "step_advantages": True, "max_length": 200}
    return RftConfig(**plain | changes)


def learned(document: Any) -> str:
    """The tokens with loss, of a tokenizer with a token for each byte; · for what carries none, $ for the end."""
    tokens = document.tokens[document.prompt_length :]
    weights = [1.0] * len(tokens) if document.weights is None else document.weights[document.prompt_length :]
    text = "".join(STEPS) + "$"
    return "".join(c if weight else "·" for c, weight in zip(text[: len(tokens)], weights, strict=True))


def blank(text: str) -> str:
    return "·" * len(text)


@pytest.mark.parametrize(
    ("advantages", "changes", "expected"),
    [
        ((0.2, -0.1, 0.5), {}, STEPS[0] + blank(STEPS[1]) + STEPS[2] + "$"),
        ((0.2, 0.0, None), {}, STEPS[0]),  # nothing behind it is computed
        ((-0.2, 0.1, -0.5), {}, blank(STEPS[0]) + STEPS[1]),
        ((0.0, 0.0, 0.5), {"complete": False}, blank(STEPS[0] + STEPS[1]) + STEPS[2]),  # it was cut off: no end
        ((0.1, 0.1, 0.1), {}, "".join(STEPS) + "$"),
    ],
)
def test_loss_is_on_steps_that_help(tmp_path, advantages, changes, expected):
    data = write_rows(tmp_path / "steps.jsonl", [row(*advantages, **changes)])
    (document,) = prepare(settings(tmp_path, data), "rft").documents
    assert learned(document) == expected
    assert document.tokens[-1] == EOS or not expected.endswith("$")
    assert document.response_tokens == len(expected.replace("·", ""))


def test_the_loss_is_the_sum_over_those_tokens(tmp_path):
    from transformers import AutoModelForCausalLM

    data = write_rows(tmp_path / "steps.jsonl", [row(0.2, -0.1, 0.5), row(-0.2, 0.1, -0.5)])
    job = prepare(settings(tmp_path, data), "rft")
    model, plain = (AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32) for _ in range(2))
    use_packed_attention(model)
    packed = batch_loss(model, collate(Row(tuple(Unit((d,)) for d in job.documents), 200)))
    wanted = torch.zeros(())
    for document in job.documents:
        tokens = torch.from_numpy(document.tokens).long()
        logprobs = plain(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        for i, character in enumerate(learned(document)):
            if character != "·":
                wanted = wanted - logprobs[document.prompt_length - 1 + i]
    assert packed.item() == pytest.approx(wanted.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(packed, list(model.parameters())),
        torch.autograd.grad(wanted, list(plain.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_responses_without_such_a_step_are_left_out_and_counted(tmp_path):
    data = write_rows(tmp_path / "steps.jsonl", [row(0.2, -0.1, None), row(0.0, 0.0, -1.0), row(0.1, 0.1, 0.1)])
    job = prepare(settings(tmp_path, data), "rft")
    assert [document.id for document in job.documents] == ["q", "q#3"]
    assert job.notes == ("4 of 9 steps are learned, out of 2 of 3 responses; 1 steps have no known advantage",)
    assert job.template.name == "gsm8k"  # told from the prompts
    write_rows(data, [row(0.0, 0.0, -1.0)])
    with pytest.raises(UserError, match="not one step has an advantage above 0"):
        prepare(settings(tmp_path, data), "rft")


def test_rows_without_steps_are_learned_whole(tmp_path):
    gold = {"prompt": PROMPT, "completion": "".join(STEPS), "question_id": "gold"}
    data = write_rows(tmp_path / "steps.jsonl", [row(0.2, -0.1, 0.5), gold])
    assert learned(prepare(settings(tmp_path, data), "rft").documents[1]) == "".join(STEPS) + "$"
    write_rows(data, [gold])
    with pytest.raises(UserError, match="no row has steps; leave --step-advantages out"):
        prepare(settings(tmp_path, data), "rft")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"completion": ""}, "line 1: the text to learn in 'completion' is empty"),
        ({"steps": [{"start": 0, "end": 999, "advantage": 1}]}, "line 1: step 1 in 'steps' is characters 0 to 999"),
        ({"steps": [{"start": -5, "end": -1, "advantage": 1}]}, "line 1: step 1 in 'steps' is characters -5 to -1"),
        ({"steps": [{"start": 0, "end": 3, "advantage": "high"}]}, "line 1: step 1: 'advantage' is 'high'"),
        ({"prompt": None}, "line 1: 'prompt'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, changes, expected):
    data = write_rows(tmp_path / "steps.jsonl", [row(0.1, 0.1, 0.1, **changes)])
    with pytest.raises(UserError) as caught:
        read_valued(data)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_what_rftfast_rollout_writes_is_learned(tmp_path, monkeypatch):
    """From a run, its rollouts' folder or their file: wrong responses among them, in the run's template."""
    make_run(tmp_path / "run")
    states = [state("++++-"), state("+++++"), state("-----"), state("-----"), state("-----")]
    question = rolled(response(1), response(3, first=3), response(0, first=3), states=states)
    rollouts = tmp_path / "run" / "rollouts"
    make_rollouts(rollouts, question)
    write_steps(rollouts, [question.id], 5)
    stored = [json.loads(line) for line in (rollouts / "steps.jsonl").read_text().splitlines()]
    helpful = {
        f"{row['question_id']}/{row['sample_index']}": sum((s["advantage"] or 0) > 0 for s in row["steps"])
        for row in stored
    }
    assert any(not row["right"] and helpful[f"{row['question_id']}/{row['sample_index']}"] for row in stored)
    found = [
        prepare(settings(tmp_path, place), "rft") for place in (tmp_path / "run", rollouts, rollouts / "steps.jsonl")
    ]
    for job in found:
        assert {document.id for document in job.documents} == {name for name, count in helpful.items() if count}
        assert job.template is not None and job.template.prompt == "Q: {question}\nA:"
    monkeypatch.chdir(rollouts)
    here = [prepare(settings(tmp_path, Path(place)), "rft") for place in ("steps.jsonl", ".", "..")]
    assert {job.template for job in here} == {found[0].template}, "the run is found above the working directory, too"
    (rollouts / "steps.jsonl").unlink()
    with pytest.raises(UserError, match=r"no steps\.jsonl in it; write it with: rftfast rollout"):
        prepare(settings(tmp_path, rollouts), "rft")


def test_it_trains(tmp_path):
    data = write_rows(tmp_path / "steps.jsonl", [row(0.2, -0.1, 0.5, question_id=f"q{i}") for i in range(4)])
    job = prepare(settings(tmp_path, data, epochs=6), "rft")
    run_job(job)
    found = metrics(tmp_path / "out")
    assert found[0]["response_tokens"] == 2 * len(STEPS[0] + STEPS[2] + "$")
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]


def test_from_the_command_line(tmp_path, capsys):
    data = write_rows(tmp_path / "steps.jsonl", [row(0.2, -0.1, 0.5, right=True)])
    settings(tmp_path, data)
    given = ["--model", str(tmp_path / "base"), "--data", str(data), "--out", str(tmp_path / "out"), "--dry-run"]
    found = {"options": RftConfig, "load": lambda: (prepare, Trainer)}
    assert entry.main("rft", "", [*given, "--step-advantages"], **found) == 0
    assert "2 of 3 steps are learned" in capsys.readouterr().out
    assert entry.main("rft", "", given, **found) == 2
    assert "wrong ones among them; train on it with train/rft.py --step-advantages" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "base")

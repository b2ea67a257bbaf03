"""What a dry run says of memory and tokens, against what a run then does."""

import dataclasses
import json

import pytest
import torch

from rftfast.train.batch import collate
from rftfast.train.dry_run import dry_run, estimate_memory
from rftfast.train.job import prepare
from rftfast.train.loss import hidden_states, split_head
from rftfast.train.model import build
from tests.train.tiny_run import config


def estimated(settings, size=1, shards=1, dtype=torch.float32):
    job = prepare(settings, "sft")
    return estimate_memory(job, build(job.base, settings, weights=False), dtype, size, shards)


def kept(settings):
    """Bytes that autograd holds of the longest row, its forward pass being computed."""
    job = prepare(settings, "sft")
    learner = build(job.base, settings)
    row = max((row for step in job.planned() for row in step.rows()), key=lambda row: row.tokens)
    weights, held = {p.untyped_storage().data_ptr() for p in learner.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden_states(split_head(learner.model), collate(row))
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_those_of_the_longest_row(tmp_path, recompute):
    settings = config(tmp_path, recompute=recompute)
    assert estimated(settings).activations == pytest.approx(kept(settings), rel=0.02)


def test_recomputing_keeps_little(tmp_path):
    plain, again = (estimated(config(tmp_path, recompute=r)).activations for r in (False, True))
    assert again < plain / 4


def test_shares_of_weights_and_optimizer(tmp_path):
    settings = config(tmp_path)
    weights = sum(p.numel() for p in build(prepare(settings, "sft").base, settings, weights=False).parameters())
    one, split = estimated(settings), estimated(settings, 4, 4, torch.bfloat16)
    assert (one.states, split.states) == (16 * weights, 4 * weights)
    assert one.weights == 4 * weights and split.weights <= 2 * weights  # one process collects all of them, for a step
    assert one.staging == 12 * weights
    offloaded = split.lines(offload=True)
    assert split.lines(offload=False)["each device, at least"] - offloaded["each device, at least"] == split.states


def test_saved_tokens_are_told(tmp_path, capsys):
    rows = [
        {"prompt": f"Question: {'why ' * 8}{q}?\nAnswer:", "completion": f" {p}\n#### 1"}
        for q in range(3)
        for p in range(4)
    ]
    data = tmp_path / "paths.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(tmp_path, data=str(data), share_prompts=4, batch_size=12, epochs=1)
    dry_run(settings, "rft")
    (step,) = prepare(settings, "rft").planned()
    saved = f"({100 * (1 - step.tokens / step.useful_tokens):.0f} % saved by shared prompts)"
    said = " ".join(capsys.readouterr().out.split())
    assert saved in said and f"{step.useful_tokens:,} in all, {step.tokens:,} positions" in said
    assert "attention by torch's flash kernel, document by document" in said
    dry_run(dataclasses.replace(settings, share_prompts=1), "rft")
    assert "saved by" not in capsys.readouterr().out

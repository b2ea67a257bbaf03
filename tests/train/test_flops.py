"""The operations of a step against torch's own counter, and what is known of machines."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from rftfast.train.documents import Document
from rftfast.train.flops import Work, known_peak, measure_peak
from rftfast.train.packing import plan_steps
from tests.train.made import made_documents, tiny


def step_of(documents, together=1):
    (step,) = plan_steps(documents, budget_tokens=4096, documents_per_step=99, seed=0, epoch=0, paths_together=together)
    return step


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_one_document_against_torchs_counter(family):
    """Torch counts the plain model: every logit, and the whole square of attention."""
    n = 40
    model = tiny(family)
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(n)[None]).logits.sum().backward()
    work = Work.of(model)
    assert work is not None
    step = step_of([Document("d", np.arange(n, dtype=np.int32), 1, "d")])
    # The first layer's input needs no gradient in the counter's run either: embeddings are no matrix product.
    plain = 3 * (work.per_token * n + work.per_label * n + work.per_pair * n * n)
    rotary = plain - counter.get_total_flops()
    assert abs(rotary) < 0.002 * plain  # rotary angles are a small product of their own
    pairs, labels = n * (n + 1) // 2, n - 1
    assert work.training(step) == 3 * (work.per_token * n + work.per_label * labels + work.per_pair * pairs)


def test_a_shared_prompt_counts_once():
    work = Work.of(tiny("llama"))
    prompt = np.arange(11, dtype=np.int32)
    paths = [Document(f"p{i}", np.concatenate([prompt, np.full(5, i, np.int32)]), 11, "q") for i in range(3)]
    alone, shared = step_of(paths), step_of(paths, together=3)
    assert (alone.tokens, shared.tokens) == (48, 10 + 3 * 6)
    assert work.training(shared) < work.training(alone)
    free = dataclasses.replace(work, per_token=0, per_label=0, per_pair=1)
    assert free.training(alone) == 3 * 3 * 136
    assert free.training(shared) == 3 * (55 + 3 * (136 - 55))


def test_experts_are_not_counted():
    config = AutoConfig.for_model(
        "mixtral", vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    with torch.device("meta"):
        assert Work.of(AutoModelForCausalLM.from_config(config)) is None
    assert made_documents(1, paths=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100", None),
        ("GeForce RTX 4090", None),
    ],
)
def test_peaks_are_known_or_not(name, expected):
    peak = known_peak(name)
    assert (peak and peak.per_second) == expected


def test_a_measured_peak():
    peak = measure_peak(torch.device("cpu"), torch.float32)
    assert 1e9 < peak.per_second < 1e15 and "float32" in peak.source

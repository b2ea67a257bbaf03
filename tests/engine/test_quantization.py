"""The sampler with the layers' products, or keys and values, in float8, as a CPU emulates it."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from rftfast.engine import Generation, Request, Sampler, SamplingParams
from rftfast.engine.memory import Batch, plan_memory
from rftfast.models.config import ModelConfig
from rftfast.models.decoder import Decoder
from rftfast.models.rope import rope_table
from rftfast.models.weights import load_weights
from rftfast.ops import PAGE, fp8, select
from rftfast.ops.linear import Linear
from tests.tiny_model import write_tiny_llama

PARAMS = SamplingParams(k=6, temperature=0.9, max_tokens=12, seed=3)
REQUESTS = [Request(name, tuple(name.encode() * 6), PARAMS) for name in ("one and two", "something else")]
Paths = dict[tuple[str, int], Generation]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


def draw(folder: Path, **options: object) -> tuple[Sampler, Paths]:
    sampler = Sampler.from_pretrained(folder, threads=1, kv_memory="4MiB", **options)  # type: ignore[arg-type]
    return sampler, {(g.name, g.sample_index): g for g in sampler.stream(REQUESTS)}


def test_the_layers_are_quantised_and_the_head_is_not(folder: Path) -> None:
    plain, sampler = (Sampler.from_pretrained(folder, kv_memory="4MiB", quantization=form) for form in (None, "fp8"))
    assert all(layer["qkv"].layout == "fp8 in float32" for layer in sampler.decoder.layers)  # type: ignore[attr-defined]
    assert sampler.decoder.head.layout == plain.decoder.head.layout


FORMS = {
    "+fp8": {"quantization": "fp8"},
    "+kv-fp8": {"kv_cache_dtype": "fp8"},
    "+fp8+kv-fp8": {"quantization": "fp8", "kv_cache_dtype": "fp8"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_it_draws_nearly_what_is_drawn_without(folder: Path, dtype: str, form: str) -> None:
    plain, wanted = draw(folder, dtype=dtype)
    sampler, found = draw(folder, dtype=dtype, **FORMS[form])
    assert sampler.dtype == plain.dtype + form
    gaps = []
    for name, path in wanted.items():
        other = found[name]
        for token, its, a, b in zip(path.token_ids, other.token_ids, path.logprobs, other.logprobs, strict=False):
            if token != its:
                break
            gaps.append(abs(a - b))
    assert len(gaps) >= len(wanted) and 1e-4 < np.median(gaps) < 0.2, "as other numbers, and not as another model"


@pytest.mark.parametrize("form", FORMS)
def test_paths_do_not_depend_on_the_batch(folder: Path, form: str) -> None:
    base = draw(folder, dtype="bf16", **FORMS[form])[1]
    for options in ({"max_running": 3}, {"prefix_share": False}):
        assert draw(folder, dtype="bf16", **FORMS[form], **options)[1] == base


def test_keys_and_values_are_numbers_of_float8(folder: Path) -> None:
    sampler, _ = draw(folder, dtype="bf16", kv_cache_dtype="fp8")
    kept = torch.stack(sampler.pool.get(1, torch.arange(PAGE, 3 * PAGE)), dim=2)  # [n, K, 2, D]
    assert sampler.kv_scales is not None
    over = kept.float() / sampler.kv_scales[1, :, :, None]
    assert over.any() and torch.equal(over, over.to(torch.float8_e4m3fn).float())


def test_a_weight_goes_when_it_has_another_form(folder: Path) -> None:
    """Loading takes no second copy of the model."""
    config = ModelConfig.from_folder(folder)
    weights = load_weights(folder, config, torch.float32)
    matrices = [weakref.ref(weights[f"layers.{i}.{name}"]) for i in (0, 1) for name in ("qkv", "o", "gate_up", "down")]
    alive = []

    def prepare(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        alive.append(sum(matrix() is not None for matrix in matrices))
        return Linear(weight.clone(), bias)

    ops = dataclasses.replace(select("cpu", backend="reference"), prepare_layer=prepare)
    decoder = Decoder(config, weights, ops, rope_table(config, 16))
    assert alive == [8, 7, 6, 5, 4, 3, 2, 1] and len(decoder.layers) == 2


def test_the_plan_counts_what_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfast.engine.memory.free_memory", lambda device: 1 << 34)
    config, sizes = ModelConfig.from_folder(folder), {"kv_memory": 1 << 20, "batch": Batch(64, 64)}
    head = 2 * 257 * 64 * 2
    for device, each in (("cpu", 4), ("cuda", 1)):
        plain, eight = (
            plan_memory(config, torch.bfloat16, torch.device(device), quantization=name, **sizes)  # type: ignore[arg-type]
            for name in (None, "fp8")
        )
        assert plain.page_bytes == eight.page_bytes
        assert eight.weight_bytes - head == (plain.weight_bytes - head) // 2 * each


def test_the_plan_counts_pages_as_they_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfast.engine.memory.free_memory", lambda device: 1 << 34)
    config = ModelConfig.from_folder(folder)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    for name, times in (("cpu", 1), ("cuda", 2)):
        device = torch.device(name)
        plain, eight = (
            plan_memory(config, torch.bfloat16, device, kv_memory=1 << 20, batch=Batch(64, 64), kv_cache_dtype=kept)
            for kept in fp8.KV_CACHE
        )
        assert eight.pages == times * plain.pages and plain.page_bytes == times * eight.page_bytes

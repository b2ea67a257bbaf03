"""shape:NAME: published sizes, random weights that are the same each time, paths that never end early."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rftfast.engine import Sampler, SamplingParams
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.resolve import fingerprint, resolve
from rftfast.models.shapes import SHAPES, shape_config
from rftfast.models.weights import checkpoint_slots, random_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))


# Published parameter counts: the models' cards; tied embeddings count once.
PARAMETERS = {
    "smollm2-135m": 134_515_008,
    "llama-3.2-1b": 1_235_814_400,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_the_published_ones(name: str) -> None:
    slots = checkpoint_slots(shape_config(name))
    assert sum(torch.Size(slot.shape).numel() for slot in slots.values()) == PARAMETERS[name]


def test_it_samples_to_the_last_token() -> None:
    sampler = Sampler.from_pretrained("shape:smollm2-135m", kv_memory="64MiB")
    (paths,) = sampler.generate(["two and two"], SamplingParams(k=3, max_tokens=7, stop=("\n\n",)))
    assert [(len(p.token_ids), p.finish_reason) for p in paths] == [(7, "length")] * 3
    assert len({p.token_ids for p in paths}) == 3


def test_a_folder_like_any_other() -> None:
    folder = resolve("shape:llama-7b")
    assert ModelConfig.from_folder(folder) == shape_config("llama-7b")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 50_000
    assert fingerprint(folder) == fingerprint(resolve("shape:llama-7b")) != fingerprint(resolve("shape:llama-13b"))


def test_weights_are_the_same_each_time() -> None:
    config = shape_config("smollm2-135m")
    first, second = (random_weights(config, torch.bfloat16, "cpu", 0) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["head"] is first["embed"]
    assert first["layers.3.down"].float().std().item() == pytest.approx(1536**-0.5, rel=0.02)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"shape:gpt-5.*llama-7b"):
        resolve("shape:gpt-5")
    with pytest.raises(UserError, match="revision"):
        resolve("shape:llama-7b", revision="main")

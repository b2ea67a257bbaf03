"""Scales of keys and values: no input reaches beyond them, and some comes near."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rftfast.models.config import ModelConfig
from rftfast.models.kv_scales import kv_scales
from rftfast.models.rope import RopeScaling, rope_table
from rftfast.ops import rms_norm, rope
from rftfast.ops.fp8 import LARGEST
from rftfast.ops.kv import PAGE, KVPool

LLAMA = ModelConfig(
    family="llama",
    vocab_size=8,
    hidden=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=16,
    max_positions=64,
)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_positions=16, attention_factor=3.0)
CONFIGS = {
    "llama": LLAMA,
    "bias": replace(LLAMA, family="qwen2", qkv_bias=True),
    "norms": replace(LLAMA, family="qwen3", qk_norm=True),
    "yarn": replace(LLAMA, rope_scaling=YARN),
}


def weights_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    rows, found = config.q_rows + 2 * config.kv_rows, {"embed": torch.zeros(8, config.hidden)}
    for i in range(config.layers):
        sizes = torch.logspace(-3, 2, rows)[torch.randperm(rows, generator=made)]
        found[f"layers.{i}.qkv"] = torch.randn(rows, config.hidden, generator=made) * sizes[:, None]
        found[f"layers.{i}.attn_norm"] = torch.randn(config.hidden, generator=made) * 3
        if config.qkv_bias:
            found[f"layers.{i}.qkv_bias"] = torch.randn(rows, generator=made) * 300
        if config.qk_norm:
            found[f"layers.{i}.q_norm"] = torch.randn(config.head_dim, generator=made)
            found[f"layers.{i}.k_norm"] = torch.randn(config.head_dim, generator=made) * 4
    return found


def largest(config: ModelConfig, weights: dict[str, torch.Tensor], layer: int, x: torch.Tensor) -> torch.Tensor:
    """[K, 2]: of the keys and values that the layer makes of the residuals ``x`` [N, C] at every position."""
    cos, sin = rope_table(config, config.max_positions)
    own = f"layers.{layer}."
    normed = rms_norm.reference(x.clone(), None, weights[own + "attn_norm"], config.rms_eps, torch.empty_like(x))
    qkv = normed @ weights[own + "qkv"].T
    if config.qkv_bias:
        qkv = qkv + weights[own + "qkv_bias"]
    qkv = qkv.repeat_interleave(config.max_positions, 0)
    rows = len(qkv)
    positions = torch.arange(config.max_positions, dtype=torch.int32).repeat(len(x))
    slots = torch.arange(rows)
    pool = KVPool.allocate(1, -(-rows // PAGE), config.kv_heads, config.head_dim, torch.float32)
    norms = (weights.get(own + "q_norm"), weights.get(own + "k_norm"))
    rope.reference(qkv, cos, sin, positions, slots, pool, 0, config.heads, *norms, config.rms_eps)
    return torch.stack([t.abs().amax((0, 2)) for t in pool.get(0, slots)], dim=-1)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_saturates_and_nothing_is_lost(name: str) -> None:
    """Residuals that lie along a channel's own weights make it as large as it gets."""
    config = CONFIGS[name]
    weights = weights_of(config)
    scales = kv_scales(config, weights, rope_table(config, config.max_positions))
    assert scales.shape == (2, 2, 2) and scales.dtype == torch.float32
    assert torch.equal(scales.frexp().mantissa, torch.full_like(scales, 0.5)), "powers of two"
    assert len(scales.unique()) > 1
    for layer in range(config.layers):
        rows = weights[f"layers.{layer}.qkv"][config.q_rows :] * weights[f"layers.{layer}.attn_norm"]
        along = torch.cat([rows, -rows, torch.randn(20, config.hidden, generator=torch.Generator().manual_seed(0))])
        used = largest(config, weights, layer, along * 100) / (scales[layer] * LARGEST)
        assert (used <= 1 / 1.24).all()
        # The next power of two, the margin, and a turned pair take up to 2 * 1.25 * sqrt(2). A key of length sqrt(D) that
        # is all in one channel would be needed where keys are normed.
        assert (used > 0.28 if not config.qk_norm else used > 0.28 / config.head_dim**0.5).all()


def test_a_layer_of_zeros() -> None:
    weights = {name: torch.zeros_like(tensor) for name, tensor in weights_of(LLAMA).items()}
    scales = kv_scales(LLAMA, weights, rope_table(LLAMA, 64))
    assert (scales > 0).all() and scales.isfinite().all()

"""Scales for keys and values in float8, out of the weights alone: nothing to calibrate, and nothing can saturate.

A layer multiplies vectors that an RMSNorm made: before the norm's own weight g their length is at most sqrt(C). So by Cauchy
and Schwarz a channel with the weights w and the bias b stays within |w * g| sqrt(C) + |b|, and turning a pair of
channels within the length of the pair. The largest bound of a head, over the largest float8, is its scale (the next power
of two). Typical numbers are some 50 times smaller than that bound, and small ones lose nothing either: e4m3 keeps its
four bits down to 1/28,672 of its largest number.
"""

from __future__ import annotations

import math

import torch

from rftfast.models.config import ModelConfig
from rftfast.ops.fp8 import LARGEST

_MARGIN = 1.25
"""For what is rounded on the way: the norm's output, and in float8 products weights and activations (1/16 each at most)."""


def kv_scales(
    config: ModelConfig, weights: dict[str, torch.Tensor], rope: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Powers of two [L, K, 2] float32 for keys and values, where the weights are. ``weights``: as ``load_weights`` names
    them; ``rope``: cos and sin, whose squares add up to more than 1 in some models."""
    c = config
    longer = float((rope[0].square() + rope[1].square()).max().sqrt())
    bounds = []
    for i in range(c.layers):
        own = f"layers.{i}."
        columns = weights[f"{own}qkv"][c.q_rows :].float() * weights[f"{own}attn_norm"].float()
        most = torch.linalg.vector_norm(columns, dim=1, dtype=torch.float64) * math.sqrt(c.hidden)
        if c.qkv_bias:
            most += weights[f"{own}qkv_bias"][c.q_rows :].double().abs()
        keys, values = most.view(2, c.kv_heads, c.head_dim)
        if c.qk_norm:
            keys = torch.full_like(keys, math.sqrt(c.head_dim)) * weights[f"{own}k_norm"].double().abs()
        low, high = keys.chunk(2, dim=-1)
        bounds.append(torch.stack([torch.hypot(low, high).amax(-1) * longer, values.amax(-1)], dim=-1))
    least = (torch.stack(bounds).cpu() * (_MARGIN / LARGEST)).clamp(min=2.0**-100)
    scales = torch.ldexp(torch.ones(least.shape), least.frexp().exponent)  # exact on a CPU
    return scales.to(weights["embed"].device)

"""Rotary position embeddings: the table of cosines and sines, with the scalings that long-context models use.

Source: RoFormer (arXiv 2104.09864) for the rotation; for the scalings see :mod:`rftfast.models.rope_scaling`. All angles are
computed in float32, in the order transformers computes them, so that the table is the same bit for bit and logits can be
compared.
"""

from __future__ import annotations

import math

import torch

from rftfast.models.config import ModelConfig
from rftfast.models.rope_scaling import RopeScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> torch.Tensor:
    """Angle in radians per position of each pair of dimensions, float32 [head_dim / 2], scaling applied."""
    periods = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    plain = 1.0 / periods
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    return _yarn(periods, scaling, head_dim, theta)


def _llama3(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    original, low, high = scaling.original_max_positions, scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = 2 * math.pi / plain
    is_long = wavelength > original / low
    is_short = wavelength < original / high
    stretched = torch.where(is_long, plain / scaling.factor, plain)
    blend = (original / wavelength - low) / (high - low)
    blended = (1 - blend) * stretched / scaling.factor + blend * stretched
    return torch.where(~is_short & ~is_long, blended, stretched)


def _yarn(periods: torch.Tensor, scaling: RopeScaling, dim: int, theta: float) -> torch.Tensor:
    def dimension(rotations: float) -> float:
        """The dimension that turns ``rotations`` times over the original context."""
        return (dim * math.log(scaling.original_max_positions / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    ramp = torch.clamp((torch.arange(dim // 2, dtype=torch.float32) - low) / width, 0, 1)
    keep = 1 - ramp
    return (1.0 / (scaling.factor * periods)) * (1 - keep) + (1.0 / periods) * keep


def rope_table(config: ModelConfig, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for positions 0 .. positions - 1: two float32 tensors [positions, head_dim / 2].

    Dimension i turns together with dimension i + head_dim / 2 (the "half" layout of Hugging Face checkpoints).
    """
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    factor = config.rope_scaling.attention_factor if config.rope_scaling is not None else 1.0
    return angles.cos() * factor, angles.sin() * factor

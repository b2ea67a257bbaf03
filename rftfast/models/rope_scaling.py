"""How a model's rotary frequencies are stretched for long contexts, as its ``config.json`` says it. Does not load torch.

Source: linear interpolation (arXiv 2306.15595); YaRN (arXiv 2309.00071); the wavelength rule of Llama 3.1. What the numbers do
to the frequencies is in :mod:`rftfast.models.rope`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rftfast.errors import UserError


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies are stretched for a context longer than the one trained on."""

    kind: str
    """``linear``, ``llama3`` or ``yarn``."""
    factor: float
    """How many times longer the context became."""
    original_max_positions: int = 0
    """Context length in tokens before stretching (``llama3``, ``yarn``)."""
    low_freq_factor: float = 1.0
    """``llama3``: wavelengths above original / this are divided by ``factor``."""
    high_freq_factor: float = 4.0
    """``llama3``: wavelengths below original / this stay as they are."""
    beta_fast: float = 32.0
    """``yarn``: frequencies with more rotations than this over the original context stay as they are."""
    beta_slow: float = 1.0
    """``yarn``: frequencies with fewer rotations than this are divided by ``factor``."""
    attention_factor: float = 1.0
    """``yarn``: cosines and sines are multiplied by this."""
    truncate: bool = True
    """``yarn``: round the limits of the ramp to whole dimensions."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise UserError(f"rope scaling {self.kind!r} is not supported; supported are linear, llama3 and yarn")
        if not self.factor > 0:
            raise UserError(f"rope scaling {self.kind}: factor is {self.factor}; it must be positive")
        if self.kind != "linear" and self.original_max_positions < 1:
            raise UserError(f"rope scaling {self.kind}: original_max_position_embeddings is missing")
        if self.kind == "llama3" and not self.high_freq_factor > self.low_freq_factor > 0:
            raise UserError("rope scaling llama3: high_freq_factor must exceed low_freq_factor, and both be positive")

    @classmethod
    def from_dict(cls, given: dict[str, Any], original: int, longest: int, source: str) -> RopeScaling | None:
        """From ``rope_scaling`` or ``rope_parameters`` of config.json; None when nothing is scaled.

        ``original`` is the context length in tokens before stretching, ``longest`` the one after it.
        """
        kind = given.get("rope_type", given.get("type", "default")) or "default"
        if kind in ("default", "none"):
            return None
        if kind not in ("linear", "llama3", "yarn"):
            raise UserError(f"{source}: rope scaling {kind!r} is not supported; supported are linear, llama3 and yarn")

        def number(key: str, default: float | None = None) -> float:
            value = given.get(key)
            value = default if value is None else value
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise UserError(f"{source}: rope scaling {kind} needs the number {key}, not {value!r}")
            return float(value)

        if kind == "linear":
            return cls("linear", number("factor"))
        if kind == "llama3":
            return cls(
                "llama3",
                number("factor"),
                original,
                low_freq_factor=number("low_freq_factor"),
                high_freq_factor=number("high_freq_factor"),
            )
        factor = number("factor", longest / original)
        return cls(
            "yarn",
            factor,
            original,
            beta_fast=number("beta_fast") if given.get("beta_fast") else 32.0,
            beta_slow=number("beta_slow") if given.get("beta_slow") else 1.0,
            attention_factor=_yarn_attention(given, factor),
            truncate=bool(given.get("truncate", True)),
        )


def _yarn_attention(given: dict[str, Any], factor: float) -> float:
    """YaRN section 3.4: 0.1 ln(factor) + 1, or the ratio of two such where both mscale fields are given."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return float(scale(given["mscale"]) / scale(given["mscale_all_dim"]))
    return scale(1)

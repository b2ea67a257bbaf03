"""How much arithmetic a step needs, and how much the machine can do: the two halves of MFU (Chowdhery et al. 2022, App. B).

Counted is what the loss needs, nothing that an implementation adds: 6 operations for each weight a token is multiplied with
(2 forward, 4 backward); the head for response tokens alone; attention by the pairs of positions that see each other, so by
the sum of squared lengths of documents, not of rows; a shared prompt once. Recomputed activations do not count.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rftfast.train.loss import split_head
from rftfast.train.packing import Step

# Dense bf16 with fp32 accumulation, in operations a second, as the makers' data sheets give it (without sparsity).
_PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100 80GB HBM3": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
}
_MATMUL_SECONDS = 0.3


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a model, times 2, forward only."""

    per_token: int
    """Layers' matrices, each token."""
    per_label: int
    """The head, each response token."""
    per_pair: int
    """Attention, each pair of a position and one it sees."""

    @classmethod
    def of(cls, model: Any) -> Work | None:
        """Counted from a transformers causal language model (it may be on the meta device, or split).

        None where not every token meets every weight (experts), or weights are not matrices.
        """
        head = split_head(model)
        config = model.config.get_text_config()
        if any(p.ndim > 2 for p in model.parameters()) or getattr(config, "num_local_experts", None):
            return None
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        weights = [m._parameters.get("weight") for m in head.decoder.modules() if not isinstance(m, nn.Embedding)]
        return cls(
            per_token=2 * sum(w.numel() for w in weights if w is not None and w.ndim == 2),
            per_label=2 * head.linear.get_parameter("weight").numel(),
            per_pair=4 * config.num_hidden_layers * heads * head_dim,
        )

    def training(self, step: Step) -> int:
        """Operations of one step, forward and backward, over all processes."""
        pairs = 0
        for unit in step.units:
            pairs += _triangle(unit.shared)
            for document in unit.documents:
                pairs += _triangle(len(document)) - _triangle(unit.shared)
        return 3 * (self.per_token * step.tokens + self.per_label * step.response_tokens + self.per_pair * pairs)


@dataclass(frozen=True)
class Peak:
    """What one device can do, in operations a second, and where that is known from."""

    per_second: float
    source: str

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Peak:
        """From the data sheet where the GPU and bf16 are in the table, else measured with a square product in ``dtype``."""
        if device.type == "cuda" and dtype == torch.bfloat16:
            known = known_peak(torch.cuda.get_device_name(device))
            if known is not None:
                return known
        return measure_peak(device, dtype)


def known_peak(name: str) -> Peak | None:
    """Of the GPU that calls itself ``name``; None for one that is not in the table."""
    words = set(name.replace("-", " ").split())
    for known in sorted(_PEAKS, key=len, reverse=True):
        if words.issuperset(known.split()):
            return Peak(_PEAKS[known], f"data sheet of {known}")
    return None


@functools.cache
def measure_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best of several large square products, within about a third of a second; measured once in a process."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    a @ b
    best, left = float("inf"), _MATMUL_SECONDS
    while left > 0:
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        seconds = time.perf_counter() - start
        best, left = min(best, seconds), left - seconds
    kind = str(dtype).removeprefix("torch.")
    return Peak(2 * n**3 / best, f"measured: {kind} product of {n} x {n}")


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

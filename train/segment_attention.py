"""Attention within segments of a packed row, forward and backward, with the log-sum-exp that lets partial results be merged.

Three backends, one signature: flash-attn where it is installed, torch's own flash kernels for segments on CUDA, and on CPUs
torch's flash kernel segment by segment. Shapes: T_q and T_k rows, H heads, G key/value heads (G divides H), D channels.
Segment i has queries ``cu_q[i]:cu_q[i+1]`` and keys ``cu_k[i]:cu_k[i+1]``; no row attends outside its segment.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from dataclasses import dataclass

import torch

from rftfast.errors import UserError

WORDS = {
    "cpu": "torch's flash kernel, document by document",
    "torch": "torch's flash kernel for segments",
    "flash-attn": "flash-attn",
}
"""What a person is told of each backend."""


@dataclass(frozen=True)
class Segments:
    """Where the segments of queries and keys lie, and how long the longest are. ``causal``: both are the same rows."""

    cu_q: torch.Tensor  # [S + 1] int32
    cu_k: torch.Tensor
    max_q: int
    max_k: int
    causal: bool


@functools.cache
def backend(device: str, dtype: torch.dtype) -> str:
    """Which backend serves a type of device and a dtype; the trainer says it. UserError where none does."""
    if device == "cpu":
        return "cpu"
    if device != "cuda":
        raise UserError(f"packed attention runs on CPUs and CUDA, not on {device}; choose another device")
    if dtype not in (torch.bfloat16, torch.float16):
        raise UserError(f"packed attention on CUDA needs bfloat16 or float16, not {str(dtype)[6:]}; train in bfloat16")
    return "torch" if importlib.util.find_spec("flash_attn") is None else "flash-attn"


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``q`` [T_q, H, D], ``k`` and ``v`` [T_k, G, D] → output [T_q, H, D], log-sum-exp [H, T_q] in fp32 (fp64 for fp64)."""
    name = backend(q.device.type, q.dtype)
    if name == "cpu":
        return _cpu_forward(q, k, v, segments, scale)
    s = segments
    if name == "torch":
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, s.cu_q, s.cu_k, s.max_q, s.max_k, 0.0, s.causal, False, scale=scale
        )
        return out, lse
    from flash_attn.flash_attn_interface import _flash_attn_varlen_forward  # type: ignore[import-not-found]

    out, lse, *_ = _flash_attn_varlen_forward(q, k, v, s.cu_q, s.cu_k, s.max_q, s.max_k, 0.0, scale, s.causal)
    return out, lse


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    segments: Segments,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of ``q``, ``k``, ``v``. ``out`` and ``lse`` may be those of a merged result.

    With probabilities exp(score − lse) and the row sums of grad·out, each block of keys gives its own share of the gradient
    whatever other blocks the row attended to.
    """
    name = backend(q.device.type, q.dtype)
    if name == "cpu":
        return _cpu_backward(grad, q, k, v, out, lse, segments, scale)
    s = segments
    lse = lse.contiguous()
    if name == "torch":
        unused = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the state of a dropout that is not there
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, s.cu_q, s.cu_k, s.max_q, s.max_k, 0.0, s.causal, unused, unused, scale=scale
        )
        return dq, dk, dv
    from flash_attn.flash_attn_interface import _flash_attn_varlen_backward  # type: ignore[import-not-found]

    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    _flash_attn_varlen_backward(
        grad,
        q,
        k,
        v,
        out,
        lse,
        dq,
        dk,
        dv,
        s.cu_q,
        s.cu_k,
        s.max_q,
        s.max_k,
        0.0,
        scale,
        s.causal,
        -1,  # no window on either side
        -1,
        0.0,  # no soft cap
        None,
        torch.are_deterministic_algorithms_enabled(),
    )
    return dq, dk, dv


def _cpu_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    for a, b, c, d in _ranges(segments):
        part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            _batch(q[a:b]), _batch(k[c:d]), _batch(v[c:d]), 0.0, segments.causal, scale=scale
        )
        out[a:b] = part[0].transpose(0, 1)
        lse[:, a:b] = part_lse[0]
    return out, lse


def _cpu_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    segments: Segments,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dtype = q.dtype
    if dtype in (torch.bfloat16, torch.float16):
        # The kernel's 16-bit backward calls a matrix library for each small block and takes three times as long.
        grad, q, k, v, out = (x.float() for x in (grad, q, k, v, out))
    dq, dk, dv = (x.new_empty(x.shape, dtype=dtype) for x in (q, k, v))
    for a, b, c, d in _ranges(segments):
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _batch(grad[a:b]),
            _batch(q[a:b]),
            _batch(k[c:d]),
            _batch(v[c:d]),
            _batch(out[a:b]),
            lse[None, :, a:b],
            0.0,
            segments.causal,
            scale=scale,
        )
        for whole, part, start, end in zip((dq, dk, dv), parts, (a, c, c), (b, d, d), strict=True):
            whole[start:end] = part[0].transpose(0, 1)
    return dq, dk, dv


def _ranges(segments: Segments) -> list[tuple[int, int, int, int]]:
    queries, keys = segments.cu_q.tolist(), segments.cu_k.tolist()
    return [(a, b, c, d) for (a, b), (c, d) in zip(itertools.pairwise(queries), itertools.pairwise(keys), strict=True)]


def _batch(x: torch.Tensor) -> torch.Tensor:
    """[T, H, D] as the [1, H, T, D] that the CPU kernel takes, without a copy."""
    return x.transpose(0, 1)[None]

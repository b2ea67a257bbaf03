"""Rotary positions and the write into the KV pool, one pass over q, k and v.

With ``q_norm``/``k_norm`` (Qwen3) each head is RMS-normalised before it is rotated. Rotation pairs channel d with
d + D/2, the order in which Hugging Face stores the projection's rows.
"""

from __future__ import annotations

import torch

from rftfast.ops import native as _n
from rftfast.ops.kv import PAGE, KVPool, pair_width


def reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    pool: KVPool,
    layer: int,
    heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> None:
    """Rotates the q part of ``qkv`` [R, (H+2K)*D] in place and writes k, v to ``slots`` [R] (page * 16 + place).

    ``cos``, ``sin`` [positions, D/2] float32; ``positions`` [R] int32.
    """
    d, kv_heads, dtype = pool.head_dim, pool.data.shape[2], qkv.dtype
    rows = qkv.shape[0]
    q, k, v = qkv.view(rows, -1, d).split([heads, kv_heads, kv_heads], dim=1)
    c, s = (t[positions.long()].double()[:, None] for t in (cos, sin))

    def norm_rope(x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        wide = x.double()
        if norm is not None:
            wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * norm.double()
        low, high = wide.chunk(2, dim=-1)
        return torch.cat([low * c - high * s, high * c + low * s], dim=-1).to(dtype)

    rotated_k = norm_rope(k, k_norm)
    q.copy_(norm_rope(q, q_norm))
    w = pair_width(dtype)
    page, place = slots // PAGE, slots % PAGE
    keys = pool.data[layer, :, :, 0].view(pool.pages, kv_heads, d // w, PAGE, w)
    values = pool.data[layer, :, :, 1].view(pool.pages, kv_heads, PAGE // w, d, w)
    keys[page, :, :, place] = rotated_k.view(rows, kv_heads, d // w, w)
    values[page, :, place // w, :, place % w] = v


def native(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    pool: KVPool,
    layer: int,
    heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> None:
    rows, d, kv_heads = qkv.shape[0], pool.head_dim, pool.data.shape[2]
    assert qkv.shape[1] == (heads + 2 * kv_heads) * d and qkv.is_contiguous() and qkv.dtype == pool.data.dtype
    assert cos.dtype == torch.float32 and positions.dtype == torch.int32 and slots.dtype == torch.int64
    assert positions.shape == slots.shape == (rows,) and d <= 512
    _n.load().rope_write_kv(
        qkv.data_ptr(),
        qkv.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        pool.data[layer].data_ptr(),
        _n.pointer(q_norm),
        _n.pointer(k_norm),
        rows,
        heads,
        kv_heads,
        d,
        eps,
        _n.DTYPE_CODES[qkv.dtype],
    )

"""Rotary positions and the write into the KV pool, one pass over q, k and v.

With ``q_norm``/``k_norm`` (Qwen3) each head is RMS-normalised before it is rotated. Rotation pairs channel d with
d + D/2, the order in which Hugging Face stores the projection's rows.
"""

from __future__ import annotations

import torch

from rftfast.ops import native as _n
from rftfast.ops.kv import KVPool


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
    """Rotates the q part of ``qkv`` [R, (H+2K)*D] in place and writes k, v to ``slots`` [R] int64 (page * 16 + place).

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
    pool.put(layer, slots, rotated_k, v)


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
    assert pool.layout == "pairs"
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
    if pool.scales is not None:  # float8 is emulated: what was written is rounded
        pool.put(layer, slots, *pool.get(layer, slots))


def triton(
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
    """As ``reference``, for layout "rows". A row with a negative slot writes nothing to the pool: an empty place of a batch
    of fixed size."""
    from rftfast.kernels import rope_write_kv as kernel  # not before it is needed: CPUs have no Triton

    rows, d, kv_heads = qkv.shape[0], pool.head_dim, pool.data.shape[2]
    assert pool.layout == "rows" and (pool.in_float8 or (qkv.dtype == pool.data.dtype and pool.scales is None))
    assert qkv.shape[1] == (heads + 2 * kv_heads) * d and qkv.is_contiguous()
    assert cos.dtype == sin.dtype == torch.float32 and cos.is_contiguous() and sin.is_contiguous()
    assert positions.dtype == torch.int32 and slots.dtype == torch.int64
    assert positions.shape == slots.shape == (rows,)
    if not rows:
        return
    head_block, half_block = kernel.shape(d)
    kernel.rope_write_kv[(rows, -(-(heads + 2 * kv_heads) // head_block))](
        qkv,
        cos,
        sin,
        positions,
        slots,
        pool.data[layer],
        pool.scales[layer] if pool.scales is not None else cos,
        q_norm if q_norm is not None else qkv,
        k_norm if k_norm is not None else qkv,
        eps,
        heads,
        kv_heads,
        d,
        head_block,
        half_block,
        q_norm is not None,
        k_norm is not None,
        pool.in_float8,
        num_warps=kernel.NUM_WARPS,
        enable_fp_fusion=True,
    )

"""Head norms (Qwen3), rotary positions and the write into the KV pool: one pass over q, k and v.

A program takes a few heads of one row, whichever of q, k and v they are: q is turned in place, k is turned and written,
v is written as it is. Each value moves once; a row's places in the pool are whole runs of D values (layout "rows").
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import ARCHS, FLOAT8_ARCHS, Variant

NUM_WARPS = 2


@triton.jit
def _normed(low_HD, high_HD, weight, offs_D, in_half_D, eps, HALF: tl.constexpr):
    squares_H = tl.sum(low_HD * low_HD + high_HD * high_HD, axis=1)
    scale_H = 1.0 / tl.sqrt_rn(squares_H / (2 * HALF) + eps)
    low_D = tl.load(weight + offs_D, mask=in_half_D, other=0.0).to(tl.float32)
    high_D = tl.load(weight + HALF + offs_D, mask=in_half_D, other=0.0).to(tl.float32)
    return low_HD * scale_H[:, None] * low_D[None, :], high_HD * scale_H[:, None] * high_D[None, :]


@triton.jit
def rope_write_kv(
    qkv,  # [R, (H + 2 K) * D]
    cos,  # [positions, D / 2] float32
    sin,
    positions,  # [R] int32
    slots,  # [R] int64: page * 16 + place; negative: an empty row of the batch, nothing is written
    kv,  # a layer of the pool [P, K, 2, 16 * D], layout "rows"
    scales,  # its scales [K, 2] float32 or, unless FLOAT8, anything
    q_norm,  # [D] or, without norms, anything
    k_norm,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,  # the power of two from HEAD_DIM / 2 on
    Q_NORM: tl.constexpr,
    K_NORM: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    PAGE: tl.constexpr = 16
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    row = tl.program_id(0).to(tl.int64)
    head_H = tl.program_id(1) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    offs_D = tl.arange(0, HALF_BLOCK)
    in_half_D = offs_D < HALF
    is_q_H = head_H < HEADS
    is_k_H = (head_H >= HEADS) & (head_H < HEADS + KV_HEADS)
    is_v_H = (head_H >= HEADS + KV_HEADS) & (head_H < ALL)

    slot = tl.load(slots + row)
    position = tl.load(positions + row)
    cos_D = tl.load(cos + position * HALF + offs_D, mask=in_half_D, other=0.0)[None, :]
    sin_D = tl.load(sin + position * HALF + offs_D, mask=in_half_D, other=0.0)[None, :]
    from_HD = qkv + row * ALL * HEAD_DIM + head_H[:, None] * HEAD_DIM + offs_D[None, :]
    in_row_HD = (head_H < ALL)[:, None] & in_half_D[None, :]
    low_HD = tl.load(from_HD, mask=in_row_HD, other=0.0).to(tl.float32)
    high_HD = tl.load(from_HD + HALF, mask=in_row_HD, other=0.0).to(tl.float32)
    v_low_HD, v_high_HD = low_HD, high_HD
    if Q_NORM:
        normed_low_HD, normed_high_HD = _normed(low_HD, high_HD, q_norm, offs_D, in_half_D, eps, HALF)
        low_HD = tl.where(is_q_H[:, None], normed_low_HD, low_HD)
        high_HD = tl.where(is_q_H[:, None], normed_high_HD, high_HD)
    if K_NORM:
        normed_low_HD, normed_high_HD = _normed(low_HD, high_HD, k_norm, offs_D, in_half_D, eps, HALF)
        low_HD = tl.where(is_k_H[:, None], normed_low_HD, low_HD)
        high_HD = tl.where(is_k_H[:, None], normed_high_HD, high_HD)
    turned_low_HD = low_HD * cos_D - high_HD * sin_D
    turned_high_HD = high_HD * cos_D + low_HD * sin_D

    dtype = qkv.dtype.element_ty
    q_HD = is_q_H[:, None] & in_half_D[None, :]
    tl.store(from_HD, turned_low_HD.to(dtype), mask=q_HD)
    tl.store(from_HD + HALF, turned_high_HD.to(dtype), mask=q_HD)

    plane_H = is_v_H.to(tl.int64)
    kv_head_H = head_H - HEADS - plane_H * KV_HEADS
    slot_H = slot + tl.zeros([HEAD_BLOCK], dtype=tl.int64)
    page_H = ((slot_H // PAGE) * KV_HEADS + kv_head_H) * 2 + plane_H
    to_HD = kv + (page_H * PAGE + slot_H % PAGE)[:, None] * HEAD_DIM + offs_D[None, :]
    kv_HD = ((is_k_H | is_v_H) & (slot_H >= 0))[:, None] & in_half_D[None, :]
    low_HD = tl.where(is_v_H[:, None], v_low_HD, turned_low_HD).to(dtype)
    high_HD = tl.where(is_v_H[:, None], v_high_HD, turned_high_HD).to(dtype)
    if FLOAT8:  # of the numbers that would be stored, so that rounding those gives the same
        scale_H = tl.load(scales + kv_head_H * 2 + plane_H, mask=is_k_H | is_v_H, other=1.0)
        # A power of two: its exponent and that of its inverse add up to twice 127.
        inverse_H1 = (0x7F000000 - scale_H.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)[:, None]
        tl.store(to_HD, (low_HD.to(tl.float32) * inverse_H1).to(kv.dtype.element_ty), mask=kv_HD)
        tl.store(to_HD + HALF, (high_HD.to(tl.float32) * inverse_H1).to(kv.dtype.element_ty), mask=kv_HD)
    else:
        tl.store(to_HD, low_HD, mask=kv_HD)
        tl.store(to_HD + HALF, high_HD, mask=kv_HD)


def shape(head_dim: int) -> tuple[int, int]:
    """(HEAD_BLOCK, HALF_BLOCK): 1,024 values a program, 16 for each of its threads."""
    half = triton.next_power_of_2(max(head_dim // 2, 1))
    return max(1, 512 // half), half


def variants() -> list[Variant]:
    types = {
        **dict.fromkeys(("qkv", "kv", "q_norm", "k_norm"), "*bf16"),
        **dict.fromkeys(("cos", "sin", "scales"), "*fp32"),
        "positions": "*i32",
        "slots": "*i64",
        "eps": "fp32",
    }
    found = []
    # Llama-3.2-1B, Qwen3-8B, and a width that is no power of two; in float8, where there is one
    shapes = [(32, 8, 64, False), (32, 8, 128, True), (32, 8, 80, False)]
    for heads, kv_heads, head_dim, norms, float8 in [*((*s, False) for s in shapes), *((*s, True) for s in shapes[:2])]:
        head_block, half_block = shape(head_dim)
        constants = {"HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim, "FLOAT8": float8}
        constants |= {"HEAD_BLOCK": head_block, "HALF_BLOCK": half_block, "Q_NORM": norms, "K_NORM": norms}
        name = f"rope_write_kv H={heads} K={kv_heads} D={head_dim}" + " norms" * norms + " float8" * float8
        its = types | {"kv": "*fp8e4nv"} if float8 else types
        archs = FLOAT8_ARCHS if float8 else ARCHS
        found.append(Variant(name, rope_write_kv, its, constants, num_warps=NUM_WARPS, archs=archs))
    return found

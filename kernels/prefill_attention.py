"""Attention of prompt chunks: each row sees the keys of its path up to and with its own.

A chunk is a run of tokens of one path; what lies before it was computed earlier (and may be shared), its own keys were
written just before. A *tile* is a few consecutive rows of one chunk, query heads packed side by side as in
``prefix_attention``; one program for each tile and key/value head. Blocks of keys begin at multiples of ``BLOCK_N`` of the
path, so a row's bits do not depend on where chunks and tiles were cut.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.online_softmax import NO_KEY, attention_variants, fold, load_ND, queries, tile_options
from rftfast.kernels.variant import Variant


@triton.jit
def prefill_attention(
    q,  # [R, q_stride], of which the first H * D
    kv,  # a layer of the pool [P, K, 2, 16 * D], layout "rows"
    scales,  # its scales [K, 2] float32 or, unless FLOAT8, anything
    out,  # [R, H * D]
    tiles,  # [*, 4] int32: first row, rows, first row's position, page table
    tables,  # [T, table_width] int32 page ids
    q_stride,
    table_width,
    scale2,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_BLOCK: tl.constexpr,  # HEAD_DIM, or the power of two above it
    TILE_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    PAGE: tl.constexpr = 16
    PLANE: tl.constexpr = PAGE * HEAD_DIM
    tile = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    first = tl.load(tiles + tile * 4)
    count = tl.load(tiles + tile * 4 + 1)
    position = tl.load(tiles + tile * 4 + 2)
    pages = tables + tl.load(tiles + tile * 4 + 3).to(tl.int64) * table_width
    keys = position + count
    offs_M = tl.arange(0, TILE_M)
    offs_N = tl.arange(0, BLOCK_N)
    offs_D = tl.arange(0, D_BLOCK)
    in_D = offs_D < HEAD_DIM
    row_M = offs_M // GROUP
    live_MD = (row_M < count)[:, None] & in_D[None, :]
    column_MD = ((head * GROUP + offs_M % GROUP) * HEAD_DIM)[:, None] + offs_D[None, :]
    row64_M = (first + row_M).to(tl.int64)
    page_N = tl.load(pages + offs_N // PAGE, mask=offs_N < keys, other=0)
    q_MD = queries(tl.load(q + (row64_M * q_stride)[:, None] + column_MD, mask=live_MD, other=0.0), FLOAT8)

    if FLOAT8:
        scale2 *= tl.load(scales + head * 2)
        value_scale = tl.load(scales + head * 2 + 1)
    m_M = tl.full([TILE_M], NO_KEY, tl.float32)
    l_M = tl.zeros([TILE_M], tl.float32)
    acc_MD = tl.zeros([TILE_M, D_BLOCK], tl.float32)
    own_N = head * 2 * PLANE + offs_N % PAGE * HEAD_DIM
    for start in range(0, keys, BLOCK_N):
        k_ND = kv + (page_N.to(tl.int64) * (KV_HEADS * 2 * PLANE) + own_N)[:, None] + offs_D[None, :]
        k = load_ND(k_ND, in_D, HEAD_DIM, D_BLOCK)
        v = load_ND(k_ND + PLANE, in_D, HEAD_DIM, D_BLOCK)
        # A block ahead: read in the same iteration, page ids would cost the pipeline of k and v a stage.
        ahead_N = start + BLOCK_N + offs_N
        page_N = tl.load(pages + ahead_N // PAGE, mask=ahead_N < keys, other=0)
        keep_MN = (start + offs_N)[None, :] <= (position + row_M)[:, None]
        m_M, l_M, acc_MD = fold(q_MD, k, v, keep_MN, scale2, m_M, l_M, acc_MD, PRECISION)
    if FLOAT8:
        acc_MD *= value_scale
    out_MD = out + (row64_M * (KV_HEADS * GROUP * HEAD_DIM))[:, None] + column_MD
    tl.store(out_MD, (acc_MD / l_M[:, None]).to(out.dtype.element_ty), mask=live_MD)


def variants() -> list[Variant]:
    types = {"q": "*bf16", "kv": "*bf16", "scales": "*fp32", "out": "*bf16", "tiles": "*i32", "tables": "*i32"}
    types |= {"q_stride": "i32", "table_width": "i32", "scale2": "fp32"}
    return attention_variants(prefill_attention, types, {}, lambda d, size, arch, _: tile_options(d, size, arch))

"""Decode attention, second launch: each row goes on through its own keys, from what the prefix launch left for it.

One program per row and key/value head, the group's query heads side by side. It puts the row's partials of
``prefix_attention`` together in ascending order of the splits, folds in the keys behind them block by block, and writes
the result: a fixed sequence of operations, which depends on the row's path alone. Nothing is split, nothing merged later.
Programs of rows beyond the count end at once, so one captured launch serves any number of rows up to the grid's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.online_softmax import NO_KEY, attention_variants, fold, queries
from rftfast.kernels.variant import Variant


@triton.jit
def suffix_attention(
    q,  # [R, q_stride], of which the first H * D
    kv,  # a layer of the pool [P, K, 2, 16 * D], layout "rows"
    scales,  # its scales [K, 2] float32 or, unless FLOAT8, anything
    out,  # [R, H * D]
    counts,  # [rows, tiles] int32
    rows,  # [max_rows, 4] int32: page table, keys, keys in the prefix, unused
    tables,  # [T, table_width] int32 page ids
    partial,  # [S, max_rows, H, D] float32: acc
    stats,  # [S, max_rows, H, 2] float32: m and l
    q_stride,
    max_rows,
    table_width,
    scale2,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_BLOCK: tl.constexpr,  # HEAD_DIM, or the power of two above it
    M_BLOCK: tl.constexpr,  # at least GROUP, and what the tensor cores take
    BLOCK_N: tl.constexpr,
    SPLIT_PAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    PAGE: tl.constexpr = 16
    PLANE: tl.constexpr = PAGE * HEAD_DIM
    row = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    # What is read is asked for as early as can be, and waited for together: these programs are short.
    count = tl.load(counts)
    table = tl.load(rows + row * 4)
    keys = tl.load(rows + row * 4 + 1)
    prefix = tl.load(rows + row * 4 + 2)
    if FLOAT8:
        scale2 *= tl.load(scales + head * 2)
        value_scale = tl.load(scales + head * 2 + 1)
    if row >= count:
        return
    pages = tables + table.to(tl.int64) * table_width
    offs_M = tl.arange(0, M_BLOCK)
    offs_N = tl.arange(0, BLOCK_N)
    offs_D = tl.arange(0, D_BLOCK)
    in_D = offs_D < HEAD_DIM
    live_MD = (offs_M < GROUP)[:, None] & in_D[None, :]
    place_MD = (head * GROUP + offs_M)[:, None] * HEAD_DIM + offs_D[None, :]
    page_N = tl.load(pages + (prefix + offs_N) // PAGE, mask=prefix + offs_N < keys, other=0)
    q_MD = queries(tl.load(q + row.to(tl.int64) * q_stride + place_MD, mask=live_MD, other=0.0), FLOAT8)

    stats_M = stats + (row.to(tl.int64) * (KV_HEADS * GROUP) + head * GROUP + offs_M) * 2
    partial_MD = partial + row.to(tl.int64) * (KV_HEADS * GROUP * HEAD_DIM) + place_MD
    begun_M = offs_M < tl.where(prefix > 0, GROUP, 0)
    m_M = tl.load(stats_M, mask=begun_M, other=NO_KEY)
    l_M = tl.load(stats_M + 1, mask=begun_M, other=0.0)
    acc_MD = tl.load(partial_MD, mask=begun_M[:, None] & in_D[None, :], other=0.0)
    for split in range(1, tl.cdiv(prefix, SPLIT_PAGES * PAGE)):
        heads = (max_rows * split).to(tl.int64) * (KV_HEADS * GROUP)
        its_m_M = tl.load(stats_M + heads * 2, mask=offs_M < GROUP, other=NO_KEY)
        its_l_M = tl.load(stats_M + heads * 2 + 1, mask=offs_M < GROUP, other=0.0)
        its_acc_MD = tl.load(partial_MD + heads * HEAD_DIM, mask=live_MD, other=0.0)
        largest_M = tl.maximum(m_M, its_m_M)
        shrink_M = tl.exp2(m_M - largest_M)
        its_shrink_M = tl.exp2(its_m_M - largest_M)
        l_M = l_M * shrink_M + its_l_M * its_shrink_M
        acc_MD = acc_MD * shrink_M[:, None] + its_acc_MD * its_shrink_M[:, None]
        m_M = largest_M

    own_N = head * 2 * PLANE + offs_N % PAGE * HEAD_DIM  # the prefix ends with a page
    for start in range(prefix, keys, BLOCK_N):
        keep_N = start + offs_N < keys
        k_ND = kv + (page_N.to(tl.int64) * (KV_HEADS * 2 * PLANE) + own_N)[:, None] + offs_D[None, :]
        k = tl.load(k_ND, mask=keep_N[:, None] & in_D[None, :], other=0.0)
        v = tl.load(k_ND + PLANE, mask=keep_N[:, None] & in_D[None, :], other=0.0)
        # A block ahead: read in the same iteration, page ids would cost the pipeline of k and v a stage.
        ahead_N = start + BLOCK_N + offs_N
        page_N = tl.load(pages + ahead_N // PAGE, mask=ahead_N < keys, other=0)
        m_M, l_M, acc_MD = fold(q_MD, k, v, keep_N[None, :], scale2, m_M, l_M, acc_MD, PRECISION)
    if FLOAT8:
        acc_MD *= value_scale
    out_MD = out + row.to(tl.int64) * (KV_HEADS * GROUP * HEAD_DIM) + place_MD
    tl.store(out_MD, (acc_MD / l_M[:, None]).to(out.dtype.element_ty), mask=live_MD)


def suffix_options(head_dim: int, itemsize: int, float8: bool) -> dict[str, int]:
    """M_BLOCK, BLOCK_N and launch options. Few warps, so that many programs, each waiting for its own pages, are on a
    multiprocessor at once: to keep the memory busy some tens of KiB must be on their way there at any time (bandwidth
    times latency), and with these blocks of keys and values each these have well over 100."""
    warps = 4 if itemsize == 4 else 1 if head_dim <= 64 else 2
    ahead = 4 if float8 else 2  # blocks: as many bytes
    return {"M_BLOCK": 16, "BLOCK_N": 32, "num_warps": warps, "num_stages": 2 if itemsize == 4 else ahead + 1}


def variants() -> list[Variant]:
    types = {
        "q": "*bf16",
        "kv": "*bf16",
        "scales": "*fp32",
        "out": "*bf16",
        "counts": "*i32",
        "rows": "*i32",
        "tables": "*i32",
    }
    types |= {"partial": "*fp32", "stats": "*fp32", "q_stride": "i32", "max_rows": "i32", "table_width": "i32"}
    types |= {"scale2": "fp32"}
    return attention_variants(
        suffix_attention, types, {"SPLIT_PAGES": 32}, lambda d, size, _, float8: suffix_options(d, size, float8)
    )

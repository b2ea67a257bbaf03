"""Decode attention, first launch: keys that many rows share, read once for a tile of rows.

A row's path is divided at places that depend on the path alone: every ``SPLIT_PAGES`` pages, up to the last full page of
its prompt; what follows is the row's suffix (``suffix_attention``). A *tile* is a few rows whose path is the same in one
such split, whoever else they are; the program of (tile, key/value head) walks the split's pages once for all of them, the
query heads of the group packed side by side (M = rows * group), and writes each row's partial state for that split.
``suffix_attention`` puts a row's partials together in ascending order. So a chain of shared nodes is more tiles, never
more launches; no program waits for another; and a row's bits do not depend on who shares its tile.

A fixed number of programs takes the (tile, head) items in turn, so the list's length is read on the device and one
captured launch serves any tree.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.online_softmax import NO_KEY, attention_variants, fold, load_ND, queries, tile_options
from rftfast.kernels.variant import Variant


@triton.jit
def prefix_attention(
    q,  # [R, q_stride], of which the first H * D
    kv,  # a layer of the pool [P, K, 2, 16 * D], layout "rows"
    scales,  # its scales [K, 2] float32 or, unless FLOAT8, anything
    counts,  # [rows, tiles] int32
    tiles,  # [*, 4] int32: split's entry, keys, number of the split, unused
    tile_heads,  # [*, TILE_M] int32: row * GROUP + query head of the group; -1 for none
    split_pages,  # [entries, SPLIT_PAGES] int32 page ids
    partial,  # [S, max_rows, H, D] float32: acc
    stats,  # [S, max_rows, H, 2] float32: m and l
    q_stride,
    max_rows,
    scale2,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_BLOCK: tl.constexpr,  # HEAD_DIM, or the power of two above it
    TILE_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_PAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    PAGE: tl.constexpr = 16
    PLANE: tl.constexpr = PAGE * HEAD_DIM
    offs_M = tl.arange(0, TILE_M)
    offs_N = tl.arange(0, BLOCK_N)
    offs_D = tl.arange(0, D_BLOCK)
    in_D = offs_D < HEAD_DIM
    items = tl.load(counts + 1) * KV_HEADS
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile = item // KV_HEADS
        head = item % KV_HEADS
        pages = split_pages + tl.load(tiles + tile * 4) * SPLIT_PAGES
        keys = tl.load(tiles + tile * 4 + 1)
        split = tl.load(tiles + tile * 4 + 2)
        packed_M = tl.load(tile_heads + tile * TILE_M + offs_M)
        live_M = packed_M >= 0
        q_M = q + (packed_M // GROUP).to(tl.int64) * q_stride + (head * GROUP + packed_M % GROUP) * HEAD_DIM
        q_MD = queries(tl.load(q_M[:, None] + offs_D[None, :], mask=live_M[:, None] & in_D[None, :], other=0.0), FLOAT8)
        its_scale2 = scale2
        if FLOAT8:
            its_scale2 *= tl.load(scales + head * 2)  # that of values is the suffix launch's affair
        own_N = head * 2 * PLANE + offs_N % PAGE * HEAD_DIM
        m_M = tl.full([TILE_M], NO_KEY, tl.float32)
        l_M = tl.zeros([TILE_M], tl.float32)
        acc_MD = tl.zeros([TILE_M, D_BLOCK], tl.float32)
        page_N = tl.load(pages + offs_N // PAGE, mask=offs_N < keys, other=0)
        for start in range(0, keys, BLOCK_N):
            keep_N = start + offs_N < keys
            k_ND = kv + (page_N.to(tl.int64) * (KV_HEADS * 2 * PLANE) + own_N)[:, None] + offs_D[None, :]
            k = load_ND(k_ND, in_D, HEAD_DIM, D_BLOCK)
            v = load_ND(k_ND + PLANE, in_D, HEAD_DIM, D_BLOCK)
            # A block ahead: read in the same iteration, page ids would cost the pipeline of k and v a stage.
            ahead_N = start + BLOCK_N + offs_N
            page_N = tl.load(pages + ahead_N // PAGE, mask=ahead_N < keys, other=0)
            m_M, l_M, acc_MD = fold(q_MD, k, v, keep_N[None, :], its_scale2, m_M, l_M, acc_MD, PRECISION)
        # Read anew (volatile, or the compiler makes one read of both): kept, it would take the loop's registers.
        packed_M = tl.load(tile_heads + tile * TILE_M + offs_M, volatile=True)
        live_M = packed_M >= 0
        row_M = split.to(tl.int64) * max_rows + packed_M // GROUP
        place_M = row_M * (KV_HEADS * GROUP) + head * GROUP + packed_M % GROUP
        tl.store(stats + place_M * 2, m_M, mask=live_M)
        tl.store(stats + place_M * 2 + 1, l_M, mask=live_M)
        tl.store(
            partial + (place_M * HEAD_DIM)[:, None] + offs_D[None, :], acc_MD, mask=live_M[:, None] & in_D[None, :]
        )


def programs_per_sm(head_dim: int, itemsize: int) -> int:
    """Programs to launch for each multiprocessor: as many as fit at once. More would wait for the first to end, and with
    them the items that are theirs."""
    return 3 if head_dim <= 64 and itemsize == 2 else 2


def variants() -> list[Variant]:
    types = {
        "q": "*bf16",
        "kv": "*bf16",
        "scales": "*fp32",
        "counts": "*i32",
        "tiles": "*i32",
        "tile_heads": "*i32",
        "split_pages": "*i32",
    }
    types |= {"partial": "*fp32", "stats": "*fp32", "q_stride": "i32", "max_rows": "i32", "scale2": "fp32"}
    return attention_variants(
        prefix_attention, types, {"SPLIT_PAGES": 32}, lambda d, size, arch, _: tile_options(d, size, arch)
    )

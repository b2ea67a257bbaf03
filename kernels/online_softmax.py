"""The step that all attention kernels share: a block of keys is folded into the running softmax of a tile of queries.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867), section 3, in base 2. A row's
state is ``m`` (running maximum of the scores, times scale * log2 e), ``l`` (sum of 2^(score - m)) and ``acc`` (the sum of
values with these weights). What a row's state becomes depends on that row, its keys and their order alone: a key that is
masked for it, or a whole block of them, changes not a bit, and neither do the other rows of the tile.

Shape letters: M queries of a tile (rows x query heads of one key/value head), N keys of a block, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from rftfast.kernels.variant import ARCHS, FLOAT8_ARCHS, Variant

NO_KEY = tl.constexpr(-1.0e30)
"""``m`` before the first key: finite, so that differences are, and below every score."""


@triton.jit
def load_ND(at_ND, in_D, HEAD_DIM: tl.constexpr, D_BLOCK: tl.constexpr):
    """A block of keys or values; where HEAD_DIM is no power of two, D is filled up with zeros to D_BLOCK, which is."""
    if HEAD_DIM == D_BLOCK:
        return tl.load(at_ND)
    else:
        return tl.load(at_ND, mask=in_D[None, :], other=0.0)


@triton.jit
def queries(q_MD, FLOAT8: tl.constexpr):
    """As they are multiplied with keys. With those in float8, bfloat16 becomes float16, which holds each e4m3 number, too, and
    which one instruction makes of two of them (bfloat16 takes seven, two of them slow). Beyond 65,504 a query is infinite."""
    if FLOAT8 and q_MD.dtype == tl.bfloat16:
        return q_MD.to(tl.float16)
    else:
        return q_MD


@triton.jit
def fold(q_MD, k_ND, v_ND, keep_MN, scale2, m_M, l_M, acc_MD, PRECISION: tl.constexpr):
    """The state after the block's keys, of those where ``keep_MN`` [M or 1, N]. ``scale2``: scale * log2 e, positive.

    Values at places that are masked for every row must be finite. Keys and values may be float8: they are widened to the
    queries' type, which is exact; what these are to be multiplied with is the caller's, in ``scale2`` and of ``acc``.
    """
    k_ND = k_ND.to(q_MD.dtype)
    v_ND = v_ND.to(q_MD.dtype)
    s_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=PRECISION)
    s_MN = tl.where(keep_MN, s_MN, float("-inf"))
    largest_M = tl.maximum(m_M, tl.max(s_MN, 1) * scale2)
    shrink_M = tl.exp2(m_M - largest_M)
    p_MN = tl.exp2(s_MN * scale2 - largest_M[:, None])  # one fused operation
    l_M = l_M * shrink_M + tl.sum(p_MN, 1)
    acc_MD = tl.dot(p_MN.to(v_ND.dtype), v_ND, acc_MD * shrink_M[:, None], input_precision=PRECISION)
    return largest_M, l_M, acc_MD


def tile_options(head_dim: int, itemsize: int, arch: int, tile_m: int = 64) -> dict[str, int]:
    """Block sizes and launch options for tiles of ``tile_m`` queries: a warpgroup for every 64 of them (a ``wgmma`` tile).

    With two blocks of keys and values on their way to shared memory and no register spilled, two to four programs fit on
    a multiprocessor, so that one's exponentials run beside another's matrix products (``compile_ahead`` shows it).
    """
    if itemsize == 4:  # no tensor cores at full precision: more threads, fewer keys
        return {"TILE_M": tile_m, "BLOCK_N": 32, "num_warps": tile_m // 8, "num_stages": 2}
    return {
        "TILE_M": tile_m,
        "BLOCK_N": 64 if head_dim <= 64 or arch == 90 else 32,
        "num_warps": tile_m // 16,
        "num_stages": 3,
    }


def attention_variants(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    options: Callable[[int, int, int, bool], dict[str, int]],
) -> list[Variant]:
    """A kernel's uses: widths and groups of published models in bfloat16, most on sm_90, some with keys and values in
    float8, and one in float32.

    ``options`` gives block sizes and launch options for (head_dim, itemsize, arch, whether keys and values are float8)."""
    made = []
    widths = ((64, 8, 4), (128, 32, 1), (128, 4, 7), (96, 32, 1))
    shapes = [("*bf16", "*bf16", arch, *width) for arch in ARCHS for width in widths[: 4 if arch == 90 else 2]]
    shapes += [
        ("*bf16", "*fp8e4nv", arch, *width) for arch in FLOAT8_ARCHS for width in widths[: 4 if arch == 90 else 2]
    ]
    for dtype, kept, arch, head_dim, kv_heads, group in [*shapes, ("*fp32", "*fp32", 90, 64, 3, 3)]:
        float8 = kept == "*fp8e4nv"
        chosen = options(head_dim, 4 if dtype == "*fp32" else 2, arch, float8)
        launch = {name: chosen.pop(name) for name in ("num_warps", "num_stages")}
        given = {"KV_HEADS": kv_heads, "GROUP": group, "HEAD_DIM": head_dim, "PRECISION": "ieee", **constants, **chosen}
        given |= {"D_BLOCK": triton.next_power_of_2(head_dim), "FLOAT8": float8}
        named = {name: dtype if kind == "*bf16" else kind for name, kind in types.items()} | {"kv": kept}
        name = f"{kernel.__name__} d{head_dim} g{group}" + " float32" * (dtype == "*fp32") + " float8" * float8
        made.append(Variant(name, kernel, named, given, archs=(arch,), **launch))
    return made

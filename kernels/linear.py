"""A matrix product whose rows do not depend on how many others there are: fixed tiles, no split of the sum.

Libraries choose another kernel for another number of rows, and with it another order of the sums. Here a tile is always
``BLOCK_M`` x ``BLOCK_N`` and goes through the channels from the first to the last, whatever the batch: every value is the
same sequence of operations on its row and its column. It costs speed on few rows; the invariant mode pays it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import Variant


@triton.jit(do_not_specialize=["rows"])
def linear(
    x,  # [R, C]
    weight,  # [O, C]
    bias,  # [O] or, without one, anything
    out,  # [R, O]
    rows,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,  # tiles of rows that go through the columns together, so that both are read from cache
):
    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n: tl.constexpr = (OUTPUTS + BLOCK_N - 1) // BLOCK_N
    band = tl.program_id(0) // (GROUP_M * tiles_n)
    height = tl.minimum(tiles_m - band * GROUP_M, GROUP_M)
    within = tl.program_id(0) % (GROUP_M * tiles_n)
    offs_M = (band * GROUP_M + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_N = within // height * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_K = tl.arange(0, BLOCK_K)
    # Rows and columns beyond the end are read as the first and not written.
    row_M = tl.where(offs_M < rows, offs_M, 0).to(tl.int64)
    column_N = tl.where(offs_N < OUTPUTS, offs_N, 0).to(tl.int64)
    x_MK = x + row_M[:, None] * CHANNELS + offs_K[None, :]
    weight_KN = weight + column_N[None, :] * CHANNELS + offs_K[:, None]
    acc_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, CHANNELS, BLOCK_K):
        if CHANNELS % BLOCK_K == 0:
            left, right = tl.load(x_MK), tl.load(weight_KN)
        else:
            here_K = offs_K < CHANNELS - start
            left = tl.load(x_MK, mask=here_K[None, :], other=0.0)
            right = tl.load(weight_KN, mask=here_K[:, None], other=0.0)
        acc_MN = tl.dot(left, right, acc_MN, input_precision="ieee")
        x_MK += BLOCK_K
        weight_KN += BLOCK_K
    if HAS_BIAS:
        acc_MN += tl.load(bias + column_N).to(tl.float32)[None, :]
    there_MN = (offs_M < rows)[:, None] & (offs_N < OUTPUTS)[None, :]
    out_MN = out + offs_M.to(tl.int64)[:, None] * OUTPUTS + offs_N[None, :]
    tl.store(out_MN, acc_MN.to(out.dtype.element_ty), mask=there_MN)


def options(itemsize: int) -> dict[str, int]:
    """Tiles and launch options for elements of ``itemsize`` bytes. They are part of the result's bits."""
    if itemsize == 4:  # no tensor cores at full precision
        return {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP_M": 8, "num_warps": 8, "num_stages": 3}


def variants() -> list[Variant]:
    made = []
    for dtype, itemsize, outputs, channels in (
        ("*bf16", 2, 3072, 2048),  # Llama-3.2-1B's q, k and v
        ("*bf16", 2, 576, 1536),  # SmolLM2-135M's down
        ("*fp32", 4, 960, 576),
    ):
        launch = options(itemsize)
        constants = {"OUTPUTS": outputs, "CHANNELS": channels, "HAS_BIAS": True}
        constants |= {name: launch[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")}
        types = {**dict.fromkeys(("x", "weight", "bias", "out"), dtype), "rows": "i32"}
        name = f"linear {outputs}x{channels}" + " float32" * (itemsize == 4)
        warps = {key: launch[key] for key in ("num_warps", "num_stages")}
        made.append(Variant(name, linear, types, constants, unaligned=("rows",), **warps))
    return made

"""RMSNorm of the residual stream, with the preceding block's output added on the way: one program a row.

Bytes a row of C channels in bfloat16, each moved once: the float32 residual read and written (8 C), the delta read (2 C),
the result written (2 C); the weight comes from cache. A row is summed in one fixed order, whatever the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import Variant


@triton.jit
def rms_norm(
    x,  # [R, C] float32, += delta
    delta,  # [R, C] or, without one, anything
    weight,  # [C]
    out,  # [R, C]
    eps,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,  # the power of two from CHANNELS on
    HAS_DELTA: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * CHANNELS
    offs_C = tl.arange(0, BLOCK)
    in_row_C = offs_C < CHANNELS
    x_C = tl.load(x + first + offs_C, mask=in_row_C, other=0.0)
    weight_C = tl.load(weight + offs_C, mask=in_row_C, other=0.0).to(tl.float32)
    if HAS_DELTA:
        x_C += tl.load(delta + first + offs_C, mask=in_row_C, other=0.0).to(tl.float32)
        tl.store(x + first + offs_C, x_C, mask=in_row_C)
    scale = 1.0 / tl.sqrt_rn(tl.sum(x_C * x_C, axis=0) / CHANNELS + eps)
    tl.store(out + first + offs_C, (x_C * scale * weight_C).to(out.dtype.element_ty), mask=in_row_C)


def shape(channels: int) -> tuple[int, int]:
    """(BLOCK, num_warps) for rows of ``channels``: 8 to 32 values a thread."""
    block = triton.next_power_of_2(channels)
    return block, min(16, max(1, block // 512))


def variants() -> list[Variant]:
    found = []
    for channels in (576, 2048, 8192):  # SmolLM2-135M, Llama-3.2-1B, Llama-70B
        block, warps = shape(channels)
        for has_delta in (True, False) if channels == 2048 else (True,):
            found.append(
                Variant(
                    f"rms_norm C={channels}" + ("" if has_delta else " first"),
                    rms_norm,
                    {"x": "*fp32", "delta": "*bf16", "weight": "*bf16", "out": "*bf16", "eps": "fp32"},
                    {"CHANNELS": channels, "BLOCK": block, "HAS_DELTA": has_delta},
                    num_warps=warps,
                )
            )
    return found

"""The gated activation of the MLP: a program for each block of a row. 6 bytes a value in bfloat16, each moved once."""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import Variant

BLOCK, NUM_WARPS = 1024, 4  # 8 values a thread: one 16-byte load of bfloat16 from each half


@triton.jit
def swiglu(
    gate_up,  # [R, 2 C] = [gate | up]
    out,  # [R, C] = silu(gate) * up
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    offs_C = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_row_C = offs_C < CHANNELS
    gate_C = tl.load(gate_up + row * 2 * CHANNELS + offs_C, mask=in_row_C, other=0.0).to(tl.float32)
    up_C = tl.load(gate_up + (row * 2 + 1) * CHANNELS + offs_C, mask=in_row_C, other=0.0).to(tl.float32)
    result_C = gate_C / (1.0 + tl.exp(-gate_C)) * up_C  # exp may overflow: the quotient then is 0, as it should be
    tl.store(out + row * CHANNELS + offs_C, result_C.to(out.dtype.element_ty), mask=in_row_C)


def variants() -> list[Variant]:
    return [
        Variant(
            f"swiglu C={channels}",
            swiglu,
            {"gate_up": "*bf16", "out": "*bf16"},
            {"CHANNELS": channels, "BLOCK": BLOCK},
            num_warps=NUM_WARPS,
        )
        for channels in (8192, 11008)  # Llama-3.2-1B, Llama-7B: whole blocks, and a last one that is not full
    ]

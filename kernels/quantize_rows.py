"""Rows of activations in float8 (e4m3), each with its own scale: one program a row.

Bytes a row of C channels in bfloat16, each moved once: 2 C read, C written. The same steps as ``rftfast.ops.fp8.quantize``,
each rounded to nearest, so that both give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import FLOAT8_ARCHS, Variant

LARGEST = tl.constexpr(448.0)
"""Of e4m3."""
LEAST = tl.constexpr(1.0e-12)
"""A row without anything larger is taken to have this, so that no scale is 0."""


@triton.jit
def quantize_rows(
    x,  # [R, C]
    out,  # [R, C] float8 e4m3: x over the row's scale
    scales,  # [R] float32: the row's largest magnitude over LARGEST
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,  # the power of two from CHANNELS on
):
    row = tl.program_id(0).to(tl.int64)
    offs_C = tl.arange(0, BLOCK)
    in_row_C = offs_C < CHANNELS
    x_C = tl.load(x + row * CHANNELS + offs_C, mask=in_row_C, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(x_C), axis=0), LEAST)
    scaled_C = x_C * tl.div_rn(LARGEST, largest)  # a division for each channel would take most of the kernel's time
    tl.store(out + row * CHANNELS + offs_C, scaled_C.to(out.dtype.element_ty), mask=in_row_C)
    tl.store(scales + row, tl.div_rn(largest, LARGEST))


def shape(channels: int) -> tuple[int, int]:
    """(BLOCK, num_warps) for rows of ``channels``: 8 to 64 values a thread."""
    block = triton.next_power_of_2(channels)
    return block, min(16, max(1, block // 256))


def variants() -> list[Variant]:
    found = []
    for channels in (2048, 4096, 11008):  # Llama-3.2-1B, Llama-7B
        block, warps = shape(channels)
        types = {"x": "*bf16", "out": "*fp8e4nv", "scales": "*fp32"}
        constants = {"CHANNELS": channels, "BLOCK": block}
        found.append(
            Variant(f"quantize_rows C={channels}", quantize_rows, types, constants, num_warps=warps, archs=FLOAT8_ARCHS)
        )
    return found

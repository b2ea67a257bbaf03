"""Cross-entropy of a row of scores, and its gradient in place: one program a row, two passes over it.

Bytes a row of V scores in bfloat16: read twice, written once (6 V), and a row of up to 100,000 stays in the L2 cache between
the passes. Sums and exponentials in float32; the maximum runs along (Milakov and Gimelshein, arXiv 1805.02867).
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import Variant

BLOCK, NUM_WARPS = 4096, 8  # 16 values a thread: two 16-byte loads of bfloat16


@triton.jit
def softmax_loss(
    scores,  # [N, V] products; with GRADIENT they become the derivatives of nll by them
    labels,  # [N] int64, from 0 to V - 1
    nll,  # [N] float32
    vocabulary,
    scale,
    softcap,  # without HAS_CAP anything
    BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    first = scores + row * vocabulary
    label = tl.load(labels + row)
    # Read before the reductions, which all warps pass, so that none has overwritten it yet.
    chosen = _transformed(tl.load(first + label).to(tl.float32), scale, softcap, HAS_CAP)
    most, total = float("-inf"), 0.0
    for start in range(0, vocabulary, BLOCK):
        offs_V = start + tl.arange(0, BLOCK)
        in_row_V = offs_V < vocabulary
        x_V = tl.load(first + offs_V, mask=in_row_V, other=0.0).to(tl.float32)
        x_V = tl.where(in_row_V, _transformed(x_V, scale, softcap, HAS_CAP), float("-inf"))
        higher = tl.maximum(most, tl.max(x_V, axis=0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(x_V - higher), axis=0)
        most = higher
    log_sum = most + tl.log(total)
    loss = log_sum - chosen
    tl.store(nll + row, loss)
    if GRADIENT:
        # exp(-loss) - 1, by its series where the difference would lose the digits.
        series = -loss * (1.0 - loss * (0.5 - loss * (1.0 / 6.0 - loss / 24.0)))
        at_label = tl.where(loss < 0.05, series, tl.exp(-loss) - 1.0)
        for start in range(0, vocabulary, BLOCK):
            offs_V = start + tl.arange(0, BLOCK)
            in_row_V = offs_V < vocabulary
            x_V = tl.load(first + offs_V, mask=in_row_V, other=0.0).to(tl.float32)
            p_V = tl.exp(_transformed(x_V, scale, softcap, HAS_CAP) - log_sum)
            d_V = tl.where(offs_V == label, at_label, p_V) * scale
            if HAS_CAP:  # 1 - tanh^2
                e_V = tl.exp(-2.0 * tl.abs(x_V * scale) / softcap)
                d_V *= 4.0 * e_V / ((1.0 + e_V) * (1.0 + e_V))
            tl.store(first + offs_V, d_V.to(scores.dtype.element_ty), mask=in_row_V)


@triton.jit
def _transformed(x, scale, softcap, HAS_CAP: tl.constexpr):
    x *= scale
    if HAS_CAP:
        # tanh by way of an exponential that cannot overflow.
        e = tl.exp(-2.0 * tl.abs(x) / softcap)
        x = softcap * tl.where(x < 0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    return x


def variants() -> list[Variant]:
    types = {"scores": "*bf16", "labels": "*i64", "nll": "*fp32", "vocabulary": "i32", "scale": "fp32"}
    return [
        Variant(
            "softmax_loss" + " with its gradient" * gradient + " capped" * capped + " odd vocabulary" * odd,
            softmax_loss,
            types | {"softcap": "fp32"},
            {"BLOCK": BLOCK, "GRADIENT": gradient, "HAS_CAP": capped},
            num_warps=NUM_WARPS,
            unaligned=("vocabulary",) if odd else (),
        )
        for gradient, capped, odd in (
            (True, False, False),
            (False, False, False),
            (True, True, False),
            (True, False, True),
        )
    ]

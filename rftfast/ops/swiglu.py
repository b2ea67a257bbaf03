"""The gated activation of the MLP."""

from __future__ import annotations

import torch

from rftfast.ops import native as _n


def reference(gate_up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``gate_up`` [R, 2C] = [gate | up]; returns ``out`` [R, C] = silu(gate) * up."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return out.copy_(torch.nn.functional.silu(gate) * up)


def native(gate_up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    rows, channels = out.shape
    assert gate_up.shape == (rows, 2 * channels) and gate_up.dtype == out.dtype
    assert gate_up.is_contiguous() and out.is_contiguous()
    _n.load().swiglu(gate_up.data_ptr(), out.data_ptr(), rows, channels, _n.DTYPE_CODES[out.dtype])
    return out


def triton(gate_up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    from rftfast.kernels import swiglu as kernel  # not before it is needed: CPUs have no Triton

    rows, channels = out.shape
    assert gate_up.shape == (rows, 2 * channels) and gate_up.dtype == out.dtype
    assert gate_up.is_contiguous() and out.is_contiguous()
    if rows:
        grid = (rows, -(-channels // kernel.BLOCK))
        kernel.swiglu[grid](gate_up, out, channels, kernel.BLOCK, num_warps=kernel.NUM_WARPS, enable_fp_fusion=True)
    return out

"""RMSNorm of the residual stream, with the preceding block's output added on the way."""

from __future__ import annotations

import torch

from rftfast.ops import native as _n


def reference(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> torch.Tensor:
    """``x`` [R, C] float32 += ``delta`` [R, C]; returns ``out`` [R, C] = x / sqrt(mean(x²) + eps) * weight."""
    if delta is not None:
        x += delta.to(x.dtype)
    wide = x.double()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return out.copy_(wide * scale * weight.double())


def native(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> torch.Tensor:
    rows, channels = x.shape
    assert x.dtype == torch.float32 and x.is_contiguous() and out.is_contiguous() and out.shape == x.shape
    assert weight.dtype == out.dtype and (delta is None or (delta.dtype == out.dtype and delta.is_contiguous()))
    _n.load().rms_norm(
        x.data_ptr(),
        _n.pointer(delta),
        weight.data_ptr(),
        out.data_ptr(),
        rows,
        channels,
        eps,
        _n.DTYPE_CODES[out.dtype],
    )
    return out


def triton(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> torch.Tensor:
    from rftfast.kernels import rms_norm as kernel  # not before it is needed: CPUs have no Triton

    rows, channels = x.shape
    assert x.dtype == torch.float32 and x.is_contiguous() and out.is_contiguous() and out.shape == x.shape
    assert weight.dtype == out.dtype and weight.is_contiguous()
    assert delta is None or (delta.dtype == out.dtype and delta.is_contiguous() and delta.shape == x.shape)
    block, warps = kernel.shape(channels)
    has_delta = delta is not None
    if rows:
        kernel.rms_norm[(rows,)](
            x,
            delta if has_delta else x,
            weight,
            out,
            eps,
            channels,
            block,
            has_delta,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return out

"""Cross-entropy of rows of scores, and its gradient in their place; for training, which computes scores chunk by chunk."""

from __future__ import annotations

import torch


def reference(
    scores: torch.Tensor,
    labels: torch.Tensor,
    nll: torch.Tensor,
    *,
    gradient: bool,
    scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """``scores`` [N, V] products, ``labels`` [N] int64; returns ``nll`` [N] = -log softmax(f(scores))[label].

    f multiplies by ``scale``, then caps: softcap * tanh(. / softcap). With ``gradient``, ``scores`` become the derivatives
    of nll by them; else they stay.
    """
    products = scores.detach().double().requires_grad_()
    x = products * scale
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    loss = torch.nn.functional.cross_entropy(x, labels, reduction="none")
    if gradient:
        scores.copy_(torch.autograd.grad(loss.sum(), products)[0])
    return nll.copy_(loss.detach())


def triton(
    scores: torch.Tensor,
    labels: torch.Tensor,
    nll: torch.Tensor,
    *,
    gradient: bool,
    scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """As :func:`reference`; ``nll`` is float32, ``scores`` bfloat16, float16 or float32."""
    from rftfast.kernels import softmax_loss as kernel  # not before it is needed: CPUs have no Triton

    rows, vocabulary = scores.shape
    assert labels.shape == nll.shape == (rows,) and labels.dtype == torch.int64 and nll.dtype == torch.float32
    assert scores.is_contiguous() and labels.is_contiguous() and nll.is_contiguous()
    if rows:
        kernel.softmax_loss[(rows,)](
            scores,
            labels,
            nll,
            vocabulary,
            scale,
            0.0 if softcap is None else softcap,
            kernel.BLOCK,
            gradient,
            softcap is not None,
            num_warps=kernel.NUM_WARPS,
        )
    return nll

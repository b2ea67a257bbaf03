"""Attention over a packed row: each segment attends to itself, and paths attend to the prefix they share as well.

A row lies in memory as ``[prefixes | their paths | documents that share nothing]``, so that the keys of all prefixes and the
queries of all paths are two contiguous ranges. Every prefix, path and document is a causal segment of its own: one call. With
prefixes, a second call lets all paths of a question read their prefix, as one dense block, and the two results are merged by
their log-sum-exps. Backward runs the same two calls with the merged output and log-sum-exp, which is exact.

One operator for torch, so that compiled layers and activation checkpoints see a single node.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rftfast.train import segment_attention
from rftfast.train.segment_attention import Segments


class TreeMask(NamedTuple):
    """Which paths read which prefix. P prefixes take rows ``0:prefix_end``, their paths rows ``prefix_end:path_end``.

    ``cu_paths`` [P + 1] int32 are the bounds of each prefix's paths, counted from ``prefix_end``; ``cu_prefixes`` [P + 1]
    int32 those of the prefixes.
    """

    prefix_end: int
    path_end: int
    cu_paths: torch.Tensor
    cu_prefixes: torch.Tensor
    max_paths: int
    max_prefix: int


class Layout(NamedTuple):
    """Which position of a packed row attends to which; passed through the model's forward as the keyword ``packed``.

    ``cu_seqlens`` [S + 1] int32 are the bounds of the segments, the longest of ``max_seqlen`` positions; the longest
    document, its prefix included, has ``longest``.
    """

    cu_seqlens: torch.Tensor
    max_seqlen: int
    longest: int
    tree: TreeMask | None = None


def packed_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """``q`` [T, H, D], ``k`` and ``v`` [T, G, D] → [T, H, D], differentiable."""
    tree = layout.tree
    cu_paths, cu_prefixes = (None, None) if tree is None else (tree.cu_paths, tree.cu_prefixes)
    sizes = [] if tree is None else [tree.prefix_end, tree.path_end, tree.max_paths, tree.max_prefix]
    out, _ = _attention(q, k, v, layout.cu_seqlens, layout.max_seqlen, scale, cu_paths, cu_prefixes, sizes)
    return out


@torch.library.custom_op("rftfast::packed_attention", mutates_args=())
def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    scale: float,
    cu_paths: torch.Tensor | None,
    cu_prefixes: torch.Tensor | None,
    sizes: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = segment_attention.forward(q, k, v, _own(cu_seqlens, max_seqlen), scale)
    if cu_paths is not None and cu_prefixes is not None:
        prefixes, paths, shared = _shared(cu_paths, cu_prefixes, sizes)
        other, other_lse = segment_attention.forward(q[paths], k[prefixes], v[prefixes], shared, scale)
        own_lse = lse[:, paths]
        whole_lse = torch.logaddexp(own_lse, other_lse)
        own_share, other_share = ((x - whole_lse).exp_().T[:, :, None] for x in (own_lse, other_lse))
        out[paths] = out[paths] * own_share + other * other_share
        lse[:, paths] = whole_lse
    return out, lse


@torch.library.custom_op("rftfast::packed_attention_backward", mutates_args=())
def _attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    scale: float,
    cu_paths: torch.Tensor | None,
    cu_prefixes: torch.Tensor | None,
    sizes: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad = grad.contiguous()
    dq, dk, dv = segment_attention.backward(grad, q, k, v, out, lse, _own(cu_seqlens, max_seqlen), scale)
    if cu_paths is not None and cu_prefixes is not None:
        prefixes, paths, shared = _shared(cu_paths, cu_prefixes, sizes)
        parts = segment_attention.backward(
            grad[paths], q[paths], k[prefixes], v[prefixes], out[paths], lse[:, paths], shared, scale
        )
        for whole, rows, part in zip((dq, dk, dv), (paths, prefixes, prefixes), parts, strict=True):
            whole[rows] += part
    return dq, dk, dv


def _own(cu_seqlens: torch.Tensor, max_seqlen: int) -> Segments:
    return Segments(cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, causal=True)


def _shared(cu_paths: torch.Tensor, cu_prefixes: torch.Tensor, sizes: list[int]) -> tuple[slice, slice, Segments]:
    prefix_end, path_end, max_paths, max_prefix = sizes
    segments = Segments(cu_paths, cu_prefixes, max_paths, max_prefix, causal=False)
    return slice(0, prefix_end), slice(prefix_end, path_end), segments


@_attention.register_fake
def _(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=kind)


@_attention_backward.register_fake
def _(grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, cu_seqlens, max_seqlen, scale, cu_paths, cu_prefixes, sizes = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens, cu_paths, cu_prefixes)
    ctx.max_seqlen, ctx.scale, ctx.sizes = max_seqlen, scale, sizes
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: torch.Tensor | None, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    *saved, cu_seqlens, cu_paths, cu_prefixes = ctx.saved_tensors
    grads = _attention_backward(grad, *saved, cu_seqlens, ctx.max_seqlen, ctx.scale, cu_paths, cu_prefixes, ctx.sizes)
    return (*grads, None, None, None, None, None, None)


_attention.register_autograd(_differentiate, setup_context=_save)

"""Linear layer and cross-entropy in one, over chunks of tokens: the matrix of all logits is never there.

For a chunk, logits are computed, turned in place into the gradient of the loss with respect to them, and multiplied at once
into the gradients of hidden states and weight, all in the forward pass; backward only scales. So each logit is computed once,
and what is kept are gradients of the operands' own size. Products run in the operands' dtype; softmax, loss and the sum of
the weight's gradient over chunks in float32 (float64 for float64). On GPUs a Triton kernel turns a chunk's logits into losses and
derivatives in place; elsewhere torch does, block by block.

Names: N tokens, V vocabulary, d hidden width; a trailing ``_V`` marks what has a vocabulary's width.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from rftfast.ops import softmax_loss

IGNORED = -100
"""The label of a token without loss."""

# Bytes of the chunk's logits. Each chunk costs a pass over the weight's float32 gradient, so chunks are large on CPUs, too.
_CHUNK_BYTES = {"cpu": 48 << 20, "cuda": 128 << 20}
# Bytes of a block's float32 softmax, and of a tile of the weight's gradient: on a CPU they are to stay in the second-level
# cache while they are worked on, a GPU wants few launches a chunk.
_BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 128 << 20}


@dataclass(frozen=True)
class Transform:
    """What an architecture does to ``hidden @ weight.T + bias``: times ``scale``, then softcap · tanh(· / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        return self.scale == 1.0 and self.softcap is None


PLAIN = Transform()


@functools.cache
def backend(device: str, dtype: torch.dtype) -> str:
    """What turns products into losses on a type of device: ``triton`` on GPUs where it is installed, else ``torch``."""
    if device != "cuda" or dtype == torch.float64 or importlib.util.find_spec("triton") is None:
        return "torch"
    return "triton"


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    token_weights: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    transform: Transform = PLAIN,
) -> torch.Tensor:
    """The SUM over tokens of weight · cross-entropy, a float32 scalar (float64 for float64), with gradient.

    Args:
        hidden: [N, d]; its dtype is that of the products.
        weight: [V, d], in any floating dtype; its gradient comes in that dtype.
        labels: [N] int64; tokens with -100 cost nothing and have no gradient.
        token_weights: [N] float, without gradient; None means 1.
        rows: [R] int64, where labels are, if that is known; to look for them means to wait for the device.
        bias: [V] or None.
    """
    # Inside a Function's forward torch does not tell whether anyone will ask for gradients.
    rows = _labelled(labels) if rows is None else rows
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, labels, rows, token_weights, transform, torch.is_grad_enabled()
    )


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    transform: Transform = PLAIN,
) -> torch.Tensor:
    """[N] log-probability of each label in float32 (float64 for float64), 0 where it is -100, with gradient.

    Arguments as for :func:`linear_cross_entropy`. Backward computes the logits once more.
    """
    rows = _labelled(labels) if rows is None else rows
    return _TokenLogprobs.apply(hidden, weight, bias, labels, rows, transform)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        rows: torch.Tensor,
        token_weights: torch.Tensor | None,
        transform: Transform,
        differentiable: bool,
    ) -> torch.Tensor:
        factors = torch.ones(len(rows), device=hidden.device, dtype=_wide(hidden.dtype))
        if token_weights is not None:
            factors = token_weights[rows].to(factors)
        wanted = ctx.needs_input_grad[:3] if differentiable else (False, False, False)
        nll, *grads = _Chunks(hidden[rows], weight, bias, labels[rows], transform).run(factors, wanted)
        ctx.shape, ctx.kept = hidden.shape, [grad is not None for grad in grads]
        ctx.save_for_backward(rows, *(grad for grad in grads if grad is not None))
        return (nll * factors).sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        rows, *saved = ctx.saved_tensors
        # A look at the value would have a GPU waited for; there the pass over the gradients is cheap.
        unscaled = grad.device.type == "cpu" and grad == 1
        scaled = saved if unscaled else [x * grad.to(x.dtype) for x in saved]
        d_hidden, d_weight, d_bias = (scaled.pop(0) if kept else None for kept in ctx.kept)
        return _scattered(d_hidden, rows, ctx.shape), d_weight, d_bias, None, None, None, None, None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        rows: torch.Tensor,
        transform: Transform,
    ) -> torch.Tensor:
        nll, *_ = _Chunks(hidden[rows], weight, bias, labels[rows], transform).run(None, (False, False, False))
        ctx.save_for_backward(hidden, weight, bias, labels, rows)
        ctx.transform = transform
        return torch.zeros(len(labels), device=hidden.device, dtype=nll.dtype).index_copy_(0, rows, -nll)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, labels, rows = ctx.saved_tensors
        chunks = _Chunks(hidden[rows], weight, bias, labels[rows], ctx.transform)
        _, d_hidden, d_weight, d_bias = chunks.run(-grad[rows], ctx.needs_input_grad[:3])
        return _scattered(d_hidden, rows, hidden.shape), d_weight, d_bias, None, None, None


class _Chunks:
    """The work itself, over tokens that all have a label."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        transform: Transform,
    ) -> None:
        self.hidden, self.labels, self.transform = hidden, labels, transform
        self.weight, self.bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        self.weight_dtype, self.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        self.wide = _wide(hidden.dtype)
        self.backend = backend(hidden.device.type, hidden.dtype)
        kind = "cpu" if hidden.device.type == "cpu" else "cuda"
        vocabulary = len(weight)
        tokens = max(1, len(labels))
        self.chunk = min(tokens, max(16, _CHUNK_BYTES[kind] // (vocabulary * hidden.element_size())))
        self.block = min(self.chunk, max(1, _BLOCK_BYTES[kind] // (vocabulary * self.wide.itemsize)))
        self.tile = min(vocabulary, max(16, _BLOCK_BYTES[kind] // (hidden.shape[1] * self.wide.itemsize)))

    def run(self, factors: torch.Tensor | None, wanted: tuple[bool, bool, bool]) -> tuple[torch.Tensor, ...]:
        """Negative log-likelihoods [N]; then the gradients, as far as ``wanted``, of Σ factor · nll to hidden, weight, bias."""
        hidden, weight, count = self.hidden, self.weight, len(self.labels)
        want_hidden, want_weight, want_bias = wanted if factors is not None else (False, False, False)
        want_bias = want_bias and self.bias is not None
        nll = hidden.new_empty(count, dtype=self.wide)
        d_hidden = hidden.new_empty(hidden.shape) if want_hidden else None
        # Filled by the first chunk, added to by the others.
        d_weight = hidden.new_empty(weight.shape, dtype=self.wide) if want_weight else None
        if d_weight is not None and count == 0:
            d_weight.zero_()
        d_bias = hidden.new_zeros(len(weight), dtype=self.wide) if want_bias else None
        logits_V = hidden.new_empty(self.chunk, len(weight))
        wide_V = None if self.backend == "triton" else hidden.new_empty(self.block, len(weight), dtype=self.wide)
        for start in range(0, count, self.chunk):
            rows = slice(start, min(start + self.chunk, count))
            chunk_V = logits_V[: rows.stop - start]
            self._logits(hidden[rows], chunk_V)
            self._losses(
                chunk_V, self.labels[rows], nll[rows], wide_V, gradient=want_hidden or want_weight or want_bias
            )
            if factors is None:
                continue
            # chunk_V now holds d nll / d product. Factors go to the narrow operand, not over the vocabulary's width.
            factor = factors[rows, None].to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(chunk_V, weight, out=d_hidden[rows]).mul_(factor)
            if d_weight is not None:
                self._add_products(d_weight, chunk_V, hidden[rows] * factor, first=start == 0)
            if d_bias is not None:
                d_bias += chunk_V.T.to(self.wide) @ factors[rows].to(self.wide)
        return (
            nll,
            d_hidden,
            None if d_weight is None else d_weight.to(self.weight_dtype),
            None if d_bias is None else d_bias.to(self.bias_dtype),
        )  # type: ignore[return-value]

    def _logits(self, hidden: torch.Tensor, out_V: torch.Tensor) -> None:
        if self.bias is None:
            torch.mm(hidden, self.weight.T, out=out_V)
        else:
            torch.addmm(self.bias, hidden, self.weight.T, out=out_V)

    def _add_products(self, total: torch.Tensor, chunk_V: torch.Tensor, narrow: torch.Tensor, *, first: bool) -> None:
        """Add ``chunk_V.T @ narrow`` [V, d] to ``total``."""
        share = narrow.new_empty(self.tile, narrow.shape[1])
        for start in range(0, len(total), self.tile):
            tile = total[start : start + self.tile]
            product = torch.mm(chunk_V[:, start : start + self.tile].T, narrow, out=share[: len(tile)])
            if first:
                tile.copy_(product)
            else:
                tile.add_(product)

    def _losses(
        self,
        chunk_V: torch.Tensor,
        labels: torch.Tensor,
        nll: torch.Tensor,
        wide_V: torch.Tensor | None,
        *,
        gradient: bool,
    ) -> None:
        """Write ``nll``; with ``gradient``, turn the products in ``chunk_V`` into the derivatives of nll by them."""
        if wide_V is None:
            scale, softcap = self.transform.scale, self.transform.softcap
            softmax_loss.triton(chunk_V, labels, nll, gradient=gradient, scale=scale, softcap=softcap)
            return
        for start in range(0, len(labels), self.block):
            rows = slice(start, start + self.block)
            block_V, label = chunk_V[rows], labels[rows, None]
            scores_V = block_V if self.transform.plain else self._transformed(block_V)
            # By way of the logarithm, so that no probability is too small to have one.
            log_V = torch.log_softmax(scores_V, -1, dtype=self.wide, out=wide_V[: len(block_V)])
            chosen = log_V.gather(1, label)
            nll[rows] = chosen[:, 0].neg()
            if gradient:
                d_V = log_V.exp_().scatter_(1, label, chosen.expm1_())
                if not self.transform.plain:
                    d_V.mul_(self.transform.scale)
                if self.transform.softcap is not None:
                    d_V.mul_(1 - (scores_V / self.transform.softcap).square_())
                block_V.copy_(d_V)

    def _transformed(self, products_V: torch.Tensor) -> torch.Tensor:
        scores_V = products_V.to(self.wide) * self.transform.scale
        cap = self.transform.softcap
        return scores_V if cap is None else scores_V.div_(cap).tanh_().mul_(cap)


def _labelled(labels: torch.Tensor) -> torch.Tensor:
    return (labels != IGNORED).nonzero()[:, 0]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scattered(grad: torch.Tensor | None, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    return None if grad is None else grad.new_zeros(shape).index_copy_(0, rows, grad)

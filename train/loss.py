"""The loss of a packed row: hidden states from the model's decoder, then head and cross-entropy in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rftfast.errors import UserError
from rftfast.train.batch import Batch
from rftfast.train.cross_entropy import Transform, linear_cross_entropy, token_logprobs

__all__ = ["Head", "batch_logprobs", "batch_loss", "check_head", "linear_cross_entropy", "split_head", "token_logprobs"]


@dataclass(frozen=True, eq=False)
class Head:
    """A causal language model taken apart.

    Attributes:
        decoder: gives hidden states ([1, T, d] as ``last_hidden_state``), the last norm included.
        linear: the layer whose weight [V, d] (and bias) makes logits of them; it may be the embedding's own weight.
        transform: what the architecture does to the logits.
    """

    decoder: nn.Module
    linear: nn.Module
    transform: Transform

    @property
    def weight(self) -> torch.Tensor:
        return self.linear.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        return getattr(self.linear, "bias", None)


def split_head(model: Any) -> Head:
    """Take a transformers causal language model apart.

    Raises:
        UserError: there is no decoder or no output layer to be found.
    """
    name = type(model).__name__
    decoder, linear = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or decoder is model or linear is None:
        raise UserError(f"{name}: no decoder or no output layer found; only causal language models can be trained")
    if not isinstance(getattr(linear, "weight", None), torch.Tensor) or linear.weight.ndim != 2:
        raise UserError(f"{name}: its output layer ({type(linear).__name__}) is no linear layer; use another model")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    return Head(decoder, linear, Transform(scale, getattr(config, "final_logit_softcapping", None) or None))


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The SUM of weight · cross-entropy over the row's response tokens, a float32 scalar.

    Divide it by the response tokens of the global batch. Where the model is sharded, call it within the forward of the
    outermost sharded module, so that the head's weight is there.
    """
    head = split_head(model)
    return linear_cross_entropy(
        hidden_states(head, batch),
        head.weight,
        batch.labels,
        token_weights=batch.weights,
        rows=batch.loss_positions,
        bias=head.bias,
        transform=head.transform,
    )


def batch_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """[T] log-probability of each label, 0 where there is none; sharded models as for :func:`batch_loss`."""
    head = split_head(model)
    return token_logprobs(
        hidden_states(head, batch),
        head.weight,
        batch.labels,
        rows=batch.loss_positions,
        bias=head.bias,
        transform=head.transform,
    )


def hidden_states(head: Head, batch: Batch) -> torch.Tensor:
    """[T, d], what the head's linear layer is applied to."""
    out = head.decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, packed=batch.layout)
    return out.last_hidden_state[0]


@torch.no_grad()
def check_head(model: Any, batch: Batch) -> None:
    """Compare the model's own logits on a (small) ``batch`` with those of its parts.

    Raises:
        UserError: they differ, because the architecture does something to them that :class:`Head` does not know.
    """
    head = split_head(model)
    seen: list[torch.Tensor] = []
    hook = head.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, packed=batch.layout
        ).logits[0]
    finally:
        hook.remove()
    hidden = hidden_states(head, batch)
    scores = nn.functional.linear(hidden, head.weight, head.bias).float()
    scores = scores * head.transform.scale
    if head.transform.softcap is not None:
        scores = head.transform.softcap * torch.tanh(scores / head.transform.softcap)
    error = (scores - logits.float()).abs().max()
    if len(seen) != 1 or not error <= 0.02 * logits.float().abs().max():
        raise UserError(
            f"{type(model).__name__}: its logits are not those of a linear layer after the decoder (off by {error:.2g});"
            " this architecture cannot be trained here"
        )

"""Packed attention for transformers' own model code: registered once, under a name that a model is switched to.

The row's :class:`Layout` goes as the keyword ``packed`` through the model's forward down to the attention function; nothing
is kept between calls.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from rftfast.errors import UserError
from rftfast.train.tree_attention import Layout, TreeMask, packed_attention

__all__ = ["NAME", "Layout", "TreeMask", "use_packed_attention"]

NAME = "rftfast_packed"
"""What to give as ``attn_implementation``."""

# What some architectures do to the scores besides scaling them, by the keyword they pass it with.
_UNSUPPORTED = {
    "softcap": "a soft cap on attention scores",
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
}


def use_packed_attention(model: Any) -> None:
    """Switch a transformers model to packed attention. Its forward then wants ``packed=`` and no attention mask.

    Raises:
        UserError: the architecture does not take attention functions from outside.
    """
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise UserError(
            f"{type(model).__name__}: this architecture does not let its attention be replaced; use another"
        )


def attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: ``query`` [1, H, T, D], ``key`` and ``value`` [1, G, T, D] → [1, T, H, D].

    Raises:
        UserError: the architecture's attention is more than a scaled causal softmax, or it loses the keyword ``packed``.
    """
    name = type(module).__name__
    if packed is None:
        raise UserError(
            f"{name} does not hand keywords down to its attention, so documents cannot be packed; use another"
        )
    assert attention_mask is None, "packed rows have a layout instead of a mask"
    assert query.shape[0] == 1, query.shape
    for key_word, meaning in _UNSUPPORTED.items():
        if others.get(key_word) is not None:
            raise UserError(f"{name} has {meaning}, which packed training does not support; use another model")
    if dropout:
        raise UserError(
            f"{name}: dropout {dropout} in attention is not supported; set attention_dropout to 0 in config.json"
        )
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise UserError(f"{name} is not causal; packed training needs a causal language model")
    if sliding_window is not None and packed.longest > sliding_window:
        raise UserError(
            f"a document of {packed.longest} tokens is longer than {name}'s window of {sliding_window};"
            " lower the token budget to that and drop longer documents"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed_attention(q, k, v, packed, scale)[None], None


AttentionInterface.register(NAME, attention_function)

"""Tiny random models of many architectures, and documents for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rftfast.train.documents import Document

VOCABULARY = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "attention_dropout": 0.0,
}
_PLAIN = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
# Families beyond Llama's that differ in what matters here: biases, head transforms, positions, norms, windows.
_CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {"sliding_window": 4096},
    "gemma2": {"attn_logit_softcapping": None, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.3},
    "cohere": {"logit_scale": 0.25},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "gpt_neox": {"num_key_value_heads": 4},
    "olmo2": {},
    "gpt2": _PLAIN,
}


def families() -> list[str]:
    return list(_CHANGES)


def tiny(family: str, *, seed: int = 0) -> Any:
    """A random causal model of ``family`` in float32, with weights large enough for logits to differ; in eval mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SIZES, **_CHANGES[family]})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def made_documents(questions: int, *, paths: int, seed: int = 0) -> list[Document]:
    """``questions`` questions with ``paths`` documents each, of 3 to 14 prompt and 2 to 20 response tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for q in range(questions):
        prompt = rng.integers(2, VOCABULARY, rng.integers(3, 15))
        for p in range(paths):
            tokens = np.concatenate([prompt, rng.integers(2, VOCABULARY, rng.integers(2, 21))]).astype(np.int32)
            found.append(Document(f"q{q}/{p}", tokens, len(prompt), f"q{q}"))
    return found

"""A small Llama with random weights and the world's tokenizer, to be pre-trained on the world's text."""

from __future__ import annotations

import functools
import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from rftfast.data.atomic import write_atomic
from rftfast.models.config import ModelConfig
from rftfast.study.world.prose import any_story, make_text
from rftfast.study.world.tokenizer import END, build_tokenizer, save_tokenizer

HIDDEN, LAYERS, HEADS, HEAD_DIM, WIDE, CONTEXT = 128, 6, 4, 32, 384, 512
_STORIES, _TEXTS = 3000, 6000  # whose words are the vocabulary


def write_blank_model(folder: Path, seed: int) -> None:
    """Write config.json, model.safetensors and the tokenizer into ``folder``; the same for the same seed."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = world_tokenizer()
    save_tokenizer(tokenizer, folder)
    fields = _fields(tokenizer.get_vocab_size(), tokenizer.token_to_id(END))
    write_atomic(folder / "config.json", [json.dumps(fields, indent=2).encode() + b"\n"])
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        return 0.02 * scale * torch.randn(rows, columns, generator=generator)

    # What is added to the residual stream starts smaller the more layers add to it, as in GPT-2.
    added = (2 * LAYERS) ** -0.5
    width = HEADS * HEAD_DIM
    tensors = {
        "model.embed_tokens.weight": matrix(fields["vocab_size"], HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        tensors |= {at + f"self_attn.{name}_proj.weight": matrix(width, HIDDEN) for name in "qkv"}
        tensors |= {
            at + "self_attn.o_proj.weight": matrix(HIDDEN, width, added),
            at + "mlp.gate_proj.weight": matrix(WIDE, HIDDEN),
            at + "mlp.up_proj.weight": matrix(WIDE, HIDDEN),
            at + "mlp.down_proj.weight": matrix(HIDDEN, WIDE, added),
            at + "input_layernorm.weight": torch.ones(HIDDEN),
            at + "post_attention_layernorm.weight": torch.ones(HIDDEN),
        }
    hidden = folder / ".model.safetensors.tmp"
    save_file(tensors, hidden)
    hidden.replace(folder / "model.safetensors")


@functools.cache
def world_tokenizer() -> Any:
    """The tokenizer (of the ``tokenizers`` library), whose words are those of the prose and of the questions."""
    rng = Random("rftfast vocabulary")
    stories = [any_story(rng) for _ in range(_STORIES)]
    questions = [" ".join((*story.sentences, story.asks)) for story in stories]
    return build_tokenizer([*questions, "#### 1", *(part for text in islice(make_text(0), _TEXTS) for part in text)])


def world_config() -> ModelConfig:
    """Its sizes; the vocabulary is about right."""
    return ModelConfig.from_dict(_fields(620, 619))


def _fields(vocabulary: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": WIDE,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "dtype": "float32",
    }

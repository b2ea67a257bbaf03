"""Models of a published shape with random weights, so that speed can be measured without the weights.

``shape:NAME`` is a model like any other: a folder with a config, a byte-level tokenizer and, in place of weights, the seed
they are made from when they are loaded. It has no end token: every path runs to ``max_tokens``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rftfast.errors import UserError
from rftfast.models.cache import build_once, cache_folder
from rftfast.models.config import ModelConfig

PREFIX = "shape:"
SEED_FILE = "random_weights.json"
_VERSION = 1  # of what is written into the folders


def _llama(
    hidden: int, layers: int, heads: int, intermediate: int, kv_heads: int | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 32000,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "head_dim": hidden // heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **more,
    }


def _qwen2(
    hidden: int, layers: int, heads: int, intermediate: int, kv_heads: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    more = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": vocabulary, "max_position_embeddings": 32768}
    tail = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": tied}
    return _llama(hidden, layers, heads, intermediate, kv_heads) | more | tail


# From the models' own published config.json files.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _llama(
        576, 30, 9, 1536, 3, vocab_size=49152, max_position_embeddings=8192, rope_theta=1e5, tie_word_embeddings=True
    ),
    "llama-3.2-1b": _llama(
        2048,
        16,
        32,
        8192,
        8,
        vocab_size=128256,
        max_position_embeddings=131072,
        rope_theta=5e5,
        tie_word_embeddings=True,
    ),
    "llama-7b": _llama(4096, 32, 32, 11008, max_position_embeddings=2048),
    "llama-13b": _llama(5120, 40, 40, 13824, max_position_embeddings=2048),
    "llama-33b": _llama(6656, 60, 52, 17920, max_position_embeddings=2048),
    "llama-65b": _llama(8192, 80, 64, 22016, max_position_embeddings=2048),
    "llama-2-7b": _llama(4096, 32, 32, 11008),
    "llama-2-13b": _llama(5120, 40, 40, 13824),
    "llama-2-70b": _llama(8192, 80, 64, 28672, 8),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 8960, 2, 151936, True),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 18944, 4, 152064, False),
}


def shape_config(name: str) -> ModelConfig:
    """The config of a published shape, by its name without ``shape:``. Raises ``UserError`` for a name it does not know."""
    if name not in SHAPES:
        raise UserError(f"model '{PREFIX}{name}': no such shape; there are {', '.join(SHAPES)}")
    return ModelConfig.from_dict(_without_end(SHAPES[name]), source=f"{PREFIX}{name}")


def shape_folder(name: str) -> Path:
    """A model folder of the shape (its name without ``shape:``), made in the cache; a few KB. Raises ``UserError``."""
    shape_config(name)

    def build(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(_without_end(SHAPES[name]), indent=1))
        (folder / SEED_FILE).write_text(json.dumps({"seed": 0}))
        _write_byte_tokenizer(folder / "tokenizer.json")

    return build_once(cache_folder() / "shapes" / f"{name}-v{_VERSION}", build)


def _without_end(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "bos_token_id": -1, "eos_token_id": -1}


def _write_byte_tokenizer(file: Path) -> None:
    """A token a byte; the rest of the vocabulary spells nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))

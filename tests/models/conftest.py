from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rftfast.errors import UserError
from rftfast.models.resolve import resolve

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
# name of a variant -> (family, what differs from the sizes above)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama1": ("llama", {"num_key_value_heads": 4}),
    "llama2": ("llama", {"rms_norm_eps": 1e-5}),
    "llama3": (
        "llama",
        {
            "tie_word_embeddings": True,
            "eos_token_id": [3, 5],
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama-bias": ("llama", {"attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 12}),
    "qwen3-bias": ("qwen3", {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": True}),
}


def make_model(family: str, **differences: Any) -> Any:
    """A tiny random transformers model; norms and biases too are random, so that swapped ones are seen."""
    import transformers

    config_class = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }[family]
    torch.manual_seed(len(str(differences)))
    model = transformers.AutoModelForCausalLM.from_config(config_class(**{**SIZES, **differences}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if parameter.dim() == 1 else 0.0))
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """``saved(variant, **differences)``: a tiny transformers model and the folder it is saved in."""

    def save(variant: str, max_shard_size: str = "5GB", **differences: Any) -> tuple[Any, Path]:
        family, own = VARIANTS[variant]
        model = make_model(family, **{**own, **differences})
        folder = tmp_path / variant
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return model, folder

    return save


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, pulled into the user's cache if need be."""
    try:
        return resolve("smollm2-135m-instruct")
    except UserError as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")

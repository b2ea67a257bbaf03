"""GGUF files, turned once into a Hugging Face folder (config, safetensors, tokenizer) in the user's cache.

Quantised weights become bf16; a file of F16 or F32 keeps its type, so that nothing is lost. What the format means:
the GGUF specification; that files of architecture ``llama`` hold q and k with the rows of each head interleaved (for a
rope that turns neighbours) is llama.cpp's convention, and undone here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rftfast.errors import UserError
from rftfast.models.cache import build_once, cache_folder
from rftfast.models.config import ModelConfig
from rftfast.models.gguf_tokenizer import tokenizer_from_gguf
from rftfast.models.rope import inverse_frequencies
from rftfast.models.rope_scaling import RopeScaling
from rftfast.models.safetensors_writer import write_safetensors
from rftfast.models.weights import checkpoint_slots

_AGAIN = "download it again"
_FORMAT = 2  # goes up whenever the conversion changes, so that old folders in a cache are not taken for new ones
_HF_ARCHITECTURE = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What a header may say of YaRN beside its ramp, and the values that mean what config.json means without it. (No value of
# yarn_attn_factor does: it is config.json's attention_factor to converters, and a factor beside that to llama.cpp.)
_YARN_USUAL: dict[str, tuple[float, ...]] = {
    "attn_factor": (1.0,),
    "yarn_attn_factor": (),
    "yarn_ext_factor": (1.0,),
    "yarn_log_multiplier": (0.0,),
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def folder_from_gguf(file: str | Path) -> Path:
    """The Hugging Face folder of a GGUF file, converted on first use; the cache key is its path, size and time."""
    path = Path(file).resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    key = hashlib.blake2b(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    target = cache_folder() / "gguf" / f"{path.stem}-{key}-v{_FORMAT}"
    return build_once(target, lambda folder: convert_gguf(path, folder))


def convert_gguf(file: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files into ``folder``.

    Memory: one tensor in float32 at a time. Raises ``UserError`` for a file cut short, another architecture, or a
    quantisation or tokenizer that cannot be read.
    """
    reader = _open(file)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if values.get("split.count", 0) > 1:
        raise UserError(f"{file}: is one part of {values['split.count']}; join them first: llama-gguf-split --merge")
    config = _config(values, tensors, file)
    parsed = ModelConfig.from_dict(config, source=str(file))
    dtype = _dtype(tensors)
    config["dtype"] = str(dtype).removeprefix("torch.")
    sources = {name: tensor for name, tensor in ((_hf_name(t), tensors[t]) for t in tensors) if name is not None}
    slots = checkpoint_slots(parsed)
    for name, slot in slots.items():
        if name not in sources:
            raise UserError(f"{file}: lacks the tensor for {name}: {_AGAIN}")
        held = tuple(reversed([int(n) for n in sources[name].shape]))
        if held != slot.shape:
            raise UserError(f"{file}: {name} has shape {list(held)}, the header says {list(slot.shape)}: {_AGAIN}")
    strays = sorted(set(sources) - set(slots))
    if strays:
        raise UserError(f"{file}: holds {strays[0]}, which its architecture has no place for")
    heads = {}
    if values["general.architecture"] == "llama":
        heads = {"q_proj": parsed.heads, "k_proj": parsed.kv_heads}

    def produce(name: str) -> Callable[[], torch.Tensor]:
        return lambda: _tensor(sources[name], heads.get(name.split(".")[-2]), file).to(dtype)

    entries = {name: (slot.shape, produce(name)) for name, slot in slots.items()}
    write_safetensors(folder / "model.safetensors", entries, dtype)
    ends = tokenizer_from_gguf(values, folder, file)
    _write_json(folder / "generation_config.json", {"bos_token_id": config["bos_token_id"], "eos_token_id": ends})
    _write_json(folder / "config.json", config)


def _open(file: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(os.fspath(file))
    except (ValueError, IndexError, KeyError, OSError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{file}: not a whole GGUF file ({reason}): {_AGAIN}") from None


def _config(values: dict[str, Any], tensors: dict[str, Any], file: Path) -> dict[str, Any]:
    """The config.json that the GGUF's metadata amounts to."""
    architecture = values.get("general.architecture")
    if architecture not in _HF_ARCHITECTURE:
        known = ", ".join(_HF_ARCHITECTURE)
        raise UserError(f"{file}: GGUF architecture {architecture!r} is not supported; supported are {known}")

    def get(key: str, default: Any = None) -> Any:
        return values.get(f"{architecture}.{key}", default)

    def need(key: str) -> Any:
        value = get(key)
        if value is None:
            raise UserError(f"{file}: its header lacks {architecture}.{key}: {_AGAIN}")
        return value

    if get("expert_count"):
        raise UserError(f"{file}: mixtures of experts are not supported; use a dense model")
    heads, hidden = need("attention.head_count"), need("embedding_length")
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise UserError(f"{file}: lacks the tensor token_embd.weight: {_AGAIN}")
    head_dim = get("attention.key_length") or hidden // heads
    if architecture == "llama" and get("rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{file}: rotates only part of each head, which is not supported")
    theta = float(get("rope.freq_base", 10000.0))
    config = {
        "architectures": [_HF_ARCHITECTURE[architecture]],
        "model_type": architecture,
        "vocab_size": int(embedding.shape[1]),
        "hidden_size": hidden,
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": need("feed_forward_length"),
        "max_position_embeddings": need("context_length"),
        # Kept as the float32 it is written in, shown with the digits it was meant to have.
        "rms_norm_eps": float(f"{need('attention.layer_norm_rms_epsilon'):.7g}"),
        "hidden_act": "silu",
        "rope_theta": float(f"{theta:.9g}"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in tensors,
        "bos_token_id": values.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": values.get("tokenizer.ggml.eos_token_id"),
    }
    scaling = _rope_scaling(get, need, tensors, head_dim, theta, file)
    if scaling is not None:
        config["rope_scaling"] = scaling
    return config


def _rope_scaling(get: Any, need: Any, tensors: dict[str, Any], head_dim: int, theta: float, file: Path) -> Any:
    """``rope_scaling`` for config.json, from the header or, for Llama 3.1 and later, from the tensor of factors."""
    kind = get("rope.scaling.type")
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(need("rope.scaling.factor"))}
    if kind == "yarn":
        original = int(need("rope.scaling.original_context_length"))
        factor = float(need("rope.scaling.factor"))
        for name, usual in _YARN_USUAL.items():
            value = get(f"rope.scaling.{name}")
            if value is not None and value not in usual:
                raise UserError(
                    f"{file}: rope scaling yarn with {name} {value} is not supported; use the Hugging Face folder of the model"
                )
        ramp = {name: get(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
        given = {name: float(value) for name, value in ramp.items() if value is not None}
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **given}
    if kind not in (None, "none"):
        raise UserError(f"{file}: rope scaling {kind!r} is not supported; supported are linear, yarn and Llama 3's")
    if "rope_freqs.weight" not in tensors:
        return None
    factors = torch.from_numpy(np.array(tensors["rope_freqs.weight"].data, dtype=np.float32))
    # The file holds the factors only; every Llama of 3.1 and later was stretched from 8192 tokens with limits 1 and 4.
    scaling = RopeScaling("llama3", float(factors.max()), 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    expected = inverse_frequencies(head_dim, theta) / inverse_frequencies(head_dim, theta, scaling)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3):
        raise UserError(f"{file}: its rope factors are not Llama 3's; use the Hugging Face folder of the model")
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_positions,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
    }


def _dtype(tensors: dict[str, Any]) -> torch.dtype:
    """The type that loses nothing of F16 and F32 matrices; bf16 as soon as one is stored otherwise."""
    kinds = {tensor.tensor_type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    if kinds <= {"F16"}:
        return torch.float16
    return torch.float32 if kinds <= {"F16", "F32"} else torch.bfloat16


def _hf_name(name: str) -> str | None:
    """Hugging Face's name for a GGUF tensor; None for the rope factors, which are no weight."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{kind}"
    return None if stem == "rope_freqs" else name


def _tensor(source: Any, interleaved_heads: int | None, file: Path) -> torch.Tensor:
    """One tensor in float32. ``interleaved_heads``: put the rows of that many heads back into halves."""
    from gguf.quants import dequantize

    try:
        values = dequantize(source.data, source.tensor_type)
    except NotImplementedError:
        raise UserError(
            f"{file}: {source.tensor_type.name} cannot be dequantised; use a Q4 to Q8, F16 or BF16 file"
        ) from None
    tensor = torch.from_numpy(np.array(values, dtype=np.float32))
    tensor = tensor.reshape([int(n) for n in reversed(source.shape)])
    if interleaved_heads is None:
        return tensor
    rows = tensor.shape[0] // interleaved_heads
    pairs = tensor.reshape(interleaved_heads, rows // 2, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

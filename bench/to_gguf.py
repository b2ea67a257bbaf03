"""Convert a Hugging Face folder of the Llama architecture to a bf16 GGUF file, so that llama.cpp has the same weights.

Matrices are stored in bf16, norms in float32, the rows of q and k in the interleaved order that llama.cpp rotates. The
tokenizer is carried as far as llama.cpp needs to load the file: the benchmark passes token ids.

    python bench/to_gguf.py MODEL_FOLDER OUT.gguf
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from safetensors import safe_open

from rftfast.errors import UserError

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def convert(folder: Path, out: Path) -> Path:
    """Write ``folder`` (config.json, safetensors, tokenizer.json where there is one) as the GGUF file ``out``.

    Raises :class:`UserError` for an architecture, a bias or a rope scaling that this converter does not write.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _refuse_other_models(folder, config)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    writer = GGUFWriter(temporary, "llama")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(_rope(config).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    _add_tokenizer(writer, folder, config)
    tied = bool(config.get("tie_word_embeddings"))
    for name, tensor in _tensors(folder):
        if tied and name == "lm_head.weight":
            continue
        rows = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        _add_tensor(writer, _gguf_name(name), interleave_rope(tensor, rows) if rows else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, out)
    return out


def interleave_rope(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder a projection's rows, head by head, from (first halves, second halves) to pairs.

    Hugging Face's rope turns element i with element i + d/2; llama.cpp's turns 2i with 2i + 1. ``weight``:
    (heads · d, inputs), the result the same.
    """
    outputs, inputs = weight.shape
    halves = weight.reshape(heads, 2, outputs // heads // 2, inputs)
    return halves.transpose(1, 2).reshape(outputs, inputs).contiguous()


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = dict(config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    scaling = config.get("rope_scaling") or {}
    rope.setdefault("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    return rope


def _refuse_other_models(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in ("llama", "mistral"):
        raise UserError(f"{folder}/config.json: model_type is {kind!r}; this converter writes llama and mistral only")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise UserError(f"{folder}/config.json: biases are set; this converter writes models without them only")
    rope_type = _rope(config)["rope_type"]
    if rope_type != "default":
        raise UserError(f"{folder}/config.json: rope type is {rope_type!r}; this converter writes 'default' only")


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no *.safetensors file; give a model folder with its weights")
    for file in files:
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
                yield name, handle.get_tensor(name)


def _gguf_name(name: str) -> str:
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _add_tensor(writer: GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
        return
    raw = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()  # (rows, 2 · columns) bytes
    writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.BF16)


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    """A byte-pair tokenizer where tokenizer.json holds one, else none: token ids are all that the benchmark passes."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model = data.get("model", {})
    if model.get("type") != "BPE" or not model.get("merges"):
        writer.add_tokenizer_model("no_vocab")
        return
    tokens = {index: token for token, index in model["vocab"].items()}
    special = {item["id"]: item["content"] for item in data.get("added_tokens", ())}
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    splits_digits = '"Digits"' in json.dumps(data.get("pre_tokenizer") or {})
    writer.add_tokenizer_pre("smollm" if splits_digits else "gpt-2")
    writer.add_token_list([special.get(i, tokens.get(i, f"[UNUSED{i}]")) for i in range(size)])
    kinds = [
        TokenType.CONTROL if i in special else TokenType.NORMAL if i in tokens else TokenType.UNUSED
        for i in range(size)
    ]
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    for key, add in (("bos_token_id", writer.add_bos_token_id), ("eos_token_id", writer.add_eos_token_id)):
        value = config.get(key)
        first = value[0] if isinstance(value, list) else value
        if isinstance(first, int):
            add(first)
    writer.add_add_bos_token(False)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: to_gguf.py MODEL_FOLDER OUT.gguf", file=sys.stderr)
        return 2
    try:
        print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
    except UserError as error:
        print(f"to_gguf: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a model is made of: sizes, rope and end tokens, read from the ``config.json`` of a Hugging Face folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast.errors import UserError
from rftfast.models.rope_scaling import RopeScaling

# architecture name in config.json -> family
FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
SUPPORTED = "Llama 1/2/3, Mistral, Qwen2, Qwen2.5, Qwen3 (dense), SmolLM2, DeepSeek-Math"

# What transformers assumes when config.json leaves a field out; it differs by family.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28, "head_dim": 128},
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder of the Llama family. Validated when built (``UserError``)."""

    family: str
    """One of ``llama``, ``mistral``, ``qwen2``, ``qwen3``."""
    vocab_size: int
    """Rows of the embedding; may exceed the tokenizer's vocabulary (padding)."""
    hidden: int
    """Width of the residual stream."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads; divides ``heads``."""
    head_dim: int
    """Width of one head; even. ``heads * head_dim`` need not equal ``hidden`` (Qwen3)."""
    intermediate: int
    """Width of the gated MLP."""
    max_positions: int
    """Longest sequence in tokens; the attention window where the model has one that is shorter."""
    rms_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    """The output head is the embedding itself."""
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of q and k before rope (Qwen3)."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a generation: generation_config.json first, then config.json, no doubles."""
    bos_id: int | None = None
    sliding_window: int | None = None
    """The window as the file gives it, if any layer uses it; ``max_positions`` is already capped by it."""
    notes: tuple[str, ...] = ()
    """What was changed on reading or is missing, one line each, for the log."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "intermediate",
            "max_positions",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"model config: {name} is {value!r}; a whole number of at least 1 is needed")
        if self.heads % self.kv_heads:
            raise UserError(f"model config: {self.heads} heads cannot share {self.kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise UserError(f"model config: head_dim is {self.head_dim}; rotary embeddings need an even number")
        if not (self.rms_eps > 0 and self.rope_theta > 0):
            raise UserError(f"model config: rms_eps {self.rms_eps} and rope_theta {self.rope_theta} must be positive")

    @property
    def q_rows(self) -> int:
        """Rows of q in the fused q/k/v matrix: heads * head_dim."""
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Rows of k (and of v) in the fused q/k/v matrix: kv_heads * head_dim."""
        return self.kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelConfig:
        """Read ``config.json`` and, where there is one, ``generation_config.json``.

        Raises ``UserError`` for a missing or invalid file, and for an architecture, activation, quantisation or rope
        scaling that is not supported.
        """
        folder = Path(path)
        raw = read_json(folder / "config.json", "download the model again")
        generation_file = folder / "generation_config.json"
        generation = read_json(generation_file, "download it again, or delete it") if generation_file.is_file() else {}
        return cls.from_dict(raw, generation, source=str(folder / "config.json"))

    @classmethod
    def from_dict(
        cls, raw: dict[str, Any], generation: dict[str, Any] | None = None, source: str = "config.json"
    ) -> ModelConfig:
        """Build from the contents of config.json (and generation_config.json). ``source`` names the file in errors."""
        family = _family(raw, source)
        fields = {**_DEFAULTS[family], **raw}
        _refuse_unsupported(fields, source)

        def whole(key: str, default: int | None = None) -> int:
            value = fields.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool):
                raise UserError(f"{source}: {key} is {value!r}; a whole number is needed: download the model again")
            return value

        hidden, heads = whole("hidden_size"), whole("num_attention_heads")
        if heads < 1:
            raise UserError(f"{source}: num_attention_heads is {heads}: download the model again")
        longest = whole("max_position_embeddings")
        layers = whole("num_hidden_layers")
        theta, scaling = _rope(fields, longest, source)
        window = _window(fields, family, layers, source)
        notes = []
        positions = longest
        if window is not None and window < longest:
            positions = window
            notes.append(
                f"attention window of {window} tokens: sequences are limited to it (the model allows {longest})"
            )
        eos_ids = _eos_ids(generation or {}, fields, source)
        if not eos_ids:
            notes.append(
                "the model names no end token (eos_token_id): paths end at a stop string or --max-tokens alone"
            )
        attention_bias = bool(fields.get("attention_bias", False))
        return cls(
            family=family,
            vocab_size=whole("vocab_size"),
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=whole("num_key_value_heads", heads),
            head_dim=whole("head_dim", hidden // heads),
            intermediate=whole("intermediate_size"),
            max_positions=positions,
            rms_eps=_real(fields, "rms_norm_eps", 1e-6, source),
            rope_theta=theta,
            rope_scaling=scaling,
            tied=bool(fields.get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2" or (family in ("llama", "qwen3") and attention_bias),
            o_bias=family in ("llama", "qwen3") and attention_bias,
            qk_norm=family == "qwen3",
            eos_ids=eos_ids,
            bos_id=_first_id(generation or {}, fields, "bos_token_id", source),
            sliding_window=window,
            notes=tuple(notes),
        )


def read_json(file: Path, mend: str) -> dict[str, Any]:
    """The object in a JSON file. ``UserError`` (with ``mend``) when it is missing, unreadable or not an object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file: {mend}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}): {mend}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: invalid JSON at line {error.lineno} ({error.msg}): {mend}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds no JSON object: {mend}")
    return value


def _family(raw: dict[str, Any], source: str) -> str:
    named = raw.get("architectures") or []
    if isinstance(named, list) and named:
        if named[0] in FAMILIES:
            return FAMILIES[named[0]]
        raise UserError(f"{source}: architecture {named[0]!r} is not supported; supported are {SUPPORTED}")
    kind = raw.get("model_type")
    if kind in FAMILIES.values():
        return str(kind)
    raise UserError(f"{source}: model type {kind!r} is not supported; supported are {SUPPORTED}")


def _refuse_unsupported(fields: dict[str, Any], source: str) -> None:
    if fields.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UserError(f"{source}: activation {fields['hidden_act']!r} is not supported; only silu is")
    if fields.get("mlp_bias"):
        raise UserError(f"{source}: mlp_bias is not supported; use a model without biases in its MLP")
    if fields.get("quantization_config"):
        method = fields["quantization_config"].get("quant_method", "quantised")
        raise UserError(f"{source}: {method} weights are not supported; use the bf16 or float16 release, or a GGUF")


def _rope(fields: dict[str, Any], longest: int, source: str) -> tuple[float, RopeScaling | None]:
    """Both styles: ``rope_parameters`` (transformers 5) and ``rope_theta`` with ``rope_scaling`` (before)."""
    given = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise UserError(f"{source}: rope_scaling is {given!r}; an object is needed: download the model again")
    theta = _real(given if given.get("rope_theta") is not None else fields, "rope_theta", 10000.0, source)
    partial = given.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise UserError(f"{source}: partial_rotary_factor {partial} is not supported; supported are {SUPPORTED}")
    # Some files keep the pretraining length beside the rope parameters; there it goes first.
    original = fields.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    original = longest if original is None else original
    if not isinstance(original, int) or original < 1:
        raise UserError(f"{source}: original_max_position_embeddings is {original!r}: download the model again")
    return theta, RopeScaling.from_dict(given, original, longest, source)


def _window(fields: dict[str, Any], family: str, layers: int, source: str) -> int | None:
    window = fields.get("sliding_window")
    if family == "llama" or window is None:
        return None
    if not isinstance(window, int) or window < 1:
        raise UserError(
            f"{source}: sliding_window is {window!r}; a number of tokens is needed: download the model again"
        )
    if family != "mistral":
        kinds = fields.get("layer_types")
        used = "sliding_attention" in kinds if kinds else layers > fields["max_window_layers"]
        if not (fields.get("use_sliding_window", False) and used):
            return None
    return window


def _real(fields: dict[str, Any], key: str, default: float, source: str) -> float:
    value = fields.get(key)
    value = default if value is None else value
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"{source}: {key} is {value!r}; a number is needed: download the model again")
    return float(value)


def _ids(fields: dict[str, Any], key: str, source: str) -> list[int]:
    value = fields.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise UserError(f"{source}: {key} is {value!r}; token ids are whole numbers: download the model again")
    return [i for i in ids if i >= 0]  # -1 is a way some files write "none"


def _eos_ids(generation: dict[str, Any], fields: dict[str, Any], source: str) -> tuple[int, ...]:
    ids = _ids(generation, "eos_token_id", source) + _ids(fields, "eos_token_id", source)
    return tuple(dict.fromkeys(ids))


def _first_id(generation: dict[str, Any], fields: dict[str, Any], key: str, source: str) -> int | None:
    ids = _ids(fields, key, source) or _ids(generation, key, source)
    return ids[0] if ids else None

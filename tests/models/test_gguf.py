import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.gguf import convert_gguf, folder_from_gguf
from rftfast.models.rope import inverse_frequencies
from rftfast.models.rope_scaling import RopeScaling
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import load_weights

from .conftest import make_model

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WIDE = {"hidden_size": 64, "intermediate_size": 96}  # rows of a whole number of Q8_0 blocks
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(92)), "\u2581"]
TYPES = [2, 3, 3, *[6] * 92, 1]


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows 0, half, 1, half + 1, … of each head: what llama.cpp's converter does to q and k of Llama models."""
    half = rows.shape[0] // heads // 2
    order = [h * 2 * half + part * half + i for h in range(heads) for i in range(half) for part in (0, 1)]
    return rows[order]


def write_gguf(file: Path, model: Any, kind: str = "F32", **extra: Any) -> None:
    """A GGUF file of a tiny transformers model, as llama.cpp's converter lays it out."""
    config, architecture = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if config.model_type == "qwen3":
        writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in extra.pop("header", {}).items():
        writer.add_key_value(key, *value)
    tensors = {gguf_name(name): tensor.float().numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        tensors.pop("output.weight", None)
    tensors |= extra.pop("tensors", {})
    assert not extra
    for name, values in tensors.items():
        if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            values = interleave(values, config.num_attention_heads if "_q" in name else config.num_key_value_heads)
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(name, np.ascontiguousarray(values))
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-many-heads": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    "llama-bias": ("llama", {"attention_bias": True}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 24, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_float32_file_comes_back_bit_for_bit(case, tmp_path):
    family, differences = CASES[case]
    model = make_model(family, **WIDE, **differences)
    write_gguf(tmp_path / "m.gguf", model)
    convert_gguf(tmp_path / "m.gguf", tmp_path)
    expected = model.state_dict()
    if model.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    held = load_file(tmp_path / "model.safetensors")
    assert set(held) == set(expected)
    for name in held:
        assert held[name].dtype == torch.float32
        assert torch.equal(held[name], expected[name]), name
    config = ModelConfig.from_folder(tmp_path)
    assert config.family == family
    assert (config.rope_theta, config.rms_eps) == (
        model.config.rope_parameters["rope_theta"],
        model.config.rms_norm_eps,
    )
    assert (config.bos_id, config.eos_ids, config.max_positions) == (1, (2,), 256)


def test_transformers_reads_the_folder_to_the_same_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model("llama", **WIDE)
    write_gguf(tmp_path / "m.gguf", model)
    convert_gguf(tmp_path / "m.gguf", tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("Q8_0", torch.bfloat16), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_quantised_weights_are_dequantised(kind, dtype, tmp_path):
    model = make_model("qwen2", **WIDE)
    write_gguf(tmp_path / "m.gguf", model, kind)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(tmp_path / "m.gguf", folder)
    held = load_file(folder / "model.safetensors")
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        expected = dequantize(quantize(values, quantised), quantised) if values.ndim > 1 else values
        assert torch.equal(held[name], torch.from_numpy(np.array(expected, dtype=np.float32)).to(dtype)), name
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    load_weights(folder, ModelConfig.from_folder(folder), torch.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_rope_factors_of_llama_3_become_its_scaling(factor, tmp_path):
    scaling = RopeScaling("llama3", factor, 8192)
    theta, head_dim = 500000.0, 64
    factors = inverse_frequencies(head_dim, theta) / inverse_frequencies(head_dim, theta, scaling)
    assert factors.max() == pytest.approx(factor)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = make_model("llama", **sizes, rope_parameters={"rope_type": "default", "rope_theta": theta})
    write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": factors.numpy()})
    convert_gguf(tmp_path / "m.gguf", tmp_path)
    assert ModelConfig.from_folder(tmp_path).rope_scaling == scaling
    write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": factors.numpy() * 1.1})
    with pytest.raises(UserError, match="rope factors"):
        convert_gguf(tmp_path / "m.gguf", tmp_path)


def test_header_rope_scaling_is_kept(tmp_path):
    kinds = gguf.GGUFValueType
    header: dict[str, Any] = {
        "qwen2.rope.scaling.type": ("yarn", kinds.STRING),
        "qwen2.rope.scaling.factor": (4.0, kinds.FLOAT32),
        "qwen2.rope.scaling.original_context_length": (64, kinds.UINT32),
    }
    write_gguf(tmp_path / "m.gguf", make_model("qwen2"), header=header)
    convert_gguf(tmp_path / "m.gguf", tmp_path)
    scaling = ModelConfig.from_folder(tmp_path).rope_scaling
    assert scaling is not None
    assert (scaling.kind, scaling.factor, scaling.original_max_positions) == ("yarn", 4.0, 64)
    header["qwen2.rope.scaling.type"] = ("longrope", kinds.STRING)
    write_gguf(tmp_path / "m.gguf", make_model("qwen2"), header=header)
    with pytest.raises(UserError, match="longrope"):
        convert_gguf(tmp_path / "m.gguf", tmp_path)


def test_yarn_is_taken_whole_or_refused(tmp_path):
    """llama.cpp's converter writes the ramp's limits where config.json gives them; without them other angles would come out."""
    kinds = gguf.GGUFValueType
    yarn: dict[str, Any] = {
        "qwen2.rope.scaling.type": ("yarn", kinds.STRING),
        "qwen2.rope.scaling.factor": (4.0, kinds.FLOAT32),
        "qwen2.rope.scaling.original_context_length": (64, kinds.UINT32),
        "qwen2.rope.scaling.yarn_ext_factor": (1.0, kinds.FLOAT32),
    }
    ramp = {
        "qwen2.rope.scaling.yarn_beta_fast": (16.0, kinds.FLOAT32),
        "qwen2.rope.scaling.yarn_beta_slow": (2.0, kinds.FLOAT32),
    }
    write_gguf(tmp_path / "m.gguf", make_model("qwen2"), header=yarn | ramp)
    convert_gguf(tmp_path / "m.gguf", tmp_path)
    scaling = ModelConfig.from_folder(tmp_path).rope_scaling
    assert scaling is not None and (scaling.beta_fast, scaling.beta_slow) == (16.0, 2.0)
    for name, value in (
        ("yarn_attn_factor", 1.0),
        ("yarn_ext_factor", 0.5),
        ("yarn_log_multiplier", 0.1),
        ("attn_factor", 1.2),
    ):
        header = yarn | {f"qwen2.rope.scaling.{name}": (value, kinds.FLOAT32)}
        write_gguf(tmp_path / "m.gguf", make_model("qwen2"), header=header)
        with pytest.raises(UserError, match=f"yarn with {name} .*; use the Hugging Face folder"):
            convert_gguf(tmp_path / "m.gguf", tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 20, 400, 0.3, 0.7, -1])
def test_a_file_cut_short_is_one_clear_line(keep, tmp_path):
    file = tmp_path / "m.gguf"
    write_gguf(file, make_model("llama"))
    whole = file.read_bytes()
    # Padding may follow the last tensor: cut into the tensor itself.
    end = len(whole.rstrip(b"\0"))
    file.write_bytes(whole[: int(end * keep) if isinstance(keep, float) else keep if keep >= 0 else end + keep - 8])
    with pytest.raises(UserError, match=r"m\.gguf: not a whole GGUF file.*download it again") as caught:
        convert_gguf(file, tmp_path)
    assert "\n" not in str(caught.value)


def test_other_files_and_architectures_are_refused(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"PK\3\4" + bytes(1000))
    with pytest.raises(UserError, match="not a whole GGUF file"):
        convert_gguf(file, tmp_path)
    model = make_model("llama")
    write_gguf(file, model, header={"split.count": (3, gguf.GGUFValueType.UINT16)})
    with pytest.raises(UserError, match="one part of 3"):
        convert_gguf(file, tmp_path)
    write_gguf(file, model, tensors={"blk.0.attn_q.bias": np.zeros(32, np.float32)})
    with pytest.raises(UserError, match=r"lacks the tensor for .*bias"):
        convert_gguf(file, tmp_path)
    write_gguf(file, model, tensors={"blk.0.ffn_gate_inp.weight": np.zeros((4, 32), np.float32)})
    with pytest.raises(UserError, match="ffn_gate_inp"):
        convert_gguf(file, tmp_path)
    model.config.model_type = "gemma"
    write_gguf(file, model)
    with pytest.raises(UserError, match="'gemma' is not supported"):
        convert_gguf(file, tmp_path)


def test_a_file_is_converted_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "m.gguf"
    write_gguf(file, make_model("llama"))
    first = folder_from_gguf(file)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert folder_from_gguf(file) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    write_gguf(file, make_model("llama", tie_word_embeddings=True))
    assert folder_from_gguf(file) != first
    file.write_bytes(b"short")
    with pytest.raises(UserError):
        folder_from_gguf(file)
    assert len(list((tmp_path / "cache" / "gguf").iterdir())) == 2  # nothing half-built is left


def tokenizer_of(header: dict[str, Any], folder: Path) -> tuple[Tokenizer, list[int]]:
    from rftfast.models.gguf_tokenizer import tokenizer_from_gguf

    ends = tokenizer_from_gguf({f"tokenizer.ggml.{k}": v for k, v in header.items()}, folder, Path("m.gguf"))
    return Tokenizer.from_folder(folder), ends


def test_a_sentencepiece_tokenizer_in_a_gguf(tmp_path):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    corpus = [f"The {n} apples cost {n * 3} dollars, so each costs 3. She has {n} left over." for n in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(tmp_path / "t"),
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((tmp_path / "t.model").read_bytes())
    header = {
        "model": "llama",
        "tokens": [p.piece for p in proto.pieces],
        "scores": [p.score for p in proto.pieces],
        "token_type": [p.type for p in proto.pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    ours, ends = tokenizer_of(header, tmp_path)
    assert ends == [2]
    for text in [*corpus[:5], "costs  3 dollars\n", "日本 é <0x0A>", " She has left"]:
        assert ours.encode(text) == [1, *theirs.encode(text)]
        assert ours.decode(ours.encode(text)) == text
    del header["scores"]
    with pytest.raises(UserError, match="lacks scores"):
        tokenizer_of(header, tmp_path)


@pytest.mark.parametrize(
    ("pre", "digits"), [("qwen2", "one"), ("llama-bpe", "three"), ("smollm", "one"), ("gpt-2", "all")]
)
def test_byte_level_tokenizers_split_numbers_as_their_model_does(pre, digits, tmp_path):
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = ["12", "123", "1234"]
    tokens = [*alphabet, *numbers, "<|endoftext|>", "<|im_end|>", "<tool>"]
    n = len(alphabet)
    header = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [1] * (n + 3) + [3, 3, 4],
        "merges": ["1 2", "12 3", "123 4"],
        "bos_token_id": n + 3,
        "eos_token_id": n + 4,
    }
    ours, ends = tokenizer_of(header, tmp_path)
    assert ends == [n + 4, n + 3]
    pieces = {"one": ["1", "2", "3", "4"], "three": ["123", "4"], "all": ["1234"]}[digits]
    bos = [n + 3] if pre == "llama-bpe" else []
    assert ours.encode("1234") == bos + [tokens.index(p) for p in pieces]
    assert ours.encode("<tool><|im_end|>", add_special=False) == [n + 5, n + 4]
    assert ours.decode([n + 5, n + 4, n]) == "<tool>12"
    with pytest.raises(UserError, match="'falcon' is not supported"):
        tokenizer_of({**header, "pre": "falcon"}, tmp_path)


def test_qwen_words_are_split_as_transformers_does(tmp_path):
    from transformers.models.qwen2 import tokenization_qwen2

    from rftfast.models import gguf_tokenizer

    assert gguf_tokenizer._WORDS.replace("DIGITS", "") == tokenization_qwen2.PRETOKENIZE_REGEX

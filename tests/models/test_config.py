import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.rope import rope_table

from .conftest import SIZES, VARIANTS, make_model

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **SIZES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_fields_are_those_of_transformers(variant, saved):
    model, folder = saved(variant)
    ours, theirs = ModelConfig.from_folder(folder), model.config
    state = model.state_dict()
    attention = "model.layers.0.self_attn."
    assert ours.family == theirs.model_type
    assert (ours.vocab_size, ours.hidden) == tuple(state["model.embed_tokens.weight"].shape)
    assert (ours.layers, ours.heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
    assert (ours.q_rows, ours.hidden) == tuple(state[attention + "q_proj.weight"].shape)
    assert (ours.kv_rows, ours.hidden) == tuple(state[attention + "k_proj.weight"].shape)
    assert ours.intermediate == theirs.intermediate_size
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.rms_eps == theirs.rms_norm_eps
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.qkv_bias == (attention + "q_proj.bias" in state)
    assert ours.o_bias == (attention + "o_proj.bias" in state)
    assert ours.qk_norm == (attention + "q_norm.weight" in state)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.bos_id == theirs.bos_token_id
    ends = theirs.eos_token_id
    assert list(ours.eos_ids) == ([] if ends is None else ends if isinstance(ends, list) else [ends])


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn-mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
        "original_max_position_embeddings": 100,
    },
}


@pytest.mark.parametrize("style", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", ROPES)
def test_rope_table_is_that_of_transformers_bit_for_bit(name, style, tmp_path):
    long = {"max_position_embeddings": 4096, "head_dim": 64}
    model = make_model("llama", rope_parameters=dict(ROPES[name]), **long)
    raw = {**LLAMA, **long}
    if style == "rope_parameters":
        raw["rope_parameters"] = ROPES[name]
    else:
        scaling = {k: v for k, v in ROPES[name].items() if k != "rope_theta"}
        if name in ("linear", "yarn"):
            scaling["type"] = scaling.pop("rope_type")  # the oldest spelling
        raw |= {"rope_theta": ROPES[name]["rope_theta"], "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    positions = 3000
    cos, sin = rope_table(ModelConfig.from_folder(tmp_path), positions)
    their_cos, their_sin = model.model.rotary_emb(torch.zeros(1), torch.arange(positions)[None])
    assert cos.dtype == torch.float32
    assert cos.shape == (positions, 32)
    for half in (slice(0, 32), slice(32, 64)):
        assert torch.equal(cos, their_cos[0, :, half])
        assert torch.equal(sin, their_sin[0, :, half])


def test_scaled_ropes_differ_from_the_plain_one():
    tables = {}
    for name in ("default", "linear", "llama3", "yarn"):
        raw = {**LLAMA, "head_dim": 64, "rope_parameters": {**ROPES[name], "rope_theta": 10000.0}}
        tables[name] = rope_table(ModelConfig.from_dict(raw), 100)[0]
    for name in ("linear", "llama3", "yarn"):
        assert not torch.allclose(tables[name], tables["default"])


@pytest.mark.parametrize(
    ("raw", "window", "positions"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, 64, 64),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, None, 256),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 1000}, 1000, 256),
        ({"architectures": ["MistralForCausalLM"]}, 4096, 256),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "use_sliding_window": False}, None, 256),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64}, None, 256),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "use_sliding_window": True}, None, 256),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            64,
            64,
        ),
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 64}, None, 256),
    ],
)
def test_a_window_shorter_than_the_context_caps_it(raw, window, positions):
    config = ModelConfig.from_dict({**SIZES, **raw})
    assert (config.sliding_window, config.max_positions) == (window, positions)
    assert any("attention window" in note for note in config.notes) == (positions == 64)


def test_end_tokens_come_from_both_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "eos_token_id": [7, 9]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 11]}))
    assert ModelConfig.from_folder(tmp_path).eos_ids == (9, 11, 7)
    (tmp_path / "generation_config.json").unlink()
    assert ModelConfig.from_folder(tmp_path).eos_ids == (7, 9)


def test_a_model_that_names_no_end_token_says_so():
    """As some folders do whose tokenizer alone knows it: paths would run to the last token allowed, without a word."""
    for ends in ({"eos_token_id": None}, {"eos_token_id": -1}, {"eos_token_id": []}):
        assert any("eos_token_id" in note for note in ModelConfig.from_dict({**LLAMA, **ends}).notes)
    assert ModelConfig.from_dict({**LLAMA, "eos_token_id": None}, {"eos_token_id": 7}).notes == ()


def test_model_type_alone_is_enough():
    assert ModelConfig.from_dict({"model_type": "qwen2", **SIZES}).qkv_bias


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*supported are Llama"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
        ({"architectures": None, "model_type": "bert"}, "bert"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "layers is 0"),
        ({"num_key_value_heads": 3}, "3 key/value heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        ModelConfig.from_dict({**LLAMA, **raw})
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(UserError, match=r"config\.json: invalid JSON at line 2"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        ModelConfig.from_folder(tmp_path)


def test_reading_a_config_does_not_load_torch():
    """Imports point one way: the table of angles is made from a config, not the other way round."""
    code = "import sys, rftfast.models.config; print('torch' in sys.modules, 'rftfast.models.rope' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

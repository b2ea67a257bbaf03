import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.weights import load_weights

from .conftest import VARIANTS


def fused_by_hand(model, config: ModelConfig) -> dict[str, torch.Tensor]:
    """What load_weights promises, built from a transformers state dict the long way."""
    state = model.state_dict()
    out = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    out["head"] = state["lm_head.weight"]
    for i in range(config.layers):
        there = f"model.layers.{i}."
        attention = there + "self_attn."
        for kind, name in (("weight", "qkv"), ("bias", "qkv_bias")):
            if f"{attention}q_proj.{kind}" in state:
                out[f"layers.{i}.{name}"] = torch.cat([state[f"{attention}{p}_proj.{kind}"] for p in "qkv"])
        out[f"layers.{i}.o"] = state[attention + "o_proj.weight"]
        out[f"layers.{i}.gate_up"] = torch.cat([state[f"{there}mlp.{p}_proj.weight"] for p in ("gate", "up")])
        out[f"layers.{i}.down"] = state[there + "mlp.down_proj.weight"]
        out[f"layers.{i}.attn_norm"] = state[there + "input_layernorm.weight"]
        out[f"layers.{i}.mlp_norm"] = state[there + "post_attention_layernorm.weight"]
        for source, name in (("o_proj.bias", "o_bias"), ("q_norm.weight", "q_norm"), ("k_norm.weight", "k_norm")):
            if attention + source in state:
                out[f"layers.{i}.{name}"] = state[attention + source]
    return out


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_equal_the_state_dict(variant, shard, saved):
    model, folder = saved(variant, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 2) == (shard == "20KB")
    config = ModelConfig.from_folder(folder)
    ours, expected = load_weights(folder, config, torch.float32), fused_by_hand(model, config)
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
    assert (ours["head"] is ours["embed"]) == config.tied


def test_dtype_is_converted(saved):
    model, folder = saved("llama2")
    weights = load_weights(folder, ModelConfig.from_folder(folder), torch.bfloat16)
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert torch.equal(weights["embed"], model.state_dict()["model.embed_tokens.weight"].to(torch.bfloat16))


def load(folder):
    return load_weights(folder, ModelConfig.from_folder(folder), torch.float32)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_file_cut_short_is_named_with_the_mend(keep, saved):
    _, folder = saved("llama2")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = int(len(whole) * keep) if isinstance(keep, float) else keep if keep >= 0 else len(whole) + keep
    file.write_bytes(whole[:length])
    with pytest.raises(
        UserError, match=r"model\.safetensors: cut short or corrupt.*download the model again"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_corrupt_header_is_refused(saved):
    _, folder = saved("llama2")
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:60] = b"x" * 52
    file.write_bytes(content)
    with pytest.raises(UserError, match="cut short or corrupt"):
        load(folder)


def test_a_missing_shard_is_named(saved):
    _, folder = saved("llama2", max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: no such file"):
        load(folder)


def test_an_index_that_leaves_the_folder_is_refused(saved):
    _, folder = saved("llama2", max_shard_size="20KB")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match="not a plain file name"):
        load(folder)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_is_named(saved):
    _, folder = saved("llama2")
    rewrite(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"lack tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_wrong_shape_is_named(saved):
    _, folder = saved("llama2")
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.zeros(31)}))
    with pytest.raises(UserError, match=r"model\.norm\.weight has shape \[31\], config\.json says \[32\]"):
        load(folder)


def test_a_bias_the_config_does_not_know_is_not_dropped_silently(saved):
    _, folder = saved("llama2")
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}))
    with pytest.raises(UserError, match=r"q_proj\.bias"):
        load(folder)


def test_leftovers_that_mean_nothing_are_passed_over(saved):
    _, folder = saved("llama2")
    before = load(folder)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.layers.2.spare.weight": torch.ones(1),
    }
    rewrite(folder, lambda t: t.update(extra))
    after = load(folder)
    assert set(after) == set(before)


def test_integer_weights_are_refused(saved):
    _, folder = saved("llama2")
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}))
    with pytest.raises(UserError, match="stored as int8"):
        load(folder)


def test_pickles_are_never_opened(saved):
    _, folder = saved("llama2")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    with pytest.raises(UserError, match=r"only pickled weights.*convert them to safetensors"):
        load(folder)

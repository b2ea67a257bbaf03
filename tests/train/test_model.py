"""The model to train: any name and family, whole weights only, and the pieces it is split into."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from rftfast.errors import UserError
from rftfast.ops import native
from rftfast.train.batch import collate
from rftfast.train.job import prepare
from rftfast.train.loss import batch_loss
from rftfast.train.model import build, compute_dtype, open_base
from rftfast.train.packing import plan_steps
from rftfast.train.parallel import Accumulation, open_world, shard
from tests.tiny_model import EOS
from tests.train.made import SIZES, families, made_documents, tiny
from tests.train.steps import made_steps
from tests.train.tiny_run import config, write_model


@pytest.mark.parametrize("family", families())
def test_every_family_is_split_layer_by_layer_and_gives_the_plain_loss(tmp_path, family):
    model = tiny(family)
    model.save_pretrained(tmp_path / "base")
    source = write_model(tmp_path / "other")
    (tmp_path / "base" / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    settings = config(tmp_path)
    base = open_base(settings.model)
    learner = build(base, settings)
    assert len(learner.layers()) == 2
    (step,) = plan_steps(made_documents(4, paths=1), budget_tokens=400, documents_per_step=9, seed=0, epoch=0)
    batch = collate(step.rows()[0])
    plain = batch_loss(learner.model, batch)
    plain.backward()
    expected = {name: p.grad for name, p in learner.named_parameters()}
    with open_world(settings) as world:
        again = build(base, settings)
        shard(again, again.layers(), world, settings, torch.float32)
        Accumulation(again, world, settings).begin_row(last=True)
        loss = again(batch)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
        found = {name: p.grad.full_tensor() for name, p in again.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_end_token_is_the_tokenizers_or_the_configurations(tmp_path):
    folder = write_model(tmp_path / "base")
    assert open_base(str(folder)).eos_id == EOS  # its tokenizer names none
    raw = json.loads((folder / "config.json").read_text())
    for value, expected in (([5, EOS], 5), (None, None)):
        (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": value}))
        assert open_base(str(folder)).eos_id == expected
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    assert open_base(str(folder)).eos_id == EOS


def test_no_weights_are_needed_for_the_other_processes(tmp_path):
    settings = config(tmp_path)
    learner = build(open_base(settings.model), settings, weights=False)
    assert all(p.is_meta for p in learner.parameters())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("lost", "the weights lack model.norm.weight"),
        ("shape", "have another shape than config.json says for model.norm.weight"),
        ("cut", "transformers cannot load the model"),
        ("none", "has no weights"),
        ("quantised", "quantised weights cannot be trained"),
        ("unknown", "transformers cannot read its config.json"),
        ("folder", "has no config.json"),
    ],
)
def test_models_that_cannot_be_trained(tmp_path, fault, expected):
    folder = write_model(tmp_path / "base")
    file, settings_file = folder / "model.safetensors", folder / "config.json"
    tensors, raw = load_file(file), json.loads(settings_file.read_text())
    if fault == "lost":
        del tensors["model.norm.weight"]
    elif fault == "shape":
        tensors["model.norm.weight"] = torch.ones(31)
    elif fault == "quantised":
        raw["quantization_config"] = {"quant_method": "gptq"}
    elif fault == "unknown":
        raw["model_type"] = "never-heard-of"
    save_file(tensors, file)
    settings_file.write_text(json.dumps(raw))
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "none":
        file.unlink()
    elif fault == "folder":
        settings_file.unlink()
    settings = config(tmp_path)
    with pytest.raises(UserError, match=expected) as caught:
        build(open_base(settings.model), settings)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_compiled_layers_give_the_same_loss_and_gradients(tmp_path, monkeypatch):
    compile_module = torch.nn.Module.compile
    # Captured and differentiated as ever; no C++ compiler has to be here.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compile_module(self, backend="aot_eager", **o))
    found = []
    for compiled in (False, True):
        settings = config(tmp_path, compile=compiled)
        job = prepare(settings, "sft")
        with open_world(settings) as world:
            found.append(made_steps(job, world, count=1))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, weight in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_a_shape_is_trained_for_its_speed(tmp_path, monkeypatch):
    monkeypatch.setenv("RFTFAST_CACHE", str(tmp_path / "cache"))
    base = open_base("shape:smollm2-135m")
    assert base.random and base.eos_id == 0
    learner = build(base, config(tmp_path), weights=False)
    assert len(learner.layers()) == 30
    small = dataclasses.replace(base, config=AutoConfig.for_model("llama", **SIZES))
    assert not any(p.is_meta for p in build(small, config(tmp_path)).parameters())


def test_a_tensor_too_many_is_said(tmp_path, caplog):
    folder = write_model(tmp_path / "base")
    save_file(load_file(folder / "model.safetensors") | {"extra.weight": torch.ones(2)}, folder / "model.safetensors")
    settings = config(tmp_path)
    build(open_base(settings.model), settings)
    assert "extra.weight" in caplog.text


def test_compute_dtypes(tmp_path):
    plain = dataclasses.replace(config(tmp_path), dtype="auto")
    assert compute_dtype(plain, torch.device("cpu")) == (torch.bfloat16 if native.multiplies_bf16() else torch.float32)
    assert compute_dtype(plain, torch.device("cuda")) == torch.bfloat16
    assert compute_dtype(dataclasses.replace(plain, dtype="bf16"), torch.device("cpu")) == torch.bfloat16
    assert compute_dtype(dataclasses.replace(plain, dtype="float32"), torch.device("cuda")) == torch.float32

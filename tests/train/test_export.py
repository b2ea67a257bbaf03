"""Export: what transformers and the sampler read is what was trained, with its settings, and broken folders get no name."""

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from rftfast.data.prompts import TEMPLATES, model_template
from rftfast.engine.params import SamplingParams
from rftfast.engine.sampler import Sampler
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.train import export as export_module
from rftfast.train.batch import collate
from rftfast.train.export import export, export_dtype, whole_weights
from rftfast.train.job import prepare
from rftfast.train.model import open_base
from rftfast.train.parallel import open_world
from tests.tiny_model import EOS
from tests.train.made import SIZES
from tests.train.steps import sharded
from tests.train.tiny_run import config, write_model


@pytest.fixture
def job(tmp_path):
    return prepare(config(tmp_path), "sft")


def exported(job, folder, dtype=torch.float32, change=None):
    """Exports weights shifted a little from the base's; returns them and the training loss with them."""
    with open_world(job.config) as world:
        learner = sharded(job, world)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(0.01)
        row = job.planned()[0].rows()[0]
        loss = float(learner(collate(row)).detach())
        weights = whole_weights(learner.model, dtype, main=True)
        if change is not None:
            change(weights)
        notes = export(learner.model, weights, job.base, job.template, folder, dtype)
    return weights, loss, row, notes


def test_transformers_and_the_sampler_read_what_was_trained(job, tmp_path):
    folder = tmp_path / "out" / "model"
    _, loss, row, notes = exported(job, folder)
    assert notes == []
    read = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert read.dtype == torch.float32
    batch = collate(row)
    document = row.documents[0]
    logits = read(torch.from_numpy(document.tokens.astype("int64"))[None]).logits[0]
    sampler = Sampler.from_pretrained(folder, dtype="float32", backend="reference")
    prompt = document.tokens[: document.prompt_length].tolist()
    (drawn,) = sampler.generate([prompt], SamplingParams(k=1, temperature=0.0, max_tokens=3))
    assert drawn[0].token_ids[0] == int(logits[len(prompt) - 1].argmax())
    total = 0.0
    for one in row.documents:  # the training loss, from logits of transformers' own model and attention
        scores = read(torch.from_numpy(one.tokens.astype("int64"))[None]).logits[0].float().log_softmax(-1)
        targets = one.tokens[one.prompt_length :].tolist()
        total -= sum(float(scores[one.prompt_length - 1 + i, t].detach()) for i, t in enumerate(targets))
    assert total == pytest.approx(loss, rel=1e-5)
    assert batch.response_tokens == sum(one.response_tokens for one in row.documents)


def test_settings_are_the_bases(job, tmp_path):
    base, folder = job.base.folder, tmp_path / "model"
    exported(job, folder, torch.bfloat16)
    assert json.loads((folder / "config.json").read_text()) == json.loads((base / "config.json").read_text()) | {
        "dtype": "bfloat16"
    }
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert ModelConfig.from_folder(folder).eos_ids == (EOS,)
    template = model_template(folder)
    assert template is not None and (template.prompt, template.shots) == (TEMPLATES["gsm8k"].prompt, 0)
    assert template == job.template
    assert not list(tmp_path.glob(".model*"))


def test_end_tokens_hold_the_one_that_was_trained(tmp_path):
    base = open_base(str(write_model(tmp_path / "base")))
    (base.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7], "temperature": 0.6}))
    job = prepare(config(tmp_path), "sft")
    exported(job, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == {
        "eos_token_id": [7, EOS],
        "temperature": 0.6,
    }


def test_types_of_the_files(tmp_path):
    job = prepare(config(tmp_path), "sft")
    assert export_dtype(job.config, job.base) == torch.float32  # as the base's files are
    assert export_dtype(config(tmp_path, export_dtype="bf16"), job.base) == torch.bfloat16


@pytest.mark.parametrize(("family", "tied", "known"), [("qwen2", True, True), ("gpt_neox", False, False)])
def test_tied_weights_and_a_family_the_sampler_does_not_know(tmp_path, family, tied, known):
    sizes = SIZES | {"vocab_size": EOS + 1, "eos_token_id": EOS, "num_key_value_heads": 4, "tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    model.save_pretrained(tmp_path / "base")
    shutil.copyfile(write_model(tmp_path / "other") / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    weights, _, _, notes = exported(prepare(config(tmp_path), "sft"), tmp_path / "model")
    assert bool(notes) != known
    assert any("head" in name or "embed_out" in name for name in weights) != tied
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    held = dict(read.named_parameters())
    assert held.keys() == weights.keys()
    assert all(torch.equal(held[name], weight) for name, weight in weights.items())
    assert not torch.equal(
        held["model.embed_tokens.weight" if known else "gpt_neox.embed_in.weight"], model.get_input_embeddings().weight
    )


def test_an_older_model_is_replaced(job, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    exported(job, folder)
    assert not (folder / "old.txt").exists() and (folder / "config.json").exists()


def test_a_full_disk_is_told_in_one_line(job, tmp_path, monkeypatch):
    """safetensors has errors of its own for what the system refuses."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(UserError, match=r"disk full: cannot write .*model"):
        exported(job, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("fault", ["weights", "template", "tokenizer", "sampler"])
def test_what_reads_back_otherwise_gets_no_name(job, tmp_path, monkeypatch, fault):
    folder = tmp_path / "model"
    if fault == "weights":
        real = torch.equal
        monkeypatch.setattr(export_module.torch, "equal", lambda a, b: real(a, b) and a.shape != (257, 32))
    elif fault == "template":
        monkeypatch.setattr(export_module, "save_template", lambda template, place: None)
    elif fault == "tokenizer":
        monkeypatch.setattr(export_module, "_TOKENIZER", ())
        (job.base.folder / "tokenizer.json").rename(job.base.folder / "elsewhere.json")
        real_write = export_module._write_settings

        def write(place, base, dtype):
            real_write(place, base, dtype)
            text = (base.folder / "elsewhere.json").read_text()
            (place / "tokenizer.json").write_text(text.replace("<end>", "<END>"))

        monkeypatch.setattr(export_module, "_write_settings", write)
    else:
        monkeypatch.setattr(export_module, "load_weights", lambda *_: {"embed": torch.zeros(EOS + 1, 32)})
    with pytest.raises(UserError, match="left for a look"):
        exported(job, folder)
    assert not folder.exists()


def test_loss_of_the_exported_model_is_the_trained_ones(job, tmp_path):
    """The packed loss of the folder that was written, loaded as the next run's base."""
    _, loss, row, _ = exported(job, tmp_path / "model")
    again = prepare(config(tmp_path, model=str(tmp_path / "model"), out=str(tmp_path / "next")), "sft")
    with open_world(again.config) as world:
        learner = sharded(again, world)
        found = float(learner(collate(row)).detach())
    assert found == pytest.approx(loss, rel=1e-6)

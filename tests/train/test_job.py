"""What a job is made of: the template that is stored, the fingerprint of documents, the plan."""

import dataclasses
import json

import numpy as np
import pytest

from rftfast.data.prompts import TEMPLATES, Template, save_template
from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.documents import Document
from rftfast.train.job import Job, fingerprint, prepare
from tests.train.tiny_run import config, write_model


def pairs(root, prompts):
    file = root / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "completion": " 1\n#### 1"}) + "\n" for p in prompts))
    return str(file)


def run_directory(root, name, model="another"):
    """The files of a sampling run that training reads."""
    template = TEMPLATES[name]
    folder = root / "run"
    folder.mkdir()
    prompt = {"template": name, "text": template.prompt, "shot": template.shot, "stop": list(template.stop)}
    manifest = {"format": 1, "config": {"prompt": prompt}, "fingerprints": {"model": model}}
    (folder / "run.json").write_text(json.dumps(manifest))
    rows = [{"prompt": template.render(f"{i}+{i}?"), "completion": f" {2 * i}\n#### {2 * i}"} for i in range(3)]
    (folder / "rft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_questions_are_put_in_gsm8k_unless_told(tmp_path):
    assert prepare(config(tmp_path), "sft").template.name == "gsm8k"
    job = prepare(config(tmp_path, prompt="plain"), "sft")
    assert job.template == TEMPLATES["plain"] and job.notes == ()


def test_a_model_that_has_a_template_keeps_it(tmp_path):
    settings = config(tmp_path)
    mine = Template("mine", "Q: {question} A:")
    save_template(mine, settings.model)
    assert prepare(settings, "sft").template == mine
    assert prepare(dataclasses.replace(settings, prompt="plain"), "sft").template == TEMPLATES["plain"]
    rows = pairs(tmp_path, ["Question: a?\nAnswer:"])
    assert prepare(dataclasses.replace(settings, data=rows), "sft").template.name == "gsm8k"


def test_a_run_directory_brings_its_template_without_shots_and_stops(tmp_path):
    job = prepare(config(tmp_path, data=run_directory(tmp_path, "gsm8k")), "rft")
    assert job.template == dataclasses.replace(TEMPLATES["gsm8k"], shots=0, stop=())
    assert len(job.documents) == 3
    with pytest.raises(UserError, match="sampled with the template gsm8k, not plain"):
        prepare(config(tmp_path, data=str(tmp_path / "run"), prompt="plain"), "rft")


def test_the_model_that_sampled_the_paths_is_pointed_out(tmp_path):
    from rftfast.models.resolve import fingerprint as fingerprint_model

    settings = config(tmp_path)
    data = run_directory(tmp_path, "alpaca", fingerprint_model(settings.model))
    (note,) = prepare(dataclasses.replace(settings, data=data), "rft").notes
    assert "the model that sampled the paths" in note


@pytest.mark.parametrize(
    ("prompts", "name"),
    [
        (["Question: a?\nAnswer:", "Question: b?\nAnswer:"], "gsm8k"),
        ([TEMPLATES["alpaca"].render("a?")], "alpaca"),
        (["Question: a?\nAnswer:", "Q: b?"], None),
    ],
)
def test_a_template_is_told_from_all_the_prompts_or_not_at_all(tmp_path, prompts, name):
    job = prepare(config(tmp_path, data=pairs(tmp_path, prompts), max_length=400, row_tokens=400), "rft")
    assert (job.template and job.template.name) == name
    assert bool(job.notes) == (name is None)


def test_the_fingerprint_is_of_contents_not_of_order(tmp_path):
    documents = prepare(config(tmp_path), "sft").documents
    assert fingerprint(documents) == fingerprint(documents[::-1])
    assert fingerprint(documents) != fingerprint(documents[1:])
    for change in (
        {"prompt_length": documents[0].prompt_length + 1},
        {"id": "other"},
        {"tokens": documents[0].tokens + 1},
    ):
        changed = dataclasses.replace(documents[0], **change)
        assert fingerprint([changed, *documents[1:]]) != fingerprint(documents), change


def test_the_plan_ends_with_max_steps(tmp_path):
    job = prepare(config(tmp_path, max_steps=5), "sft")
    assert (job.steps, len(job.planned()), [len(epoch) for epoch in job.plan]) == (5, 5, [3, 3, 3])
    assert job.useful_tokens == sum(step.useful_tokens for step in job.planned())
    assert prepare(config(tmp_path, epochs=1), "sft").steps == 3


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_folder_that_no_system_takes_is_refused_before_anything_else(tmp_path, name):
    with pytest.raises(UserError, match="no folder can have that name"):
        prepare(config(tmp_path, out=str(tmp_path / name)), "sft")


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    job = prepare(config(tmp_path, out=str(tmp_path / "q.jsonl" / "out")), "sft")
    with pytest.raises(UserError, match=r"cannot write .*q.jsonl/out \(Not a directory\)"):
        job.open_folder()


def test_data_that_make_but_one_step_an_epoch_are_told():
    """The default of 128 examples a step makes three steps of 60 examples: nothing is learned, and nobody would say why."""
    for count, words in (
        (4, "4 examples"),
        (3, "3 examples, which are all there are (a --batch-size below 4 makes more steps)"),
    ):
        documents = tuple(Document(f"d{i}", np.arange(5, dtype=np.int32), 2, "g") for i in range(count))
        asked = TrainConfig("m", "d", "o", batch_size=4)
        assert Job(asked, "sft", None, None, documents).step_size == words


def test_examples_that_are_there_twice_are_told(tmp_path):
    asked = config(tmp_path, data=pairs(tmp_path, ["Question: a?\nAnswer:"] * 3 + ["Question: b?\nAnswer:"]))
    job = prepare(asked, "rft")
    assert len(job.documents) == 4
    assert job.notes == ("2 of 4 examples are in the data before, word for word, and count again",)


def messages(root, *contents, system=None):
    """Conversations of one question, and a base model with a chat template."""
    base = write_model(root / "chat-base")
    settings = {"eos_token": "<end>", "chat_template": "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    first = [] if system is None else [{"role": "system", "content": system}]
    turns = [[*first, {"role": "user", "content": c}, {"role": "assistant", "content": "It is 1."}] for c in contents]
    file = root / "messages.jsonl"
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return {"model": str(base), "data": str(file), "max_length": 400, "row_tokens": 400}


def test_messages_are_checked_against_the_template_that_is_named(tmp_path):
    """Or a model would be stored with instructions that it has never seen, and be asked with them from then on."""
    (tmp_path / "bare.json").write_text('{"prompt": "{question}", "chat": true}')
    bare = str(tmp_path / "bare.json")
    asked = messages(tmp_path, "1+1?", "2+2?")
    with pytest.raises(UserError, match="is not made with the template chat"):
        prepare(config(tmp_path, **asked, prompt="chat"), "sft")
    assert prepare(config(tmp_path, **asked, prompt=bare), "sft").template.prompt == "{question}"
    (note,) = prepare(config(tmp_path, **asked), "sft").notes
    assert '{"prompt": "{question}", "chat": true}' in note
    made = messages(tmp_path, TEMPLATES["chat"].messages("1+1?")[0]["content"])
    assert prepare(config(tmp_path, **made, prompt="chat"), "sft").template == TEMPLATES["chat"]
    terse = messages(tmp_path, "1+1?", "2+2?", system="Be terse.")
    with pytest.raises(UserError, match="is not made with the template"):  # it has no system message
        prepare(config(tmp_path, **terse, prompt=bare), "sft")
    (note,) = prepare(config(tmp_path, **terse), "sft").notes
    said = '{"prompt": "{question}", "chat": true, "system": "Be terse."}'
    assert said in note
    (tmp_path / "terse.json").write_text(said)
    job = prepare(config(tmp_path, **terse, prompt=str(tmp_path / "terse.json")), "sft")
    assert job.template.system == "Be terse."
    assert job.base.tokenizer.decode(job.documents[0].tokens).startswith("[Be terse.][")
    with pytest.raises(UserError, match="is not made with the template"):
        prepare(config(tmp_path, **messages(tmp_path, "1+1?"), prompt=str(tmp_path / "terse.json")), "sft")


def test_bare_answers_are_told(tmp_path):
    """A file of questions and final answers is easily taken for one of solutions."""
    answers = ["18", " $1,080.50", "-3/4", "20%", "It is 3*6 = 18.\n#### 18", "#### 18", "18 apples"]
    rows = [{"question": f"How many, {i}?", "answer": answer} for i, answer in enumerate(answers)]
    data = tmp_path / "bare.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [note for note in prepare(config(tmp_path, data=str(data)), "sft").notes if "number alone" in note]
    assert told == ["4 of 7 completions are a number alone: they teach to answer without reasoning"]

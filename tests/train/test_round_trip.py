"""What was trained is what is sampled: the stored template gives the sampler the very tokens, and answers come back as learned."""

import json

import pytest

from rftfast.data.prompts import TEMPLATES, Template, save_template
from rftfast.evaluate.sampling import EvalOptions, draw, prepare_jobs
from rftfast.pipeline.job import SampleOptions
from rftfast.pipeline.job import prepare as prepare_sampling
from rftfast.train.export import export
from rftfast.train.job import prepare
from rftfast.train.parallel import open_world
from rftfast.train.trainer import train
from tests.train.steps import sharded
from tests.train.tiny_run import config, write_model, write_questions

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def root(tmp_path):
    """A base model with a chat template and an end token by name."""
    settings = {"eos_token": "<end>", "chat_template": CHAT}
    (write_model(tmp_path / "base") / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.parametrize("name", ["gsm8k", "alpaca", "plain", "chat", "own"])
def test_the_sampler_feeds_the_tokens_that_were_trained(root, name):
    own = Template("own", "Sum {question} =")
    save_template(own, root)
    prompt = str(root / "rftfast_prompt.json") if name == "own" else name
    job = prepare(config(root, prompt=prompt, max_length=400, row_tokens=400), "sft")
    with open_world(job.config) as world:
        learner = sharded(job, world)
        weights = {n: p.full_tensor().detach() for n, p in learner.model.named_parameters()}
        export(learner.model, weights, job.base, job.template, root / "model", weights["lm_head.weight"].dtype)
    sampling = prepare_sampling(SampleOptions(model=str(root / "model"), questions=str(root / "q.jsonl"), k=1))
    assert sampling.template.prompt == (own if name == "own" else TEMPLATES[name]).prompt
    assert sampling.params.stop == () and not sampling.shots
    fed = {f"{question.id}/gold": list(sampling.tokens(question)) for question in sampling.questions}
    assert fed == {d.id: d.tokens[: d.prompt_length].tolist() for d in job.documents}


def test_what_was_learned_by_heart_is_sampled_and_verified(root):
    """Four solutions, learned until they are known; the evaluation's greedy answers then are those, to the end token."""
    data = write_questions(root / "q.jsonl", 4)
    train(config(root, prompt="alpaca", epochs=36, max_length=300, row_tokens=1200), "sft")
    jobs = prepare_jobs(str(root / "out" / "model"), EvalOptions(questions=str(data), k=0, max_tokens=60))
    engine = {"dtype": "float32", "threads": 1, "backend": "reference", "kv_memory": 8 << 20}
    (run,) = draw(jobs, root / "greedy", engine, lambda *_: None)
    found = [json.loads(line) for part in sorted((run / "samples").iterdir()) for line in part.read_text().splitlines()]
    samples = {row["question_id"]: row for row in found if row["kind"] == "sample"}
    wanted = {row["id"]: row["answer"] for row in map(json.loads, data.read_text().splitlines())}
    assert {name: row["completion"].strip() for name, row in samples.items()} == wanted
    assert {row["verdict"] for row in samples.values()} == {"correct"}

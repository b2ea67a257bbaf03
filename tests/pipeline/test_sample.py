"""The stream from finished paths to the run directory, with a sampler that plays back given texts."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rftfast.data.prompts import Template, manifest_template, save_template
from rftfast.data.run_dir import RunDir
from rftfast.data.run_index import RunIndex
from rftfast.engine import Sampler
from rftfast.engine.params import Generation, Request
from rftfast.engine.stats import Stats
from rftfast.errors import UserError
from rftfast.pipeline.files import select_pool
from rftfast.pipeline.job import Job, SampleOptions, prepare
from rftfast.pipeline.sample import Progress, check_run, open_run, run
from rftfast.select.union import Pool
from tests.tiny_model import write_tiny_llama

TEXTS = (
    " 2*3 = <<2*3=6>>6\n#### 6",
    " First 3*2 = <<3*2=6>>6 in all, that is it\n#### 6",
    " 3*2 = <<3*2=6>>6\n#### 6",  # same list as the one above: one of the two stays
    " 2*3 = <<2*3=7>>6\n#### 6",  # false equation
    " 2+3 = <<2+3=5>>5\n#### 5",  # wrong answer
    " no idea",
    " going on and on",  # cut at max-tokens
    "Six.\n#### 6",  # no equations
)
EXPECTED = ["correct"] * 3 + ["wrong_equation", "wrong_answer", "no_answer", "truncated", "correct"]


class Playback:
    """Stands in for ``Sampler``: hands out TEXTS for every request, in an order of its own."""

    def __init__(self, order: random.Random, stop_after: int | None = None) -> None:
        self.order = order
        self.stop_after = stop_after
        self.stats = Stats()

    def check_request(self, request: Request) -> None:
        assert request.tokens

    def stream(self, requests: Iterable[Request | None], monitor: object = None) -> Iterator[Generation]:
        waiting = [(r.name, i) for r in requests if r is not None for i in r.indices()]
        self.order.shuffle(waiting)
        for name, i in itertools.islice(waiting, self.stop_after):
            reason = "length" if EXPECTED[i] == "truncated" else "stop"
            yield Generation(name, i, TEXTS[i], (1, 2, 3), (-1.0, -0.5, -0.25), reason)
        if self.stop_after is not None:
            raise UserError("the disk is full")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    questions = folder / "q.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i}+{i}?", "answer": "x\n#### 6"} for i in range(5)]
    questions.write_text("".join(json.dumps(r) + "\n" for r in rows))
    model = write_tiny_llama(folder / "model")
    return prepare(SampleOptions(model=str(model), questions=str(questions), shots=0, k=len(TEXTS)))


def finish(job: Job, path: Path, sampler: Playback) -> list[Progress]:
    seen: list[Progress] = []
    with RunDir.open(path, job.identity(), job.fingerprints(), {}) as directory:
        run(job, sampler, directory, seen.append)  # type: ignore[arg-type]
    return seen


def test_verdicts_selection_and_rows(job: Job, tmp_path: Path) -> None:
    last = finish(job, tmp_path / "run", Playback(random.Random(0)))[-1]
    stored = list(RunDir.read_questions(tmp_path / "run"))
    assert {q.id for q in stored} == {f"q{i}" for i in range(5)}
    for question in stored:
        samples = sorted(question.samples, key=lambda s: s["sample_index"])
        assert [s["verdict"] for s in samples] == EXPECTED
        # Sample 1 keeps its bucket only if it is farther from the others than sample 2, by Levenshtein distance; it is.
        assert [s["sample_index"] for s in samples if s["kept"]] == [0, 1, 7]
        assert samples[0]["logprob"] == pytest.approx(-1.75)
    assert (last.questions_done, last.samples, last.accepted, last.distinct) == (5, 40, 20, 15)
    rows = [json.loads(line) for line in (tmp_path / "run" / "rft.jsonl").read_text().splitlines()]
    assert [r["source"] for r in rows[:4]] == ["gold", "sample", "sample", "sample"]
    assert rows[0]["prompt"] == "Question: What is 0+0?\nAnswer:"
    assert rows[1]["completion"] == TEXTS[0]


def test_the_policy_asked_for_is_the_one_that_judges(job: Job, tmp_path: Path) -> None:
    loose = prepare(replace(job.options, equations="off", marker="first"))
    assert loose.identity()["verify"] == {"marker": "first", "equations": "off", "bare": False}
    finish(loose, tmp_path / "run", Playback(random.Random(0)))
    verdicts = {s["sample_index"]: s["verdict"] for s in next(RunDir.read_questions(tmp_path / "run")).samples}
    assert verdicts[3] == "correct"  # its false equation is not looked at
    assert verdicts[4] == "wrong_answer"
    with pytest.raises(UserError, match="marker is 'middle'"):
        prepare(replace(job.options, marker="middle"))


@pytest.mark.parametrize(("answer", "math"), [("6", False), ("$6 a day", False), ("6", True)])
def test_a_bare_answer_is_judged_by_and_never_trained_on(job: Job, tmp_path: Path, answer: str, math: bool) -> None:
    """Text that is only an answer would teach the model to answer without reasoning; ``rftfast select`` leaves it out, too."""
    if math:
        pytest.importorskip("math_verify")
    file = tmp_path / "q.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i}+{i}?", "answer": answer} for i in range(4)]
    rows[2]["answer"] = "It is six.\n#### 6"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bare = prepare(replace(job.options, questions=str(file), math=math))
    assert [bare.has_solution(q) for q in bare.questions] == [False, False, True, False]
    path = tmp_path / "run"
    finish(bare, path, Playback(random.Random(0)))
    made = [json.loads(line) for line in (path / "rft.jsonl").read_text().splitlines()]
    assert [(r["question_id"], r["source"]) for r in made if r["source"] == "gold"] == [("q2", "gold")]
    assert [r["question_id"] for r in made] == ["q0"] * 3 + ["q1"] * 3 + ["q2"] * 4 + ["q3"] * 3
    assert {s["verdict"] for s in RunDir.read_samples(path)} == set(EXPECTED)  # judged as ever
    assert RunIndex(path).order == ["q0", "q1", "q2", "q3"]
    with Pool([str(path)]) as pool:
        totals = select_pool(pool, tmp_path / "selected.jsonl")
    assert totals.without_gold == 3
    assert (tmp_path / "selected.jsonl").read_bytes() == (path / "rft.jsonl").read_bytes()
    finish(bare, path, Playback(random.Random(1)))  # built anew from the parts
    assert (tmp_path / "selected.jsonl").read_bytes() == (path / "rft.jsonl").read_bytes()


def test_arrival_order_changes_nothing(job: Job, tmp_path: Path) -> None:
    contents = set()
    for seed in range(4):
        finish(job, tmp_path / str(seed), Playback(random.Random(seed)))
        contents.add((tmp_path / str(seed) / "rft.jsonl").read_bytes())
    assert len(contents) == 1


def test_broken_off_run_goes_on(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match="disk"):
        finish(job, path, Playback(random.Random(1), stop_after=37))
    before = {q.id for q in RunDir.read_questions(path)}
    assert 0 < len(before) < 5
    last = finish(job, path, Playback(random.Random(2)))[-1]
    assert last.stored_questions == len(before)
    assert last.questions_done == 5 - len(before)
    finish(job, tmp_path / "whole", Playback(random.Random(3)))
    assert (path / "rft.jsonl").read_bytes() == (tmp_path / "whole" / "rft.jsonl").read_bytes()
    names = [(s["question_id"], s["sample_index"]) for s in RunDir.read_samples(path)]
    assert len(names) == len(set(names)) == 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"prompt": "alpaca", "shots": 3}, "takes no shots"),
        ({"prompt": "chat"}, "no chat template"),
        ({"model": "no/such/model"}, "no/such/model"),
        ({"shots": 99}, "99 shots"),
    ],
)
def test_bad_options(job: Job, change: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {"model": str(job.folder), "questions": job.options.questions} | change
    with pytest.raises(UserError, match=words):
        prepare(SampleOptions(**options))  # type: ignore[arg-type]


def test_a_system_message_is_part_of_the_prompt_and_of_the_run(job: Job, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(job.folder, model)
    chat = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat}))
    file = tmp_path / "boxed.json"
    file.write_text(json.dumps({"prompt": "{question}", "chat": True, "system": "Box it."}))
    found = prepare(SampleOptions(model=str(model), questions=job.options.questions, prompt=str(file), k=2))
    question = found.questions[0]
    assert found.prompt(question) == f"<system>Box it.<user>{question.question}<assistant>"
    held = found.identity()["prompt"]
    assert manifest_template(held).messages("q") == found.template.messages("q")
    file.write_text(json.dumps({"prompt": "{question}", "chat": True}))
    other = prepare(SampleOptions(model=str(model), questions=job.options.questions, prompt=str(file), k=2))
    assert other.identity()["prompt"] != held


def test_gold_without_a_number(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "How many?", "answer": "plenty"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl, question .*How many.*no number.*--math\)$"):
        prepare(SampleOptions(model=str(job.folder), questions=str(file)))
    with file.open("a") as more:
        more.write('{"question": "How few?", "answer": "3"}\n{"question": "Why?", "answer": "because"}\n')
    with pytest.raises(UserError, match=r"How many.*; 2 of 3 questions have such an answer$"):
        prepare(SampleOptions(model=str(job.folder), questions=str(file)))


def test_a_prompt_that_does_not_fit_is_found_before_anything_is_drawn(job: Job, tmp_path: Path) -> None:
    """Not the prompt with most letters: in this vocabulary a token is a byte, and a euro sign has three."""
    file = tmp_path / "q.jsonl"
    texts = ["a" * 300, "€" * 200, "b" * 100]
    file.write_text("".join(json.dumps({"id": t[0], "question": t, "answer": "#### 6"}) + "\n" for t in texts))
    found = prepare(SampleOptions(model=str(job.folder), questions=str(file), shots=0, k=2, max_tokens=4))
    assert found.longest_prompt().id == "€"
    sampler = Sampler.from_pretrained(job.folder, dtype="float32", kv_memory="4MiB", threads=1)
    with pytest.raises(
        UserError, match=r"q\.jsonl, question € .*: the prompt has \d+ tokens and the model's context is 512"
    ):
        open_run(found, sampler, tmp_path / "run", {})
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"q\.jsonl, question € .*: the prompt has \d+ tokens .* 512"):
        found.estimate()  # a dry run says it, too


def test_notes_say_what_may_not_be_meant(job: Job, tmp_path: Path) -> None:
    assert job.notes() == []
    file = tmp_path / "q.jsonl"
    rows = [{"question": "a" * 400, "answer": "#### 6"}, {"question": "b", "answer": "6"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prepare(replace(job.options, questions=str(file), temperature=0.0)).notes()
    room = 512 - len("Question: \nAnswer:") - 400
    assert [n.split(":")[0] for n in found[:2]] == [
        "1 of 2 gold answers are bare answers without a solution",
        "temperature 0 draws the same path 8 times",
    ]
    assert f"leaves {room} for a path" in found[2]
    assert prepare(replace(job.options, temperature=0.0, k=1)).notes() == []


def test_another_job_is_refused_before_the_model_is_loaded(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "run"
    check_run(job, path)  # nothing there, nothing made
    assert not path.exists()
    identity = job.identity() | {"dtype": "float32", "invariant": True}
    RunDir.open(path, identity, job.fingerprints(), {}).close()
    check_run(job, path)
    with pytest.raises(UserError, match=r"temperature 0\.7 → 0\.9; repeat"):
        check_run(prepare(replace(job.options, temperature=0.9)), path)
    with pytest.raises(
        UserError, match=r"fingerprint of questions .* \(another or a changed file, or another --limit\); rep"
    ):
        check_run(prepare(replace(job.options, limit=2)), path)
    with pytest.raises(UserError, match="early_stop"):
        check_run(prepare(replace(job.options, early_stop=True)), path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not a run directory"):
        check_run(job, tmp_path)


def test_estimate_counts_tokens(job: Job) -> None:
    e = job.estimate()
    assert e["samples"] == 5 * len(TEXTS)
    assert e["prompt_tokens_each"] == len("Question: What is 0+0?\nAnswer:")  # a byte is a token here
    assert e["prompt_tokens_unshared"] == e["prompt_tokens_shared"] * len(TEXTS)


def test_a_model_brings_the_template_it_was_trained_with(job: Job, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    options = SampleOptions(model=str(folder), questions=job.options.questions)
    assert prepare(options).template.name == "gsm8k"
    stored = Template("mine", "Q {question} A", stop=("END",))
    save_template(stored, folder)
    assert prepare(options).template == stored
    assert prepare(replace(options, prompt="alpaca")).template.name == "alpaca"

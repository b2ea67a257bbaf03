"""Evaluations that are drawn: greedy answers as transformers gives them, resumption, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from rftfast.data.manifest import read_manifest
from rftfast.data.prompts import load_template, save_template
from rftfast.data.run_dir import RunDir
from rftfast.errors import UserError
from rftfast.evaluate import sampling
from rftfast.evaluate.sampling import EvalOptions, draw, folder_names, prepare_jobs
from rftfast.evaluate.scores import score_runs
from rftfast.models.tokenizer import Tokenizer
from rftfast.verify import verify
from tests.evaluate.conftest import COUNT, prompt
from tests.tiny_model import EOS, write_tiny_llama

ENGINE = {"dtype": "float32", "threads": 1, "kv_memory": "64MiB"}


def options(questions: Path, **more: object) -> EvalOptions:
    fixed = {"questions": str(questions), "shots": 0, "k": 0, "max_tokens": 12}
    return EvalOptions(**(fixed | more))  # type: ignore[arg-type]


def silent(*_: object) -> None:
    pass


def generated(net: LlamaForCausalLM, rows: list[list[int]], *, masked: bool = True) -> list[list[int]]:
    """Greedy tokens of transformers: left padding, the mask given, no settings of the model's own."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[EOS] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0 if masked else 1] * (longest - len(row)) + [1] * len(row) for row in rows])
    out = net.generate(
        tokens, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=EOS, pad_token_id=EOS
    )
    return [row[longest:].tolist() for row in out]


def test_greedy_equals_transformers_question_by_question(model: Path, questions: Path, tmp_path: Path) -> None:
    jobs = prepare_jobs(str(model), options(questions))
    assert list(jobs) == ["greedy"]
    (score,) = score_runs(draw(jobs, tmp_path, ENGINE, silent)).scores.values()
    tokenizer = Tokenizer.from_folder(model)
    rows = [tokenizer.encode(prompt(i)) for i in range(COUNT)]
    net = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    padded = generated(net, rows)
    assert padded != generated(net, rows, masked=False)  # padding that is attended to changes answers
    texts = [tokenizer.decode([t for t in row if t != EOS]) for row in padded]
    alone = [generated(net, [row])[0] for row in rows]
    assert texts == [tokenizer.decode([t for t in row if t != EOS]) for row in alone]
    theirs = {f"q{i}": float(verify(text, str(2 * i)).correct) for i, text in enumerate(texts)}
    assert score.values == theirs
    assert 0.3 < score.interval.value < 0.9  # neither all right nor all wrong, or the test would show little
    assert score.interval.value == sum(theirs.values()) / COUNT
    stored = {q.id: q.samples[0]["completion"] for q in RunDir.read_questions(tmp_path / "greedy")}
    assert stored == {f"q{i}": text.lstrip() for i, text in enumerate(texts)}


def test_the_batch_changes_no_answer(model: Path, questions: Path, tmp_path: Path) -> None:
    texts = []
    for size in (1, 7, 256):
        folder = tmp_path / str(size)
        draw(prepare_jobs(str(model), options(questions)), folder, ENGINE | {"max_running": size}, silent)
        texts.append({q.id: q.samples[0]["completion"] for q in RunDir.read_questions(folder / "greedy")})
    assert texts[0] == texts[1] == texts[2]


def test_seeds_and_stored_runs(model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options(questions, k=5, seeds=2, limit=6, temperature=2.0)  # 0.7 draws what was learnt by heart
    seen: list[str] = []
    runs = draw(prepare_jobs(str(model), asked), tmp_path, ENGINE, lambda name, progress: seen.append(name))
    assert [run.name for run in runs] == ["greedy", "seed-0", "seed-1"]
    assert set(seen) == {"greedy", "seed-0", "seed-1"}
    first = score_runs(runs)
    assert list(first.scores) == ["maj1@1", "maj1@3", "maj1@5", "pass@1", "pass@3", "pass@5"]
    assert len(first.scores["maj1@5"].by_seed) == 2
    texts = [[q.samples for q in RunDir.read_questions(run)] for run in runs[1:]]
    assert texts[0] != texts[1]  # another seed, other paths
    # Everything is stored: the model is not loaded again.
    monkeypatch.setattr(sampling, "open_engine", None)
    assert draw(prepare_jobs(str(model), asked), tmp_path, ENGINE, silent) == runs
    assert score_runs(runs).report() == first.report()


def test_unfinished_goes_on_and_ends_the_same(model: Path, questions: Path, tmp_path: Path) -> None:
    asked = options(questions, k=3, temperature=2.0)
    whole = score_runs(draw(prepare_jobs(str(model), asked), tmp_path / "whole", ENGINE, silent))

    class Struck(Exception):
        pass

    def strike(name: str, progress: sampling.Progress) -> None:
        if name == "seed-0" and progress.questions_done >= 8:
            raise Struck

    with pytest.raises(Struck):
        draw(prepare_jobs(str(model), asked), tmp_path / "cut", ENGINE | {"max_running": 3}, strike)
    assert 0 < len(list(RunDir.read_questions(tmp_path / "cut" / "seed-0"))) < COUNT
    cut = score_runs(draw(prepare_jobs(str(model), asked), tmp_path / "cut", ENGINE, silent))
    assert {n: s.values for n, s in cut.scores.items()} == {n: s.values for n, s in whole.scores.items()}


def test_other_settings_in_the_same_folder_are_refused(model: Path, questions: Path, tmp_path: Path) -> None:
    draw(prepare_jobs(str(model), options(questions, limit=2)), tmp_path, ENGINE, silent)
    with pytest.raises(UserError, match="max_tokens 12 → 13"):
        draw(prepare_jobs(str(model), options(questions, limit=2, max_tokens=13)), tmp_path, ENGINE, silent)


def test_several_engines_draw_the_same(model: Path, questions: Path, tmp_path: Path) -> None:
    asked = options(questions, k=2, limit=6, temperature=2.0)
    one = score_runs(draw(prepare_jobs(str(model), asked), tmp_path / "one", ENGINE, silent))
    where = {"device": "cpu,cpu"}
    two = score_runs(draw(prepare_jobs(str(model), asked), tmp_path / "two", ENGINE, silent, where))
    assert {n: s.values for n, s in two.scores.items()} == {n: s.values for n, s in one.scores.items()}


def test_every_path_is_drawn_to_its_end(model: Path, questions: Path) -> None:
    for job in prepare_jobs(str(model), options(questions, k=2)).values():
        assert not job.options.early_stop
        assert not job.options.budget


def test_the_stored_template_is_used(questions: Path, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "m")
    assert prepare_jobs(str(folder), options(questions))["greedy"].template.name == "gsm8k"
    save_template(load_template("alpaca"), folder)
    greedy = prepare_jobs(str(folder), options(questions, shots=None))["greedy"]
    assert greedy.template == load_template("alpaca")
    assert prepare_jobs(str(folder), options(questions, prompt="plain"))["greedy"].template.name == "plain"


@pytest.mark.parametrize(
    ("change", "words"), [({"k": -1}, "k is -1"), ({"seeds": 0}, "seeds is 0"), ({"temperature": 0.0}, "k 0")]
)
def test_bad_options(questions: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        options(questions, **change)


def test_folder_names() -> None:
    assert folder_names(["a/m.gguf", "b/m", "c/m", "owner/x"]) == ["m", "m-2", "m-3", "x"]
    assert folder_names(["runs/rft/model", "runs/sft/model/"]) == ["rft", "sft"]
    assert folder_names(["model", "../model", "/model"]) == ["model", "model-2", "model-3"]


def test_the_engine_is_the_one_asked_for(model: Path, questions: Path, tmp_path: Path) -> None:
    """A run made in another number format is not taken for the one asked for."""
    jobs = prepare_jobs(str(model), options(questions, limit=2))
    draw(jobs, tmp_path, ENGINE, silent)
    path = tmp_path / "greedy"
    assert sampling.complete(jobs["greedy"], path, {"dtype": "float32"})
    assert sampling.complete(jobs["greedy"], path, {"dtype": "auto", "kv_cache_dtype": "auto"})
    assert not sampling.complete(jobs["greedy"], path, {"dtype": "auto", "kv_cache_dtype": "fp8"})
    assert not sampling.complete(jobs["greedy"], path, {"dtype": "bfloat16"})
    assert not sampling.complete(jobs["greedy"], path, {"dtype": "auto", "quantization": "fp8"})
    with pytest.raises(UserError, match="dtype"):
        draw(jobs, tmp_path, ENGINE | {"dtype": "bf16"}, silent)


def test_a_quantised_run_is_another_one(model: Path, questions: Path, tmp_path: Path) -> None:
    """It says so, is no answer to who asks without, and is not gone on with."""
    jobs = prepare_jobs(str(model), options(questions, limit=2))
    draw(jobs, tmp_path, ENGINE | {"quantization": "fp8"}, silent)
    path = tmp_path / "greedy"
    assert read_manifest(path)["config"]["dtype"] == "float32+fp8"
    assert sampling.complete(jobs["greedy"], path, ENGINE | {"quantization": "fp8"})
    for without in (ENGINE, {"dtype": "auto"}, {}, ENGINE | {"quantization": "fp8", "kv_cache_dtype": "fp8"}):
        assert not sampling.complete(jobs["greedy"], path, without)
    with pytest.raises(UserError, match=r"dtype .float32\+fp8. → .float32."):
        draw(jobs, tmp_path, ENGINE, silent)

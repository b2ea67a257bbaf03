"""Training files: their columns, and that the datasets library and TRL's own checks take them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rftfast.data.export import write_jsonl, write_parquet
from rftfast.errors import UserError
from rftfast.pipeline.files import export_pool
from rftfast.select.pairs import preference_pairs
from rftfast.select.training_rows import select_question
from rftfast.select.union import Pool
from tests.made_runs import QUESTIONS, make_run, random_run, read_jsonl
from tests.made_runs import write_jsonl as write_rows


def export(sources: list[Path], out: Path, form: str, **options: Any) -> list[dict[str, Any]]:
    pool_options = {"questions": options.pop("questions", ())}
    with Pool([str(source) for source in sources], **pool_options) as pool:
        totals = export_pool(pool, out, form, **options)
    rows = read_jsonl(out)
    assert len(rows) == totals.rows
    return rows


def test_prompt_completion(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run")
    rows = export([run], tmp_path / "out.jsonl", "prompt-completion")
    stored = read_jsonl(run / "rft.jsonl")
    assert rows == [{"prompt": row["prompt"], "completion": row["completion"]} for row in stored]


def test_messages_hold_the_question_alone(tmp_path: Path) -> None:
    rows = export([random_run(tmp_path / "run")], tmp_path / "out.jsonl", "messages")
    assert rows[0] == {
        "messages": [
            {"role": "user", "content": QUESTIONS[0].question},
            {"role": "assistant", "content": QUESTIONS[0].answer},
        ]
    }
    assert {tuple(m["role"] for m in row["messages"]) for row in rows} == {("user", "assistant")}


def test_messages_of_a_chat_run_need_the_questions(tmp_path: Path) -> None:
    text = "{question}\n\nStep by step."
    config = {"prompt": {"template": "chat", "text": text}}
    run = random_run(tmp_path / "run", config=config)
    with pytest.raises(UserError, match=r"'q1'.*--questions"):
        export([run], tmp_path / "out.jsonl", "messages")
    assert not (tmp_path / "out.jsonl").exists()
    rows = export([run], tmp_path / "out.jsonl", "messages", questions=QUESTIONS)
    assert rows[0]["messages"][0]["content"] == f"{QUESTIONS[0].question}\n\nStep by step."
    config["prompt"]["system"] = "Be terse."
    rows = export(
        [random_run(tmp_path / "terse", config=config)], tmp_path / "out.jsonl", "messages", questions=QUESTIONS
    )
    assert all(row["messages"][0] == {"role": "system", "content": "Be terse."} for row in rows)
    assert {tuple(m["role"] for m in row["messages"]) for row in rows} == {("system", "user", "assistant")}


@pytest.mark.parametrize("rejected", ["random", "farthest"])
def test_preference_pairs(tmp_path: Path, rejected: str) -> None:
    run = random_run(tmp_path / "run")
    rows = export([run], tmp_path / "out.jsonl", "preference", rejected=rejected)
    assert len(rows) > len(QUESTIONS)
    assert all(list(row) == ["prompt", "chosen", "rejected"] for row in rows)
    kept = {(row["prompt"], row["completion"]) for row in read_jsonl(run / "rft.jsonl") if row["source"] == "sample"}
    assert {(row["prompt"], row["chosen"]) for row in rows} <= kept
    gold = {f"Question: {q.question}\nAnswer:": q.answer.rsplit(" ", 1)[1] for q in QUESTIONS}
    for row in rows:
        assert row["chosen"].endswith(f"#### {gold[row['prompt']]}")
        assert "####" in row["rejected"] and not row["rejected"].endswith(f"#### {gold[row['prompt']]}")
    used = [(row["prompt"], row["rejected"]) for row in rows]
    assert len(used) == len(set(used))  # each wrong path once


def test_the_farthest_is_taken_first_and_once(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        {"q1": ["<<1+2=3>>\n#### 3", "<<2+1=3>>\n#### 3", "#### 4", "a longer text, much longer\n#### 5"]},
    )
    with Pool([str(run)]) as pool:
        (question,) = pool
    pairs = preference_pairs(select_question(question), "farthest")
    assert [(a.sample_index, b.sample_index) for a, b in pairs] == [(0, 3), (1, 2)]


def test_random_pairs_depend_on_seed_and_question_alone(tmp_path: Path) -> None:
    one = random_run(tmp_path / "one")
    other = random_run(tmp_path / "other", arrival=5, questions=QUESTIONS[:3])
    rows = export([one], tmp_path / "a", "preference", seed=1)
    assert rows == export([one], tmp_path / "b", "preference", seed=1)
    assert rows != export([one], tmp_path / "c", "preference", seed=2)
    prompts = {f"Question: {q.question}\nAnswer:" for q in QUESTIONS[:3]}
    assert export([other], tmp_path / "d", "preference", seed=1) == [r for r in rows if r["prompt"] in prompts]


def test_no_pair_at_all_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"q1": ["<<1+2=3>>\n#### 3", "#### 3", "no answer"]})
    with pytest.raises(UserError, match="no pair"):
        export([run], tmp_path / "out", "preference")


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    run = random_run(tmp_path / "run")
    with Pool([str(run)]) as pool:
        totals = export_pool(pool, tmp_path / "out.parquet", "parquet")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == totals.rows
    wanted = [
        {
            "prompt": row["prompt"],
            "completion": row["completion"],
            "question_id": row["question_id"],
            "source": row["source"],
            "model": "m" if row["source"] == "sample" else None,
            "sample_index": row.get("sample_index"),
        }
        for row in read_jsonl(run / "rft.jsonl")
    ]
    assert rows == wanted


def test_texts_that_are_no_valid_unicode(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    row = {"prompt": "p", "completion": "half \ud83d \0 é\u2028"}
    assert write_jsonl(tmp_path / "out.jsonl", [row]) == 1
    assert read_jsonl(tmp_path / "out.jsonl") == [row]
    assert write_parquet(tmp_path / "out.parquet", [row]) == 1


@pytest.mark.parametrize("form", ["prompt-completion", "messages", "preference", "parquet"])
def test_the_datasets_library_reads_half_a_unicode_pair(tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    rows = [
        {"question_id": "q\ud83d", "question": "three \ud83d?", "completion": text, "answer": "3"}
        for text in ("so \udc00 \u2028\n#### 4", "é \ud83d\n#### 3", "#### 5")
    ]
    out = tmp_path / "out"
    with Pool([str(write_rows(tmp_path / "in.jsonl", rows))]) as pool:
        export_pool(pool, out, form)
    kind = "parquet" if form == "parquet" else "json"
    (row,) = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    text = row["messages"][1]["content"] if form == "messages" else row.get("completion", row.get("chosen")).strip()
    assert text == "é ?\n#### 3"


@pytest.mark.parametrize("form", ["prompt-completion", "messages", "preference", "parquet"])
def test_the_datasets_library_reads_it(tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    run = random_run(tmp_path / "run")
    out = tmp_path / f"out.{form}"
    with Pool([str(run)]) as pool:
        totals = export_pool(pool, out, form)
    kind = "parquet" if form == "parquet" else "json"
    table = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == totals.rows
    columns = {
        "prompt-completion": ["prompt", "completion"],
        "messages": ["messages"],
        "preference": ["prompt", "chosen", "rejected"],
        "parquet": ["prompt", "completion", "question_id", "source", "model", "sample_index"],
    }
    assert table.column_names == columns[form]
    assert json.dumps(table[0])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bytes of a text, and an end; its chat template sets the roles' names in brackets."""
    pytest.importorskip("trl", reason="TRL is not installed (pip install 'rftfast[bench]')")
    pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    from transformers import PreTrainedTokenizerFast

    from tests.tiny_model import write_tiny_llama

    folder = write_tiny_llama(tmp_path_factory.mktemp("model"))
    made = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<end>", pad_token="<end>", name_or_path=str(folder)
    )
    made.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    return made


def exported(folder: Path, form: str) -> Any:
    """The format as ``datasets.load_dataset`` gives it."""
    import datasets

    out = folder / f"out.{form}"
    with Pool([str(random_run(folder / "run"))]) as pool:
        export_pool(pool, out, form)
    kind = "parquet" if form == "parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=str(folder / "cache"))


@pytest.mark.parametrize("form", ["prompt-completion", "messages", "parquet"])
def test_trls_sft_trainer_takes_it(tmp_path: Path, tokenizer: Any, form: str) -> None:
    import trl

    table = exported(tmp_path, form)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "t"), use_cpu=True, bf16=False, report_to="none", max_length=None
    )
    trainer = trl.SFTTrainer(tokenizer.name_or_path, arguments, train_dataset=table, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(table)
    for row, given in zip(trainer.train_dataset, table, strict=True):
        read = tokenizer.decode(row["input_ids"])
        if form == "messages":
            user, assistant = (m["content"] for m in given["messages"])
            assert read == f"[user]{user}[assistant]{assistant}<end>"
            continue
        assert read == given["prompt"] + given["completion"] + "<end>"
        labels = trainer.data_collator([row])["labels"][0]
        assert tokenizer.decode(labels[labels >= 0]) == given["completion"] + "<end>"  # the loss is on the completion
    assert trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)[:3])).isfinite()


def test_trls_dpo_trainer_takes_it(tmp_path: Path, tokenizer: Any) -> None:
    import trl

    table = exported(tmp_path, "preference")
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "t"), use_cpu=True, bf16=False, report_to="none", max_length=None
    )
    trainer = trl.DPOTrainer(tokenizer.name_or_path, args=arguments, train_dataset=table, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(table)
    for row, given in zip(trainer.train_dataset, table, strict=True):
        assert tokenizer.decode(row["prompt_ids"]) == given["prompt"]
        assert tokenizer.decode(row["chosen_ids"]) == given["chosen"] + "<end>"
        assert tokenizer.decode(row["rejected_ids"]) == given["rejected"] + "<end>"
    assert trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)[:3])).isfinite()


def test_bad_choices(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=2)
    for options, words in (
        ({"form": "csv"}, "format is 'csv'"),
        ({"form": "preference", "rejected": "nearest"}, "rejected is 'nearest'"),
        ({"form": "messages", "key": "x"}, "key is 'x'"),
    ):
        with pytest.raises(UserError, match=words):
            export([run], tmp_path / "out", **options)
    with pytest.raises(UserError, match="is a folder"):
        export([run], tmp_path, "messages")
    with pytest.raises(UserError, match="cannot write"):
        export([run], tmp_path / "no" / "such" / "file", "messages")

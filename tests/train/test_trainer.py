"""The loop: it learns, stops and goes on to the bit, refuses what it must, and says what it did."""

import dataclasses
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from rftfast.data.prompts import model_template
from rftfast.errors import UserError
from rftfast.models.resolve import resolve
from rftfast.train import trainer
from rftfast.train.dry_run import dry_run
from rftfast.train.stop import Stopped, StopSignals
from rftfast.train.trainer import Trainer, train
from tests.train.tiny_run import config, metrics, write_model, write_questions

TIMES = ("seconds", "tokens_per_second", "mfu", "memory")


def lasting(rows):
    """What must not depend on when and how often a run was stopped."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def weights(root):
    return load_file(root / "out" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    root = tmp_path_factory.mktemp("whole")
    train(config(root), "sft")
    return root


def test_it_learns_and_says_so(whole):
    rows = metrics(whole / "out")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["epoch"] for row in rows] == [1] * 3 + [2] * 3 + [3] * 3
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[0]["lr"] == 1e-2 and rows[-1]["lr"] < 1e-3
    for row in rows:
        assert row["documents"] == 4 and row["tokens"] == row["positions"] > row["response_tokens"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["mfu"] < 1 and row["memory"] > 1e7 and row["grad_norm"] > 0
    assert {path.name for path in (whole / "out").iterdir() if path.name[0] != "."} >= {
        *("run.json", "metrics.jsonl", "checkpoints", "model")
    }
    assert resolve(str(whole / "out" / "model")) == whole / "out" / "model"
    assert model_template(whole / "out" / "model").shots == 0


def test_the_curve_is_drawn(whole):
    pytest.importorskip("matplotlib")
    assert (whole / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows_before", [1, 5, 8, 17])
def test_stopped_between_rows_it_goes_on_to_the_bit(whole, tmp_path, monkeypatch, rows_before):
    asked = StopSignals.asked
    left = [rows_before]

    def after_rows(self):
        left[0] -= 1
        return signal.SIGTERM if left[0] == 0 else asked(self)

    settings = config(tmp_path)
    monkeypatch.setattr(StopSignals, "asked", after_rows)
    with pytest.raises(Stopped) as stopped:
        train(settings, "sft")
    assert stopped.value.number == signal.SIGTERM
    monkeypatch.undo()
    done = len(metrics(tmp_path / "out")) if (tmp_path / "out" / "metrics.jsonl").exists() else 0
    assert done < 9 and not (tmp_path / "out" / "model").exists()
    train(settings, "sft")
    assert lasting(metrics(tmp_path / "out")) == lasting(metrics(whole / "out"))
    ours, theirs = weights(tmp_path), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_steps_after_the_checkpoint_are_made_again(whole, tmp_path, monkeypatch):
    """As after SIGKILL: the newest checkpoint is older than the newest metrics, the last line of which is cut short."""
    settings = config(tmp_path, checkpoint_every=2)
    step = Trainer._step
    made = []

    def dies(self, *arguments):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(settings, "sft")
    monkeypatch.undo()
    file = tmp_path / "out" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 6, "lo')
    train(settings, "sft")
    assert lasting(metrics(tmp_path / "out")) == lasting(metrics(whole / "out"))
    theirs = weights(whole)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(tmp_path).items())


def test_a_finished_run_is_exported_again_and_trains_no_more(whole, monkeypatch):
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("a step was made"))
    before = weights(whole)
    settings = dataclasses.replace(config(whole), export_dtype="bf16")
    train(settings, "sft")
    after = weights(whole)
    assert all(torch.equal(after[name], before[name].bfloat16()) for name in before)
    train(config(whole), "sft")
    assert len(metrics(whole / "out")) == 9


def test_rows_of_another_size_make_the_same_steps(whole, tmp_path):
    train(config(tmp_path, row_tokens=120, max_length=120), "sft")
    ours, theirs = metrics(tmp_path / "out"), metrics(whole / "out")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr": 1e-3}, "lr 0.01 → 0.001"),
        ({"seed": 5}, "seed 0 → 5"),
        ({"limit": 11}, "fingerprint of documents"),
        ({"prompt": "plain"}, "fingerprint of documents"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(whole, changes, expected):
    with pytest.raises(UserError, match="made with another configuration") as caught:
        train(config(whole, **changes), "sft")
    assert expected in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(whole, tmp_path):
    other = write_model(tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace("1e-05", "1e-06"))
    with pytest.raises(UserError, match="fingerprint of model"):
        train(config(whole, model=str(other)), "sft")


def test_a_loss_that_is_not_finite_names_step_questions_and_checkpoint(tmp_path, monkeypatch):
    settings = config(tmp_path, checkpoint_every=2)
    collate = trainer.collate
    bad = set()

    def poisoned(row, multiple):
        batch = collate(row, multiple)
        if any(name.startswith("q7") for name in batch.ids) and len(metrics_so_far()) == 4:
            bad.update(batch.ids)
            batch.weights.fill_(float("inf"))
        return batch

    def metrics_so_far():
        file = tmp_path / "out" / "metrics.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    monkeypatch.setattr(trainer, "collate", poisoned)
    with pytest.raises(UserError, match="not finite") as caught:
        train(settings, "sft")
    line = str(caught.value)
    assert "step 5" in line and "step-00000004" in line and "\n" not in line
    assert bad and all(name in line for name in bad)
    (event,) = (tmp_path / "out" / "stopped.jsonl").read_text().splitlines()
    assert json.loads(event)["ids"] == sorted(bad)
    assert len(metrics(tmp_path / "out")) == 4


def test_a_gradient_that_is_not_finite_stops_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Optimizer, "gradient_norm", lambda self: float("nan"))
    with pytest.raises(UserError, match=r"step 1: the gradient's norm is not finite.*there is no checkpoint yet"):
        train(config(tmp_path), "sft")


def test_shared_prompts_cost_fewer_positions_and_lose_nothing(tmp_path, capsys):
    rows = []
    for i in range(3):
        question = f"What is {i} plus {i}, and how would you go about finding that out?"
        rows += [
            {"prompt": f"Question: {question}\nAnswer:", "completion": f" {p} {i}\n#### {2 * i}"} for p in range(4)
        ]
    data = tmp_path / "paths.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for together in (1, 4):
        settings = config(tmp_path, data=str(data), out=str(tmp_path / f"out{together}"), share_prompts=together)
        train(dataclasses.replace(settings, batch_size=12, epochs=1, row_tokens=2000), "rft")
        found += metrics(tmp_path / f"out{together}")
        assert model_template(tmp_path / f"out{together}" / "model").name == "gsm8k"  # told from the prompts
    plain, shared = found
    assert shared["tokens"] == plain["tokens"] and shared["positions"] < 0.5 * plain["positions"]
    assert capsys.readouterr().out.count("% of positions saved by shared prompts") == 1
    assert shared["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert shared["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)


def test_bf16_follows_float32(whole, tmp_path):
    train(config(tmp_path, dtype="bf16"), "sft")
    ours, theirs = metrics(tmp_path / "out"), metrics(whole / "out")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=0.03)


def test_dry_run_writes_nothing_and_counts_right(whole, tmp_path, capsys):
    settings = config(whole, out=str(tmp_path / "none"))
    dry_run(settings, "sft")
    assert not (tmp_path / "none").exists()
    said = " ".join(capsys.readouterr().out.split())
    rows = metrics(whole / "out")
    assert f"tokens {sum(row['tokens'] for row in rows):,} in all" in said
    assert "steps 9 of 4 examples," in said and "lr 0.01" in said and "each device, at least" in said


def test_folders_that_are_something_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        train(config(tmp_path), "sft")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        train(config(tmp_path, out=str(tmp_path / "file")), "sft")


def test_documents_too_long_are_named_counted_and_dropped_only_if_asked(tmp_path, caplog):
    data = write_questions(tmp_path / "q.jsonl")
    long = {"id": "endless", "question": "Why?", "answer": "so " * 100 + "#### 1"}
    data.write_text(data.read_text() + json.dumps(long) + "\n")
    with pytest.raises(UserError, match=r"1 of 13 examples .* --max-length 200 tokens: endless/gold \(\d+\)"):
        train(config(tmp_path), "sft")
    train(config(tmp_path, drop_long=True, epochs=1), "sft")
    assert "endless" in caplog.text
    assert sum(row["documents"] for row in metrics(tmp_path / "out")) == 12

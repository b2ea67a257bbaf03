"""Training on pairs: it learns, stops and goes on to the bit, notices a reference that is another's, and says what it did."""

import dataclasses
import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rftfast.data.prompts import load_template, model_template, save_template
from rftfast.errors import UserError
from rftfast.train import dpo_trainer, trainer
from rftfast.train.dpo_job import prepare
from rftfast.train.dpo_trainer import PreferenceTrainer
from rftfast.train.dry_run import show_job
from rftfast.train.stop import Stopped, StopSignals
from rftfast.train.trainer import run_job
from tests.train.dpo_run import config, metrics, rows, write_rows

TIMES = ("seconds", "tokens_per_second", "mfu", "memory")


def train(settings):
    return run_job(prepare(settings, "dpo"), PreferenceTrainer)


def lasting(found):
    """What must not depend on when and how often a run was stopped."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def weights(root):
    return load_file(root / "out" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    root = tmp_path_factory.mktemp("whole")
    train(config(root))
    return root


def test_it_learns_and_says_so(whole):
    found = metrics(whole / "out")
    assert [row["step"] for row in found] == list(range(1, 10))
    first, last = found[0], found[-1]
    assert first["loss"] == first["preference_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(first["margin"]) < 1e-4 and abs(first["kl"]) < 1e-3
    assert last["loss"] < 0.5 * first["loss"] and last["margin"] > 0.5 and last["accuracy"] == 1
    for row in found:
        assert row["pairs"] == 4 and row["positions"] < row["tokens"]  # every pair shares its prompt
        assert row["margin"] == pytest.approx(row["chosen_reward"] - row["rejected_reward"])
        assert row["sft_loss"] > 0 and row["grad_norm"] > 0 and 0 < row["mfu"] < 1
    base = load_file(whole / "base" / "model.safetensors")
    assert not torch.equal(weights(whole)["lm_head.weight"], base["lm_head.weight"])
    assert model_template(whole / "out" / "model").name == "gsm8k"  # told from the prompts


def test_the_curve_is_drawn(whole):
    pytest.importorskip("matplotlib")
    assert (whole / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def reference_file(root):
    (file,) = (root / "reference").glob("*/logprobs.jsonl")
    return file


def test_the_reference_is_computed_once_for_all_runs(whole, tmp_path, monkeypatch):
    before = reference_file(whole).read_bytes()
    assert len(before.splitlines()) == 24
    monkeypatch.setattr(PreferenceTrainer, "_logprobs", lambda *_: pytest.fail("the reference was computed again"))
    train(config(whole, out=str(tmp_path / "other"), beta=0.5, epochs=1))
    assert reference_file(whole).read_bytes() == before
    assert metrics(tmp_path / "other")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_reference_of_other_data_is_another(whole, tmp_path):
    train(config(whole, out=str(tmp_path / "out"), reference=str(tmp_path / "reference"), limit=4, epochs=1))
    assert reference_file(tmp_path).parent.name != reference_file(whole).parent.name
    assert len(reference_file(tmp_path).read_bytes().splitlines()) == 8


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_a_wrong_reference_stops_the_first_step(tmp_path, loss):
    settings = config(tmp_path, loss=loss, epochs=1)
    train(settings)
    found = [json.loads(line) for line in reference_file(tmp_path).read_text().splitlines()]
    reference_file(tmp_path).write_text(
        "".join(json.dumps(row | {"logprob": row["logprob"] - (row["id"][-6:] == "chosen")}) + "\n" for row in found)
    )
    with pytest.raises(UserError, match="step 1: the loss of a pair is") as caught:
        train(dataclasses.replace(settings, out=str(tmp_path / "again")))
    known = "ln 2 = 0.6931" if loss == "sigmoid" else "25.0000"
    assert f"not {known}, so the log-probabilities in {reference_file(tmp_path).parent}" in str(caught.value)
    assert not (tmp_path / "again" / "model").exists()


def stop_after(settings, rows_before):
    """SIGTERM at that check between two rows, the reference's among them."""
    asked = StopSignals.asked
    left = [rows_before]

    def after_rows(self):
        left[0] -= 1
        return signal.SIGTERM if left[0] == 0 else asked(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "asked", after_rows)
        train(settings)


@pytest.mark.parametrize("rows_before", [1, 3, 12, 20])
def test_stopped_between_rows_it_goes_on_to_the_bit(whole, tmp_path, monkeypatch, rows_before):
    settings = config(tmp_path)
    monkeypatch.setattr(dpo_trainer, "_CHUNK", 4)
    with pytest.raises(Stopped) as stopped:
        stop_after(settings, rows_before)
    assert stopped.value.number == signal.SIGTERM and "the same command goes on" in str(stopped.value)
    assert not (tmp_path / "out" / "model").exists()
    if rows_before == 3:
        assert "of 24 completions of the reference, which are kept" in str(stopped.value)
        assert 0 < len(reference_file(tmp_path).read_text().splitlines()) < 24
    train(settings)
    ours, theirs = metrics(tmp_path / "out"), metrics(whole / "out")
    if rows_before < 12:  # chunks of the reference are others, and so may be its last digits
        assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-4)
        return
    monkeypatch.undo()
    train(config(tmp_path, out=str(tmp_path / "unbroken")))
    assert lasting(ours) == lasting(metrics(tmp_path / "unbroken"))
    unbroken = load_file(tmp_path / "unbroken" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, unbroken[name]) for name, tensor in weights(tmp_path).items())


def test_another_job_in_the_same_folder_is_refused(whole, tmp_path):
    heavier = [{**row, "weight": 2} for row in rows()]
    for changes, expected in (
        ({"beta": 0.2}, "beta 0.1 → 0.2"),
        ({"loss": "ipo"}, 'loss "sigmoid" → "ipo"'),
        ({"sft": 1.0}, "sft 0.0 → 1.0"),
        ({"data": str(write_rows(tmp_path / "heavier.jsonl", heavier))}, "fingerprint of pairs"),
    ):
        with pytest.raises(UserError, match="made with another configuration") as caught:
            train(config(whole, **changes))
        assert expected in str(caught.value)


def test_rows_of_another_size_and_shared_prompts_make_the_same_steps(whole, tmp_path):
    small = config(whole, out=str(tmp_path / "small"), row_tokens=120)
    train(small)
    losses = [row["loss"] for row in metrics(whole / "out")]
    assert [row["loss"] for row in metrics(tmp_path / "small")] == pytest.approx(losses, rel=1e-3)
    found = []
    for together in (1, 2):
        out = tmp_path / f"together{together}"
        train(config(whole, out=str(out), batch_size=12, epochs=1, share_prompts=together, row_tokens=1000))
        found += metrics(out)
    apart, shared = found
    assert shared["positions"] < apart["positions"] and shared["tokens"] == apart["tokens"]
    assert shared["grad_norm"] == pytest.approx(apart["grad_norm"], rel=1e-4)


def test_terms_and_weights(tmp_path):
    """The first step's loss is known: ln 2 times the mean weight, and the weighted supervised term."""
    data = write_rows(tmp_path / "weighted.jsonl", [{**row, "weight": 1 + i % 3} for i, row in enumerate(rows())])
    train(config(tmp_path, data=str(data), batch_size=12, epochs=1, sft=0.5, label_smoothing=0.1, row_tokens=400))
    (row,) = metrics(tmp_path / "out")
    assert row["preference_loss"] == pytest.approx(2 * math.log(2), abs=1e-5)
    assert row["loss"] == pytest.approx(row["preference_loss"] + 0.5 * row["sft_loss"], rel=1e-5)


def test_dropout_is_off(tmp_path, monkeypatch):
    built = trainer.build
    seen = []

    def with_dropout(*arguments, **options):
        learner = built(*arguments, **options)
        seen.append(nn.Dropout(0.5))
        learner.model.model.extra = seen[0]
        return learner

    monkeypatch.setattr(trainer, "build", with_dropout)
    train(config(tmp_path, epochs=1))
    assert seen[0].p == 0


def test_bf16_follows_float32(whole, tmp_path):
    train(config(whole, out=str(tmp_path / "out"), dtype="bf16"))
    ours, theirs = metrics(tmp_path / "out"), metrics(whole / "out")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=0.05)


def test_the_models_own_template_is_handed_on(tmp_path, whole, capsys):
    settings = config(tmp_path, epochs=1)
    own = dataclasses.replace(load_template("gsm8k"), name="own", shots=0, stop=())
    save_template(own, tmp_path / "base")
    train(settings)
    assert model_template(tmp_path / "out" / "model") == own
    strange = [{**row, "prompt": f"?{row['prompt']}"} for row in rows()]
    data = write_rows(tmp_path / "strange.jsonl", strange)
    job = prepare(dataclasses.replace(settings, data=str(data)), "dpo")
    assert job.template is None and "no template is stored" in job.notes[0]
    with pytest.raises(UserError, match="is not made with the template gsm8k"):
        prepare(dataclasses.replace(settings, data=str(data), prompt="gsm8k"), "dpo")


def test_prompts_may_go_on_with_steps(tmp_path):
    further = [{**row, "prompt": f"{row['prompt']} First things first.\n"} for row in rows()]
    job = prepare(config(tmp_path, data=str(write_rows(tmp_path / "further.jsonl", further))), "dpo")
    assert job.template.name == "gsm8k"


def test_messages_are_checked_against_a_chat_template(tmp_path):
    settings = config(tmp_path)
    chat = {"eos_token": "<end>", "chat_template": "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"}
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(chat))
    turn = [{"role": "user", "content": "1+1?"}]
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "2"), ("rejected", "3"))}
    settings = dataclasses.replace(settings, data=str(write_rows(tmp_path / "m.jsonl", [{"prompt": turn, **sides}])))
    with pytest.raises(UserError, match="is not made with the template chat"):
        prepare(dataclasses.replace(settings, prompt="chat"), "dpo")
    save_template(load_template("chat"), tmp_path / "base")  # the model's own, which these pairs have not either
    job = prepare(settings, "dpo")
    assert job.template is None and "no template is stored" in job.notes[0]
    (tmp_path / "bare.json").write_text('{"prompt": "{question}", "chat": true}')
    assert prepare(dataclasses.replace(settings, prompt=str(tmp_path / "bare.json")), "dpo").template.chat


def test_dry_run_writes_nothing_and_counts_right(whole, tmp_path, capsys):
    show_job(prepare(config(whole, out=str(tmp_path / "none"), reference=str(tmp_path / "no")), "dpo"))
    assert not (tmp_path / "none").exists() and not (tmp_path / "no").exists()
    said = " ".join(capsys.readouterr().out.split())
    found = metrics(whole / "out")
    assert f"tokens {sum(row['tokens'] for row in found):,} in all" in said and "saved by shared prompts" in said
    assert "data 12 pairs" in said and "beta 0.1" in said and "each device, at least" in said


def test_pairs_too_long_are_named_counted_and_dropped_only_if_asked(tmp_path, caplog):
    long = {"prompt": "Question: Why?\nAnswer:", "chosen": " so" * 45, "rejected": " no", "question_id": "endless"}
    data = write_rows(tmp_path / "long.jsonl", [*rows(), long])
    with pytest.raises(UserError, match=r"1 of 13 pairs .* --max-length 120 tokens: endless \(\d+\)"):
        prepare(config(tmp_path, data=str(data)), "dpo")
    job = prepare(config(tmp_path, data=str(data), drop_long=True), "dpo")
    assert "endless" in caplog.text and len(job.pairs) == 12
    with pytest.raises(UserError, match="1 of 13 pairs take more than the 160 tokens of a row: endless"):
        prepare(config(tmp_path, data=str(data), max_length=160), "dpo")

"""train/dpo.py as a user runs it: SIGKILL, torchrun, bad input in one line."""

from __future__ import annotations

import random
import signal
import socket

import pytest
import torch
from safetensors.torch import load_file

from rftfast.train import entry
from rftfast.train.dpo_config import PreferenceConfig
from rftfast.train.dpo_job import prepare
from rftfast.train.dpo_trainer import PreferenceTrainer
from rftfast.train.options import docstrings, parse
from rftfast.train.trainer import run_job
from tests.train.dpo_run import arguments, config, metrics, rows, write_rows
from tests.train.test_entry import lasting, start, wait_for_steps

LONG = {"epochs": 16, "checkpoint_every": 5}  # 48 steps: time enough to be killed in


def train(settings):
    run_job(prepare(settings, "dpo"), PreferenceTrainer)


def dpo(*given: str) -> int:
    return entry.main("dpo", "", given, options=PreferenceConfig, load=lambda: (prepare, PreferenceTrainer))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(config(root, **LONG))
    return root


def test_killed_at_a_random_step_it_goes_on_to_the_bit(whole, tmp_path):
    out = tmp_path / "out"
    process = start("train/dpo.py", *arguments(tmp_path, **LONG))
    try:
        wait_for_steps(process, out, random.randint(2, 25))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (out / "model").exists()
    train(config(tmp_path, **LONG))
    assert lasting(out) == lasting(whole / "out")
    ours, theirs = (load_file(root / "out" / "model" / "model.safetensors") for root in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_make_the_steps_of_one(whole, tmp_path):
    """5 pairs a step in rows of 120 tokens: some rows of one process have no pair at all."""
    held_out = write_rows(tmp_path / "held-out.jsonl", rows(20)[13:])
    settings = {"batch_size": 5, "row_tokens": 120, "epochs": 2, "sft": 0.1, "validation": str(held_out)}
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "train/dpo.py")
    process = start(*launcher, *arguments(tmp_path, **settings))
    try:
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    train(config(whole, out=str(tmp_path / "one"), **settings))
    ours, theirs = metrics(tmp_path / "out"), metrics(tmp_path / "one")
    for name in ("loss", "sft_loss", "margin", "kl", "grad_norm"):
        found, expected = ([row[name] for row in each] for each in (ours, theirs))
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-4), name
    for name in ("validation_loss", "validation_margin", "validation_accuracy"):
        found, expected = ([row[name] for row in each] for each in (ours, theirs))
        assert [value is None for value in found] == [value is None for value in expected] == [True, True, False] * 2
        assert found[2::3] == pytest.approx(expected[2::3], rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({}, {"prompt": "Q", "completion": "x"}, "no preference pairs"),
        ({}, {"prompt": "Q", "chosen": "", "rejected": "b"}, "line 1: the text to learn in 'chosen' is empty"),
        ({"prompt": "alpaca"}, {}, "not made with the template alpaca"),
        ({"max_length": 20, "row_tokens": 40}, {}, "longer than --max-length 20"),
        ({"beta": 0}, {}, "--beta is 0.0; it must be above 0"),
        ({"sft": -1}, {}, "--sft is -1.0"),
        ({"label_smoothing": 0.5}, {}, "--label-smoothing is 0.5"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, {}, "belongs to --loss sigmoid"),
        ({"loss": "hinge"}, {}, "choose from"),
        ({"data": "no.jsonl"}, {}, "no.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, changes, row, expected):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = write_rows(tmp_path / "rows.jsonl", [row or rows()[0]])
    assert dpo(*arguments(tmp_path, **{"data": str(data), **changes})) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("error: ") and expected in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_from_the_command_line(tmp_path, capsys):
    assert dpo(*arguments(tmp_path), "--dry-run") == 0
    assert "dry run: nothing was trained or written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_supervised_training_sends_pairs_here(tmp_path, capsys):
    given = [x for x in arguments(tmp_path) if not x.startswith("--reference")]
    given.remove(str(tmp_path / "reference"))
    assert entry.main("sft", "", given) == 2
    assert "train on them with train/dpo.py" in capsys.readouterr().err


def test_defaults_and_help(capsys):
    c = parse(PreferenceConfig, ["--model", "m", "--data", "d", "--out", "o"], program="train/dpo.py", about="")
    assert (c.beta, c.loss, c.sft, c.lr, c.warmup, c.schedule, c.batch_size) == (
        0.1,
        "sigmoid",
        0,
        1e-6,
        0.1,
        "linear",
        32,
    )
    texts = docstrings(PreferenceConfig)
    assert texts["batch_size"].startswith("Pairs a step") and texts["clip"].startswith("Largest norm")
    with pytest.raises(SystemExit):
        dpo("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(text in shown for text in texts.values())

"""The entry scripts as a user runs them: exit statuses, one line for bad input, SIGTERM, SIGKILL, torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rftfast.data.lock import RunLock
from rftfast.errors import UserError
from rftfast.train import entry
from rftfast.train.trainer import train
from tests.train.tiny_run import arguments, config, metrics

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_steps(process: subprocess.Popen[str], out: Path, steps: int) -> None:
    for _ in range(2400):
        if process.poll() is not None:
            break
        if (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_text().splitlines()) >= steps:
            return
        time.sleep(0.05)
    pytest.fail(f"ended with {process.poll()} before step {steps}: {process.stderr.read()}")


def lasting(out: Path):
    return [[row[name] for name in ("step", "epoch", "loss", "lr", "grad_norm", "tokens")] for row in metrics(out)]


LONG = {"epochs": 14, "checkpoint_every": 5}  # 42 steps: time enough to be killed in


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(config(root, **LONG), "rft")
    return root


def test_killed_at_a_random_step_it_loses_only_the_steps_since_the_last_checkpoint(whole, tmp_path):
    out = tmp_path / "out"
    process = start("train/rft.py", *arguments(tmp_path, **LONG))
    try:
        wait_for_steps(process, out, random.randint(2, 24))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (out / "model").exists()
    done = len(metrics(out)) if (out / "metrics.jsonl").read_text().endswith("\n") else None
    kept = sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))
    if done is not None and done > 12:
        assert kept and kept[-1] >= done - 10  # one may have been half written
    train(config(tmp_path, **LONG), "rft")
    assert lasting(out) == lasting(whole / "out")
    ours, theirs = (load_file(root / "out" / "model" / "model.safetensors") for root in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def torchrun(*options: str) -> subprocess.Popen[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "train/rft.py")
    return start(*launcher, *options)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_processes_whose_torchrun_was_killed_do_not_train_on(tmp_path):
    out = tmp_path / "out"
    process = torchrun(*arguments(tmp_path, epochs=4000))
    try:
        wait_for_steps(process, out, 1)
    finally:
        process.kill()
        process.wait()
    for _ in range(200):
        with contextlib.suppress(UserError):
            RunLock(out).release()  # nobody is at work here
            return
        time.sleep(0.05)
    (worker,) = [word for word in (out / ".lock").read_text().split() if word.isdecimal()]
    os.kill(int(worker), signal.SIGKILL)  # the other one ends when its partner is gone
    pytest.fail("a process trains on without its torchrun")


def test_two_processes_are_told_to_stop_and_one_goes_on(whole, tmp_path):
    out = tmp_path / "out"
    process = torchrun(*arguments(tmp_path, **LONG))
    try:
        wait_for_steps(process, out, 3)
        process.send_signal(signal.SIGTERM)  # torchrun hands it on to both
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "SIGTERM: stopped after step" in errors
    done = len(metrics(out))
    kept = [path.name for path in (out / "checkpoints").iterdir() if path.name[0] != "."]
    assert f"step-{done:08d}" in kept
    train(config(tmp_path, **LONG), "rft")
    ours, theirs = lasting(out), lasting(whole / "out")
    assert [row[0] for row in ours] == [row[0] for row in theirs] and ours[:1] != []
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=0.02)
    assert [row[5] for row in ours] == [row[5] for row in theirs]


@pytest.mark.parametrize("method", ["sft", "rft", "dpo"])
def test_help_and_wrong_options_do_not_wait_for_torch(method):
    wrong = f"import sys; from rftfast.train.{method} import main; print(main()); print('torch' in sys.modules)"
    process = start("-c", wrong, "--model", "m", "--shedule", "linear")
    out, errors = process.communicate(timeout=120)
    assert out.split() == ["2", "False"]
    assert errors == "error: the following arguments are required: --data, --out; see --help\n"
    at_exit = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    process = start("-c", f"{at_exit}from rftfast.train.{method} import main; main()", "--help")
    out, errors = process.communicate(timeout=120)
    assert out.startswith(f"usage: train/{method}.py") and out.endswith("\nFalse\n") and not errors


def test_bad_input_is_one_line_and_status_2(tmp_path):
    """Once as a process of its own; what can go wrong is tried in this one below."""
    given = arguments(tmp_path, data=str(tmp_path / "none.jsonl"))
    process = start("train/sft.py", *given)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert errors.startswith("error: ") and "none.jsonl" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({}, {"text": "x"}, "prompt"),
        ({}, {"prompt": "Q", "completion": ""}, "completion"),
        ({"prompt": "alpaca"}, {"prompt": "Q: 1?", "completion": " 1"}, "not made with the template alpaca"),
        ({"max_length": 10, "row_tokens": 10}, {"prompt": "Q" * 20, "completion": " 1"}, "longer than --max-length 10"),
        ({"max_length": 9000, "row_tokens": 9000}, {"prompt": "Q" * 600, "completion": " 1"}, "takes 512 tokens"),
        ({"model": "no/where-at-all-x"}, {"prompt": "Q", "completion": " 1"}, "no/where-at-all-x"),
        ({"wandb": "p"}, {"prompt": "Q", "completion": " 1"}, "pip install wandb"),
    ],
)
def test_what_can_be_wrong(tmp_path, capsys, monkeypatch, changes, row, expected):
    if "wandb" in changes and entry_has("wandb"):
        pytest.skip("wandb is installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    status = entry.main("sft", "", arguments(tmp_path, data=str(data), **changes))
    errors = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len([line for line in errors if line.startswith("error: ")]) == 1
    assert expected in errors[-1]


def entry_has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def test_a_tokenizer_without_an_end_token(tmp_path, capsys):
    given = arguments(tmp_path)
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": None}))
    assert entry.main("sft", "", given) == 2
    assert "has no end token" in capsys.readouterr().err


def test_a_dry_run_from_the_command_line(tmp_path, capsys):
    assert entry.main("rft", "", [*arguments(tmp_path), "--dry-run"]) == 0
    assert "dry run: nothing was trained or written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_everything_is_read_is_one_line(tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    assert entry.main("sft", "", arguments(tmp_path), load=lambda: (interrupted, None)) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from the last checkpoint, if any\n"

"""metrics.jsonl after a resume, the line on the terminal, TensorBoard, Weights & Biases, and the curve."""

import importlib.util
import io
import sys
import types

import pytest
from rich.console import Console

from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.metrics import MetricsWriter, StepMetrics, check_reporters, draw, read_metrics
from rftfast.train.progress import ProgressBar
from tests.train.tiny_run import config


def row(step, loss=1.0, mfu=None, held_out=None):
    return StepMetrics(step, 1 + step // 4, loss, 1e-3, 0.5, 2.0, 4, 100, 60, 90, 50.0, mfu, 1 << 20, held_out)


def test_rows_after_the_checkpoint_are_replaced(tmp_path):
    settings = config(tmp_path)
    writer = MetricsWriter(tmp_path, settings, 0)
    for step in range(1, 6):
        writer.write(row(step))
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6')
    writer = MetricsWriter(tmp_path, settings, 3)
    writer.write(row(4, loss=9.0))
    found = read_metrics(tmp_path)
    assert [(r["step"], r["loss"]) for r in found] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 9.0)]
    assert found[0]["mfu"] is None
    assert not (tmp_path / "tensorboard").exists()  # switched off in these settings


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    writer = MetricsWriter(tmp_path, config(tmp_path, tensorboard=True), 0)
    writer.write(row(1))
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_is_the_default_and_its_absence_is_said(tmp_path, monkeypatch, caplog):
    assert TrainConfig("m", "d", "o").tensorboard
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    writer = MetricsWriter(tmp_path, config(tmp_path, tensorboard=True), 0)
    writer.write(row(1))
    writer.close()
    assert "rftfast[train]" in caplog.text and [r["step"] for r in read_metrics(tmp_path)] == [1]


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_reporters(config(tmp_path))
    with pytest.raises(UserError, match="pip install wandb"):
        check_reporters(config(tmp_path, wandb="p"))


def test_wandb_gets_each_step_of_one_run(tmp_path, monkeypatch):
    """A stand-in for the package, which is not needed here."""
    opened, logged, ended = [], [], []

    def init(**settings):
        opened.append(settings)
        return types.SimpleNamespace(
            log=lambda values, step: logged.append((step, values)), finish=lambda: ended.append(1)
        )

    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for made in (0, 1):  # a run that goes on is the same one there
        writer = MetricsWriter(tmp_path, config(tmp_path, wandb="mine"), made)
        writer.write(row(made + 1, held_out=0.7 if made else None))
        writer.close()
    assert [step for step, _ in logged] == [1, 2] and ended == [1, 1]
    assert logged[0][1]["train/loss"] == 1.0 and "train/mfu" not in logged[0][1]
    assert "validation/loss" not in logged[0][1] and logged[1][1]["validation/loss"] == 0.7
    assert opened[0] == opened[1]
    assert (opened[0]["project"], opened[0]["resume"], opened[0]["config"]["lr"]) == ("mine", "allow", 1e-2)


def test_a_line_shows_what_people_watch():
    said = io.StringIO()
    bar = ProgressBar(Console(file=said, width=40), steps=3, made=0, tokens_left=300)
    with bar:
        bar.update(row(1, loss=1.5, mfu=0.42))
        bar.update(row(2))  # too soon for another line
        bar.update(row(3, loss=0.25, held_out=0.5))
    first, last = said.getvalue().splitlines()
    assert first == "1/3 loss 1.500, lr 1.0e-03, 50 tok/s, MFU 42 %, |g| 0.50, 0.0 GiB, ETA 0:00:04"
    assert last == "3/3 loss 0.250, validation 0.500, lr 1.0e-03, 50 tok/s, |g| 0.50, 0.0 GiB"


def test_a_bar_on_a_terminal():
    said = io.StringIO()
    bar = ProgressBar(Console(file=said, width=120, force_terminal=True), steps=3, made=1, tokens_left=200)
    with bar:
        for step in (2, 3):
            bar.update(row(step))
    assert "━" in said.getvalue() and "3/3 loss 1.000" in said.getvalue()


def test_the_curve_of_one_and_of_many_steps(tmp_path):
    pytest.importorskip("matplotlib")
    for count in (1, 30):
        rows = [{"step": i + 1, "epoch": 1 + i // 10, "loss": 3 / (i + 1), "lr": 1e-3} for i in range(count)]
        assert draw(rows, tmp_path / "loss.png", "nats")
        assert (tmp_path / "loss.png").stat().st_size > 5000


def test_no_curve_without_matplotlib(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not draw([], tmp_path / "loss.png", "nats")
    assert "rftfast[plots]" in caplog.text and not (tmp_path / "loss.png").exists()

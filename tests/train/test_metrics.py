"""metrics.jsonl after a resume, TensorBoard where it is installed, and the curve."""

import importlib.util

import pytest

from rftfast.errors import UserError
from rftfast.train.metrics import MetricsWriter, StepMetrics, draw, read_metrics
from tests.train.tiny_run import config


def row(step, loss=1.0):
    return StepMetrics(step, 1 + step // 4, loss, 1e-3, 0.5, 2.0, 4, 100, 60, 90, 50.0, None, 1 << 20)


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


def test_wandb_that_is_not_installed(tmp_path):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    with pytest.raises(UserError, match="pip install wandb"):
        MetricsWriter(tmp_path, config(tmp_path, wandb="p"), 0)


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

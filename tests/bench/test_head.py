"""The head's benchmark: what it counts, and that both ways compute the same."""

import json

import pytest
import torch

from bench import head
from bench.schema import Result


def test_both_ways_have_one_loss_and_gradient():
    made = head.Head(64, 40, 512, 32, "cpu")
    found = []
    for loss in (made.ours, made.plain):
        made.backward(loss)
        found.append((float(loss().detach()), made.hidden.grad.clone(), made.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    for ours, plain in zip(found[0][1:], found[1][1:], strict=True):
        assert (ours - plain).norm() < 0.02 * plain.norm()


def test_bytes_alive_are_counted():
    with head.Alive() as alive:
        a = torch.empty(1000, dtype=torch.float32)
        b = a.view(10, 100)  # no bytes of its own
        del a, b
        torch.empty(500, dtype=torch.float32)
    assert alive.peak == 4000


def test_plain_holds_the_logits_and_ours_does_not():
    made = head.Head(2048, 1024, 4096, 16, "meta")
    assert head.peak(made, made.plain) > 2048 * 4096 * (2 + 4)
    small = head.Head(8192, 4915, 49152, 64, "cpu" if torch.cuda.is_available() else "meta")
    assert head.peak(small, small.ours) < head.peak(small, small.plain) / 8


def test_command_from_arguments_to_file(tmp_path, capsys):
    out = tmp_path / "out.json"
    shape = ["--tokens", "256", "--vocabulary", "512", "--width", "16", "--repeat", "1", "--threads", "1"]
    assert head.main([*shape, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["benchmark"] == "head"
    result = Result.read(out)
    assert [row.engine for row in result.rows] == ["rftfast", "plain"]
    assert result.figures["peak memory, plain over ours"] > 0
    assert "MiB at most" in capsys.readouterr().out

"""Checkpoints: whole or not there, a snapshot of their moment, loaded to the bit, kept by number, refused when damaged."""

import dataclasses
import json
import threading
from pathlib import Path

import pytest
import torch

from rftfast.errors import UserError
from rftfast.train import checkpoint
from rftfast.train.batch import collate
from rftfast.train.checkpoint import Checkpointer, Position
from rftfast.train.job import prepare
from rftfast.train.optimizer import Optimizer
from rftfast.train.parallel import Accumulation, open_world
from tests.train.steps import sharded
from tests.train.tiny_run import config


class Run:
    """A model, an optimizer and a checkpointer that make steps."""

    def __init__(self, job, world, keep=2):
        self.job = job
        self.learner = sharded(job, world)
        self.optimizer = Optimizer(self.learner, job.config)
        self.rows = Accumulation(self.learner, world, job.config)
        self.checkpoints = Checkpointer(world_folder(job), world, self.learner, self.optimizer, keep)

    def step(self, number):
        for row in self.job.planned()[number].rows():
            self.rows.begin_row(last=True)
            self.learner(collate(row)).backward()
        self.optimizer.step(1e-2, 0.0, 100)

    def state(self):
        found = {name: p.full_tensor().clone() for name, p in self.learner.named_parameters()}
        for name, moments in self.optimizer.moments().items():
            found |= {f"{name} {kind}": tensor.full_tensor().clone() for kind, tensor in moments.items()}
        return found


def world_folder(job):
    return Path(job.config.out) / "checkpoints"


@pytest.fixture
def job(tmp_path):
    return prepare(config(tmp_path), "sft")


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_goes_on_to_the_bit(job):
    with open_world(job.config) as world:
        run = Run(job, world)
        assert run.checkpoints.load() is None and run.checkpoints.last is None
        run.step(0)
        position = Position(1, 0, 1, 281)
        run.checkpoints.save(position)
        held = run.state()
        run.step(1)  # while the checkpoint is being written
        ahead = run.state()
        run.checkpoints.wait()
        assert not same(held, ahead)
        other = Run(job, world)
        assert other.checkpoints.load() == position
        assert same(other.state(), held)
        other.step(1)
        assert same(other.state(), ahead)


def test_names_marker_and_how_many_are_kept(job):
    with open_world(job.config) as world:
        run = Run(job, world, keep=2)
        for steps in (1, 2, 3, 10):
            run.checkpoints.save(Position(steps))
        run.checkpoints.wait()
        folder = world_folder(job)
        assert sorted(path.name for path in folder.iterdir()) == ["step-00000003", "step-00000010"]
        assert run.checkpoints.last == folder / "step-00000010"
        marker = json.loads((folder / "step-00000010" / "checkpoint.json").read_text())
        assert marker["position"] == dataclasses.asdict(Position(10))
        assert set(marker["files"]) == {".metadata", "__0_0.distcp"}
        run.checkpoints.save(Position(10))  # there already: left as it is
        run.checkpoints.wait()
        assert json.loads((folder / "step-00000010" / "checkpoint.json").read_text()) == marker


def test_what_a_killed_process_left_is_not_taken_for_a_checkpoint(job):
    with open_world(job.config) as world:
        run = Run(job, world)
        run.checkpoints.save(Position(5))
        run.checkpoints.wait()
        folder = world_folder(job)
        half = folder / ".step-00000009"
        half.mkdir()
        (half / "__0_0.distcp").write_bytes(b"half of it")
        assert run.checkpoints.last == folder / "step-00000005"
        assert Run(job, world).checkpoints.load() == Position(5)
        assert not half.exists()


@pytest.mark.parametrize("damage", ["cut", "lost", "marker", "format", "inside"])
def test_damage_is_refused_with_the_folder(job, damage):
    with open_world(job.config) as world:
        run = Run(job, world)
        run.checkpoints.save(Position(5))
        run.checkpoints.wait()
        folder = world_folder(job) / "step-00000005"
        shard, marker = folder / "__0_0.distcp", folder / "checkpoint.json"
        if damage == "cut":
            shard.write_bytes(shard.read_bytes()[:-7])
        elif damage == "lost":
            shard.unlink()
        elif damage == "marker":
            marker.write_text("{")
        elif damage == "format":
            marker.write_text(marker.read_text().replace('"format": 1', '"format": 2'))
        else:
            shard.write_bytes(b"\0" * shard.stat().st_size)
        with pytest.raises(UserError, match="step-00000005") as caught:
            Run(job, world).checkpoints.load()
        assert "remove it to go on from the one before" in str(caught.value) and "\n" not in str(caught.value)


def test_a_disk_that_refuses_is_told_and_the_one_before_is_kept(job, monkeypatch):
    with open_world(job.config) as world:
        run = Run(job, world)
        run.checkpoints.save(Position(1))
        run.checkpoints.wait()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "write_atomic", full)
        run.checkpoints.save(Position(2))
        with pytest.raises(UserError, match="disk full"):
            run.checkpoints.wait()
        assert run.checkpoints.last.name == "step-00000001"
        monkeypatch.undo()
        run.checkpoints.check()  # told once
        place = world_folder(job) / ".step-00000003"
        place.write_text("in the way")
        run.checkpoints.save(Position(3))
        with pytest.raises(UserError, match=r"checkpoints.* MB are free there"):  # torch's writer hides a full disk
            run.checkpoints.wait()


def test_training_goes_on_while_it_is_written(job, monkeypatch):
    """The save returns before the files are there."""
    with open_world(job.config) as world:
        run = Run(job, world)
        gate = threading.Event()
        write = checkpoint.write_atomic

        def slow(*arguments):
            assert gate.wait(60)
            write(*arguments)

        monkeypatch.setattr(checkpoint, "write_atomic", slow)
        run.checkpoints.save(Position(1))
        run.step(0)
        assert run.checkpoints.last is None
        gate.set()
        run.checkpoints.wait()
        assert run.checkpoints.last is not None

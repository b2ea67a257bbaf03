"""Two of these are run by test_parallel.py: the same steps with several ways of splitting; the main process stores what came out.

Then a whole run, and the same run stopped by a signal that process 1 alone gets, and gone on with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rftfast.train.config import TrainConfig
from rftfast.train.job import prepare
from rftfast.train.parallel import World, open_world
from rftfast.train.stop import Stopped, StopSignals
from rftfast.train.trainer import train
from tests.train.steps import made_steps

WAYS: dict[str, dict[str, object]] = {
    "all": {},
    "node": {"shard": "node"},
    "each row": {"reduce_each_row": True},
    "once": {"gather": "step", "recompute": True},
    "tied": {"shard": "node"},
}


def main(root: Path) -> None:
    config = TrainConfig(**json.loads((root / "config.json").read_text()))
    for way, changes in WAYS.items():
        # Two nodes of one process for HSDP: the weights are whole in each.
        os.environ["LOCAL_WORLD_SIZE"] = "1" if changes.get("shard") == "node" else "2"
        next_port()
        changes = {**changes, "model": f"{config.model}-tied"} if way == "tied" else changes
        job = prepare(dataclasses.replace(config, **changes), "sft")  # type: ignore[arg-type]
        with open_world(job.config) as world:
            losses, weights = made_steps(job, world)
            check_world(world)
            if world.main:
                torch.save((losses, weights, tuple(world.mesh.shape)), root / f"{way}.pt")
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    next_port()
    # Measured beside the training, which must not notice: the other run has no validation.
    held_out = {"validation": str(root / "q.jsonl"), "validate_every": 2, "out": str(root / "whole")}
    train(dataclasses.replace(config, **held_out), "sft")  # type: ignore[arg-type]
    stop_and_go_on(dataclasses.replace(config, out=str(root / "stopped")))


def next_port() -> None:
    """Each process group needs a port of its own."""
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def stop_and_go_on(config: TrainConfig) -> None:
    asked, calls = StopSignals.asked, 0

    def told(self: StopSignals) -> int:
        nonlocal calls
        calls += 1
        if calls == 10 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(self)

    StopSignals.asked = told  # type: ignore[method-assign]
    next_port()
    with pytest.raises(Stopped, match="SIGTERM: stopped after step"):
        train(config, "sft")
    StopSignals.asked = asked  # type: ignore[method-assign]
    next_port()
    train(config, "sft")


def check_world(world: World) -> None:
    assert world.size == dist.get_world_size() == 2
    assert world.sum(world.rank + 1, 0.5) == [3.0, 1.0]
    assert world.gather(world.rank) == [0, 1]
    assert world.agree(world.rank) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""FSDP2: however weights are split and gradients summed, the same steps are made, with no needless collectives."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor

from rftfast.errors import UserError
from rftfast.train import parallel
from rftfast.train.batch import collate
from rftfast.train.job import prepare
from rftfast.train.packing import rows_for_rank
from rftfast.train.parallel import Accumulation, on_main, open_world
from rftfast.train.trainer import train
from tests.train.steps import made_steps, sharded
from tests.train.tiny_run import config, metrics, options
from tests.train.two_processes import WAYS

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def run_two(script: str, *arguments: str) -> None:
    """What torchrun would start, but each process may form several groups one after the other."""
    common = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
    }
    common |= {"MASTER_PORT": str(free_port())}
    command = [sys.executable, str(ROOT / script), *arguments]
    processes = [
        subprocess.Popen(command, env=common | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


def tie_head(model: Path, tied: Path) -> None:
    shutil.copytree(model, tied)
    tensors = load_file(tied / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tied / "model.safetensors", {"format": "pt"})
    file = tied / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))


def test_two_processes_are_one(tmp_path):
    # 5 examples a step: one process has 4 rows, each of two processes 2; the last step's 2 examples are a row each.
    settings = options(tmp_path, batch_size=5, row_tokens=120, max_length=100)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tie_head(tmp_path / "base", tmp_path / "base-tied")
    run_two("tests/train/two_processes.py", str(tmp_path))
    expected = []
    for name in ("base", "base-tied"):
        job = prepare(config(tmp_path, **settings | {"model": str(tmp_path / name)}), "sft")
        with open_world(job.config) as world:
            expected.append(made_steps(job, world))
    assert expected[0][0][-1] < expected[0][0][0] - 0.5
    assert len(expected[1][1]) == len(expected[0][1]) - 1
    for way, changes in WAYS.items():
        losses, weights = expected[way == "tied"]
        found_losses, found, mesh = torch.load(tmp_path / f"{way}.pt")
        assert mesh == ((2, 1) if changes.get("shard") == "node" else (2,))
        assert found_losses == pytest.approx(losses, rel=1e-5), way
        assert found.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=2e-5, msg=f"{way}: {name}")
    runs = [tmp_path / name for name in ("stopped", "whole")]
    curves = [[(row["step"], row["loss"], row["grad_norm"]) for row in metrics(run)] for run in runs]
    assert len(curves[0]) == 9 and curves[0] == curves[1]  # stopped and gone on with on two processes: to the bit
    held_out = {"validation": str(tmp_path / "q.jsonl"), "validate_every": 2, "out": str(tmp_path / "alone")}
    train(config(tmp_path, **settings | held_out), "sft")
    one, two = ([row["validation_loss"] for row in metrics(tmp_path / name)] for name in ("alone", "whole"))
    assert [loss is None for loss in one] == [loss is None for loss in two] == [True, False] * 4 + [False]
    assert two[1::2] == pytest.approx(one[1::2], rel=1e-4)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_ways_of_one_process_are_the_same(tmp_path):
    plain = config(tmp_path, row_tokens=120, max_length=100)
    found = []
    for changes in ({}, {"gather": "layer"}, {"reduce_each_row": True}, {"recompute": True}):
        job = prepare(dataclasses.replace(plain, **changes), "sft")
        with open_world(job.config) as world:
            found.append(made_steps(job, world))
    for losses, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-6)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("gather", ["layer", "step"])
def test_gradients_are_reduced_and_weights_collected_no_more_than_asked(tmp_path, each_row, gather):
    job = prepare(config(tmp_path, row_tokens=120, max_length=100, reduce_each_row=each_row, gather=gather), "sft")
    with open_world(job.config) as world:
        learner = sharded(job, world)
        accumulation = Accumulation(learner, world, job.config)
        rows = rows_for_rank(job.planned()[0], 0, 1)
        assert len(rows) >= 3
        matrix = learner.layers()[0].mlp.up_proj
        for i, row in enumerate(rows):
            last = i == len(rows) - 1
            accumulation.begin_row(last=last)
            learner(collate(row)).backward()
            assert isinstance(matrix.weight, DTensor) == (last or gather == "layer")
            if last or (each_row and gather == "layer"):
                assert all(isinstance(p.grad, DTensor) and p.grad.dtype == torch.float32 for p in learner.parameters())
            elif not each_row:
                assert not any(isinstance(p.grad, DTensor) for p in learner.parameters())


def test_weights_of_a_step_given_up_are_those_before_it(tmp_path):
    job = prepare(config(tmp_path, row_tokens=120, max_length=100), "sft")
    with open_world(job.config) as world:
        learner = sharded(job, world)
        before = {name: p.full_tensor().clone() for name, p in learner.named_parameters()}
        accumulation = Accumulation(learner, world, job.config)
        accumulation.begin_row(last=False)
        learner(collate(rows_for_rank(job.planned()[0], 0, 1)[0])).backward()
        assert not any(isinstance(p, DTensor) for p in learner.parameters())
        accumulation.reshard()
        assert all(torch.equal(p.full_tensor(), before[name]) for name, p in learner.named_parameters())


def test_bf16_computes_on_a_float32_master(tmp_path):
    job = prepare(config(tmp_path, dtype="bf16"), "sft")
    with open_world(job.config) as world:
        learner = sharded(job, world)
        seen = []
        learner.layers()[0].mlp.register_forward_hook(lambda m, x, y: seen.extend((m.up_proj.weight.dtype, y.dtype)))
        accumulation = Accumulation(learner, world, job.config)
        accumulation.begin_row(last=True)
        loss = learner(collate(rows_for_rank(job.planned()[0], 0, 1)[0]))
        loss.backward()
        assert seen == [torch.bfloat16, torch.bfloat16]
        assert loss.dtype == torch.float32
        assert (
            {p.dtype for p in learner.parameters()} == {p.grad.dtype for p in learner.parameters()} == {torch.float32}
        )


def test_offloaded_weights_make_the_same_steps(tmp_path, monkeypatch):
    """FSDP's offload policy on the CPU, where there is no memory to pin: the path that weights and gradients take."""
    plain = config(tmp_path, row_tokens=120, max_length=100)
    made = []

    def policy():
        made.append(CPUOffloadPolicy(pin_memory=False))
        return made[-1]

    monkeypatch.setattr(parallel, "choose_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(parallel, "CPUOffloadPolicy", policy)
    found = []
    for offload in (False, True):
        job = prepare(dataclasses.replace(plain, cpu_offload=offload), "sft")
        with open_world(job.config) as world:
            found.append(made_steps(job, world))
        assert bool(made) == offload
    assert found[1][0] == found[0][0]
    assert all(torch.equal(weight, found[0][1][name]) for name, weight in found[1][1].items())


def test_nodes_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="3 processes, 2 on this node"):
        parallel._mesh(config(tmp_path, shard="node"), torch.device("cpu"), 3, 2)


def test_an_error_of_the_main_process_is_everyones(tmp_path):
    def fail() -> None:
        raise UserError("no room")

    with open_world(config(tmp_path)) as world, pytest.raises(UserError, match="no room"):
        on_main(world, fail)


def test_devices_that_are_not_there(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="--device cuda"), open_world(config(tmp_path, device="cuda")):
        pass
    with pytest.raises(UserError, match="--cpu-offload"), open_world(config(tmp_path, cpu_offload=True)):
        pass
    threads = torch.get_num_threads()
    with open_world(config(tmp_path, threads=threads + 1)):
        assert torch.get_num_threads() == threads + 1
    assert torch.get_num_threads() == threads


def test_where_a_system_cannot_tell_its_cores_apart_all_of_them_work(tmp_path, monkeypatch):
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    with open_world(config(tmp_path, threads=None)):
        assert torch.get_num_threads() == 3

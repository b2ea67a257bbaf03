"""Processes and devices: the process group, the mesh, and FSDP2 over a model (Zhao et al. 2023, arXiv 2304.11277).

One process is a world of its own and needs no torchrun: it runs the very same code on a mesh of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from rftfast.cores import usable_cores
from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.heap import keep_freed_memory
from rftfast.train.launcher import end_with_launcher

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


@dataclass(frozen=True, eq=False)
class World:
    """This process among all of them.

    Attributes:
        mesh: one dimension, or two for HSDP: copies, then shards.
        control: a gloo group of all processes for small facts (loss, signals), never used by the checkpoint's threads.
        storage: a gloo group that only checkpoints use, as their threads run beside the training.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    mesh: DeviceMesh
    control: Any
    storage: Any

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value`` (small, picklable), by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def agree(self, value: Any) -> Any:
        """The main process's ``value``, for all."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]


@contextlib.contextmanager
def open_world(config: TrainConfig) -> Iterator[World]:
    """The process group of torchrun, or of this process alone; taken down at the end.

    Raises:
        UserError: a device that is not there, HSDP over nodes of different sizes, CPU offload without a GPU.
    """
    device = choose_device(config)
    launched = all(name in os.environ for name in _TORCHRUN)
    size, local_size = (int(os.environ[n]) if launched else 1 for n in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or max(1, usable_cores() // local_size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if launched:
        end_with_launcher()
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield World(
            dist.get_rank(),
            size,
            local_size,
            device,
            _mesh(config, device, size, local_size),
            dist.new_group(backend="gloo"),
            dist.new_group(backend="gloo"),
        )
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def choose_device(config: TrainConfig) -> torch.device:
    """The device of this process. UserError for a GPU that is not there, or offload from a CPU."""
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    if config.device == "cpu" or not there:
        if config.cpu_offload:
            raise UserError("--cpu-offload keeps weights out of a GPU's memory, and there is none; leave it out")
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _mesh(config: TrainConfig, device: torch.device, size: int, local_size: int) -> DeviceMesh:
    if config.shard == "all":
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    if size % local_size:
        raise UserError(f"--shard node needs nodes of one size: {size} processes, {local_size} on this node")
    return init_device_mesh(device.type, (size // local_size, local_size), mesh_dim_names=("copy", "shard"))


def shard(root: nn.Module, layers: list[nn.Module], world: World, config: TrainConfig, dtype: torch.dtype) -> None:
    """Split ``root``'s weights over the mesh, each of ``layers`` on its own, the rest with the root.

    The main process's weights are everyone's: the others may hold theirs on the meta device. A layer at a time goes to the
    device and is split, so a device never holds more than its share and one layer. Computation is in ``dtype``; master
    weights and the sum of gradients over processes are float32.
    """
    gathers_once = config.gather == "step" or (config.gather == "auto" and world.size == 1)
    policy: dict[str, Any] = {
        "mesh": world.mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy(),
        "reshard_after_forward": not gathers_once,
    }
    placed: dict[int, torch.Tensor] = {}
    for layer in layers:
        _place(layer, world, placed)
        fully_shard(layer, **policy)
    _place(root, world, placed)
    # The head's weights are wanted as soon as the way back begins.
    fully_shard(root, **policy | {"reshard_after_forward": False})
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the global count of tokens already, so gradients are summed.
            module.set_force_sum_reduction_for_comms(True)
            if world.size > 1:  # one process divides by nothing, and a factor of 1 would cost it a pass
                module.set_gradient_divide_factor(1.0)
    assert all(p.dtype == torch.float32 for p in root.parameters())


def _place(module: nn.Module, world: World, placed: dict[int, torch.Tensor]) -> None:
    """Parameters (float32) and buffers of ``module`` onto the device, with the main process's values; shared ones stay so."""
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, old in table.items():
                if old is None or isinstance(old, DTensor):
                    continue
                if id(old) not in placed:
                    placed[id(old)] = _on_device(old, world)
                table[name] = placed[id(old)]  # type: ignore[assignment]


def _on_device(old: torch.Tensor, world: World) -> torch.Tensor:
    learned = isinstance(old, nn.Parameter)
    dtype = torch.float32 if learned else old.dtype
    with torch.no_grad():
        if old.is_meta:
            new = torch.empty(old.shape, dtype=dtype, device=world.device)
        else:
            new = old.detach().to(world.device, dtype).contiguous()
        if world.size > 1:
            dist.broadcast(new, src=0)
    return nn.Parameter(new, requires_grad=old.requires_grad) if learned else new


class Accumulation:
    """Gradients of several rows into one step, with no more collectives than it takes.

    Without ``reduce_each_row`` gradients are summed over processes after a step's last row only. With ``gather`` per step,
    weights are collected for the first row and stay until the last.
    """

    def __init__(self, root: nn.Module, world: World, config: TrainConfig) -> None:
        assert isinstance(root, FSDPModule)
        self._root = root
        self._each_row = config.reduce_each_row
        self._keeps = config.gather == "step" or (config.gather == "auto" and world.size == 1)

    def begin_row(self, last: bool) -> None:
        """Call before each row's forward."""
        self._root.set_is_last_backward(last)
        self._root.set_requires_gradient_sync(last or self._each_row)
        self._root.set_requires_all_reduce(last)  # HSDP: between copies once a step in any case
        if self._keeps:
            self._root.set_reshard_after_backward(last)

    def reshard(self) -> None:
        """Split the weights again that a forward pass without a backward one, or a step that is given up, has left collected.

        So they can be saved as the last step left them. Gradients of rows whose step is given up stay behind: no step can follow
        those.
        """
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def on_main(world: World, work: Callable[[], None]) -> None:
    """Run ``work`` in the main process; a UserError of it is raised in all of them."""
    failed: str | None = None
    if world.main:
        try:
            work()
        except UserError as error:
            failed = str(error)
    failed = world.agree(failed)
    if failed is not None:
        raise UserError(failed)

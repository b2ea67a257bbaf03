"""``--dry-run``: what would be trained, in how many steps, and what memory each device would need."""

from __future__ import annotations

import dataclasses
import os

import torch
from rich.console import Console

from rftfast.train import segment_attention
from rftfast.train.batch import collate
from rftfast.train.config import TrainConfig
from rftfast.train.job import Job, prepare
from rftfast.train.loss import hidden_states, split_head
from rftfast.train.model import Learner, build, compute_dtype
from rftfast.train.packing import Row
from rftfast.train.parallel import choose_device


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each process. All but ``staging`` are the device's, and with CPU offload ``states`` are the host's, too."""

    states: int
    """Master weights, gradients and both moments in float32: this process's share."""
    weights: int
    """Weights collected for the computation, in its dtype."""
    gradients: int
    """Whole gradients in float32, between the rows of a step or on their way to being summed."""
    activations: int
    """What the longest row keeps for the way back."""
    logits: int
    """The head's logits of one chunk, and the gradient of its weight."""
    staging: int
    """The copy on the host that a checkpoint is written from."""

    def lines(self, offload: bool) -> dict[str, int]:
        device = self.weights + self.gradients + self.activations + self.logits + (0 if offload else self.states)
        return {
            "weights, gradients, optimizer (float32)" + " on the host" * offload: self.states,
            "collected weights": self.weights,
            "whole gradients": self.gradients,
            "activations of the longest row": self.activations,
            "head": self.logits,
            "each device, at least": device,
            "host, while a checkpoint is written": self.staging,
        }


def dry_run(config: TrainConfig, method: str) -> None:
    """Print what the same command without ``--dry-run`` would do. Loads no weights and writes nothing."""
    show_job(prepare(config, method))


def show_job(job: Job) -> None:
    """:func:`dry_run` for a job that is prepared."""
    config = job.config
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if os.environ.get("RANK", "0") != "0":
        return
    console = Console(highlight=False)
    for field in dataclasses.fields(config):
        console.print(f"  {field.name:<17} {getattr(config, field.name)}", soft_wrap=True, markup=False)
    device = choose_device(config)
    dtype = compute_dtype(config, device)
    attention = segment_attention.WORDS[segment_attention.backend(device.type, dtype)]
    learner = build(job.base, config, weights=False)
    rows = [row for step in job.planned() for row in step.rows(size)]
    filled = sum(row.tokens for row in rows)
    longest = max(row.tokens for row in rows)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(f"prompt     {job.template.name if job.template else 'not known'}; end token {job.base.eos_id}")
    say(f"data       {job.size}: {sum(len(d) for d in job.documents):,} tokens")
    if job.validation:
        say(f"validation {job.validation_size}: {sum(len(d) for d in job.validation):,} tokens")
    say(
        f"steps      {job.steps:,} of {job.step_size}, {len(rows) / job.steps:.1f} rows each on {size} processes; rows of {filled / len(rows):,.0f}"
        f" tokens ({longest:,} at most)"
    )
    saved = (
        f" ({100 * (1 - filled / job.useful_tokens):.0f} % saved by shared prompts)"
        if filled < job.useful_tokens
        else ""
    )
    say(f"tokens     {job.useful_tokens:,} in all, {filled:,} positions computed{saved}")
    weights = sum(p.numel() for p in learner.parameters())
    say(f"model      {weights:,} weights, computation in {str(dtype).removeprefix('torch.')}, attention by {attention}")
    shards = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if config.shard == "node" else size
    estimate = estimate_memory(job, learner, dtype, size, shards)
    for what, amount in estimate.lines(config.cpu_offload).items():
        say(f"memory     {amount / 2**30:8.2f} GiB  {what}")
    for note in job.notes:
        say(f"note       {note}")
    say("dry run: nothing was trained or written")


def estimate_memory(job: Job, learner: Learner, dtype: torch.dtype, size: int, shards: int) -> MemoryEstimate:
    """For one of ``size`` processes with weights split over ``shards``; ``learner`` is on the meta device.

    Activations are not reckoned by formula: the longest row goes through the model on the meta device, where nothing is
    computed, and what autograd would keep is counted.
    """
    config = job.config
    layers = learner.layers()
    total = sum(p.numel() for p in learner.parameters())
    layer = max(sum(p.numel() for p in module.parameters()) for module in layers)
    rest = total - sum(p.numel() for module in layers for p in module.parameters())
    once = config.gather == "step" or (config.gather == "auto" and size == 1)
    collected = total if once else min(total, rest + 2 * layer)  # the next layer's come while one runs
    several = any(len(step.rows(size)) > size for step in job.planned()[:50])
    whole = total if several and not config.reduce_each_row else min(total, max(layer, rest))
    longest = max((row for step in job.planned()[:50] for row in step.rows(size)), key=lambda row: row.tokens)
    head: torch.Tensor = split_head(learner.model).linear.get_parameter("weight")
    return MemoryEstimate(
        states=16 * total // shards,
        weights=dtype.itemsize * collected,
        gradients=4 * whole,
        activations=_kept(learner.to(dtype), longest),
        logits=(128 << 20) + 6 * head.numel(),
        staging=12 * total // shards,
    )


def _kept(learner: Learner, row: Row) -> int:
    """Bytes that autograd keeps of ``row`` after the forward pass of the layers."""
    batch = collate(row)
    batch = dataclasses.replace(batch, input_ids=batch.input_ids.to("meta"), position_ids=batch.position_ids.to("meta"))
    weights = {p.untyped_storage()._cdata for p in learner.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_meta and storage._cdata not in weights:
            held[storage._cdata] = storage  # held, so that its number is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = hidden_states(split_head(learner.model), batch)
    assert out.is_meta
    return sum(storage.nbytes() for storage in held.values())

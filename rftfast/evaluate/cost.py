"""What training and sampling cost: operations, and the GPU-hours below which they cannot be done.

Counted is what the result needs, nothing that an implementation adds (padding, recomputed activations, samples thrown away).
GPU-hours are a bound: training at the GPU's peak, sampling by the roofline. Real work takes longer; divide by a share
that you have measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from rftfast.errors import UserError
from rftfast.evaluate.gpus import Gpu
from rftfast.evaluate.model_size import ModelSize

PREFILL_ROWS = 512
"""Prompt tokens computed in one step (``ops.linear.MAX_ROWS``)."""
TRAINING = 3
"""Backward costs twice the forward: with respect to inputs and to weights."""


@dataclass(frozen=True)
class Stage:
    """One thing that is done once, all GPUs together."""

    name: str
    tokens: float
    """Tokens that go through the model."""
    flops: float
    seconds: float
    """At least, of one GPU."""
    bound: str
    """compute or memory: which one the seconds come from (the larger part of them)."""

    @property
    def gpu_hours(self) -> float:
        return self.seconds / 3600

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            "flops": self.flops,
            "gpu_hours_at_least": self.gpu_hours,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Rows:
    """Training rows: how many, and how long on average, in tokens."""

    count: float
    prompt: float
    completion: float


@dataclass(frozen=True)
class Paths:
    """Sampling: ``count`` questions, ``k`` paths each. Lengths are means, in tokens."""

    count: float
    k: float
    header: float
    """What all prompts begin with: the worked examples."""
    question: float
    """The rest of the prompt."""
    path: float
    """Drawn, the end included."""

    @property
    def prompt(self) -> float:
        return self.header + self.question


def pretraining(size: ModelSize, tokens: float, context: float, gpu: Gpu) -> Stage:
    """On texts of ``context`` tokens, each token a target."""
    flops = TRAINING * tokens / context * size.forward_flops(context, logits=context)
    return Stage("pre-training", tokens, flops, flops / gpu.flops, "compute")


def training(name: str, size: ModelSize, rows: Rows, epochs: float, gpu: Gpu) -> Stage:
    """On prompts and completions; logits are needed for the completions alone."""
    length = rows.prompt + rows.completion
    flops = TRAINING * epochs * rows.count * size.forward_flops(length, logits=rows.completion)
    return Stage(name, epochs * rows.count * length, flops, flops / gpu.flops, "compute")


def sampling(name: str, size: ModelSize, paths: Paths, batch: int, gpu: Gpu, *, shared: bool) -> Stage:
    """Prompts, then paths drawn ``batch`` at a time, each step as long as its arithmetic or its reading takes.

    ``shared``: a prompt is computed once for its k paths and the header once for all, and what the rows of a step have in
    common is read once; else every path has a prompt of its own. A step reads all weights; of its rows' keys and values
    half a path's length on average, as paths are at all stages at any time. Activations stay on the chip. Raises UserError
    for a batch below 1.
    """
    if batch < 1:
        raise UserError(f"batch is {batch}; draw at least 1 path at a time")
    p = paths
    drawn = p.count * p.k
    batch = min(batch, ceil(drawn))
    if shared:
        prompt_tokens = p.header + p.count * p.question
        prompt_flops = size.forward_flops(p.header) + p.count * size.forward_flops(p.question, p.header)
        common = p.header + max(1.0, batch / p.k) * p.question
    else:
        prompt_tokens = drawn * p.prompt
        prompt_flops = drawn * size.forward_flops(p.prompt)
        common = batch * p.prompt
    prompts = _Time.of(prompt_flops, ceil(prompt_tokens / PREFILL_ROWS) * size.weight_bytes, gpu)
    path_flops = drawn * size.forward_flops(p.path, p.prompt, logits=p.path)
    steps = drawn * p.path / batch
    kv = common + batch * p.path / 2
    steps_time = _Time.of(path_flops, steps * (size.weight_bytes + kv * size.kv_bytes), gpu)
    bound = max(prompts, steps_time, key=lambda t: t.seconds).bound
    return Stage(
        name, prompt_tokens + drawn * p.path, prompt_flops + path_flops, prompts.seconds + steps_time.seconds, bound
    )


def gpus_needed(size: ModelSize, paths: Paths, batch: int, gpu: Gpu, *, shared: bool) -> int:
    """How many GPUs hold the weights (bf16) and the keys and values of ``batch`` paths; one's worth of work all the same."""
    common = paths.header + max(1.0, batch / paths.k) * paths.question if shared else batch * paths.prompt
    held = 2 * size.parameters + (common + batch * paths.path) * size.kv_bytes
    return ceil(held / gpu.memory)


@dataclass(frozen=True)
class _Time:
    seconds: float
    bound: str

    @classmethod
    def of(cls, flops: float, bytes_read: float, gpu: Gpu) -> _Time:
        compute, memory = flops / gpu.flops, bytes_read / gpu.bandwidth
        return cls(max(compute, memory), "compute" if compute >= memory else "memory")

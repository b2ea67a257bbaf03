"""What a training run is asked for: one frozen dataclass. The text under each field is its ``--help``."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rftfast.errors import UserError

Schedule = Literal["cosine", "linear", "constant"]
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "bf16", "float32"]
Sharding = Literal["all", "node"]
Gather = Literal["auto", "layer", "step"]


@dataclass(frozen=True)
class TrainConfig:
    """The defaults are those of Yuan et al. 2023 (arXiv 2308.01825, appendix A.1).

    Raises:
        UserError: a value outside its range, named by its option.
    """

    model: str
    """Base model: folder, GGUF file, named model (see 'rftfast models') or Hugging Face name."""
    data: str
    """Run directory, its rft.jsonl, or a JSONL, JSON or Parquet file with prompt/completion, messages or
    question/answer columns."""
    out: str
    """Folder for checkpoints, metrics and the trained model; an unfinished one goes on."""
    prompt: str | None = None
    """Template (gsm8k, alpaca, chat, plain or a file) that questions are put in, and that is stored with the model.
    Default: the one the run directory was sampled with; for question files the base model's own, else gsm8k."""
    limit: int | None = None
    """Only the first examples of the data."""
    drop_long: bool = False
    """Leave out examples longer than --max-length instead of refusing them."""
    max_length: int = 512
    """Most tokens of an example, prompt and completion."""

    epochs: int = 3
    """Times every example is seen."""
    max_steps: int | None = None
    """End after this many steps; the learning rate falls to its end there."""
    batch_size: int = 128
    """Examples a step, over all processes and rows."""
    share_prompts: int = 1
    """Bring up to this many examples of a question into one step and compute their prompt once. 1 is off."""
    lr: float = 2e-5
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """How the learning rate falls to 0 after warm-up: cosine, linear or constant (not at all)."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from 0 to its peak."""
    weight_decay: float = 0.0
    """AdamW's decay, of matrices only (not of norms and biases)."""
    beta1: float = 0.9
    """AdamW: decay of the gradient's mean."""
    beta2: float = 0.999
    """AdamW: decay of the gradient's square."""
    eps: float = 1e-8
    """AdamW: added to the denominator."""
    clip: float = 1.0
    """Largest norm of the gradient; it is scaled down to that. 0 is off."""
    seed: int = 0
    """Of the order of the examples (and of dropout, where the model has any)."""

    row_tokens: int = 4096
    """Tokens of a packed row: what one forward and backward pass works on. Bounds memory; changes no batch."""
    device: Device = "auto"
    """auto (cuda where there is one), cpu or cuda."""
    dtype: DType = "auto"
    """Of the computation: bf16, float32, or auto (bf16 on GPUs and where the CPU multiplies it natively). Master
    weights, gradients' sum and optimizer are float32."""
    threads: int | None = None
    """CPU threads. Default: all cores, divided among a machine's processes."""
    shard: Sharding = "all"
    """Split weights over all processes, or within each node and copy them across nodes (HSDP)."""
    gather: Gather = "auto"
    """Collect a layer's weights whenever it runs (layer: least memory) or once a step (step). auto: step for one process."""
    reduce_each_row: bool = False
    """Sum gradients over processes after every row, not once a step: less memory, more traffic."""
    cpu_offload: bool = False
    """Keep master weights and optimizer in the host's memory (GPUs only)."""
    recompute: bool = False
    """Activation checkpointing: keep only the input of each layer and compute the rest again on the way back."""
    compile: bool = False
    """torch.compile each layer."""

    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept; older ones are removed."""
    export_dtype: DType = "auto"
    """Of the exported weights; auto is that of the base model's files."""
    tensorboard: bool = True
    """Write no TensorBoard files. By default they are written, if tensorboard is installed."""
    wandb: str | None = None
    """Also report to this Weights & Biases project."""
    validation: str | None = None
    """Examples that are not trained on, in any form that --data takes: their loss is measured while the model learns."""
    validate_every: int | None = None
    """Steps between validations. Default: at the end of each epoch. The last step is always followed by one."""
    dry_run: bool = False
    """Print the resolved configuration, steps, tokens and an estimate of the memory of each device only."""

    def __post_init__(self) -> None:
        # A shell leaves --out=~/x alone, and a study file's ~/x is seen by no shell at all.
        for name in _PATHS:
            if isinstance(value := getattr(self, name, None), str):
                object.__setattr__(self, name, os.path.expanduser(value))
        for name in (
            "epochs",
            "batch_size",
            "share_prompts",
            "checkpoint_every",
            "keep",
            "max_steps",
            "limit",
            "threads",
            "validate_every",
        ):
            _check(self, name, lambda v: v is None or v >= 1, "must be 1 or more")
        for name in ("max_length", "row_tokens"):
            _check(self, name, lambda v: v >= 2, "must be 2 or more")
        _check(self, "seed", lambda v: 0 <= v < 2**63, "must be from 0 to 2^63 - 1")
        _check(self, "lr", lambda v: 0 < v < 1, "must lie between 0 and 1")
        _check(self, "warmup", lambda v: 0 <= v < 1, "is a share of the steps: from 0 to below 1")
        _check(self, "eps", lambda v: 0 < v < math.inf, "must be above 0")
        for name in ("weight_decay", "clip"):
            _check(self, name, lambda v: 0 <= v < math.inf, "must be 0 or more")
        for name in ("beta1", "beta2"):
            _check(self, name, lambda v: 0 <= v < 1, "must be from 0 to below 1")
        if self.row_tokens < self.max_length:
            raise UserError(
                f"--row-tokens {self.row_tokens} cannot hold an example of --max-length {self.max_length} tokens; raise the"
                " one or lower the other"
            )
        if self.validate_every is not None and self.validation is None:
            raise UserError(
                "--validate-every says when, and nothing is there to measure; name a file with --validation"
            )
        if not self.out:
            raise UserError("--out is empty; name a folder")

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is learned; a run goes on only with the same."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


@dataclass(frozen=True)
class RftConfig(TrainConfig):
    """The trainer's options and the one of its own that rejection-sampling fine-tuning has."""

    step_advantages: bool = False
    """Learn from right and wrong responses alike, but only the steps that raised the chance of the right answer (advantage
    above 0). The data is then a directory of rollouts (see 'rftfast rollout'), its run, or a file of its steps.jsonl's rows."""


_PATHS = ("model", "data", "out", "prompt", "validation", "reference")
# What may differ when a run goes on: where it runs, how it is watched, and names of what is compared by its content.
_CONTENT = ("model", "data", "prompt", "limit", "drop_long")
_PLACE = ("device", "dtype", "threads", "shard", "gather", "reduce_each_row", "cpu_offload", "recompute", "compile")
_WATCH = (
    "out",
    "checkpoint_every",
    "keep",
    "export_dtype",
    "tensorboard",
    "wandb",
    "dry_run",
    "validation",
    "validate_every",
)
_FREE = frozenset((*_CONTENT, *_PLACE, *_WATCH, "row_tokens"))


def _check(config: TrainConfig, name: str, good: Any, wanted: str) -> None:
    value = getattr(config, name)
    if not good(value):
        raise UserError(f"--{name.replace('_', '-')} is {value}; it {wanted}")

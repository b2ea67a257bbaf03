"""The cost of a whole round of rejection-sampling fine-tuning: what ``rftfast cost`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.prompts import load_template
from rftfast.errors import UserError
from rftfast.evaluate.cost import Stage, gpus_needed, pretraining, sampling, training
from rftfast.evaluate.gpus import Gpu, find_gpu
from rftfast.evaluate.model_size import ModelSize
from rftfast.evaluate.workload import GSM8K, Workload, from_questions, from_run
from rftfast.models.config import ModelConfig
from rftfast.models.resolve import resolve
from rftfast.models.shapes import PREFIX, SHAPES, shape_config
from rftfast.models.tokenizer import Tokenizer

# Tokens of pre-training and how many of them attend to one another, from the models' papers and cards.
PRETRAINING = {
    "llama-7b": (1.0e12, 2048),
    "llama-13b": (1.0e12, 2048),
    "llama-33b": (1.4e12, 2048),
    "llama-65b": (1.4e12, 2048),
    "llama-2-7b": (2e12, 4096),
    "llama-2-13b": (2e12, 4096),
    "llama-2-70b": (2e12, 4096),
    "llama-3.2-1b": (9e12, 8192),
    "qwen2.5-1.5b": (18e12, 4096),
    "qwen2.5-7b": (18e12, 4096),
    "smollm2-135m": (2e12, 2048),
}
_CONTEXT = 2048  # of models that are not in the table


@dataclass(frozen=True)
class Estimate:
    """``gpus_alone`` and ``gpus_shared``: how many GPUs hold the weights and the batch's keys and values."""

    model: str
    size: ModelSize
    workload: Workload
    source: str
    """Where the workload is from."""
    gpu: Gpu
    batch: int
    gpus_alone: int
    gpus_shared: int
    stages: tuple[Stage, ...]

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "parameters": self.size.parameters,
            "parameters_without_embeddings": self.size.blocks,
            "workload": asdict(self.workload),
            "source": self.source,
            "gpu": asdict(self.gpu),
            "batch": self.batch,
            "gpus_needed": {"prompts_alone": self.gpus_alone, "prompts_shared": self.gpus_shared},
            "stages": [stage.report() for stage in self.stages],
        }


def estimate(
    model: str,
    *,
    gpu: str = "A100-80GB",
    batch: int = 256,
    epochs: float = 3,
    pretrain_tokens: float | None = None,
    questions: str | None = None,
    run: str | Path | None = None,
    tokenizer: str | None = None,
    prompt: str = "gsm8k",
    shots: int | None = None,
    given: Mapping[str, float] | None = None,
) -> Estimate:
    """Costs of ``model`` on one kind of GPU.

    The workload is measured from ``run`` or else ``questions``, or else GSM8K's as the paper gives it; ``given`` replaces
    fields of it. Raises UserError for anything that cannot be found or measured.
    """
    device = find_gpu(gpu)
    if epochs <= 0:
        raise UserError(f"epochs is {epochs}; use a positive number")
    shape = model.removeprefix(PREFIX) if model.startswith(PREFIX) or model in SHAPES else ""
    folder = resolve(model) if not shape else None
    config = shape_config(shape) if folder is None else ModelConfig.from_folder(folder)
    size = ModelSize.of(config)
    if run is not None and questions is not None:
        raise UserError("give --run or --questions, not both: each measures the same things")
    workload, source = GSM8K, "GSM8K, by the paper"
    if run is not None:
        workload, source = from_run(run, _tokenizer(folder, tokenizer, model)), str(run)
    elif questions is not None:
        measuring = _tokenizer(folder, tokenizer, model)
        workload, source = from_questions(questions, measuring, load_template(prompt), shots), questions
    workload = replace(workload, **(given or {}))
    stages = []
    published, context = PRETRAINING.get(shape, (0.0, min(_CONTEXT, config.max_positions)))
    if pretrain_tokens is not None and pretrain_tokens <= 0:
        raise UserError(f"pretrain-tokens is {pretrain_tokens}; use a positive number")
    if tokens := pretrain_tokens or published:
        stages.append(pretraining(size, tokens, context, device))
    paths = workload.paths()
    stages += [
        training(f"SFT, {epochs:g} epochs", size, workload.sft, epochs, device),
        sampling("sampling, prompts alone", size, paths, batch, device, shared=False),
        sampling("sampling, prompts shared", size, paths, batch, device, shared=True),
    ]
    if workload.saved is not None:
        stopped = workload.paths(early_stop=True)
        stages.append(sampling("… and early stop", size, stopped, batch, device, shared=True))
    stages.append(training(f"RFT, {epochs:g} epochs", size, workload.rft, epochs, device))
    return Estimate(
        model,
        size,
        workload,
        source,
        device,
        batch,
        gpus_needed(size, paths, batch, device, shared=False),
        gpus_needed(size, paths, batch, device, shared=True),
        tuple(stages),
    )


def _tokenizer(folder: Path | None, named: str | None, model: str) -> Tokenizer:
    if named is not None:
        return Tokenizer.from_folder(resolve(named))
    if folder is None:
        raise UserError(f"{model} is a shape without a tokenizer; name a model that has one with --tokenizer")
    return Tokenizer.from_folder(folder)

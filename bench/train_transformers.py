"""transformers' ``Trainer`` (documents padded to the longest of a micro-batch) and TRL's ``SFTTrainer`` (packed)."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.schema import Measure
from bench.skip import Skip
from bench.train_clock import Clock
from bench.train_job import TrainJob


def run_trainer(job: TrainJob, *, bf16: bool) -> Measure:
    """The Trainer with its defaults, but for the order of the documents, the loss on responses and a constant rate."""
    transformers = _transformers()
    clock, fed = Clock(), [0]

    class Ordered(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def padded(rows: Sequence[tuple[tuple[int, ...], int]]) -> dict[str, torch.Tensor]:
        longest = max(len(tokens) for tokens, _ in rows)
        fed[0] += longest * len(rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, (tokens, prompt) in enumerate(rows):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            mask[i, : len(tokens)] = 1
            labels[i, prompt : len(tokens)] = ids[i, prompt : len(tokens)]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        trainer = Ordered(
            model=_model(transformers, job),
            args=transformers.TrainingArguments(**_arguments(job, folder, bf16)),
            train_dataset=list(job.documents),
            data_collator=padded,
            callbacks=[_callback(transformers, clock)],
        )
        trainer.train()
    losses = _losses(trainer)
    per_step = fed[0] / (job.warm_up + job.steps)
    notes = (
        f"micro-batches of {job.micro_batch}, padded: {100 * (1 - _mean_tokens(job) / per_step):.0f} % of positions",
    )
    measure = clock.measure(job, losses, positions=round(per_step * job.steps))
    return replace(measure, notes=notes)


def run_trl(job: TrainJob, *, bf16: bool) -> Measure:
    """``SFTTrainer(packing=True)``: rows of ``row_tokens``, best fit decreasing over the whole data, its own batches.

    Its rows are as long as ours and a step has as many of them as hold the batch's documents on average, so losses are not
    those of the others step by step.
    """
    transformers = _transformers()
    for name in ("trl", "datasets"):
        if importlib.util.find_spec(name) is None:
            raise Skip(f"{name} is not installed (pip install 'rftfast[bench]')")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    clock = Clock()
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.model)
    if tokenizer.pad_token is None:  # wanted, though nothing is padded
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    rows = max(1, round(_mean_tokens(job) / job.row_tokens))
    data = Dataset.from_dict(
        {
            "input_ids": [list(tokens) for tokens, _ in job.documents],
            "completion_mask": [[int(i >= prompt) for i in range(len(tokens))] for tokens, prompt in job.documents],
        }
    )
    fed: list[int] = []

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            fed.append(int(inputs["input_ids"].numel()))
            return super().training_step(model, inputs, *more)

    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        arguments = _arguments(job, folder, bf16) | {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": rows,
        }
        # Packing may leave fewer rows than that many full steps: the data is gone through again until there are enough.
        arguments |= {"num_train_epochs": 1000, "max_steps": job.warm_up + job.steps}
        trainer = Counting(
            model=_model(transformers, job),
            args=SFTConfig(
                **arguments,
                packing=True,
                max_length=job.row_tokens,
                completion_only_loss=True,
                gradient_checkpointing=False,
            ),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[_callback(transformers, clock)],
        )
        trainer.train()
    tokens = sum(fed[job.warm_up * rows :])
    notes = (f"{rows} rows of at most {job.row_tokens} tokens a step, packed without padding",)
    return replace(clock.measure(job, _losses(trainer), tokens=tokens, positions=tokens), notes=notes)


def _arguments(job: TrainJob, folder: str, bf16: bool) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.batch // job.micro_batch,
        "num_train_epochs": 1,
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": bf16,
        "use_cpu": job.device == "cpu",
        "seed": job.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def _model(transformers: Any, job: TrainJob) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)


def _transformers() -> Any:
    import transformers

    if importlib.util.find_spec("accelerate") is None:
        raise Skip("accelerate is not installed (pip install 'rftfast[bench]')")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _callback(transformers: Any, clock: Clock) -> Any:
    class Ticks(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not clock.wall:
                clock.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    return Ticks()


def _losses(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _mean_tokens(job: TrainJob) -> float:
    """Of a step, padding not counted."""
    return sum(len(tokens) for tokens, _ in job.documents) / (job.warm_up + job.steps)

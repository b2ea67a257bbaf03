"""The trainers on preference pairs that are compared: ours and TRL's ``DPOTrainer``."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.dpo_job import PairJob
from bench.schema import Measure
from bench.skip import Skip
from bench.train_clock import Clock

OURS = "rftfast"
ENGINES = {
    OURS: "ours, bf16 where the processor multiplies it natively",
    "rftfast-float32": "ours, float32",
    "trl-bf16": "TRL's DPOTrainer, bf16=True, the reference's log-probabilities computed beforehand",
    "trl-bf16-online": "TRL's DPOTrainer, bf16=True, the reference beside the policy (its default)",
    "trl": "TRL's DPOTrainer, float32, the reference's log-probabilities computed beforehand",
}


def measure(job: PairJob) -> Measure:
    """Run one engine here, in this process."""
    import torch

    torch.set_num_threads(job.threads)
    if job.engine.startswith(OURS):
        return run_ours(job, dtype="float32" if job.engine.endswith("float32") else "auto")
    assert job.engine in ENGINES, job.engine
    return run_trl(job, bf16="bf16" in job.engine, online=job.engine.endswith("online"))


def run_ours(job: PairJob, dtype: str) -> Measure:
    """Through the very call that the command makes; ``extra`` has the time of the reference's log-probabilities."""
    from rftfast.train.dpo_config import PreferenceConfig
    from rftfast.train.dpo_job import prepare
    from rftfast.train.dpo_trainer import PreferenceTrainer
    from rftfast.train.trainer import run_job

    clock = Clock()
    reference: list[float] = []

    class Timed(PreferenceTrainer):
        def _reference(self, *arguments: Any) -> Mapping[str, float]:
            began = time.perf_counter()
            found = super()._reference(*arguments)
            reference.append(time.perf_counter() - began)
            return found

        def _step(self, *arguments: Any) -> Any:
            if not clock.wall:
                clock.tick()
            found = super()._step(*arguments)
            clock.tick()
            return found

        def _finish(self) -> Path:  # no export: only steps are compared
            return self.out

    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        config = PreferenceConfig(
            model=job.model,
            data=job.data,
            out=str(Path(folder) / "out"),
            reference=str(Path(folder) / "reference"),
            epochs=1,
            batch_size=job.batch,
            beta=job.beta,
            lr=job.lr,
            schedule="constant",
            warmup=0.0,
            seed=job.seed,
            row_tokens=job.row_tokens,
            max_length=job.row_tokens,
            device=job.device,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            threads=job.threads,
            checkpoint_every=10**9,
            tensorboard=False,
        )
        prepared = prepare(config, "dpo")
        order = [tokens_of(pair) for step in prepared.plan[0] for pair in step.pairs]
        assert order == list(job.pairs), "ours takes other pairs"
        run_job(prepared, Timed)
        lines = (Path(config.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    positions = sum(row["positions"] for row in rows[job.warm_up :])
    share = len(job.measured) / len(job.pairs)
    extra = {"positions": positions, "reference_s": reference[0] * share}
    return clock.measure(job, [row["loss"] for row in rows], **extra)  # type: ignore[arg-type]


def run_trl(job: PairJob, *, bf16: bool, online: bool) -> Measure:
    """``DPOTrainer`` without activation checkpointing, which it has by default and which costs it a forward pass."""
    for name in ("trl", "datasets", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise Skip(f"{name} is not installed (pip install trl)")
    import torch
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    clock = Clock()
    fed: list[int] = []
    reference: list[float] = []

    class Counting(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # tokens already

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            began = time.perf_counter()
            found = super()._precompute_ref_logps(*arguments)
            reference.append(time.perf_counter() - began)
            return found

        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            fed.append(int(inputs["input_ids"].numel()))
            return super().training_step(model, inputs, *more)

    class Ticks(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not clock.wall:
                clock.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    tokenizer = transformers.AutoTokenizer.from_pretrained(job.model)
    if tokenizer.eos_token is None:
        # Texts are tokens already; it wants some token to pad with.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        arguments = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=job.micro_batch,
            gradient_accumulation_steps=job.batch // job.micro_batch,
            num_train_epochs=1,
            learning_rate=job.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=job.beta,
            max_length=None,
            precompute_ref_log_probs=not online,
            gradient_checkpointing=False,
            bf16=bf16,
            use_cpu=job.device == "cpu",
            seed=job.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Counting(
            model=transformers.AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list([dict(zip(names, pair, strict=True)) for pair in job.pairs]),
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    turns = job.batch // job.micro_batch
    extra: dict[str, Any] = {"positions": sum(fed[job.warm_up * turns :])}
    if reference:
        extra["reference_s"] = reference[0] * len(job.measured) / len(job.pairs)
    found = clock.measure(job, losses, **extra)  # type: ignore[arg-type]
    padding = 100 * (1 - found.tokens / extra["positions"])
    return replace(found, notes=(f"micro-batches of {job.micro_batch} pairs, padded: {padding:.0f} % of positions",))


def tokens_of(pair: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(prompt, chosen, rejected) of one of our pairs."""
    prompt = pair.chosen.prompt_length
    chosen, rejected = (tuple(document.tokens.tolist()) for document in pair.documents)
    return chosen[:prompt], chosen[prompt:], rejected[prompt:]

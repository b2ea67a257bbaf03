"""The trainers that are compared, by name."""

from __future__ import annotations

from typing import Any

from bench.schema import Measure
from bench.train_job import TrainJob

OURS = "rftfast"
OURS_FLOAT32 = "rftfast-float32"
ENGINES = {
    OURS: "ours, bf16 where the processor multiplies it natively",
    "rftfast-compile": "the same with --compile",
    OURS_FLOAT32: "ours, float32",
    "hf-trainer-bf16": "transformers' Trainer, padded, bf16=True",
    "hf-trainer": "transformers' Trainer, padded, float32 (its default)",
    "trl-bf16": "TRL's SFTTrainer, packed, bf16=True",
}


def measure(job: TrainJob) -> Measure:
    """Run one engine here, in this process."""
    import torch

    torch.set_num_threads(job.threads)
    if job.engine.startswith(OURS):
        from bench import train_ours

        options: dict[str, dict[str, Any]] = {
            OURS: {},
            "rftfast-compile": {"compile": True},
            OURS_FLOAT32: {"dtype": "float32"},
        }
        return train_ours.run(job, **options[job.engine])
    from bench import train_transformers

    if job.engine == "trl-bf16":
        return train_transformers.run_trl(job, bf16=True)
    assert job.engine in ("hf-trainer", "hf-trainer-bf16"), job.engine
    return train_transformers.run_trainer(job, bf16=job.engine.endswith("bf16"))

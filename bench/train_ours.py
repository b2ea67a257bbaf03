"""Our trainer, through the very call that the command makes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.schema import Measure
from bench.train_clock import Clock
from bench.train_job import TrainJob


def run(job: TrainJob, **options: Any) -> Measure:
    """``options`` are further fields of the trainer's configuration."""
    from rftfast.train import trainer
    from rftfast.train.config import TrainConfig
    from rftfast.train.job import prepare

    clock = Clock()

    class Timed(trainer.Trainer):
        def _step(self, *arguments: Any) -> Any:
            if not clock.wall:
                clock.tick()
            found = super()._step(*arguments)
            clock.tick()
            return found

        def _finish(self) -> Path:  # no export: only steps are compared
            return self.out

    with tempfile.TemporaryDirectory(prefix="rftfast-bench-") as folder:
        config = TrainConfig(
            model=job.model,
            data=job.data,
            out=str(Path(folder) / "out"),
            epochs=1,
            batch_size=job.batch,
            max_length=job.row_tokens,
            lr=job.lr,
            schedule="constant",
            warmup=0.0,
            seed=job.seed,
            row_tokens=job.row_tokens,
            device=job.device,
            threads=job.threads,
            checkpoint_every=10**9,
            tensorboard=False,
            **options,
        )
        steps = prepare(config, "sft").plan[0]
        order = [[tuple(document.tokens.tolist()) for document in step.documents] for step in steps]
        assert order == [[tokens for tokens, _ in batch] for batch in job.batches], "ours takes other documents"
        original, trainer.Trainer = trainer.Trainer, Timed  # type: ignore[misc]
        try:
            trainer.train(config, "sft")
        finally:
            trainer.Trainer = original  # type: ignore[misc]
        rows = _rows(Path(config.out) / "metrics.jsonl")
    timed = rows[job.warm_up :]
    # The share of the peak over all their time.
    mfu = sum((row["mfu"] or 0.0) * row["seconds"] for row in timed) / sum(row["seconds"] for row in timed)
    positions = sum(row["positions"] for row in timed)
    return clock.measure(job, [row["loss"] for row in rows], positions=positions, mfu=mfu)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

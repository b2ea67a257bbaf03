"""When each step of a training run ended: wall time and the processor time of all threads."""

from __future__ import annotations

import resource
import time
from typing import Any

from bench.schema import Measure
from bench.train_job import TrainJob


class Clock:
    """Call :meth:`tick` once before the first step and after each step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def tick(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.wall.append(time.perf_counter())
        self.processor.append(used.ru_utime + used.ru_stime)

    def measure(self, job: TrainJob, losses: list[float], *, tokens: int | None = None, **extra: Any) -> Measure:
        """Of the steps after the warm-up. ``tokens``: where the trainer's own batches hold others than the job's."""
        assert len(self.wall) == 1 + job.warm_up + job.steps, (len(self.wall), job)
        seconds = self.wall[-1] - self.wall[job.warm_up]
        return Measure(
            seconds=seconds,
            tokens=job.useful_tokens if tokens is None else tokens,
            samples=job.batch * job.steps,
            step_ms=1e3 * seconds / job.steps,
            extra={"losses": losses, "processor_s": self.processor[-1] - self.processor[job.warm_up], **extra},
        )

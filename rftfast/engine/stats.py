"""What a sampler has done and where the host's time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from rftfast.engine.scheduler import Scheduler, Step


@dataclass(frozen=True)
class StepTimes:
    """One step as ``Sampler.on_step`` is told of it: rows launched in it, and where the host's time went since the step
    before, in seconds: in all, and by part (``Stats.seconds``)."""

    decode_rows: int
    prefill_rows: int
    seconds: float
    parts: dict[str, float]


@dataclass
class Stats:
    """Counters since the sampler was made. ``seconds`` of the host by part: schedule, host (taking in tokens) and those of
    the runner: plan, model and sample on a CPU; plan, launch and wait (for the device) on a GPU."""

    steps: int = 0
    decode_rows: int = 0
    prefill_rows: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of all paths started, as if each had its own."""
    preemptions: int = 0
    beyond_end: int = 0
    """Rows computed for paths that had ended with the step before (only where steps are launched ahead)."""
    seconds: dict[str, float] | None = None

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that sharing spared."""
        return max(0, self.prompt_tokens - self.prefill_rows)

    def add(self, other: Stats) -> None:
        """Counts another sampler's work as well; ``seconds``, which is of one host thread, stays as it is."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_COUNTS = tuple(field.name for field in fields(Stats) if field.name != "seconds")


class Meter:
    """Counts one sampler's steps; the rest of its ``Stats`` the scheduler and the runner count themselves."""

    def __init__(self, scheduler: Scheduler, runner_seconds: Mapping[str, float]) -> None:
        """``runner_seconds``: the runner's own sums, by part, which it goes on adding to."""
        self._scheduler = scheduler
        self._runner_seconds = runner_seconds
        self._schedule_seconds = self._host_seconds = 0.0
        self._told: dict[str, float] = {}
        self.beyond_end = 0
        self._steps = self._decode_rows = self._finished = 0

    def count(self, step: Step, finished: int, *, schedule: float, host: float) -> None:
        """A step, the paths that ended with the tokens taken in beside it, and seconds of the host."""
        self._steps += step.rows > 0
        self._decode_rows += len(step.decode)
        self._finished += finished
        self._schedule_seconds += schedule
        self._host_seconds += host

    def step_times(self, step: Step, seconds: float) -> StepTimes:
        """``seconds`` of the step, and by part what has come to the counters since the last time."""
        now = self._seconds()
        parts = {name: value - self._told.get(name, 0.0) for name, value in now.items()}
        self._told = now
        return StepTimes(len(step.decode), step.rows - len(step.decode), seconds, parts)

    def stats(self) -> Stats:
        """Everything so far."""
        s = self._scheduler
        return Stats(
            steps=self._steps,
            decode_rows=self._decode_rows,
            prefill_rows=s.prefill_tokens,
            finished=self._finished,
            prompt_tokens=s.prompt_tokens,
            preemptions=s.preemptions,
            beyond_end=self.beyond_end,
            seconds=self._seconds(),
        )

    def _seconds(self) -> dict[str, float]:
        return {"schedule": self._schedule_seconds, **self._runner_seconds, "host": self._host_seconds}

"""The loop: rows forward and back, one optimizer step a global batch, checkpoints, metrics, and the model at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rftfast.data.atomic import append_whole
from rftfast.data.lock import RunLock
from rftfast.errors import UserError
from rftfast.train import cross_entropy, segment_attention
from rftfast.train.batch import collate
from rftfast.train.checkpoint import Checkpointer, Position
from rftfast.train.config import TrainConfig
from rftfast.train.export import export, export_dtype, whole_weights
from rftfast.train.flops import Peak, Work
from rftfast.train.job import Job, prepare
from rftfast.train.metrics import MetricsWriter, StepMetrics, check_reporters, draw, memory, read_metrics
from rftfast.train.model import Learner, build, compute_dtype
from rftfast.train.optimizer import Optimizer, learning_rate
from rftfast.train.packing import Row, Step, rows_for_rank
from rftfast.train.parallel import Accumulation, World, on_main, open_world, shard
from rftfast.train.progress import ProgressBar
from rftfast.train.stop import Stopped, StopSignals
from rftfast.train.validation import Validation

_NAMED = 24  # ids named in a message

# Rows are filled up to one of so many positions: the CPU's matrix library prepares and keeps a program for each shape.
_CPU_MULTIPLE = 64


def train(config: TrainConfig, method: str) -> Path:
    """Train as ``config`` says and return the folder of the trained model. Goes on where an earlier call stopped.

    Raises:
        UserError: bad input, a loss that is not finite, a disk that refuses.
        Stopped: SIGTERM or Ctrl-C; everything is saved.
    """
    return run_job(prepare(config, method))


def run_job(job: Job, kind: type[Trainer] | None = None) -> Path:
    """:func:`train` for a job that is prepared, with the trainer ``kind`` where it needs one of its own."""
    check_reporters(job.config)
    with open_world(job.config) as world, contextlib.ExitStack() as stack:
        console = Console(quiet=not world.main, highlight=False)
        out = Path(job.config.out)
        resumed = False

        def open_folder() -> None:
            nonlocal resumed
            resumed = job.open_folder()
            stack.callback(RunLock(out).release)

        on_main(world, open_folder)
        return (kind or Trainer)(job, world, console).run()


class Trainer:
    """One run on one process of a world."""

    loss_unit = "nats a response token"

    def __init__(self, job: Job, world: World, console: Console) -> None:
        self.job = job
        self.world = world
        self.console = console
        self.out = Path(job.config.out)
        self.dtype = compute_dtype(job.config, world.device)
        self.multiple = _CPU_MULTIPLE if world.device.type == "cpu" else 1
        self.learner = self._build()
        self.work = Work.of(self.learner.model)
        self.optimizer = Optimizer(self.learner, job.config)
        self.rows = Accumulation(self.learner, world, job.config)
        held_out = job.validation_step
        self.validation = None if held_out is None else Validation(held_out, job.config.validate_every)
        folder = self.out / "checkpoints"
        self.checkpoints = Checkpointer(folder, world, self.learner, self.optimizer, job.config.keep)

    def run(self) -> Path:
        job, world, config = self.job, self.world, self.job.config
        position = self.checkpoints.load() or Position()
        peak = Peak.of(world.device, self.dtype)
        self._say_what(position, peak)
        with contextlib.ExitStack() as stack:
            writer = None
            if world.main:
                writer = MetricsWriter(self.out, config, position.steps)
                stack.callback(writer.close)
            bar = ProgressBar(self.console, job.steps, position.steps, job.useful_tokens - position.useful_tokens)
            stop = stack.enter_context(StopSignals(world))
            stack.enter_context(bar)
            while position.steps < job.steps:
                step = job.plan[position.epoch][position.index]
                metrics = self._step(step, position, stop, peak)
                position = self._after(step, position)
                metrics = self._validated(metrics, position)
                if writer is not None:
                    writer.write(metrics)
                    bar.update(metrics)
                self.checkpoints.check()
                if position.steps % config.checkpoint_every == 0 or position.steps == job.steps:
                    self.checkpoints.save(position)
            self.checkpoints.wait()
        return self._finish()

    def _build(self) -> Learner:
        learner: Learner | None = None

        def load() -> None:
            nonlocal learner
            learner = build(self.job.base, self.job.config)

        on_main(self.world, load)
        learner = learner or build(self.job.base, self.job.config, weights=False)
        shard(learner, learner.layers(), self.world, self.job.config, self.dtype)
        return learner

    def _step(self, step: Step, position: Position, stop: StopSignals, peak: Peak) -> StepMetrics:
        """One global batch. A stop that is asked for between two rows ends it without a trace in weights or optimizer."""
        began = time.perf_counter()
        world, job = self.world, self.job
        rows = rows_for_rank(step, world.rank, world.size)
        # Dropout, where a model has it, is a function of the run's seed, the step and the process, so that it resumes.
        torch.manual_seed(_seed(job.config.seed, position.steps, world.rank))
        losses = []
        for i, row in enumerate(rows):
            if number := stop.asked():
                self.rows.reshard()
                self._save_and_stop(position, number)
            self.rows.begin_row(last=i == len(rows) - 1)
            loss = self._loss(step, row)
            loss.backward()  # of the sum; the optimizer divides
            losses.append(loss.detach())
        found = torch.stack(losses).tolist()
        (total,) = world.sum(math.fsum(found))
        norm = self.optimizer.gradient_norm() / step.divisor
        if not (math.isfinite(total) and math.isfinite(norm)):
            bad = [row.documents for row, loss in zip(rows, found, strict=True) if not math.isfinite(loss)]
            self._refuse(step, position, total, [document.id for documents in bad for document in documents])
        rate = learning_rate(job.config, position.steps, job.steps)
        self.optimizer.step(rate, norm, step.divisor)
        seconds = time.perf_counter() - began
        mfu = None
        if self.work is not None:
            mfu = self.work.training(step) / (seconds * peak.per_second * world.size)
        return StepMetrics(
            step=position.steps + 1,
            epoch=position.epoch + 1,
            loss=total / step.divisor,
            lr=rate,
            grad_norm=norm,
            seconds=seconds,
            documents=len(step.documents),
            tokens=step.useful_tokens,
            response_tokens=step.response_tokens,
            positions=step.tokens,
            tokens_per_second=step.useful_tokens / seconds,
            mfu=mfu,
            memory=memory(world.device),
            validation_loss=None,
        )

    def _validated(self, metrics: StepMetrics, position: Position) -> StepMetrics:
        """With what is measured on the validation examples, if that is due behind the step that was just made."""
        ends = position.steps == self.job.steps
        if self.validation is None or not self.validation.due(
            position.steps, epoch_ends=position.index == 0, run_ends=ends
        ):
            return metrics
        metrics = self._measured(metrics, self.validation.outputs(self.learner, self.world, self._batch))
        self.rows.reshard()
        said = f"validation after step {position.steps:,}: {metrics.validation_shown()} ({self.job.validation_size})"
        self.console.print(said, soft_wrap=True)
        return metrics

    def _measured(self, metrics: StepMetrics, outputs: list[Any]) -> StepMetrics:
        """``metrics`` with what the learner has made of this process's validation rows."""
        assert self.validation is not None
        (total,) = self.world.sum(math.fsum(torch.stack(outputs).tolist()))
        return replace(metrics, validation_loss=total / self.validation.step.divisor)

    def _batch(self, step: Step, row: Row) -> Any:
        """One row of ``step`` as the learner takes it."""
        return collate(row, self.multiple).to(self.world.device)

    def _loss(self, step: Step, row: Row) -> torch.Tensor:
        """Of one row of ``step``; those of all its rows are summed and divided by its divisor."""
        loss: torch.Tensor = self.learner(self._batch(step, row))
        return loss

    def _after(self, step: Step, position: Position) -> Position:
        epoch, index = position.epoch, position.index + 1
        if index == len(self.job.plan[epoch]):
            epoch, index = epoch + 1, 0
        return Position(position.steps + 1, epoch, index, position.useful_tokens + step.useful_tokens)

    def _save_and_stop(self, position: Position, number: int) -> None:
        name = signal.Signals(number).name
        if position.steps == 0:
            raise Stopped(f"{name}: stopped before the first step was made; nothing is lost", number)
        self.checkpoints.save(position)
        self.checkpoints.wait()
        raise Stopped(f"{name}: stopped after step {position.steps} and saved; the same command goes on", number)

    def _refuse(self, step: Step, position: Position, loss: float, ids: list[str]) -> None:
        """The weights are still those of the step before, which the last checkpoint may be older than."""
        named = sorted({name for names in self.world.gather(ids) for name in names})
        named = named or sorted(document.id for document in step.documents)
        what = "the gradient's norm" if math.isfinite(loss) else "the loss"
        if self.world.main:
            event = {"step": position.steps + 1, "stopped": f"{what} is not finite", "ids": named}
            append_whole(self.out / "stopped.jsonl", json.dumps(event).encode() + b"\n")
        self.checkpoints.wait()
        last = self.world.agree(self.checkpoints.last)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        more = f" and {len(named) - _NAMED} more (stopped.jsonl)" if len(named) > _NAMED else ""
        raise UserError(
            f"step {position.steps + 1}: {what} is not finite; questions of the batch: {', '.join(named[:_NAMED])}{more};"
            f" {kept}; look at these rows, or lower --lr"
        )

    def _finish(self) -> Path:
        """Export the model and draw the curve."""
        if self.job.base.random:
            self.console.print("[yellow]note[/]   the base has random weights: nothing is exported")
            return self.out
        target = self.out / "model"
        dtype = export_dtype(self.job.config, self.job.base)
        weights = whole_weights(self.learner.model, dtype, self.world.main)
        notes: list[str] = []

        def write() -> None:
            notes.extend(export(self.learner.model, weights, self.job.base, self.job.template, target, dtype))
            rows = read_metrics(self.out)
            if rows:
                draw(rows, self.out / "loss.png", self.loss_unit)

        on_main(self.world, write)
        for note in notes:
            self.console.print(f"[yellow]note[/]   {note}", soft_wrap=True)
        self.console.print(f"[bold]model[/]  {target} (reads back as it was written)", soft_wrap=True)
        return target

    def _say_what(self, position: Position, peak: Peak) -> None:
        job, config, world = self.job, self.job.config, self.world
        weights = sum(p.numel() for p in self.learner.parameters())
        kind = str(self.dtype).removeprefix("torch.")
        attention = segment_attention.WORDS[segment_attention.backend(world.device.type, self.dtype)]
        losses = cross_entropy.backend(world.device.type, self.dtype)
        tokens = sum(step.tokens for step in job.planned())
        saved = f", {100 * (1 - tokens / job.useful_tokens):.0f} % of positions saved by shared prompts" * (
            tokens < job.useful_tokens
        )
        lines = {
            "model": f"{config.model}: {weights / 1e6:,.{0 if weights >= 1e7 else 1}f} M weights; {kind}, master float32; attention by {attention}, losses by {losses}",
            "data": f"{job.size} of {config.data}, {job.useful_tokens:,} tokens in all epochs{saved}",
            "prompt": f"{job.template.name if job.template else 'not known'}; end token {job.base.eos_id}",
            "steps": f"{job.steps:,} of {job.step_size}, rows of at most {config.row_tokens:,} tokens",
            "device": f"{world.size} x {world.device.type}, peak {peak.per_second / 1e12:,.2f} TFLOP/s each ({peak.source})",
            "out": str(self.out),
        }
        for name, text in lines.items():
            self.console.print(f"[bold]{name:<6}[/] {text}", soft_wrap=True)
        for note in job.notes:
            self.console.print(f"[yellow]note[/]   {note}", soft_wrap=True)
        if position.steps:
            self.console.print(f"going on after step {position.steps:,}")


def _seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

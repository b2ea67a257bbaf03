"""The trainer on preference pairs: the supervised one with another loss, and a reference to hold the model against."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rftfast.errors import UserError
from rftfast.train.checkpoint import Position
from rftfast.train.dpo_job import PreferenceJob
from rftfast.train.dpo_metrics import PreferenceMetrics
from rftfast.train.flops import Peak
from rftfast.train.job import fingerprint
from rftfast.train.metrics import StepMetrics
from rftfast.train.model import Learner
from rftfast.train.packing import Row, Step, rows_for_rank
from rftfast.train.parallel import on_main
from rftfast.train.preference_batch import PairBatch, collate_pairs
from rftfast.train.preference_documents import Pair, completions
from rftfast.train.preference_loss import PairLoss, Sums, completion_logprobs
from rftfast.train.preference_packing import PairStep, plan_pairs
from rftfast.train.reference import ReferenceStore, of_all, pending, place_of
from rftfast.train.stop import Stopped, StopSignals
from rftfast.train.trainer import Trainer

# Pairs between two writes to the disk while the reference is computed.
_CHUNK = 64
_SAY_EVERY_S = 10.0
# How far rounding moves a completion's log-probability when it lies in another row, in nats by the root of its tokens. Measured
# in bf16: 0.08 (one standard deviation, SmolLM2-135M on a CPU, most of it from the layers, not from the head).
_NOISE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_DEVIATIONS = 4


class PreferenceTrainer(Trainer):
    """One run on one process of a world. Before the first step, or the one it goes on with, the reference is complete."""

    loss_unit = "nats a pair"
    job: PreferenceJob

    def run(self) -> Path:
        self._seen: list[torch.Tensor] = []
        # The weights are the base's until a checkpoint is loaded.
        self.reference = self._reference(self.job.pairs)
        self.held_out_reference = self._reference(self.job.held_out, " (validation)") if self.job.held_out else {}
        self.learner.loss = PairLoss(self.job.options.objective)
        return super().run()

    def _build(self) -> Learner:
        learner = super()._build()
        for module in learner.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # noise in the policy alone would count as a difference to the reference
        return learner

    def _batch(self, step: Step, row: Row) -> PairBatch:
        assert isinstance(step, PairStep)
        # Divided by the pairs, as all the loss is, this makes a mean over the chosen completions' tokens.
        sft = self.job.options.sft * step.divisor / step.chosen_tokens
        reference = self.held_out_reference if step is self.job.validation_step else self.reference
        return collate_pairs(row, reference, sft).to(self.world.device)

    def _loss(self, step: Step, row: Row) -> torch.Tensor:
        loss, sums = self.learner(self._batch(step, row))
        self._seen.append(sums)
        return loss  # type: ignore[no-any-return]

    def _step(self, step: Step, position: Position, stop: StopSignals, peak: Peak) -> PreferenceMetrics:
        assert isinstance(step, PairStep)
        self._seen = []
        metrics = super()._step(step, position, stop, peak)
        sums = Sums(*self.world.sum(*torch.stack(self._seen).sum(0).tolist()))
        if position.steps == 0:
            self._check_start(step, sums)
        return PreferenceMetrics.of(metrics, sums, len(step.pairs), step.chosen_tokens)

    def _measured(self, metrics: StepMetrics, outputs: list[Any]) -> PreferenceMetrics:
        step = self.job.validation_step
        assert isinstance(metrics, PreferenceMetrics) and step is not None
        losses, sums = zip(*outputs, strict=True)
        total, *parts = self.world.sum(math.fsum(torch.stack(losses).tolist()), *torch.stack(sums).sum(0).tolist())
        return metrics.validated(total / step.divisor, Sums(*parts), len(step.pairs))

    def _check_start(self, step: PairStep, sums: Sums) -> None:
        """The model is the reference as yet, so the loss is known. UserError if it is farther from that than by rounding."""
        objective = self.job.options.objective
        found = sums.loss / sums.weight
        noise = _DEVIATIONS * _NOISE[self.dtype]
        lengths = [[document.response_tokens for document in pair.documents] for pair in step.pairs]
        # A mean over n tokens is off by 1/n as much as their sum.
        spreads = [
            noise * math.sqrt(sum(1 / n for n in pair) if objective.loss == "ipo" else sum(pair)) for pair in lengths
        ]
        average = math.hypot(*(p.weight * s for p, s in zip(step.pairs, spreads, strict=True))) / sums.weight
        allowed = 1e-3 * objective.at_start + objective.moved_by(average, max(spreads))
        if not abs(found - objective.at_start) <= allowed:
            known = "ln 2 = " * (objective.loss == "sigmoid")
            raise UserError(
                f"step 1: the loss of a pair is {found:.4f}, not {known}{objective.at_start:.4f}, so the log-probabilities in"
                f" {self._place(self.job.pairs)} are not this model's; remove that folder and {self.out}, and run the same"
                " command again"
            )

    def _reference(self, pairs: Sequence[Pair], told: str = "") -> Mapping[str, float]:
        """Log-probability of each completion by the model as it is now; what is on the disk already is not computed.

        ``told``: which completions they are, where that has to be said.
        """
        job, world = self.job, self.world
        steps = plan_pairs(
            pairs,
            budget_tokens=job.config.row_tokens,
            pairs_per_step=_CHUNK,
            seed=0,
            epoch=0,
            pairs_together=_CHUNK,
        )
        with contextlib.ExitStack() as stack:
            store: ReferenceStore | None = None

            def open_store() -> None:
                nonlocal store
                store = stack.enter_context(ReferenceStore(job.reference_folder, self._facts(pairs)))

            on_main(world, open_store)
            values: dict[str, float] = world.agree(store and store.values)
            missing = pending(steps, values)
            if not missing:
                self._say(f"log-probabilities of {len(values):,} completions{told} are known")
                return values
            stop = stack.enter_context(StopSignals(world))
            began = said = time.perf_counter()
            self.learner.loss = completion_logprobs
            for number, step in enumerate(missing):
                if time.perf_counter() - said > _SAY_EVERY_S:
                    said = time.perf_counter()
                    self._say(f"log-probabilities{told}: {100 * number / len(missing):.0f} %")
                found = self._logprobs(step, stop, f"{len(values):,} of {2 * len(pairs):,} completions{told}")
                new = {name: value for name, value in of_all(step, found).items() if name not in values}

                def keep(new: dict[str, float] = new) -> None:
                    assert store is not None
                    store.add(new)

                on_main(world, keep)
                values.update(new)
            self.rows.reshard()  # the weights that were collected for it
            tokens = sum(step.useful_tokens for step in missing)
            seconds = time.perf_counter() - began
            self._say(
                f"log-probabilities of {len(values):,} completions{told}, {tokens / seconds:,.0f} tok/s: {self._place(pairs)}"
            )
        return values

    def _logprobs(self, step: PairStep, stop: StopSignals, known: str) -> dict[str, float]:
        """Of the completions in the rows of ``step``, by id, in every process. ``known``: what is there already, in words."""
        world = self.world
        found: dict[str, float] = {}
        for row in rows_for_rank(step, world.rank, world.size):
            if number := stop.asked():
                name = signal.Signals(number).name
                raise Stopped(
                    f"{name}: stopped after {known} of the reference, which are kept; the same command goes on", number
                )
            batch = collate_pairs(row).to(world.device)
            with torch.no_grad():
                found.update(zip(batch.ids, self.learner(batch).tolist(), strict=True))
        return {name: value for part in world.gather(found) for name, value in part.items()}

    def _facts(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """What the reference's log-probabilities of ``pairs`` depend on."""
        job = self.job
        return {
            "model": job.base.fingerprint,
            "tokenizer": job.base.tokenizer.fingerprint(),
            "documents": fingerprint(completions(pairs)),
            "template": job.template and job.template.prompt,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.world.device.type,
        }

    def _place(self, pairs: Sequence[Pair]) -> Path:
        return place_of(self.job.reference_folder, self._facts(pairs))

    def _say(self, text: str) -> None:
        self.console.print(f"[bold]reference[/] {text}", soft_wrap=True)

"""Losses of preference pairs: direct preference optimisation and IPO, with a supervised term, on packed rows.

Names: D completions, P pairs. A completion's log-probability is the weighted sum over its tokens; its log-ratio is that less
the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rftfast.train.batch import IGNORED
from rftfast.train.loss import batch_logprobs
from rftfast.train.objective import Objective
from rftfast.train.preference_batch import PairBatch


@dataclass(frozen=True)
class Sums:
    """What a step reports, summed over pairs. ``tensor`` and ``of`` turn it into a vector and back."""

    loss: float = 0.0
    """Of the preference, weighted."""
    sft: float = 0.0
    """Negative log-probability of the chosen, weighted."""
    weight: float = 0.0
    chosen_reward: float = 0.0
    rejected_reward: float = 0.0
    correct: float = 0.0
    """Pairs whose chosen has the higher reward; half a pair where both are the same."""
    moved: float = 0.0
    """log π_ref − log π, of both completions."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, ...]:
        return tuple(vars(self).values())


@dataclass(frozen=True)
class PairLoss:
    """A causal model's loss on a row of pairs: what :class:`rftfast.train.model.Learner` is to compute."""

    objective: Objective

    def __call__(self, model: Any, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The SUM over pairs of weight · loss, a scalar to be divided by the pairs of the global batch; :class:`Sums` as a
        float64 vector without gradient."""
        logprobs = completion_logprobs(model, batch)
        if not len(batch.chosen):  # a dummy row: no loss, but a gradient, for whoever waits for one
            return logprobs.sum(), torch.zeros(len(Sums().values()), dtype=torch.float64, device=logprobs.device)
        ratios = logprobs - batch.reference
        scores = ratios / batch.lengths if self.objective.loss == "ipo" else ratios
        losses = batch.weights * self.objective(scores[batch.chosen] - scores[batch.rejected])
        supervised = -batch.weights * logprobs[batch.chosen]
        total = losses.sum()
        if batch.sft:
            total = total + batch.sft * supervised.sum()
        chosen, rejected = (self.objective.beta * ratios.detach()[side] for side in (batch.chosen, batch.rejected))
        correct = 0.5 + 0.5 * torch.sign(chosen - rejected)
        moved = -(ratios[batch.chosen] + ratios[batch.rejected]).detach()
        sums = (losses.detach(), supervised.detach(), batch.weights, chosen, rejected, correct, moved)
        return total, torch.stack([part.double().sum() for part in sums])


def completion_logprobs(model: Any, batch: PairBatch) -> torch.Tensor:
    """[D] weighted log-probability of each completion, float32 (float64 for float64), with gradient."""
    logprobs = batch_logprobs(model, batch.row)
    has_label = batch.row.labels != IGNORED
    weighted = logprobs[has_label] * batch.row.weights[has_label]
    if not len(batch.counts):
        return logprobs[:0] + 0 * logprobs.sum()
    return torch.segment_reduce(weighted, "sum", lengths=batch.counts)

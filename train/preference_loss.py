"""Losses of preference pairs: direct preference optimisation and IPO, with a supervised term, on packed rows.

Names: D completions, P pairs. A completion's log-probability is the weighted sum over its tokens; its log-ratio is that less
the reference's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rftfast.train.batch import IGNORED
from rftfast.train.loss import batch_logprobs
from rftfast.train.preference_batch import PairBatch

Loss = Literal["sigmoid", "ipo"]


@dataclass(frozen=True)
class Objective:
    """The loss of a pair.

    ``sigmoid``: −log σ(β·m), m the chosen's log-ratio less the rejected's (Rafailov et al. 2023, arXiv 2305.18290, eq. 7);
    with label smoothing ε, −(1−ε)·log σ(β·m) − ε·log σ(−β·m), for labels that are wrong with that chance (Mitchell 2023).
    ``ipo``: (m − 1/2β)², log-ratios being means over tokens (Azar et al. 2023, arXiv 2310.12036, eq. 17; the means keep the
    square from growing with the length).
    """

    loss: Loss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0

    def __call__(self, margins: torch.Tensor) -> torch.Tensor:
        """[P] margins → [P] losses."""
        if self.loss == "ipo":
            return (margins - 1 / (2 * self.beta)).square()
        scaled = self.beta * margins
        kept = -nn.functional.logsigmoid(scaled)
        if not self.label_smoothing:
            return kept
        return torch.lerp(kept, -nn.functional.logsigmoid(-scaled), self.label_smoothing)

    @property
    def at_start(self) -> float:
        """The loss of a pair while the policy is the reference."""
        return 1 / (4 * self.beta**2) if self.loss == "ipo" else math.log(2)

    def moved_by(self, margin: float, spread: float) -> float:
        """How far the mean loss at the start moves when margins are off by ``margin`` on average and by ``spread`` each."""
        if self.loss == "ipo":
            return margin / self.beta + spread**2
        return self.beta * margin / 2 + (self.beta * spread) ** 2 / 8


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

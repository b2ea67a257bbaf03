"""The loss of a preference pair as a function of its margin. Does not load torch, as options are read before it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

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
        from torch.nn.functional import logsigmoid

        if self.loss == "ipo":
            return (margins - 1 / (2 * self.beta)).square()
        scaled = self.beta * margins
        kept = -logsigmoid(scaled)
        if not self.label_smoothing:
            return kept
        return kept.lerp(-logsigmoid(-scaled), self.label_smoothing)

    @property
    def at_start(self) -> float:
        """The loss of a pair while the policy is the reference."""
        return 1 / (4 * self.beta**2) if self.loss == "ipo" else math.log(2)

    def moved_by(self, margin: float, spread: float) -> float:
        """How far the mean loss at the start moves when margins are off by ``margin`` on average and by ``spread`` each."""
        if self.loss == "ipo":
            return margin / self.beta + spread**2
        return self.beta * margin / 2 + (self.beta * spread) ** 2 / 8

"""The loss on examples that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rftfast.train.batch import collate
from rftfast.train.config import SupervisedConfig
from rftfast.train.documents import Document
from rftfast.train.model import Learner
from rftfast.train.packing import plan_steps, rows_for_rank
from rftfast.train.parallel import World


class Validation:
    """Documents in rows, as one step that is never taken. ``due`` says when to measure."""

    def __init__(self, documents: Sequence[Document], config: SupervisedConfig) -> None:
        self._every = config.validate_every
        (self._step,) = plan_steps(
            documents, budget_tokens=config.row_tokens, documents_per_step=len(documents), seed=0, epoch=0
        )

    def due(self, made: int, *, epoch_ends: bool, run_ends: bool) -> bool:
        """After ``made`` steps, the last of which may end an epoch, or the run, behind which it is measured in any case."""
        return run_ends or (epoch_ends if self._every is None else made % self._every == 0)

    def loss(self, learner: Learner, world: World, multiple: int) -> float:
        """Mean over the response tokens, as in training, without dropout. A collective over all processes.

        Weights that FSDP has collected for it stay collected (``Accumulation.reshard`` splits them again).
        """
        rows = rows_for_rank(self._step, world.rank, world.size)
        learner.eval()
        try:
            with torch.no_grad():
                found = [learner(collate(row, multiple).to(world.device)) for row in rows]
        finally:
            learner.train()
        (total,) = world.sum(math.fsum(torch.stack(found).tolist()))
        return total / self._step.divisor

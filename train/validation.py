"""The loss on examples that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rftfast.data.prompts import Template
from rftfast.train.batch import collate
from rftfast.train.config import SupervisedConfig, TrainConfig
from rftfast.train.documents import Document, documents
from rftfast.train.examples import read_examples
from rftfast.train.fitting import check_fits, short_enough
from rftfast.train.model import Base, Learner
from rftfast.train.packing import plan_steps, rows_for_rank
from rftfast.train.parallel import World


def validation_documents(
    config: TrainConfig, base: Base, template: Template | None, trained: Sequence[Document]
) -> tuple[tuple[Document, ...], list[str]]:
    """The documents of ``--validation``, questions being put in the training data's template, and what is to be said of them."""
    if not isinstance(config, SupervisedConfig) or config.validation is None:
        return (), []
    found = documents(read_examples(config.validation, template), base.tokenizer, eos_id=base.eos_id)
    kept = short_enough(found, config, "validation example")
    check_fits(kept, base, config)
    prompts = {document.tokens[: document.prompt_length].tobytes() for document in trained}
    seen = sum(document.tokens[: document.prompt_length].tobytes() in prompts for document in kept)
    told = f"{seen:,} of {len(kept):,} validation examples have the prompt of a training example"
    return tuple(kept), [told] * bool(seen)


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

"""Measuring on what is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from rftfast.data.prompts import Template
from rftfast.train.config import TrainConfig
from rftfast.train.documents import Document, documents
from rftfast.train.examples import read_examples
from rftfast.train.fitting import check_fits, short_enough
from rftfast.train.model import Base, Learner
from rftfast.train.packing import Row, Step, rows_for_rank
from rftfast.train.parallel import World


def validation_documents(
    config: TrainConfig, base: Base, template: Template | None, trained: Sequence[Document]
) -> tuple[tuple[Document, ...], list[str]]:
    """The documents of ``--validation``, questions being put in the training data's template, and what is to be said of them."""
    if config.validation is None:
        return (), []
    found = documents(read_examples(config.validation, template), base.tokenizer, eos_id=base.eos_id)
    kept = short_enough(found, config, "validation example")
    check_fits(kept, base, config)
    return tuple(kept), trained_prompts((d.prompt for d in kept), (d.prompt for d in trained), "example")


def trained_prompts(held_out: Iterable[bytes], trained: Iterable[bytes], unit: str) -> list[str]:
    """What is to be said of validation examples (or whatever ``unit`` names) whose prompt is one of the training's."""
    prompts = set(trained)
    seen = [prompt in prompts for prompt in held_out]
    told = f"{sum(seen):,} of {len(seen):,} validation {unit}s have the prompt of a training {unit}"
    return [told] * any(seen)


class Validation:
    """One step that is never taken. ``due`` says when to measure, every ``every`` steps or, for None, behind each epoch."""

    def __init__(self, step: Step, every: int | None) -> None:
        self.step = step
        self._every = every

    def due(self, made: int, *, epoch_ends: bool, run_ends: bool) -> bool:
        """After ``made`` steps, the last of which may end an epoch, or the run, behind which it is measured in any case."""
        return run_ends or (epoch_ends if self._every is None else made % self._every == 0)

    def outputs(self, learner: Learner, world: World, batch: Callable[[Step, Row], Any]) -> list[Any]:
        """What ``learner`` makes of each of this process's rows as a ``batch``, without dropout and without gradient.

        A collective over all processes. Weights that FSDP has collected for it stay collected (``Accumulation.reshard`` splits
        them again).
        """
        learner.eval()
        try:
            with torch.no_grad():
                return [learner(batch(self.step, row)) for row in rows_for_rank(self.step, world.rank, world.size)]
        finally:
            learner.train()

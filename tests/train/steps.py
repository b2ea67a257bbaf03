"""The first steps of a job without the trainer around them."""

from __future__ import annotations

import torch

from rftfast.train.batch import collate
from rftfast.train.export import whole_weights
from rftfast.train.job import Job
from rftfast.train.model import Learner, build, compute_dtype
from rftfast.train.optimizer import Optimizer
from rftfast.train.packing import rows_for_rank
from rftfast.train.parallel import Accumulation, World, shard


def sharded(job: Job, world: World) -> Learner:
    learner = build(job.base, job.config, weights=world.main)
    shard(learner, learner.layers(), world, job.config, compute_dtype(job.config, world.device))
    return learner


def made_steps(job: Job, world: World, count: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Mean loss of each of the first ``count`` steps, and all weights after them (main process)."""
    learner = sharded(job, world)
    optimizer, accumulation = Optimizer(learner, job.config), Accumulation(learner, world, job.config)
    losses = []
    for step in job.planned()[:count]:
        rows = rows_for_rank(step, world.rank, world.size)
        total = 0.0
        for i, row in enumerate(rows):
            accumulation.begin_row(last=i == len(rows) - 1)
            loss = learner(collate(row))
            loss.backward()
            total += float(loss.detach())
        (total,) = world.sum(total)
        losses.append(total / step.response_tokens)
        optimizer.step(job.config.lr, optimizer.gradient_norm() / step.response_tokens, step.response_tokens)
    return losses, whole_weights(learner.model, torch.float32, world.main)

"""Learning rates, AdamW with clipping, and what the decay is for."""

import pytest
import torch
from torch import nn

from rftfast.train.config import TrainConfig
from rftfast.train.optimizer import Optimizer, learning_rate


def config(**changes) -> TrainConfig:
    return TrainConfig("m", "d", "o", **changes)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
    ],
)
def test_learning_rates(schedule, expected):
    c = config(lr=1e-3, warmup=0.35, schedule=schedule)  # rises over ceil(3.5) steps
    assert [learning_rate(c, step, 10) / 1e-3 for step in range(10)] == pytest.approx(expected, rel=1e-6)


def test_no_warm_up_and_a_single_step():
    assert learning_rate(config(warmup=0.0), 0, 5) == 2e-5
    assert learning_rate(config(), 0, 1) == 2e-5


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_steps_are_adamws(clip):
    ours, theirs = model(), model()
    c = config(lr=1e-2, weight_decay=0.1, clip=clip, beta1=0.8, beta2=0.95)
    optimizer = Optimizer(ours, c)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim == 1]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.8, 0.95)
    )
    for step in range(4):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        (ours(x).square().sum()).backward()  # a sum over 18 numbers; the optimizer makes it a mean
        (theirs(x).square().mean()).backward()
        norm = optimizer.gradient_norm() / 18
        wanted = nn.utils.clip_grad_norm_(theirs.parameters(), clip or 1e9)
        assert norm == pytest.approx(float(wanted), rel=1e-5)
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        optimizer.step(1e-2 / (step + 1), norm, 18)
        reference.step()
        reference.zero_grad()
    assert norm > 0.5  # the clipped run did clip
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert a.grad is None


def test_state_by_name_makes_another_optimizer_go_on():
    whole, first, second = model(), model(), model()
    c = config(lr=1e-2)

    def made(net: nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            net(torch.full((2, 5), float(step))).sum().backward()
            optimizer.step(1e-2, optimizer.gradient_norm(), 1)

    made(whole, Optimizer(whole, c), range(4))
    before = Optimizer(first, c)
    made(first, before, range(2))
    second.load_state_dict(first.state_dict())
    after = Optimizer(second, c)
    for name, moments in after.moments().items():
        assert not moments["exp_avg"].any()
        for kind, tensor in moments.items():
            tensor.copy_(before.moments()[name][kind])
    after.set_steps(2)
    made(second, after, range(2, 4))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)

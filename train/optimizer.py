"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), the learning rate of each step, and clipping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rftfast.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of step ``step`` (from 0) out of ``steps``: a rise to the peak, then the schedule.

    The rise takes the first ``warmup * steps`` steps, rounded up, and its last step has the peak; no step has rate 0. The
    fall would reach 0 at step ``steps``, the first that is not made.
    """
    rise = math.ceil(config.warmup * steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    if config.schedule == "constant":
        return config.lr
    done = (step - rise) / max(1, steps - rise)
    return config.lr * (1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


class Optimizer:
    """Fused AdamW over a model's parameters, whose state is kept by parameter name, so that it outlives its world size."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decayed = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._clip = config.clip
        self._device = next(iter(self.parameters.values())).device
        self._adamw: Any = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )

    def gradient_norm(self) -> float:
        """2-norm of the whole model's gradient. A collective over all processes."""
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def step(self, rate: float, norm: float, divisor: float) -> None:
        """Move the weights by the gradients over ``divisor``, scaled down to the limit, and forget the gradients.

        ``norm`` is that of the divided gradients. The kernel divides as it reads, so scaling costs no pass of its own.
        """
        if self._clip and norm > self._clip:
            divisor *= norm / self._clip
        self._adamw.grad_scale = torch.tensor(divisor, dtype=torch.float32, device=self._device)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """``exp_avg`` and ``exp_avg_sq`` of each parameter, as they are split; made here, as zeros, before the first step."""
        found = {}
        for name, parameter in self.parameters.items():
            state = self._adamw.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
                state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
            found[name] = {"exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        return found

    def set_steps(self, made: int) -> None:
        """How many steps the moments have seen (for Adam's correction of their bias)."""
        self.moments()
        for parameter in self.parameters.values():
            self._adamw.state[parameter]["step"].fill_(made)

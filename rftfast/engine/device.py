"""The device that was asked for, if it is there."""

from __future__ import annotations

import re

import torch

from rftfast.errors import UserError


def find_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` (torch's current one) or ``cuda:N``; a GPU comes with its number, without which torch cannot make it
    the current one. Raises UserError for another name, and for a GPU that torch does not see."""
    if name == "cpu":
        return torch.device("cpu")
    found = re.fullmatch(r"cuda(?::(\d+))?", name)
    if found is None:
        raise UserError(f"device is '{name}': use cpu, cuda or, for one of several GPUs, cuda:0, cuda:1, ...")
    if not torch.cuda.is_available():
        raise UserError(f"device '{name}' was asked for and torch sees no GPU: use --device cpu")
    number = torch.cuda.current_device() if found[1] is None else int(found[1])
    if number >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}' was asked for and torch sees {torch.cuda.device_count()} GPUs, from cuda:0 on"
        )
    return torch.device("cuda", number)

"""How a kernel is compiled ahead of time: types, constants and launch options of one of its uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ARCHS = (80, 90, 100)
"""Compute capabilities, times ten, that every kernel compiles for: A100, H100 and H200, B200."""
FLOAT8_ARCHS = (90, 100)
"""Those of them that have float8."""


@dataclass(frozen=True)
class Variant:
    """One compilation of ``kernel`` (what ``@triton.jit`` returns), named ``name`` in the table.

    ``types``: each run-time argument's type as Triton spells it ("*bf16", "i32", "i64", "fp32"). ``constants``: the
    constexpr arguments. ``unaligned``: run-time arguments that are not multiples of 16 when the kernel is launched;
    Triton specialises the others on it, and without that the loads are narrow. Float arguments never count. ``archs``:
    the architectures it is meant for.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    unaligned: tuple[str, ...] = ()
    archs: tuple[int, ...] = ARCHS

    def __post_init__(self) -> None:
        named = {*self.types, *self.constants}
        wanted = set(self.kernel.arg_names)
        assert named == wanted, f"{self.name}: arguments that differ from the kernel's: {sorted(named ^ wanted)}"
        assert set(self.unaligned) <= set(self.types), f"{self.name}: {self.unaligned} are not among its arguments"

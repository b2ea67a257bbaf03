"""What a kernel is timed on: one case, the ways to its result, and how right each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from bench.roofline import Rates, Work
from bench.schema import KernelTime
from bench.timing import median_ms

BUDGET_S = 0.03
"""Of timed runs, for each way."""


@dataclass(frozen=True)
class Way:
    """``run`` is what is timed. ``result`` does it once and returns what it computed, in float or as it is; None where two
    runs need not give the same (random draws)."""

    run: Callable[[], object]
    result: Callable[[], torch.Tensor] | None


@dataclass(frozen=True)
class KernelCase:
    """``error`` of a result against float64; a larger one than ``bound`` is wrong. ``reset`` comes before each result: the
    inputs as they were, the outputs poisoned. ``skipped``: rivals that cannot take part, and why."""

    kernel: str
    case: str
    work: Work
    ours: Way
    error: Callable[[torch.Tensor], float]
    bound: float
    reset: Callable[[], None] = lambda: None
    rivals: Mapping[str, Way] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def error_of(self, way: Way) -> float:
        assert way.result is not None
        self.reset()
        return self.error(way.result())


@dataclass(frozen=True)
class Planned:
    """A case that is not built yet: its inputs may take much of the memory."""

    kernel: str
    case: str
    build: Callable[[], KernelCase]


class WrongResult(Exception):
    """A kernel of ours computes something else than its reference."""


def check(case: KernelCase) -> float:
    """The error of ours. Raises ``WrongResult`` if it is too large, or no number."""
    error = case.error_of(case.ours)
    if not error <= case.bound:
        raise WrongResult(f"{case.kernel} {case.case}: error {error:.2e}, at most {case.bound:.0e} is right")
    return error


def measure(case: KernelCase, device: torch.device, rates: Rates) -> KernelTime:
    """Checks and times all ways. A rival that fails, or computes something else, is skipped with the reason."""
    error = check(case)
    ms = median_ms(case.ours.run, device, budget_s=BUDGET_S)
    rivals_ms: dict[str, float] = {}
    skipped = dict(case.skipped)
    for name, way in case.rivals.items():
        try:
            its_error = case.error_of(way) if way.result is not None else 0.0
            if its_error <= case.bound:
                rivals_ms[name] = median_ms(way.run, device, budget_s=BUDGET_S)
            else:
                skipped[name] = f"computes something else: error {its_error:.2e}"
        except Exception as failure:  # whatever a library fails with, the others go on
            skipped[name] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    return KernelTime(
        kernel=case.kernel,
        case=case.case,
        ms=ms,
        bytes=case.work.bytes,
        flops=case.work.flops,
        bound=rates.bound(case.work),
        of_bound=1e3 * rates.seconds(case.work) / ms,
        error=error,
        rivals_ms=rivals_ms,
        skipped=skipped,
    )


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """|found - exact| / |exact|, in float64; NaN if anything was not written."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())

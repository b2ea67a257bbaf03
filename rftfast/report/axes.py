"""Axes of figures: where their ticks are, and how a value becomes a place on the drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """``low`` to ``high`` in the data's unit; ``ticks`` are values with their labels. ``log``: by the logarithm."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where ``value`` lies between the ends, as a share of the axis; beyond them, at the end."""
        t = (math.log(value) if value > 0 else -math.inf) if self.log else value
        a, b = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return min(max((t - a) / (b - a), 0.0), 1.0)


def linear(
    label: str,
    values: Iterable[float],
    *,
    zero: bool = True,
    scale: float = 1.0,
    most: float = math.inf,
    pad: float = 0.04,
    whole: bool = False,
) -> Axis:
    """An axis over ``values`` with round ticks. ``zero``: begin there. ``scale``: labels are values times this (100 for
    percent). ``most``: no value can be larger, so the axis ends there. ``whole``: ticks at whole numbers only."""
    shown = list(values) or [0.0]
    low, high = min(shown), max(shown)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:  # one value, or none but zero
        low, high = (low, low + 1 / scale) if zero else (low - 0.5 / scale, low + 0.5 / scale)
    step = _round_step((high - low) / 5)
    if whole:
        step = max(step, 1.0)
    if zero:
        bottom, top = math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step
    else:
        bottom, top = low - pad * (high - low), high + pad * (high - low)
    top = min(top, most) if most >= high else top
    first = math.ceil(bottom / step - 1e-9)
    ticks = []
    for i in range(first, math.floor(top / step + 1e-9) + 1):
        ticks.append((i * step, _number(i * step * scale, step * scale)))
    return Axis(label, bottom, top, tuple(ticks))


def logarithmic(label: str, ticks: Sequence[tuple[float, str]]) -> Axis:
    """A logarithmic axis with given ticks, which are in order; its ends lie a little beyond them."""
    low, high = ticks[0][0], ticks[-1][0]
    room = (high / low) ** 0.05 if high > low else 1.5
    return Axis(label, low / room, high * room, tuple(ticks), log=True)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _number(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits}f}".replace("-", "−")

"""What a person watches while a model trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import datetime
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rftfast.train.metrics import StepMetrics

_LINE_EVERY_S = 10.0


class ProgressBar:
    """Steps done, loss, learning rate, tokens/s, MFU, gradient norm, memory, and the time that is left."""

    def __init__(self, console: Console, steps: int, made: int, tokens_left: int) -> None:
        self._console = console
        self._steps = steps
        self._tokens_left = tokens_left
        self._seconds = 0.0
        self._tokens = 0
        self._said = 0.0
        self._bar = Progress(BarColumn(bar_width=8), TextColumn("{task.fields[figures]}"), console=console)
        self._task = self._bar.add_task("steps", total=steps, completed=made, figures=f"{made}/{steps}")

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, m: StepMetrics) -> None:
        self._seconds += m.seconds
        self._tokens += m.tokens
        self._tokens_left -= m.tokens
        figures = self._figures(m)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=m.step, figures=figures)
        elif time.monotonic() - self._said >= _LINE_EVERY_S or m.step == self._steps:
            self._said = time.monotonic()
            self._console.print(figures, highlight=False, soft_wrap=True)

    def _figures(self, m: StepMetrics) -> str:
        left = datetime.timedelta(seconds=round(self._seconds / self._tokens * self._tokens_left))
        mfu = "" if m.mfu is None else f", MFU {100 * m.mfu:.0f} %"
        eta = f", ETA {left}" if m.step < self._steps else ""
        return (
            f"{m.step}/{self._steps} {m.shown()}, lr {m.lr:.1e}, {m.tokens_per_second:,.0f} tok/s{mfu}, "
            f"|g| {m.grad_norm:.2f}, {m.memory / 2**30:.1f} GiB{eta}"
        )

"""A result as a table in the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from bench.schema import Result, Row


def show(result: Result, console: Console | None = None) -> None:
    """Print the machine, the table, the matrix products' time and every note."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=140))
    machine, settings = result.machine, result.settings
    features = " ".join(name for name in machine.features if name.startswith(("avx512_bf16", "amx", "avx2", "bf16")))
    console.print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib / 1024:.0f} GiB, {features}")
    if machine.accelerator:
        console.print(machine.accelerator)
    lengths = settings.get("prompt_tokens", ())
    console.print(
        f"{settings.get('model')}: {len(lengths)} prompts of {min(lengths, default=0)} to {max(lengths, default=0)} tokens,"
        f" k = {settings.get('k')}, {settings.get('max_tokens')} new tokens{' at most' if settings.get('verified') else ''}"
    )
    load = settings.get("load_before", 0.0)
    if load > 0.5:
        console.print(f"the machine was busy as this began (load {load:.1f}): do not trust these figures", style="bold")
    table = Table()
    verified = any(row.distinct_verified_per_s is not None for row in result.rows)
    over = any(row.step_over_matmul is not None for row in result.rows)
    bound = any(row.of_roofline is not None for row in result.rows)
    table.add_column("engine")
    heads = ["tokens/s", "samples/s", "ours is", "seconds", "prompt s", "step ms", "peak MiB"]
    heads += ["distinct verified/s"] if verified else []
    heads += ["step / products"] if over else []
    heads += ["of roofline"] if bound else []
    for head in heads:
        table.add_column(head, justify="right")
    for row in result.rows:
        table.add_row(row.engine, *_cells(row, verified, over, bound))
    console.print(table)
    for name, value in result.figures.items():
        console.print(f"{name}: {value:.1f}")
    for row in result.rows:
        for note in row.notes:
            console.print(f"{row.engine}: {note}", style="dim", markup=False, highlight=False)


def _cells(row: Row, verified: bool, over: bool, bound: bool) -> list[str]:
    if row.status in ("skipped", "error"):
        return [row.status] + [""] * (6 + verified + over + bound)
    star = "*" if row.status == "partial" else ""
    cells = [
        _number(row.tokens_per_s, ".1f") + star,
        _number(row.samples_per_s, ".2f"),
        _number(row.times_slower, ".2f", "×"),
        _number(row.seconds, ".2f"),
        _number(row.prefill_s, ".2f"),
        _number(row.step_ms, ".1f"),
        _number(row.peak_memory_mib, ".0f"),
    ]
    cells += [_number(row.distinct_verified_per_s, ".3f")] if verified else []
    cells += [_number(row.step_over_matmul, ".2f", "×")] if over else []
    cells += [_number(row.of_roofline, ".1%")] if bound else []
    return cells


def _number(value: float | None, style: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{style}}{unit}"

"""What the training benchmarks' command lines have in common: options, the table of trainers."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.machine import usable_cores
from bench.schema import Result


def add_options(parser: argparse.ArgumentParser, *, steps: int, lr: float) -> None:
    """Those of every training benchmark; ``steps`` and ``lr`` are its defaults."""
    shown = "(default: %(default)s)"
    parser.add_argument("--model", default="smollm2-135m-instruct", help=f"folder or name {shown}")
    parser.add_argument("--row-tokens", type=int, default=4096, help=f"tokens of a packed row {shown}")
    parser.add_argument("--steps", type=int, default=steps, help=f"measured steps {shown}")
    parser.add_argument("--warm-up", type=int, default=1, help=f"steps before them {shown}")
    parser.add_argument("--lr", type=float, default=lr, help=f"constant learning rate {shown}")
    parser.add_argument("--seed", type=int, default=0, help=shown)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of every trainer (default: all cores)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help=shown)
    parser.add_argument("--repeat", type=int, default=1, help=f"rounds over all trainers; medians {shown}")
    parser.add_argument("--timeout-s", type=float, default=3600.0, help=f"of one trainer {shown}")
    parser.add_argument("--json", type=Path, help="write the result here")


def show_trainers(result: Result, job: str, *, digits: str) -> None:
    """The machine, ``job`` in words, a row for each trainer, figures (formatted as ``digits``), shares of the peak, notes."""
    from rich.console import Console
    from rich.table import Table

    settings = result.settings
    console = Console(width=140, highlight=False)
    console.print(f"{result.machine.cpu}, {result.machine.cores} cores; load before: {settings['load_before']:.1f}")
    console.print(f"{settings['model']}: {job}")
    table = Table()
    for head in ("trainer", "useful tokens/s", "ours is", "s a step", "processor s a step", "peak MiB"):
        table.add_column(head, justify="left" if head == "trainer" else "right")
    for row in result.rows:
        if not row.runs:
            table.add_row(row.engine, row.status, "", "", "", "")
            continue
        processor = min(run.extra["processor_s"] for run in row.runs) / settings["steps"]
        ratio = "" if row.times_slower is None else f"{row.times_slower:.2f}×"
        cells = (f"{row.tokens_per_s:.0f}", ratio, f"{(row.step_ms or 0) / 1e3:.2f}", f"{processor:.2f}")
        table.add_row(row.engine, *cells, f"{row.peak_memory_mib:.0f}")
    console.print(table)
    for name, value in result.figures.items():
        console.print(f"{name}: {value:{digits}}")
    for row in result.rows:
        for mfu in {run.extra["mfu"] for run in row.runs if run.extra.get("mfu")}:
            console.print(f"{row.engine}: {100 * mfu:.1f} % of the peak (MFU)")
    for row in result.rows:
        for note in row.notes:
            console.print(f"{row.engine}: {note}", style="dim", markup=False)

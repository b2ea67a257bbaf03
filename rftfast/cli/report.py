"""``rftfast report``: one HTML page of a run or a study."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from rftfast.cli import options


def report(
    sources: list[Path] = typer.Argument(help="A study's folder, or a run directory; several runs are shown together."),
    out: Path = typer.Option(
        None, help="The file. Default: report.html in the folder; for several runs, in the working directory."
    ),
    samples: int = typer.Option(
        None,
        help="Samples a question whose text is in the page, kept paths first; others are counted. 0: all. "
        "Default: all of a small run, 24 of one above 64 MB.",
    ),
    rollouts: Path = typer.Option(
        None, help="Directory of rollouts of the run, whose values of steps are shown. Default: RUN/rollouts."
    ),
    questions: options.Questions = None,
) -> None:
    """Write one self-contained page: results, the paper's figures, cost, and every question with its paths.

    It needs no network and no server: open the file.
    """
    from rftfast.data.questions import load_questions
    from rftfast.report.page import write_report

    known = load_questions(questions) if questions else []
    with _progress() as told:
        written = write_report(sources, out, rollouts=rollouts, questions=known, most=samples, progress=told)
    size = f"{written.bytes / 1e6:,.1f} MB"
    shown = "" if not written.samples else f", text of {written.packed:,} of {written.samples:,} samples"
    typer.echo(f"{written.path} ({size}{shown})")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A line that comes and goes on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("questions")
        yield lambda done, of: bar.update(task, completed=done, total=of)

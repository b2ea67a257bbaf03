"""``rftfast select``: one path for each equation list, out of files and runs."""

from __future__ import annotations

from pathlib import Path

import typer

from rftfast.cli import options


def select(
    sources: options.Sources,
    out: Path = typer.Option(None, "--out", "-o", help="Where the rows go. Default: standard output."),
    key: options.Key = "reference",
    dedup: bool = typer.Option(
        True, help="--no-dedup: gold and every path with the right answer, equations unchecked."
    ),
    marker: options.Marker = "last",
    equations: options.Equations = "strict",
    bare: options.Bare = False,
    math: options.Math = False,
    stop: options.Stop = None,
    questions: options.Questions = None,
    prompt: options.Prompt = "gsm8k",
) -> None:
    """Training rows, gold first, from run directories or JSONL files; several are pooled and selected from anew.

    Rows of a file have question_id (or question) and completion (or response) and, where known, sample_index, model,
    and a verdict or the gold answer. The result does not depend on the order of the rows.
    """
    from rftfast.errors import UserError
    from rftfast.pipeline.files import select_pool

    judging = (marker, equations, bare, math, stop or []) != ("last", "strict", False, False, [])
    if judging and all(Path(source).is_dir() for source in sources):
        raise UserError(
            "the verdicts of a run stand, so --marker, --equations, --bare, --math and --stop would change nothing here; "
            "judge it anew with: rftfast verify RUN … | rftfast select -"
        )
    with options.open_pool(
        sources,
        marker=marker,
        equations=equations,
        bare=bare,
        math=math,
        stop=stop,
        questions=questions,
        prompt=prompt,
    ) as pool:
        totals = select_pool(pool, out, key=key, dedup=dedup)
        for line in totals.lines():
            typer.echo(line, err=True)
        typer.echo(f"written: {totals.rows:,} rows{f' to {out}' if out else ''}", err=True)
        options.warn(pool)

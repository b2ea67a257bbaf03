"""``rftfast export``: training files in the formats trainers read."""

from __future__ import annotations

from pathlib import Path

import typer

from rftfast.cli import options


def export(
    sources: options.Sources,
    form: str = typer.Option(
        ..., "--format", "-f", help="prompt-completion, messages, preference (all JSONL) or parquet."
    ),
    out: Path = typer.Option(
        None,
        "--out",
        "-o",
        help="File to write; - is standard output. Default: FORMAT.jsonl (or rft.parquet) in the run.",
    ),
    key: options.Key = "reference",
    dedup: bool = typer.Option(True, help="--no-dedup: every path with the right answer (not for preference)."),
    rejected: str = typer.Option("random", help="Preference: the wrong path is drawn at random, or the farthest."),
    seed: int = typer.Option(0, help="Preference: of the random draw."),
    questions: options.Questions = None,
) -> None:
    """Write kept paths (and gold) for a trainer; datasets.load_dataset reads the files, TRL takes them as they are."""
    from rftfast.errors import UserError
    from rftfast.pipeline.files import export_pool

    if out is None:
        if not Path(sources[0]).is_dir():
            raise UserError("export: --out is needed where the first source is not a run directory")
        out = Path(sources[0]) / ("rft.parquet" if form == "parquet" else f"{form}.jsonl")
    if form == "parquet" and str(out) == "-":
        raise UserError("export: Parquet cannot go to standard output; name a file with --out")
    if form == "preference" and not dedup:
        raise UserError("export: --no-dedup is not for preference pairs; leave it out")
    with options.open_pool(sources, questions=questions) as pool:
        totals = export_pool(pool, out, form, key=key, dedup=dedup, rejected=rejected, seed=seed)
        typer.echo(f"{totals.rows:,} rows of {totals.questions:,} questions: {out}", err=True)
        options.warn(pool)

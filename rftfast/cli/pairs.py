"""``rftfast pairs``: preference pairs out of a run and its rollouts."""

from __future__ import annotations

from pathlib import Path

import typer


def pairs(
    run: Path = typer.Argument(..., help="A run directory of 'rftfast sample'."),
    definition: str = typer.Option(
        "paper",
        help="paper (a correct solution against the wrong one up to its pit), shared-prefix (a correct rollout against the "
        "pit, both after the steps before it), outcome (whole answers, at random) or edit-distance (the farthest).",
    ),
    pit: str = typer.Option("lowest", help="lowest (Q), least-advantage, all-fail or drop; see docs/negatives.md."),
    best_of: int = typer.Option(5, help="least-advantage: under best of K; 1 is the policy itself."),
    pit_k: int = typer.Option(4, help="all-fail: so many rollouts count."),
    pit_low: float = typer.Option(0.2, help="drop: Q after the pit at most."),
    pit_high: float = typer.Option(0.5, help="drop: Q of some state before it at least."),
    chosen: str = typer.Option("sampled", help="Correct solutions are the run's kept paths, or 'gold'."),
    most: int = typer.Option(8, help="Pairs a question at most."),
    seed: int = typer.Option(0, help="Of the random choice of correct solutions and (outcome) wrong ones."),
    rollouts: Path = typer.Option(None, help="Directory of rollouts. Default: RUN/rollouts."),
    out: Path = typer.Option(None, "--out", "-o", help="File to write; - is standard output. Default: in the run."),
) -> None:
    """Write preference pairs (prompt, chosen, rejected) as TRL's trainers read them, with the steps they come from."""
    from rftfast.negatives.pairs import PairOptions, write_pairs
    from rftfast.negatives.pits import PitRule
    from rftfast.negatives.records import FOLDER

    rule = PitRule(pit, best_of, pit_k, pit_low, pit_high)
    options = PairOptions(definition, rule, chosen, seed, most)
    target = out or run / f"pairs-{definition}.jsonl"
    totals = write_pairs(run, rollouts or run / FOLDER, target, options)
    typer.echo(
        f"{totals.pairs:,} pairs of {totals.with_pairs:,} questions (of {totals.questions:,}): {target}", err=True
    )
    if totals.pits:
        steps = ", ".join(f"step {step}: {n:,}" for step, n in sorted(totals.pits.items())[:8])
        typer.echo(f"pits: {steps}{', …' if len(totals.pits) > 8 else ''}", err=True)
    typer.echo(f"rejected texts that end the answer: {totals.rejected_ends:,} (the others take no EOS)", err=True)
    for reason, n in totals.skipped.most_common():
        typer.echo(f"no pair: {n:,} × {reason}", err=True)

"""``rftfast stats``: what a run found, as tables, JSON and a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rftfast.cli import options
from rftfast.cli.lines import labelled

if TYPE_CHECKING:
    from rich.console import Console

    from rftfast.pipeline.budget import Comparison

_BARS = 30


def stats(
    sources: options.Sources,
    json_file: Path = typer.Option(
        None, "--json", help="Also write all figures as JSON; - prints them instead of tables."
    ),
    png: Path = typer.Option(None, "--png", help="Also draw them."),
    key: options.Key = "reference",
    adaptive: int = typer.Option(
        None,
        min=1,
        help="What --budget would have found with this k on average, played from a run's recorded samples, and plain k "
        "with as many tokens.",
    ),
    vote: str = typer.Option(
        "value", help="maj@k: value (18 and 18.0 are one vote) or paper (strings behind the first '#### ')."
    ),
) -> None:
    """Distinct paths, pass@k and maj@k by number of samples, and how often questions are solved.

    Of several runs, each on its own, and which equation lists one model alone found.
    """
    import json
    from dataclasses import asdict

    from rftfast.data.jsonl import open_output
    from rftfast.select.statistics import statistics

    played = [] if adaptive is None else [(str(source), _play(source, adaptive)) for source in sources]
    with options.open_pool(sources) as pool:
        report = statistics(pool, pool.models, key=key, vote=vote)
        if played:
            report["adaptive"] = {name: {**asdict(c), "gain": c.gain} for name, c in played}
        if json_file is not None:
            with open_output(json_file) as file:
                file.write(json.dumps(report, indent=2).encode() + b"\n")
        if png is not None:
            from rftfast.pipeline.figures import draw

            draw(report, png)
        if str(json_file) != "-":
            from rich.console import Console

            _show(Console(), report)
            for name, comparison in played:
                _show_adaptive(Console(), name, comparison)
        options.warn(pool)


def _show(console: Console, report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    for name, figures in report["models"].items():
        if not figures["questions"]:
            continue
        console.print(
            f"[bold]{escape(name or 'paths')}[/]: {figures['questions']:,} questions, {figures['samples']:,} samples; "
            f"{figures['right_answers_per_question']:.1f} right answers a question, "
            f"{figures['verified_per_question']:.1f} with right equations",
            highlight=False,
        )
        table = Table("k", "questions")
        for column in ("S", "U", "pass@k", "verified", "maj@k"):
            table.add_column(column, justify="right")
        rows = [(str(row["k"]), row) for row in figures["by_k"]]
        whole = figures["all_samples"]
        if not rows or rows[-1][1]["samples_per_question"] != whole["samples_per_question"]:
            rows.append((f"all ({whole['samples_per_question']:.4g})", whole))
        for k, row in rows:
            table.add_row(
                k,
                f"{row['questions']:,}",
                f"{row['distinct_sampled']:.2f}",
                f"{row['distinct_with_gold']:.2f}",
                *(f"{100 * row[name]:.1f} %" for name in ("pass", "pass_verified", "maj")),
            )
        console.print(table)
        console.print(f"verdicts: {', '.join(f'{n:,} {v}' for v, n in figures['verdicts'].items())}", highlight=False)
        _histogram(console, "samples with the right answer", figures["solved_histogram"])
        _histogram(console, "distinct correct equation lists", figures["equation_lists_histogram"])
        by_answer = figures["equation_lists_by_answer_histogram"]
        _histogram(console, "the same, equations unchecked (the paper's Figure 7)", by_answer)
    if "pooled" in report:
        _overlap(console, report["pooled"])
    rule = "by value" if report["vote"] == "value" else "by the paper's rule (strings)"
    console.print(
        "S: distinct equation lists a question among the first k samples, U: with the gold solution's. pass@k: right answer, "
        "verified: right equations, too (both unbiased estimates). "
        f"maj@k: over the first k samples, {rule}. Key: {report['key']}.",
        highlight=False,
    )


def _play(source: str, k: int) -> Comparison:
    from rftfast.data.run_dir import RunDir
    from rftfast.pipeline.budget import Budget, compare

    return compare(RunDir.read_questions(source), Budget.of(k))


def _show_adaptive(console: Console, name: str, c: Comparison) -> None:
    gain = f" ({c.gain:.2f}x)" if c.plain_distinct_at_equal_tokens else ""
    text = (
        f"on {name}: {c.k} samples a question on average (at most {c.cap}), {c.adaptive_tokens:,} tokens: "
        f"{c.adaptive_distinct:,} distinct verified paths; plain k with as many tokens "
        f"{c.plain_distinct_at_equal_tokens:,.0f}{gain}"
    )
    labelled(console, "adaptive k", text)


def _histogram(console: Console, what: str, counts: dict[str, int]) -> None:
    from rich.table import Table

    table = Table(what, title_justify="left", box=None)
    table.add_column("questions", justify="right")
    table.add_column("")
    bins = _bins({int(k): n for k, n in counts.items()})
    most = max((n for _, n in bins), default=0)
    for label, n in bins:
        table.add_row(label, f"{n:,}", "█" * round(_BARS * n / most) if most else "")
    console.print(table)


def _bins(counts: dict[int, int]) -> list[tuple[str, int]]:
    """At most twelve rows or so: none, then ranges of one width."""
    top = max(counts, default=0)
    width = next(w for w in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, top + 1) if top <= 12 * w)
    rows = [("0", counts.get(0, 0))]
    for low in range(1, top + 1, width):
        high = min(low + width - 1, top)
        rows.append((str(low) if low == high else f"{low}–{high}", sum(counts.get(i, 0) for i in range(low, high + 1))))
    return rows


def _overlap(console: Console, pooled: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(
        f"[bold]pooled[/]: {pooled['questions']:,} questions, {pooled['distinct_sampled']:.2f} distinct paths a question (S), "
        f"{pooled['distinct_with_gold']:.2f} with gold (U); {pooled['found_by_all']:,} lists found by all models",
        highlight=False,
    )
    table = Table("model")
    for column in ("lists found", "by it alone", "share of the pool"):
        table.add_column(column, justify="right")
    for name, figures in pooled["models"].items():
        table.add_row(
            escape(name), f"{figures['lists']:,}", f"{figures['exclusive']:,}", f"{100 * figures['share']:.1f} %"
        )
    console.print(table)

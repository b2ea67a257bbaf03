"""``rftfast rollout``: values of the steps of a run's responses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rftfast.cli.lines import say

if TYPE_CHECKING:
    from rich.console import Console

    from rftfast.negatives.job import RolloutJob
    from rftfast.negatives.rollouts import Progress
    from rftfast.negatives.step_rows import StepTotals

_SHOWN = 20
_REPORT_EVERY_S = 0.25


def rollout(
    run: Path = typer.Argument(..., help="A run directory of 'rftfast sample'."),
    negatives: int = typer.Option(8, help="Wrong responses a question."),
    positives: int = typer.Option(0, help="Right responses a question, to find steps that do not help."),
    unfinished: bool = typer.Option(False, help="Responses without an answer count as wrong ones."),
    rollouts: int = typer.Option(5, help="Completions from the end of each step."),
    best_of: int = typer.Option(None, min=1, help="K of the value under best of K. Default: as many as --rollouts."),
    bisect: bool = typer.Option(
        False, help="Find the pits of wrong responses only: bisect over the steps, stop at a state's first success."
    ),
    interval: str = typer.Option("wilson", help="wilson or clopper-pearson."),
    steps: str = typer.Option("auto", help="lines, sentences, or auto: lines where gold solutions are GSM8K's."),
    least: int = typer.Option(None, help="Characters of a step at least. Default: 1 of lines, 20 of sentences."),
    most: int = typer.Option(20, help="Steps of a response at most; the shortest neighbours are joined."),
    model: str = typer.Option(None, help="Roll out from another model. Default: the run's own."),
    temperature: float = typer.Option(None, help="Default: the run's."),
    max_tokens: int = typer.Option(None, help="Tokens of a whole response. Default: the run's."),
    seed: int = typer.Option(0, help="With a state's name and the rollout's index it fixes the noise."),
    questions: str = typer.Option(None, help="The questions' file, where a prompt does not tell its question."),
    limit: int = typer.Option(None, min=1, help="Only the first questions of the run."),
    out: Path = typer.Option(None, help="Directory; an unfinished one goes on. Default: RUN/rollouts."),
    prefix_share: bool = typer.Option(True, help="Compute a shared prefix once. Off is for comparisons."),
    device: str = typer.Option("cpu", help="cpu or cuda; several with commas between them, as cuda:0,cuda:1."),
    gpus: int = typer.Option(None, help="That many GPUs, one engine each."),
    dtype: str = typer.Option("auto", help="auto, bf16 or float32."),
    threads: int = typer.Option(None, help="CPU threads. Default: all cores."),
    kv_memory: str = typer.Option(None, help="Memory for keys and values. Default: half of what is free."),
    max_batch: int = typer.Option(
        None, help="Rollouts drawn at the same time. Default: 256 on CPUs (at most 512), 1024 on GPUs (at most 4096)."
    ),
    dry_run: bool = typer.Option(False, help="Count positives and negatives by question, and stop."),
) -> None:
    """Take wrong (and right) responses apart and estimate, from rollouts, what each step was worth.

    Writes steps.jsonl: every step with the chance of the right answer after it, an interval, and its advantage. The same
    command on the same directory goes on where it stopped.
    """
    from rich.console import Console

    from rftfast.data.manifest import read_manifest
    from rftfast.errors import UserError
    from rftfast.negatives.records import FOLDER
    from rftfast.negatives.steps import StepPolicy
    from rftfast.negatives.values import INTERVALS

    console = Console()
    read_manifest(run)  # before torch is loaded
    if dry_run:
        _count(console, run, limit)
        return
    policy = StepPolicy(steps, least, most)
    if interval not in INTERVALS:
        raise UserError(f"interval is {interval!r}; choose one of {', '.join(INTERVALS)}")
    if best_of is not None and best_of > rollouts:
        raise UserError(f"best of {best_of} cannot be estimated from {rollouts} rollouts: raise --rollouts")
    from rftfast.negatives.job import RolloutOptions, prepare

    job = prepare(
        RolloutOptions(
            run=run,
            negatives=negatives,
            positives=positives,
            unfinished=unfinished,
            rollouts=rollouts,
            bisect=bisect,
            model=model,
            questions=questions,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            steps=policy,
            limit=limit,
        )
    )
    where = {"device": device, "gpus": gpus}
    engine: dict[str, Any] = {
        "dtype": dtype,
        "threads": threads,
        "kv_memory": kv_memory,
        "prefix_share": prefix_share,
        "max_running": max_batch,
    }
    _roll_out(console, job, out or run / FOLDER, where, engine, (best_of or rollouts, interval))


def _count(console: Console, run: Path, limit: int | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from rftfast.data.run_index import RunIndex
    from rftfast.negatives.responses import Census, Counts

    index = RunIndex(run)
    census = Census([Counts.of(index.read(name)) for name in index.order[:limit]])
    columns = ("samples", "positives", "negatives", "false_equation", "unfinished", "stopped")
    table = Table("question", *(name.replace("_", " ") for name in columns))
    for counts in census.questions[:_SHOWN]:
        table.add_row(escape(counts.question_id), *(f"{getattr(counts, name):,}" for name in columns))
    if len(census.questions) > _SHOWN:
        table.add_row(f"… {len(census.questions) - _SHOWN:,} more")
    table.add_section()
    table.add_row(f"{len(census.questions):,} questions", *(f"{census.total(name):,}" for name in columns))
    console.print(table)
    spread = Table("a question has", *(label for label, _ in census.histogram("negatives")))
    for name in ("positives", "negatives"):
        spread.add_row(name, *(f"{n:,}" for _, n in census.histogram(name)))
    console.print(spread)
    both = census.having("positives", "negatives")
    console.print(
        f"{both:,} questions have both, {census.having('negatives') - both:,} negatives alone, "
        f"{census.having('positives') - both:,} positives alone. Positives and negatives are different texts; "
        "'unfinished' came to no answer (--unfinished takes them as negatives), 'stopped' were ended at a false equation "
        "before theirs (sample with --no-early-stop to have whole ones).",
        highlight=False,
    )


def _roll_out(
    console: Console,
    job: RolloutJob,
    path: Path,
    where: dict[str, Any],
    engine: dict[str, Any],
    estimate: tuple[int, str],
) -> None:
    import time

    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from rftfast.negatives.rollouts import open_rollouts, run
    from rftfast.negatives.step_rows import STEPS_FILE, write_steps
    from rftfast.pipeline.engines import open_engine

    o = job.options
    sampler = open_engine(job.folder, engine, **where).engine
    notes = {name: value for name, value in (where | engine).items() if name != "dtype"}
    with open_rollouts(job, sampler, path, {**notes, "model": o.model or job.source.model}) as directory:
        kinds = f"up to {o.negatives} wrong and {o.positives} right responses a question"
        way = "bisection" if o.bisect else "every step"
        say(console, f"{job.source.path}: {kinds}, {o.rollouts} rollouts a state, {way}")
        if directory.resumed:
            console.print(f"going on: {len(directory.done())} questions are stored", highlight=False)
        with Bar(BarColumn(bar_width=6), TextColumn("{task.fields[figures]}"), console=console) as bar:
            task = bar.add_task("questions", total=None, figures="")
            last = 0.0

            def report(p: Progress) -> None:
                nonlocal last
                done = p.stored_questions + p.questions_done
                if time.monotonic() - last > _REPORT_EVERY_S or done == p.questions:
                    last = time.monotonic()
                    words = f"{done}/{p.questions} q, {p.rollouts:,} rollouts, {p.rollouts_per_second:,.1f}/s"
                    bar.update(task, total=p.questions, completed=done, figures=words)

            progress = run(job, sampler, directory, report)
        totals = write_steps(path, job.source.order, *estimate)
    _summary(console, totals, progress, o.bisect)
    say(console, f"steps: {path / STEPS_FILE}")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _summary(console: Console, t: StepTotals, p: Progress, bisect: bool) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_row("questions", f"{t.questions:,}")
    table.add_row("responses", f"{t.wrong:,} wrong, {t.right:,} right, {t.steps:,} steps")
    table.add_row("rollouts", f"{t.rollouts:,}, {_percent(t.right_rollouts, t.rollouts)} right")
    if t.wrong:
        first = ", ".join(f"step {step}: {n:,}" for step, n in sorted(t.pits.items())[:8])
        table.add_row("first pits", f"{first}{', …' if len(t.pits) > 8 else ''}")
    if t.right_steps:
        table.add_row(
            "steps of right responses",
            f"{t.spurious:,} of {t.right_steps:,} without progress ({_percent(t.spurious, t.right_steps)}), "
            f"{t.harmful:,} surely harmful (95 %)",
        )
    if t.retokenised:
        table.add_row(
            "made tokens again", f"{t.retokenised:,} responses: the run does not store its token ids (--token-ids)"
        )
    if p.rollouts:
        table.add_row(
            "this process",
            f"{p.rollouts:,} rollouts, {p.tokens:,} tokens in {p.seconds:,.1f} s: {p.rollouts_per_second:,.1f} rollouts/s",
        )
        table.add_row(
            "saved by sharing",
            f"{p.computed_prompt_tokens:,} prompt and prefix tokens computed instead of {p.prompt_tokens:,}",
        )
    if bisect and p.rollouts:
        whole = p.tokens + p.spared_tokens
        table.add_row(
            "saved by bisection",
            f"{p.spared_rollouts:,} rollouts, about {p.spared_tokens:,.0f} tokens ({_percent(p.spared_tokens, whole)})",
        )
    console.print(table)

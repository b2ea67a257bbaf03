"""``rftfast synth``: new problems in the style of given ones, with solutions that agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rftfast.cli.lines import say

if TYPE_CHECKING:
    from rich.console import Console

    from rftfast.synth.job import SynthJob
    from rftfast.synth.run import Progress, SynthTotals
    from rftfast.synth.teacher import Teacher

_REPORT_EVERY_S = 0.25


def synth(
    questions: str = typer.Option(None, help="The given problems with their solutions. Default: 16 bundled ones."),
    out: Path = typer.Option(..., "--out", "-o", help="Directory; an unfinished one goes on."),
    teacher: str = typer.Option(None, help="Model to ask at an OpenAI-compatible endpoint."),
    endpoint: str = typer.Option(
        None, help="Its address, such as http://localhost:8000/v1. Default: OPENAI_BASE_URL, or OpenAI's own."
    ),
    key_env: str = typer.Option("OPENAI_API_KEY", help="Environment variable with the endpoint's key."),
    model: str = typer.Option(None, help="Instead of an endpoint: a model on this machine (folder, GGUF or name)."),
    problems: int = typer.Option(100, help="Problems to ask for; those kept are fewer. May be raised later."),
    shown: int = typer.Option(4, help="Given problems in each prompt."),
    solutions: int = typer.Option(4, help="Solutions of each problem."),
    agree: int = typer.Option(3, help="So many of them have to agree, with right calculations."),
    temperature: float = typer.Option(1.0, help="Of problems."),
    solve_temperature: float = typer.Option(0.7, help="Of solutions."),
    max_tokens: int = typer.Option(512, help="Tokens of an answer at most."),
    seed: int = typer.Option(0, help="Draws which problems are shown; of a local model, also the noise."),
    evaluation: list[str] = typer.Option(
        None, help="Questions that must not be given away; may be repeated. Problems that share words with them go."
    ),
    ngram: int = typer.Option(10, help="Words in a row that a problem may not share with an evaluation question."),
    near: float = typer.Option(
        0.7, help="Similarity (word triples, numbers aside) from which a problem is a duplicate."
    ),
    limit: int = typer.Option(None, help="Only the first of the given problems."),
    concurrency: int = typer.Option(16, help="Requests under way at a time."),
    rpm: float = typer.Option(None, help="Requests a minute at most."),
    tpm: float = typer.Option(None, help="Tokens a minute at most."),
    timeout: float = typer.Option(120.0, help="Seconds of one request at most."),
    retries: int = typer.Option(6, help="Further attempts after a failed one."),
    price_in: float = typer.Option(0.0, help="Of a million tokens asked."),
    price_out: float = typer.Option(0.0, help="Of a million tokens answered."),
    max_cost: float = typer.Option(None, help="No problem is begun that would take the cost above this."),
    device: str = typer.Option("cpu", help="Of a local model: cpu or cuda."),
    dtype: str = typer.Option("auto", help="Of a local model: auto, bf16 or float32."),
    threads: int = typer.Option(None, help="Of a local model. Default: all cores."),
    kv_memory: str = typer.Option(None, help="Of a local model. Default: half of what is free."),
) -> None:
    """Ask a teacher for new problems, have each solved several times, and keep those whose solutions agree.

    Writes problems.jsonl (a question file) and dropped.jsonl (the others, and why). The same command on the same directory
    goes on where it stopped, and asks for nothing twice.
    """
    from rich.console import Console

    from rftfast.errors import UserError
    from rftfast.synth.job import SynthOptions, prepare
    from rftfast.synth.teacher import Prices

    if (teacher is None) == (model is None):
        raise UserError("name who is asked: --teacher (at an endpoint), or --model (on this machine)")
    options = SynthOptions(
        seeds=questions,
        problems=problems,
        shown=shown,
        solutions=solutions,
        agree=agree,
        temperature=temperature,
        solve_temperature=solve_temperature,
        max_tokens=max_tokens,
        seed=seed,
        near=near,
        evaluation=tuple(evaluation or ()),
        ngram=ngram,
        prices=Prices(price_in, price_out),
        max_cost=max_cost,
        limit=limit,
    )
    job = prepare(options)
    prints: dict[str, Any] = {}
    if teacher is not None:
        from rftfast.synth.endpoint import EndpointTeacher
        from rftfast.synth.limits import Rates

        rates = Rates(rpm, tpm, retries, timeout_s=timeout)
        asked = EndpointTeacher(teacher, endpoint, key_variable=key_env, concurrency=concurrency, rates=rates)
        who: Teacher = asked
        named: dict[str, Any] = {"endpoint": asked.name, "model": teacher}
    else:
        engine = {"device": device, "dtype": dtype, "threads": threads, "kv_memory": kv_memory}
        who, named, prints = _local(str(model), seed, engine)
    if not evaluation:
        typer.echo("note: no --evaluation questions are named, so problems are not checked against any", err=True)
    _run(Console(stderr=True), job, who, named, prints, out)


def _local(model: str, seed: int, engine: dict[str, Any]) -> tuple[Teacher, dict[str, Any], dict[str, Any]]:
    from rftfast.engine.sampler import Sampler
    from rftfast.models.resolve import fingerprint, resolve
    from rftfast.synth.local import LocalTeacher

    folder = resolve(model)
    sampler = Sampler.from_pretrained(folder, **engine)
    prints = {"model": fingerprint(folder), "tokenizer": sampler.tokenizer.fingerprint()}
    named = {"local": True, "dtype": sampler.dtype, "invariant": sampler.invariant}
    return LocalTeacher(sampler, sampler.tokenizer, seed=seed), named, prints


def _run(
    console: Console, job: SynthJob, who: Teacher, named: dict[str, Any], prints: dict[str, Any], out: Path
) -> None:
    import time
    from importlib.metadata import version

    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from rftfast.synth.run import open_synth, run, write_problems

    notes = {"problems": job.options.problems}
    with open_synth(job, out, named, prints, {"rftfast": version("rftfast")}, notes) as directory:
        if directory.resumed:
            console.print(f"going on: {len(directory.done())} problems are stored", highlight=False)
        with Bar(BarColumn(bar_width=6), TextColumn("{task.fields[figures]}"), console=console) as bar:
            task = bar.add_task("problems", total=job.options.problems, figures="")
            last = 0.0

            def report(p: Progress) -> None:
                nonlocal last
                done = p.stored + p.done
                if time.monotonic() - last > _REPORT_EVERY_S or done == p.problems:
                    last = time.monotonic()
                    words = (
                        f"{done}/{p.problems} problems, {p.kept} kept, {p.usage.output:,} tokens, cost {p.spent:.2f}"
                    )
                    bar.update(task, completed=done, figures=words)

            progress = run(job, who, directory, report)
        totals = write_problems(job, out)
    _summary(console, job, totals, progress, out)


def _summary(console: Console, job: SynthJob, totals: SynthTotals, progress: Progress, out: Path) -> None:
    from rich.table import Table

    from rftfast.synth.run import DROPPED_FILE, KEPT, PROBLEMS_FILE

    table = Table("problems", "")
    table.add_row("asked for", f"{totals.problems:,}")
    table.add_row("kept", f"{totals.kept:,}")
    for reason, n in totals.reasons.most_common():
        if reason != KEPT:
            table.add_row(reason, f"{n:,}")
    u = totals.usage
    unknown = f" ({u.unknown:,} requests did not say)" if u.unknown else ""
    table.add_row("tokens", f"{u.input:,} asked, {u.output:,} answered in {u.requests:,} requests{unknown}")
    if job.options.prices.input or job.options.prices.output:
        table.add_row("cost", f"{job.options.prices.of(u):.4f}")
    console.print(table)
    if progress.failed:
        say(
            console,
            f"{progress.failed:,} problems failed at the endpoint (the last: {progress.last_failure}): "
            "run the same command again for them",
        )
    if progress.unasked:
        console.print(f"{progress.unasked:,} problems were not begun, to stay within --max-cost")
    say(console, f"{out / PROBLEMS_FILE}; the others and why: {out / DROPPED_FILE}")

"""``rftfast eval``: how often a model is right, with intervals; and whether it is more often right than another."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rftfast.cli.lines import say
from rftfast.cli.options import KvCacheDtype, Quantization

if TYPE_CHECKING:
    from rich.console import Console

    from rftfast.evaluate.paired import Comparison
    from rftfast.evaluate.scores import ModelScores

_REPORT_EVERY_S = 0.25


def evaluate(
    model: list[str] = typer.Argument(
        ..., help="A model (folder, GGUF file, named model, Hugging Face name), or run directories of one model."
    ),
    against: list[str] = typer.Option(
        None, help="Another model, or a run directory of it (repeat for several): compared question by question."
    ),
    questions: str = typer.Option(
        None, help="Questions as for 'rftfast sample': a file or a Hub dataset name. Default: 16 bundled ones."
    ),
    k: int = typer.Option(100, min=0, help="Paths a question for maj1@k and pass@k; 0: greedy answers only."),
    temperature: float = typer.Option(0.7, help="Of these paths."),
    seeds: int = typer.Option(1, min=1, help="How often the k paths are drawn, with seeds 0, 1, ..."),
    vote: str = typer.Option(
        "value", help="maj1@k: value (18 and 18.0 are one vote) or paper (strings behind the first '#### ')."
    ),
    prompt: str = typer.Option(
        None, help="Template, as for 'rftfast sample'. Default: the one stored with the model, or else gsm8k."
    ),
    shots: int = typer.Option(None, min=0, help="Worked examples in the prompt. Default: the template's own number."),
    exemplars: str = typer.Option(None, help="File the examples come from. Default: 8 bundled ones."),
    top_p: float = typer.Option(1.0, help="Nucleus sampling; 1 is off."),
    top_k: int = typer.Option(0, help="Likeliest tokens only; 0 is off. The paper's released code ran with 50."),
    max_tokens: int = typer.Option(256, help="New tokens a path at most."),
    limit: int = typer.Option(None, help="Only the first questions of the file."),
    math: bool = typer.Option(False, help="Compare answers that are no plain number as LaTeX (extra 'math')."),
    out: Path = typer.Option(
        None, help="Folder for the samples; an unfinished one goes on. Default: a fresh one under runs/."
    ),
    json_file: Path = typer.Option(None, "--json", help="Also write all figures as JSON; - prints them alone."),
    device: str = typer.Option("cpu", help="cpu or cuda; several with commas between them: cuda:0,cuda:1."),
    gpus: int = typer.Option(None, help="One engine on each of the first N GPUs; questions are dealt out among them."),
    ray: bool = typer.Option(False, help="Engines as Ray actors, one for each GPU of the cluster (extra 'ray')."),
    dtype: str = typer.Option("auto", help="auto (bf16 where the CPU multiplies it natively), bf16 or float32."),
    quantization: Quantization = None,
    kv_cache_dtype: KvCacheDtype = "auto",
    threads: int = typer.Option(None, help="CPU threads. Default: all cores."),
    kv_memory: str = typer.Option(
        None, help="Memory for keys and values, such as 4GiB. Default: half of what is free."
    ),
    max_batch: int = typer.Option(
        None, help="Paths drawn at the same time. Default: 256 on CPUs (at most 512), 1024 on GPUs (at most 4096)."
    ),
    backend: str = typer.Option(
        "auto", help="auto, native, triton, cuda or reference: which implementation of the operations."
    ),
) -> None:
    """Greedy accuracy (maj1@1), the vote of k paths (maj1@k) and pass@k, with 95 % intervals.

    Of run directories the stored samples are counted and nothing is drawn.
    """
    from rich.console import Console

    from rftfast.data.jsonl import open_output
    from rftfast.evaluate.report import report
    from rftfast.evaluate.scores import compare_models, score_runs, short_names

    console = Console(stderr=str(json_file) == "-")
    options = {
        "questions": questions,
        "prompt": prompt,
        "shots": shots,
        "exemplars": exemplars,
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_tokens": max_tokens,
        "seeds": seeds,
        "limit": limit,
        "math": math,
    }
    engine = {
        "dtype": dtype,
        "threads": threads,
        "kv_memory": kv_memory,
        "max_running": max_batch,
        "backend": backend,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
    }
    where = {"device": device, "gpus": gpus, "ray": ray}
    runs = _runs([model, *([against] if against else [])], options, engine, where, out, console)
    models = [score_runs(paths, vote) for paths in runs]
    comparison = compare_models(*models) if len(models) > 1 else {}
    if json_file is not None:
        with open_output(json_file) as file:
            file.write(report(models, comparison, vote))
    if str(json_file) != "-":
        names = short_names([each.model for each in models])
        for each, name in zip(models, names, strict=True):
            _show(console, each, name)
        if comparison:
            _show_comparison(console, models, names, comparison)


def _runs(
    sources: list[list[str]],
    options: dict[str, Any],
    engine: dict[str, Any],
    where: dict[str, Any],
    out: Path | None,
    console: Console,
) -> list[list[Path]]:
    """The run directories of each model, drawn where the source is a model."""
    from itertools import chain

    from rftfast.errors import UserError
    from rftfast.evaluate.outcomes import run_folders

    found = [[run_folders(name) for name in names] for names in sources]
    for names, folders in zip(sources, found, strict=True):
        if len(names) > 1 and not all(folders):
            lost = names[folders.index([])]
            raise UserError(f"{lost}: no run directory; give one model, or run directories alone")
    models = [names for names, folders in zip(sources, found, strict=True) if not folders[0]]
    if not models:
        if options["questions"] or out:
            raise UserError("run directories are counted as they are; leave --questions and --out out")
        return [list(chain(*folders)) for folders in found]
    from rftfast.evaluate.sampling import EvalOptions, draw, folder_names, prepare_jobs

    asked = EvalOptions(**options)
    prepared = [prepare_jobs(name, asked) for (name,) in models]  # all that can be refused is, before anything is drawn
    labels = folder_names([name for (name,) in models])
    out = out or _fresh(labels[0])
    drawn = []
    for jobs, label in zip(prepared, labels, strict=True):
        first = next(iter(jobs.values()))
        say(
            console,
            f"{first.options.model}: {len(first.questions)} questions, prompt {first.template.name} with "
            f"{len(first.shots)} shots; samples in {out / label}",
        )
        with _Bar(console) as bar:
            drawn.append(draw(jobs, out / label, engine, bar.update, where))
    return [list(chain(*folders)) or drawn.pop(0) for folders in found]


def _fresh(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"eval-{name}-{stamp}"


class _Bar:
    """A progress line for each run."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[figures]}"), console=console
        )
        self._tasks: dict[str, Any] = {}
        self._last = 0.0

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, name: str, progress: Any) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=progress.questions, figures="")
            self._last = 0.0
        done = progress.stored_questions + progress.questions_done
        if progress.seconds - self._last < _REPORT_EVERY_S and done < progress.questions:
            return
        self._last = progress.seconds
        left = progress.eta_seconds
        eta = f", ETA {datetime.timedelta(seconds=round(left))}" if left else ""
        figures = f"{done}/{progress.questions} questions, {progress.tokens_per_second:,.0f} tok/s{eta}"
        self._bar.update(self._tasks[name], completed=done, figures=figures)


def _show(console: Console, model: ModelScores, name: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    seeds = max(len(s.by_seed) for s in model.headline)
    table = Table(escape(name), title_justify="left")
    for column in ("right", "95 % interval", "questions", *(["by seed"] if seeds > 1 else [])):
        table.add_column(column, justify="right")
    for score in model.headline:
        i = score.interval
        by_seed = [", ".join(f"{100 * v:.1f}" for v in score.by_seed)] if seeds > 1 else []
        table.add_row(
            score.name,
            f"{100 * i.value:.1f} %",
            f"{100 * i.low:.1f} – {100 * i.high:.1f}",
            f"{len(score.values):,}",
            *by_seed,
        )
    console.print(table)
    for run in model.runs:
        if run.unfinished:
            console.print(
                f"[yellow]note[/] {escape(str(run.path))} is not finished: {len(run.golds):,} of {run.wanted:,} questions",
                highlight=False,
                soft_wrap=True,
            )
        if run.greedy:
            verdicts = ", ".join(f"{n:,} {verdict}" for verdict, n in run.verdicts.most_common())
            console.print(f"verdicts on the greedy paths: {verdicts}", highlight=False)


def _show_comparison(
    console: Console, models: list[ModelScores], names: list[str], comparison: dict[str, Comparison]
) -> None:
    from rich.markup import escape
    from rich.table import Table

    first, second = map(escape, names)
    title = f"A = {first} against B = {second}"
    table = Table("", title=title, title_justify="left")
    for column in ("A − B, points", "95 % interval", "A better", "B better", "p"):
        table.add_column(column, justify="right")
    shown = [s.name for s in models[0].headline if s.name in comparison] or list(comparison)
    for name in shown:
        c = comparison[name]
        d = c.difference
        table.add_row(
            name,
            f"{100 * d.value:+.1f}",
            f"{100 * d.low:+.1f} – {100 * d.high:+.1f}",
            f"{c.better:,}",
            f"{c.worse:,}",
            "" if c.p is None else f"{c.p:.2g}",
        )
    console.print(table)
    n = comparison[shown[0]].questions
    console.print(
        f"{n:,} questions that both have; p: exact, paired by question (McNemar's for one seed)", highlight=False
    )

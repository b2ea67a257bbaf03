"""``rftfast sample``: questions in, verified distinct paths out."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rftfast.cli import options
from rftfast.cli.lines import labelled, say

if TYPE_CHECKING:
    from rich.console import Console

    from rftfast.pipeline.job import Job
    from rftfast.pipeline.sample import Progress

_REPORT_EVERY_S = 0.25


def sample(
    questions: str = typer.Option(
        None,
        help="JSONL, JSON or Parquet file with question/answer, query/response, problem/solution, "
        "prompt/completion or problem/answer columns, or a Hub dataset name. Default: 16 bundled questions.",
    ),
    model: str = typer.Option(
        "smollm2-135m-instruct",
        help="Folder, GGUF file, named model (see 'rftfast models'), Hugging Face name, or shape:NAME (random "
        "weights of a published shape; paths run to --max-tokens).",
    ),
    prompt: str = typer.Option(
        None,
        help="Template: gsm8k (few-shot), alpaca (the paper's), chat, plain, or a file. Default: the one stored with the "
        "model (trained ones have it), else gsm8k.",
    ),
    shots: int = typer.Option(None, min=0, help="Worked examples in the prompt. Default: the template's own number."),
    exemplars: str = typer.Option(None, help="File the examples come from. Default: 8 bundled ones."),
    k: int = typer.Option(100, help="Paths a question; with --budget, on average."),
    budget: bool = typer.Option(
        False, help="Adaptive k: questions that yield no new paths give their samples to those that do."
    ),
    k_floor: int = typer.Option(None, min=1, help="With --budget: samples each question gets. Default: k / 4."),
    k_cap: int = typer.Option(None, min=1, help="With --budget: samples a question gets at most. Default: 4 k."),
    early_stop: bool = typer.Option(
        True,
        help="End a path at its first false equation and after the line of its answer. Off where whole wrong "
        "answers are wanted (rftfast rollout).",
    ),
    marker: options.Marker = "last",
    equations: options.Equations = "strict",
    bare: options.Bare = False,
    math: options.Math = False,
    token_ids: bool = typer.Option(False, help="Store each path's token ids: parts about three times as large."),
    prefix_share: bool = typer.Option(
        True, help="Compute and store a shared prompt once for all of its paths. Off is for comparisons."
    ),
    temperature: float = typer.Option(0.7, help="0 is greedy."),
    top_p: float = typer.Option(1.0, help="Nucleus sampling; 1 is off."),
    top_k: int = typer.Option(0, help="Likeliest tokens only; 0 is off. The paper's released code ran with 50."),
    min_p: float = typer.Option(0.0, help="Least probability relative to the likeliest token; 0 is off."),
    max_tokens: int = typer.Option(256, help="New tokens a path at most."),
    seed: int = typer.Option(0, help="Run seed: with a question's id and the sample index it fixes the noise."),
    limit: int = typer.Option(None, help="Only the first questions of the file."),
    out: Path = typer.Option(None, help="Run directory; an unfinished one goes on. Default: a fresh one under runs/."),
    device: str = typer.Option("cpu", help="cpu, cuda, or several with commas: cuda:0,cuda:1 (an engine on each)."),
    gpus: int = typer.Option(None, help="One engine on each of the first N GPUs; questions are dealt out among them."),
    ray: bool = typer.Option(False, help="Engines as Ray actors, one for each GPU of the cluster (extra 'ray')."),
    dtype: str = typer.Option("auto", help="auto (bf16 where the CPU multiplies it natively), bf16 or float32."),
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KvCacheDtype = "auto",
    threads: int = typer.Option(None, help="CPU threads. Default: all cores."),
    kv_memory: str = typer.Option(
        None, help="Memory for keys and values, such as 4GiB. Default: half of what is free."
    ),
    invariant: bool = typer.Option(
        None,
        "--invariant/--no-invariant",
        help="Tokens do not depend on batch, order or interruptions. Default: on for CPUs.",
    ),
    max_batch: int = typer.Option(
        None, help="Paths drawn at the same time. Default: 256 on CPUs (at most 512), 1024 on GPUs (at most 4096)."
    ),
    backend: str = typer.Option(
        "auto", help="auto, native, triton, cuda or reference: which implementation of the operations."
    ),
    dry_run: bool = typer.Option(False, help="Print the resolved configuration, memory plan and token estimate only."),
) -> None:
    """Draw k paths a question, keep the right ones, one for each list of equations, in a run directory.

    The same command on the same directory goes on where it stopped.
    """
    from rich.console import Console

    from rftfast.pipeline.job import SampleOptions, prepare

    console = Console()
    job = prepare(
        SampleOptions(
            model=model,
            questions=questions,
            prompt=prompt,
            shots=shots,
            exemplars=exemplars,
            k=k,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            max_tokens=max_tokens,
            seed=seed,
            limit=limit,
            early_stop=early_stop,
            budget=budget,
            k_floor=k_floor,
            k_cap=k_cap,
            token_ids=token_ids,
            marker=marker,
            equations=equations,
            bare=bare,
            math=math,
        )
    )
    path = out or _fresh(model)
    where: dict[str, Any] = {"device": device, "gpus": gpus, "ray": ray}
    engine: dict[str, Any] = {
        "dtype": dtype,
        "threads": threads,
        "kv_memory": kv_memory,
        "prefix_share": prefix_share,
        "invariant": invariant,
        "max_running": max_batch,
        "backend": backend,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
    }
    _show_job(console, job, path, engine)
    if dry_run:
        _dry_run(console, job, where, engine)
    else:
        _run(console, job, path, where, engine)


def _fresh(model: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = Path(model).name.removesuffix(".gguf")
    path = Path("runs") / f"{name}-{stamp}"
    number = 2
    while path.exists():
        path = Path("runs") / f"{name}-{stamp}-{number}"
        number += 1
    return path


def _show_job(console: Console, job: Job, path: Path, engine: dict[str, Any]) -> None:
    o = job.options
    filters = "".join(
        f", {name} {value}"
        for name, value, off in (("top-p", o.top_p, 1.0), ("top-k", o.top_k, 0), ("min-p", o.min_p, 0.0))
        if value != off
    )
    sharing = "shared prefixes" if engine["prefix_share"] else "no sharing"
    source = o.questions or "bundled"
    labelled(console, "model", f"{o.model} ({job.config.family}, {job.config.layers} layers)")
    labelled(console, "questions", f"{len(job.questions)} ({source}), {_samples(job)}, {sharing}")
    labelled(
        console,
        "prompt",
        f"{job.template.name}, {len(job.shots)} shots; temperature {o.temperature}{filters}, "
        f"at most {o.max_tokens} new tokens, seed {o.seed}",
    )
    labelled(console, "run", str(path))
    for note in (*job.config.notes, *job.notes()):
        labelled(console, "note", note, style="yellow")


def _samples(job: Job) -> str:
    b = job.budget
    stop = ", early stop" if job.options.early_stop else ""
    return (f"k = {job.options.k}" if b is None else f"k = {b.k} on average, {b.floor} to {b.cap}") + stop


def _show_memory(console: Console, lines: Sequence[str]) -> None:
    for i, line in enumerate(lines):
        labelled(console, "memory" if i == 0 else "", line)


def _dry_run(console: Console, job: Job, where: dict[str, Any], engine: dict[str, Any]) -> None:
    from rftfast.engine.device import find_device
    from rftfast.engine.memory import Batch, parse_bytes, plan_memory
    from rftfast.engine.sampler import choose_dtype
    from rftfast.ops import fp8
    from rftfast.pipeline.engines import devices_of

    device = find_device(devices_of(where["device"], where["gpus"])[0])
    dtype = choose_dtype(engine["dtype"], device)
    kv = parse_bytes(engine["kv_memory"]) if engine["kv_memory"] else None
    batch = Batch.of(device, engine["max_running"])
    plan = plan_memory(
        job.config,
        dtype,
        device,
        kv_memory=kv,
        batch=batch,
        quantization=engine["quantization"],
        kv_cache_dtype=engine["kv_cache_dtype"],
    )
    _show_memory(console, plan.lines())
    e = job.estimate()
    form = str(dtype).removeprefix("torch.") + fp8.marks(engine["quantization"], engine["kv_cache_dtype"])
    labelled(console, "dtype", form)
    labelled(
        console,
        "tokens",
        f"{e['samples']:,} samples; prompts of {e['prompt_tokens_each']:,.0f} tokens: "
        f"{e['prompt_tokens_shared']:,.0f} computed with sharing, {e['prompt_tokens_unshared']:,.0f} without; "
        f"at most {e['new_tokens_at_most']:,} new tokens",
    )
    console.print("dry run: nothing was sampled or written")


def _run(console: Console, job: Job, path: Path, where: dict[str, Any], engine: dict[str, Any]) -> None:
    from rftfast.pipeline.engines import open_engine
    from rftfast.pipeline.sample import check_run, open_run, run

    check_run(job, path)
    opened = open_engine(job.folder, engine, **where)
    _show_memory(console, opened.memory)
    labelled(console, "kernels", f"{opened.kernels}, {opened.engine.dtype}")
    if opened.places:
        labelled(console, "engines", ", ".join(opened.places))
    notes = {name: value for name, value in (where | engine).items() if name not in ("dtype", "invariant")}
    with open_run(job, opened.engine, path, notes) as d:
        if d.resumed:
            console.print(f"going on: {len(d.done())} of {len(job.questions)} questions are stored")
        try:
            with _Bar(console, job) as bar:
                progress = run(job, opened.engine, d, bar.update)
        except KeyboardInterrupt:
            typer.echo(f"what is stored stays; the same command with --out {path} goes on from there", err=True)
            raise
        _summary(console, d.summary(), progress, path)
    _show_question(console, job, path)


class _Bar:
    """The progress line: questions, samples, tokens/s, accepted, distinct paths a question, ETA."""

    def __init__(self, console: Console, job: Job) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            BarColumn(bar_width=6),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("questions", total=len(job.questions), figures="")
        self._last = 0.0

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, progress: Progress) -> None:
        done = progress.stored_questions + progress.questions_done
        if progress.seconds - self._last < _REPORT_EVERY_S and done < progress.questions:
            return
        self._last = progress.seconds
        eta = progress.eta_seconds
        left = "" if not eta else f", ETA {datetime.timedelta(seconds=round(eta))}"
        self._bar.update(
            self._task,
            completed=done,
            figures=f"{done}/{progress.questions} q, {progress.samples:,} paths, {progress.tokens_per_second:,.0f} tok/s, "
            f"{_percent(progress.accepted, progress.samples)} right, "
            f"{progress.distinct_per_question:.1f} kept/q{left}",
        )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _summary(console: Console, stored: dict[str, Any], progress: Progress, path: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "run", "this process", title=escape(str(path)), title_justify="left")
    samples, questions = stored["samples"], stored["questions"]
    table.add_row("questions", f"{questions:,}", f"{progress.questions_done:,}")
    table.add_row("samples", f"{samples:,}", f"{progress.samples:,}")
    table.add_row(
        "accepted",
        f"{stored['accepted']:,} ({_percent(stored['accepted'], samples)})",
        f"{progress.accepted:,} ({_percent(progress.accepted, progress.samples)})",
    )
    table.add_row("questions solved", f"{stored['solved']:,} ({_percent(stored['solved'], questions)})", "")
    each = f"{stored['distinct'] / questions:.2f} a question" if questions else "-"
    table.add_row(
        "distinct paths kept",
        f"{stored['distinct']:,} ({each})",
        f"{progress.distinct:,} ({progress.distinct_per_question:.2f} a question)",
    )
    table.add_row("verdicts", ", ".join(f"{n:,} {v}" for v, n in stored["verdicts"].items()), "")
    table.add_row("new tokens", f"{stored['tokens']:,}", f"{progress.tokens:,}")
    seconds = datetime.timedelta(seconds=round(progress.seconds))
    table.add_row("time, tokens/s", "", f"{seconds}, {progress.tokens_per_second:,.0f}")
    table.add_row(
        "saved by sharing",
        "",
        f"{_percent(progress.saved_share, 1)} of all tokens ({progress.computed_prompt_tokens:,} prompt tokens computed "
        f"instead of {progress.prompt_tokens:,})",
    )
    if progress.stopped:
        whole = progress.tokens + progress.stop_saved_tokens
        table.add_row(
            "saved by early stop",
            "",
            f"about {progress.stop_saved_tokens:,.0f} new tokens ({_percent(progress.stop_saved_tokens, whole)}), "
            f"{progress.stopped:,} paths ended at a false equation",
        )
    if progress.margin is not None:
        table.add_row(
            "adaptive k",
            f"{stored['fewest']} to {stored['most']} samples a question",
            f"the last samples dealt promised {progress.margin:.3f} new paths each",
        )
    console.print(table)
    say(console, f"training rows: {path / 'rft.jsonl'}")


def _show_question(console: Console, job: Job, path: Path) -> None:
    """The question with the most distinct paths, and up to five of them."""
    from rich.panel import Panel
    from rich.text import Text

    from rftfast.data.run_dir import RunDir

    best = max(RunDir.read_questions(path), key=lambda q: sum(s["kept"] for s in q.samples))
    kept = [s for s in best.samples if s["kept"]]
    question = next(q for q in job.questions if q.id == best.id)
    shown = "\n\n".join(f"[sample {s['sample_index']}]\n{s['completion']}" for s in kept[:5])
    title = f"{len(kept)} distinct verified paths" + (", 5 shown" if len(kept) > 5 else "")
    console.print(Panel(Text(question.question), title="question", title_align="left"))
    console.print(Panel(Text(shown or "no path of this run was accepted"), title=title, title_align="left"))

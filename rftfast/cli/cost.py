"""``rftfast cost``: operations and GPU-hours of pre-training, SFT, sampling and RFT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rftfast.evaluate.estimate import Estimate


def cost(
    model: str = typer.Argument(..., help="A model, or a published shape such as llama-7b (no weights needed)."),
    questions: str = typer.Option(None, help="Measure this file of questions. Default: GSM8K as the paper has it."),
    run: Path = typer.Option(None, help="Measure this run directory instead."),
    tokenizer: str = typer.Option(None, help="Model whose tokenizer measures. Default: the model's own."),
    prompt: str = typer.Option("gsm8k", help="With --questions: template, as for 'rftfast sample'."),
    shots: int = typer.Option(None, min=0, help="With --questions: worked examples. Default: the template's number."),
    count: float = typer.Option(None, help="Number of questions."),
    k: float = typer.Option(None, help="Paths a question."),
    header_tokens: float = typer.Option(None, help="Tokens of the worked examples in a sampling prompt."),
    prompt_tokens: float = typer.Option(None, help="Tokens of a prompt without them."),
    solution_tokens: float = typer.Option(None, help="Tokens of a gold solution."),
    path_tokens: float = typer.Option(None, help="Tokens of a sampled path."),
    kept: float = typer.Option(None, help="Sampled paths a question in the RFT set."),
    saved: float = typer.Option(None, help="Share of the paths' tokens that early stop spares (a run measures it)."),
    epochs: float = typer.Option(3.0, help="Of SFT and RFT training."),
    pretrain_tokens: float = typer.Option(None, help="Tokens of pre-training. Default: as published, for shapes."),
    gpu: str = typer.Option("A100-80GB", help="A100-40GB, A100-80GB, H100, H200, B200, L4, L40S or RTX-4090."),
    batch: int = typer.Option(256, help="Paths drawn at the same time."),
    utilisation: float = typer.Option(
        None, min=0.001, max=1.0, help="Share of the bound that you reach, as measured: adds times at that share."
    ),
    json_file: Path = typer.Option(None, "--json", help="Also write the figures as JSON; - prints them alone."),
) -> None:
    """Operations, and the GPU-hours below which it cannot be done.

    Lengths given as options replace measured ones.
    """
    import json

    from rftfast.data.jsonl import open_output
    from rftfast.evaluate.estimate import estimate

    given = {
        "questions": count,
        "k": k,
        "header": header_tokens,
        "prompt": prompt_tokens,
        "solution": solution_tokens,
        "path": path_tokens,
        "kept": kept,
        "saved": saved,
    }
    found = estimate(
        model,
        gpu=gpu,
        batch=batch,
        epochs=epochs,
        pretrain_tokens=pretrain_tokens,
        questions=questions,
        run=run,
        tokenizer=tokenizer,
        prompt=prompt,
        shots=shots,
        given={name: value for name, value in given.items() if value is not None},
    )
    if json_file is not None:
        with open_output(json_file) as file:
            file.write(json.dumps(found.report(), indent=2).encode() + b"\n")
    if str(json_file) != "-":
        _show(found, utilisation)


def _show(found: Estimate, utilisation: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from rftfast.cli.lines import labelled

    console = Console()
    w, s, g = found.workload, found.size, found.gpu

    def line(name: str, text: str) -> None:
        labelled(console, name, text, width=8)

    line(
        "model",
        f"{found.model}: {s.parameters / 1e9:.3f} B parameters, {s.blocks / 1e9:.3f} B without embeddings; "
        f"{s.kv_bytes / 1024:.1f} KiB of keys and values a token",
    )
    line(
        "data",
        f"{w.questions:,.0f} questions ({found.source}): header {w.header:,.0f}, prompt {w.prompt:,.0f}, solution "
        f"{w.solution:,.0f}, path {w.path:,.0f} tokens; k = {w.k:.4g}, {w.kept:.2f} kept",
    )
    line(
        "gpu",
        f"{g.name}: {g.flops / 1e12:,.0f} TFLOP/s dense bf16, {g.bandwidth / 1e12:.2f} TB/s, {g.memory / 1e9:.0f} GB; "
        f"sampling {found.batch} paths at a time needs {found.gpus_alone} with prompts alone, {found.gpus_shared} shared",
    )
    table = Table("")
    for column in ("tokens", "FLOPs", "GPU time ≥", "bound by", *([f"at {utilisation:.0%}"] if utilisation else [])):
        table.add_column(column, justify="right")
    for stage in found.stages:
        more = [_time(stage.seconds / utilisation)] if utilisation else []
        table.add_row(stage.name, _amount(stage.tokens), f"{stage.flops:.2e}", _time(stage.seconds), stage.bound, *more)
    console.print(table)
    if w.saved is None:
        console.print("early stop: not measured; name a run with --run, or give --saved", highlight=False)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def _amount(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:,.1f}{unit}"
    return f"{value:,.0f}"

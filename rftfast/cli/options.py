"""Options that several commands share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rftfast.data.records import Question
    from rftfast.select.union import Pool
    from rftfast.verify import Policy

Sources = Annotated[
    list[str],
    typer.Argument(help="Run directories and JSONL files, in the order in which they are pooled; - is standard input."),
]
Marker = Annotated[str, typer.Option(help="Which answer marker counts: last or first.")]
Equations = Annotated[
    str,
    typer.Option(help="strict (every part of a chain), reference (as the paper's released code) or off."),
]
Bare = Annotated[bool, typer.Option(help="Without <<…>>, take the calculations of the ordinary text.")]
Math = Annotated[bool, typer.Option(help="Compare answers that are no plain number as LaTeX (extra 'math').")]
Stop = Annotated[
    list[str] | None, typer.Option(help=r"Cut texts where this begins; may be repeated. \n and \t are understood.")
]
Key = Annotated[str, typer.Option(help="What makes paths the same: reference, canonical or commutative.")]
Questions = Annotated[
    str | None,
    typer.Option(help="File with the questions (by id), for sources that lack their texts or gold solutions."),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="fp8: the layers' weights and activations in 8 bits, for GPUs from Hopper on (and Ada). On CPUs it is "
        "emulated, to measure what it does to the answers, and slow."
    ),
]
KvCacheDtype = Annotated[
    str,
    typer.Option(
        help="Keys and values: auto (as the model) or fp8, which halves their memory and reading on GPUs from Hopper on (and "
        "Ada). On CPUs it is emulated, to measure what it does to the answers."
    ),
]
Prompt = Annotated[str, typer.Option(help="Template for files that have questions and no prompts.")]


def policy(marker: str, equations: str, bare: bool, math: bool) -> Policy:
    from rftfast.verify import Policy

    if math:
        from rftfast.verify.math_pool import require_math_verify

        require_math_verify()
    return Policy(marker=marker, equations=equations, bare=bare, math=math)


def stops(given: list[str] | None) -> list[str]:
    """As typed in a shell: a backslash and n is a line break."""
    return [stop.replace("\\n", "\n").replace("\\t", "\t") for stop in given or []]


def open_pool(
    sources: list[str],
    *,
    marker: str = "last",
    equations: str = "strict",
    bare: bool = False,
    math: bool = False,
    stop: list[str] | None = None,
    questions: str | None = None,
    prompt: str = "gsm8k",
) -> Pool:
    from rftfast.data.prompts import load_template
    from rftfast.data.questions import load_questions
    from rftfast.select.union import Pool

    known: list[Question] = load_questions(questions) if questions else []
    return Pool(
        sources,
        policy=policy(marker, equations, bare, math),
        stops=stops(stop),
        questions=known,
        template=load_template(prompt),
    )


def warn(pool: Pool) -> None:
    """Say on stderr what was taken for granted."""
    if pool.unnumbered:
        typer.echo(
            f"note: {pool.unnumbered:,} rows have no sample_index; their order in the file was taken as the order of samples",
            err=True,
        )
    if pool.unjudged:
        typer.echo(
            f"note: {pool.unjudged:,} rows have neither verdict nor gold answer and were taken as verified", err=True
        )

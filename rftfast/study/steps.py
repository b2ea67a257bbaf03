"""``python -m rftfast.study.steps``: what studies do and no other command does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from rftfast.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def world(
    train: int = typer.Option(400, min=1, help="Training problems."),
    test: int = typer.Option(1000, min=1, help="Test problems."),
    seed: int = typer.Option(0, help="Which problems."),
    out: Path = typer.Option(..., help="Folder for train.jsonl and test.jsonl."),
) -> None:
    """Problems of the made-up world."""
    from rftfast.data.export import write_jsonl
    from rftfast.study.world.problems import split_problems

    for name, problems in zip(("train", "test"), split_problems(train, test, seed), strict=True):
        out.mkdir(parents=True, exist_ok=True)
        write_jsonl(out / f"{name}.jsonl", (problem.row() for problem in problems))
        typer.echo(
            f"{out / name}.jsonl: {len(problems):,} problems, {sum(p.steps for p in problems) / len(problems):.2f} steps each"
        )


@app.command()
def blank(
    tokens: float = typer.Option(5e6, min=1000, help="Tokens of pre-training text."),
    seed: int = typer.Option(0, help="Of the weights and of the text."),
    out: Path = typer.Option(..., help="Folder for the model and text.jsonl."),
) -> None:
    """A small model with random weights, and the text to pre-train it on."""
    from rftfast.data.export import write_jsonl
    from rftfast.study.world.model import world_tokenizer, write_blank_model
    from rftfast.study.world.prose import text_rows

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = world_tokenizer()
    rows = text_rows(seed, lambda text: len(tokenizer.encode(text).ids), int(tokens))
    count = write_jsonl(out / "text.jsonl", rows)
    write_blank_model(out / "model", seed)
    typer.echo(f"{out}: model, and {count:,} texts of {tokens:,.0f} tokens in all")


@app.command()
def questions(
    source: str = typer.Argument(..., help="Questions as for 'rftfast sample'."),
    fraction: float = typer.Option(1.0, help="Share of the questions, drawn at random."),
    limit: int = typer.Option(None, min=1, help="At most so many of them."),
    seed: int = typer.Option(0, help="Of the draw. Smaller shares are parts of larger ones."),
    out: Path = typer.Option(..., help="File for the questions (JSONL)."),
) -> None:
    """A random part of a file of questions."""
    from rftfast.data.export import write_jsonl
    from rftfast.data.questions import load_questions
    from rftfast.study.subset import draw_part

    found = draw_part(load_questions(source), fraction, limit, seed)
    write_jsonl(out, ({"id": q.id, "question": q.question, "answer": q.answer} for q in found))
    typer.echo(f"{out}: {len(found):,} questions")


@app.command()
def select(
    runs: list[str] = typer.Argument(..., help="Run directories, pooled in this order."),
    first: int = typer.Option(None, min=1, help="Only the first so many samples of each question (of each run)."),
    dedup: bool = typer.Option(True, help="--no-dedup: gold and every path with the right answer."),
    key: str = typer.Option("reference", help="What makes paths the same: reference, canonical or commutative."),
    out: Path = typer.Option(..., help="Folder for rft.jsonl and counts.json."),
) -> None:
    """Training rows of the first k samples, and how many distinct paths they hold."""
    from rftfast.data.atomic import write_atomic
    from rftfast.study.subset import select_first

    out.mkdir(parents=True, exist_ok=True)
    counts = select_first(runs, out / "rft.jsonl", first=first, dedup=dedup, key=key)
    write_atomic(out / "counts.json", [json.dumps(counts, indent=1).encode() + b"\n"])
    typer.echo(json.dumps(counts))


def main() -> int:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    except Exception as error:  # what typer itself refuses (an unknown option) knows its exit status
        if not hasattr(error, "exit_code"):
            raise
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``rftfast models``: the named models, and fetching one."""

from __future__ import annotations

import typer

app = typer.Typer(help="List the named models, or fetch one into the cache.", invoke_without_command=True)


@app.callback()
def list_models(context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from rftfast.models.named import list_named
    from rftfast.models.shapes import PREFIX, SHAPES

    table = Table("model", "source", "licence", "download", "cached")
    for model in list_named():
        table.add_row(
            model.name, model.source, model.licence, f"{model.size / 1e6:.0f} MB", "yes" if model.cached else "no"
        )
    console = Console()
    console.print(table)
    console.print("Any local folder, GGUF file or Hugging Face name works as --model, too.")
    console.print(f"For measurements, random weights of a published shape: {', '.join(PREFIX + s for s in SHAPES)}.")


@app.command("pull")
def pull_model(name: str = typer.Argument(..., help="A named model, or a Hugging Face name.")) -> None:
    """Fetch a model into the cache and print its folder."""
    from rftfast.models.resolve import resolve

    typer.echo(str(resolve(name)))

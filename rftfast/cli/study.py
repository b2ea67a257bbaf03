"""``rftfast study``: a whole experiment, step by step, that goes on where it was killed."""

from __future__ import annotations

import time
from pathlib import Path

import typer


def study(
    config: str = typer.Argument(None, help="A study file (YAML), or the name of one that ships. Default: list them."),
    settings: list[str] = typer.Option(
        None, "--set", metavar="NAME=VALUE", help="Value of a parameter of the study; may be repeated."
    ),
    out: Path = typer.Option(None, help="Folder of the study. Default: what the file says, or runs/NAME."),
    jobs: int = typer.Option(None, min=1, help="Steps at the same time. Default: what the file says."),
    dry_run: bool = typer.Option(False, help="Print the steps, their costs and what is done, and stop."),
    commands: bool = typer.Option(False, help="With --dry-run: each step's command, too."),
) -> None:
    """Run a study: SFT, sampling, selection, RFT, evaluation, tables; what is done stays done.

    A step that fails does not stop the others. The exit status is 1 if one did.
    """
    from dataclasses import replace

    from rftfast.errors import UserError
    from rftfast.study.graph import build_graph
    from rftfast.study.results import collect
    from rftfast.study.run import failed_steps, failure, run_study, statuses
    from rftfast.study.show import graph_lines
    from rftfast.study.study_file import read_study, shipped
    from rftfast.study.tables import markdown, write_tables

    if config is None:
        for name, title in shipped().items():
            typer.echo(f"{name:<14} {title}")
        return
    given: dict[str, str] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write NAME=VALUE")
        given[name] = value
    spec = read_study(config, given)
    if jobs is not None:
        spec = replace(spec, jobs=jobs)
    folder = out or Path(spec.out)
    graph = build_graph(spec, folder)
    if dry_run:
        for line in graph_lines(spec, graph, statuses(graph), commands=commands):
            typer.echo(line)
        typer.echo("dry run: nothing was run or written")
        return
    begin = time.monotonic()

    def say(line: str) -> None:
        seconds = round(time.monotonic() - begin)
        typer.echo(f"[{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}] {line}")

    outcome = run_study(graph, folder, spec.jobs, say)
    states = statuses(graph)
    rows = collect(graph, states, spec.baseline)
    if rows:
        typer.echo("\n" + markdown(spec, rows))
    files = write_tables(spec, graph, states, rows, folder)
    typer.echo(f"written: {', '.join(map(str, files))}")
    for step, state in failed_steps(graph):
        for line in failure(step, state):
            typer.echo(line, err=True)
    if outcome.failed:
        typer.echo(
            f"{len(outcome.failed)} of {len(graph)} steps failed ({', '.join(outcome.failed)}), {len(outcome.blocked)} that "
            "build on them have not run; the same command tries again",
            err=True,
        )
        raise typer.Exit(1)

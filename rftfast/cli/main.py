"""``rftfast``: the entry point. Nothing heavy is imported before a subcommand runs."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from rftfast import __version__
from rftfast.cli import (
    cost,
    doctor,
    eval,
    export,
    models,
    pairs,
    report,
    rollout,
    sample,
    select,
    stats,
    study,
    synth,
    verify,
)
from rftfast.errors import UserError

_INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(
    name="rftfast",
    help="Draw many reasoning paths a question, keep the verified and different ones, train on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("sample")(sample.sample)
app.command("verify")(verify.verify)
app.command("select")(select.select)
app.command("stats")(stats.stats)
app.command("export")(export.export)
app.command("rollout")(rollout.rollout)
app.command("pairs")(pairs.pairs)
app.command("synth")(synth.synth)
app.command("eval")(eval.evaluate)
app.command("cost")(cost.cost)
app.command("report")(report.report)
app.add_typer(models.app, name="models")
app.command("study")(study.study)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Bad input ends in one line on stderr and exit status 2; Ctrl-C and SIGTERM in one line and 128 + signal.

    Both unwind, so that finished questions that wait for their part are stored.
    """
    # A thread that waits for its partner spins for about 20 µs and then sleeps. OpenMP's own default spins for
    # milliseconds, which starves the partner as soon as any other program wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    ended_by = [signal.SIGINT]

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        ended_by[0] = signal.SIGTERM
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _interrupted(ended_by[0])
    except SystemExit as ended:  # typer makes this of a KeyboardInterrupt, and says nothing
        if ended.code == _INTERRUPTED:
            _interrupted(ended_by[0])
        raise


def _at_home(argument: str) -> str:
    """``~/…`` is the home folder wherever a path is given: a shell leaves it as it is behind ``--out=``."""
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("--")):
        option, equals, value = "", "", argument
    return option + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def _interrupted(by: signal.Signals) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what Python still does, without a traceback
    print("interrupted" if by == signal.SIGINT else "terminated", file=sys.stderr)
    sys.exit(128 + by)


if __name__ == "__main__":
    main()

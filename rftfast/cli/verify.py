"""``rftfast verify``: JSONL rows in, the same rows with verdicts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from rftfast.cli import options


def verify(
    file: str = typer.Argument(
        ...,
        help="JSONL with 'completion' (or 'response') and 'answer' (gold), or a run directory; - is standard input.",
    ),
    out: Path = typer.Option(None, "--out", "-o", help="Where the rows go. Default: standard output."),
    marker: options.Marker = "last",
    equations: options.Equations = "strict",
    bare: options.Bare = False,
    math: options.Math = False,
    stop: options.Stop = None,
) -> None:
    """Judge every row: adds verdict, parsed_answer and equations. Counts and the policy go to standard error.

    Rows are read one after the other, so a file may be of any size. A row that cannot be used ends it with its line. Of a
    run, every sample becomes a row and is judged anew; the run stays as it is.
    """
    from rftfast.data.export import write_jsonl
    from rftfast.data.jsonl import STDIN, open_input
    from rftfast.data.run_index import RunIndex
    from rftfast.verify.rows import verify_rows, verify_run

    counts: Counter[str] = Counter()
    policy = options.policy(marker, equations, bare, math)

    def counted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            counts[row["verdict"]] += 1
            yield row

    if file != STDIN and Path(file).is_dir():
        rows = write_jsonl(out, counted(verify_run(RunIndex(file), policy, options.stops(stop))))
    else:
        with open_input(file) as (lines, name):
            rows = write_jsonl(out, counted(verify_rows(lines, name, policy, options.stops(stop))))
    shares = ", ".join(f"{n:,} {verdict} ({100 * n / rows:.1f} %)" for verdict, n in counts.most_common())
    typer.echo(f"{rows:,} rows: {shares}", err=True)
    more = "".join(f", {name}" for name, on in (("bare", bare), ("math", math)) if on)
    typer.echo(f"policy: {marker} marker, equations {equations}{more}", err=True)

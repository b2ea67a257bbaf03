"""What the benchmarks' command lines do alike: measure, write the result, show it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench.schema import Result


def execute(
    name: str,
    args: argparse.Namespace,
    run: Callable[[argparse.Namespace], Result],
    show: Callable[[Result], None] | None = None,
) -> int:
    """Run, write to ``args.json`` if it is given, show; the exit status. Bad input is one line and 2."""
    from rftfast.errors import UserError

    try:
        result = run(args)
        if args.json is not None:
            result.write(args.json)
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if show is not None:
        show(result)
    return 0

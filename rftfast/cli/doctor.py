"""``rftfast doctor``: what a user pastes into a bug report."""

from __future__ import annotations


def doctor() -> None:
    """Versions, CPU features, the backend of each operation and why, GPU, memory, cache folder."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rftfast.pipeline.environment import describe

    console = Console()
    for section, rows in describe().items():
        table = Table(title=section, title_justify="left", show_header=False)
        for name, value in rows.items():
            table.add_row(escape(name), escape(value))
        console.print(table)

"""Printed lines that show what comes from outside as it is: in a path or a model's name, [brackets] are no markup.

A line is not broken to the width of the terminal, so that a path in it can be copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LABEL = 10


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def labelled(console: Console, label: str, text: str, style: str = "bold", width: int = _LABEL) -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{label:<{width}}", style), " ", text), highlight=False, soft_wrap=True)

"""HTML from Python: escaping, numbers as people read them, small tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# Control characters, halves of surrogate pairs and what turns the direction of text: none has a place in a heading.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_LONGEST = 2000


def escape(text: str) -> str:
    """Any text as HTML text or attribute value; characters that could do harm are replaced, excess length is cut."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    return html.escape(_UNSAFE.sub("\ufffd", text), quote=True)


def percent(share: float | None, digits: int = 1) -> str:
    """``41.7``; the sign stands in the column's head."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def count(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def rounded(number: float | None) -> str:
    return "" if number is None else f"{number:,.2f}"


def scientific(number: float | None) -> str:
    """``1.7 × 10¹⁷``, whole numbers below a million as they are."""
    if number is None:
        return ""
    if abs(number) < 1e6:
        return f"{number:,.0f}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def duration(seconds: float | None) -> str:
    """``48 s``, ``12.5 min``, ``3.2 h``."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def hours(number: float | None) -> str:
    return "" if number is None else f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str] | str], label: str) -> str:
    """A table. ``heads``: each column's name (HTML) and class (``num`` for figures). A row is its cells (HTML), the first
    being its name, or one text (HTML) that heads a group. Columns without any content are left out."""
    lines = list(rows)
    used = [i for i in range(len(heads)) if i == 0 or any(not isinstance(row, str) and row[i] for row in lines)]
    head = "".join(f'<th scope="col"{_class(heads[i][1])}>{heads[i][0]}</th>' for i in used)
    body = []
    for row in lines:
        if isinstance(row, str):
            body.append(f'<tr class="group"><th scope="colgroup" colspan="{len(used)}">{row}</th></tr>')
            continue
        cells = f'<th scope="row">{row[0]}</th>' + "".join(f"<td{_class(heads[i][1])}>{row[i]}</td>" for i in used[1:])
        body.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""

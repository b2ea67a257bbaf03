"""Figures as inline SVG: lines and points, grouped columns, horizontal bars. Colours come from the page's style sheet
(classes ``c0`` to ``c5``), so that light, dark and print each have their own; series differ in marker and dash as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rftfast.report.axes import Axis, linear
from rftfast.report.data import Point
from rftfast.report.html import escape

WIDTH, HEIGHT = 460, 276
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 26, 42
_COLOURS = 6


@dataclass(frozen=True)
class Line:
    """Points joined in order (``joined``) or alone. ``dashed`` tells two lines of one colour apart. ``fit``: two ends of a
    straight line on the drawing's scale, in data units."""

    name: str
    points: tuple[Point, ...]
    colour: int
    joined: bool = True
    dashed: bool = False
    fit: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Legend:
    """What a mark stands for; ``kind`` is ``line`` or ``block``."""

    name: str
    colour: int
    kind: str = "line"
    dashed: bool = False


def lines(identity: str, title: str, description: str, drawn: Sequence[Line], x: Axis, y: Axis, say: str) -> str:
    """Points with their intervals over ``x`` and ``y``. ``say`` formats a point's tip: fields ``name``, ``x`` and ``y``."""
    parts = [_frame(x, y)]
    tags: list[tuple[float, float, str]] = []
    for line in drawn:
        kind = colour(line.colour) + (" dashed" if line.dashed else "")
        if line.fit:
            (x0, y0), (x1, y1) = line.fit
            parts.append(f'<line class="fit {kind}" {_ends(_x(x, x0), _y(y, y0), _x(x, x1), _y(y, y1))}/>')
        if line.joined and len(line.points) > 1:
            path = " ".join(f"{_x(x, p.x):.1f},{_y(y, p.y):.1f}" for p in line.points)
            parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        for p in line.points:
            px, py = _x(x, p.x), _y(y, p.y)
            if p.low is not None and p.high is not None:
                parts.append(f'<line class="whisker {kind}" {_ends(px, _y(y, p.low), px, _y(y, p.high))}/>')
            name = f"{line.name}, {p.label}" if p.label else line.name
            tip = say.format(name=name, x=_short(p.x), y=p.y)
            parts.append(f'<g class="dot {kind}">{marker(line.colour, px, py)}<title>{escape(tip)}</title></g>')
            if p.label:
                tags.append((px, py, p.label))
    parts += _tags(tags)
    return _svg(identity, title, description, "".join(parts))


def columns(
    identity: str,
    title: str,
    description: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    x_label: str,
    y_label: str,
) -> str:
    """Grouped columns: for each of ``names`` one of every series."""
    y = linear(y_label, [value for _, values in series for value in values], whole=True)
    plot = WIDTH - _LEFT - _RIGHT
    slot = plot / max(len(names), 1)
    each = min(0.84 * slot / max(len(series), 1), 26)
    parts = [_frame(None, y, x_label)]
    every = -(-(7 * max(map(len, names), default=0) + 5) // int(max(slot, 1)))  # labels must not touch
    for i, name in enumerate(names):
        middle = _LEFT + (i + 0.5) * slot
        if i % every == 0:
            parts.append(
                f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(name)}</text>'
            )
        for j, (who, values) in enumerate(series):
            left = middle + (j - len(series) / 2) * each
            top, bottom = _y(y, values[i]), _y(y, 0)
            tip = (
                f"{who}: {name} {x_label}, {values[i]:,.0f} {y_label}"
                if who
                else f"{name} {x_label}: {values[i]:,.0f} {y_label}"
            )
            parts.append(
                f'<rect class="bar {colour(j)}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(each - 1, 0.8):.1f}" '
                f'height="{max(bottom - top, 0):.1f}"><title>{escape(tip)}</title></rect>'
            )
    return _svg(identity, title, description, "".join(parts))


def bars(identity: str, title: str, description: str, rows: Sequence[tuple[str, float, str]], x_label: str) -> str:
    """Horizontal bars: ``(name, share, text at its end)``, from the top down, the name above its bar."""
    most = max([share for _, share, _ in rows] + [0.01])
    height = 12 + 42 * len(rows) + 20
    parts = []
    for i, (name, share, text) in enumerate(rows):
        top = 12 + 42 * i
        width = (WIDTH - 90) * share / most
        shown = name if len(name) <= 56 else name[:55] + "…"
        parts.append(
            f'<text class="name" x="0" y="{top + 8}">{escape(shown)}</text>'
            f'<rect class="bar {colour(i)}" x="0" y="{top + 14}" width="{max(width, 1):.1f}" height="13"><title>'
            f"{escape(f'{name}: {text}')}</title></rect>"
            f'<text class="value" x="{width + 8:.1f}" y="{top + 25}">{escape(text)}</text>'
        )
    parts.append(f'<text class="label" x="0" y="{height - 4}">{escape(x_label)}</text>')
    return _svg(identity, title, description, "".join(parts), height)


def legend(entries: Sequence[Legend]) -> str:
    """The key of a figure, as a list; nothing for a single series."""
    if len(entries) < 2:
        return ""
    items = []
    for entry in entries:
        kind = colour(entry.colour) + (" dashed" if entry.dashed else "")
        if entry.kind == "line":
            mark = f'<line class="line {kind}" x1="0" y1="6" x2="26" y2="6"/><g class="dot {kind}">{marker(entry.colour, 13, 6)}</g>'
        else:
            mark = f'<rect class="bar {kind}" x="8" y="1" width="11" height="11"/>'
        items.append(f'<li><svg width="26" height="13" aria-hidden="true">{mark}</svg>{escape(entry.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def interval(value: float, low: float, high: float, axis: Axis) -> str:
    """A small line with a dot, for a table's cell; the figures stand beside it."""
    width = 120
    x, a, b = (2 + (width - 4) * axis.share(v) for v in (value, low, high))
    return (
        f'<svg class="interval" width="{width}" height="14" viewBox="0 0 {width} 14" aria-hidden="true">'
        f'<line class="base" x1="0" y1="7" x2="{width}" y2="7"/><line class="range" {_ends(a, 7, b, 7)}/>'
        f'<circle class="at" cx="{x:.1f}" cy="7" r="3.5"/></svg>'
    )


def colour(number: int) -> str:
    return f"c{number % _COLOURS}"


def marker(number: int, x: float, y: float) -> str:
    """Circle, square, diamond, triangle, in turn."""
    kind = number % 4
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if kind == 1:
        return f'<rect x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6"/>'
    corners = [(0, -4.6), (4.6, 0), (0, 4.6), (-4.6, 0)] if kind == 2 else [(0, -4.4), (4.4, 3.4), (-4.4, 3.4)]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}"/>'


def _svg(identity: str, title: str, description: str, inside: str, height: int = HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{identity}-t {identity}-d">'
        f'<title id="{identity}-t">{escape(title)}</title><desc id="{identity}-d">{escape(description)}</desc>{inside}</svg>'
    )


def _frame(x: Axis | None, y: Axis, x_label: str = "") -> str:
    """Grid lines, ticks and labels; the y axis is named above its ticks, where it is read first."""
    base = HEIGHT - _BOTTOM
    parts = [f'<text class="label" x="0" y="11">{escape(y.label)}</text>']
    for value, text in y.ticks:
        at = _y(y, value)
        kind = "axis" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" {_ends(_LEFT, at, WIDTH - _RIGHT, at)}/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    if x is not None:
        for value, text in x.ticks:
            at = _x(x, value)
            parts.append(f'<line class="axis" {_ends(at, base, at, base + 4)}/>')
            parts.append(f'<text class="tick" x="{at:.1f}" y="{base + 16}" text-anchor="middle">{escape(text)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    label = x.label if x is not None else x_label
    parts.append(f'<line class="axis" {_ends(_LEFT, base, WIDTH - _RIGHT, base)}/>')
    parts.append(f'<text class="label" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _tags(tags: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names beside points, moved up or down where two would lie on one another."""
    placed: list[tuple[float, float, float]] = []  # left, right, base line
    parts = []
    for x, y, text in sorted(tags, key=lambda tag: tag[1]):
        wide = 6.6 * len(text)
        end = x + 7 + wide > WIDTH
        left = x - 7 - wide if end else x + 7

        def free(base: float, left: float = left, right: float = left + wide) -> bool:
            return all(right < a or b < left or abs(base - at) >= 12 for a, b, at in placed)

        base = next((at for i in range(len(tags)) for at in (y + 4 + 12 * i, y + 4 - 12 * i) if free(at)), y + 4)
        placed.append((left, left + wide, base))
        anchor = ' text-anchor="end"' if end else ""
        parts.append(
            f'<text class="tag" x="{x - 7 if end else x + 7:.1f}" y="{base:.1f}"{anchor}>{escape(text)}</text>'
        )
    return parts


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _ends(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'


def _short(value: float) -> str:
    return f"{value:.4g}"

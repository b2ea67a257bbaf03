"""The figures of a page: those of arXiv 2308.01825 for this study or run, and two that explain a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import Any

from rftfast.report.axes import Axis, linear, logarithmic
from rftfast.report.charts import Legend, Line, bars, columns, legend, lines
from rftfast.report.data import LOGARITHMIC, Point, Series
from rftfast.report.html import escape, percent, rounded, table
from rftfast.report.runs import RunView

_MOST_LISTS = 10  # the paper's histogram calls out "more than 10"

# name: (title, caption, x label, y label, how a point is told)
_CURVES = {
    "loss": (
        "Accuracy against pre-training loss",
        "The lower the loss, the better the model; the paper's Figure 2.",
        "pre-training loss, nats a token",
        "maj1@1, %",
    ),
    "fraction": (
        "Accuracy against training data",
        "Each step to the right doubles the questions trained on; the paper's Figure 3.",
        "share of the training questions",
        "maj1@1, %",
    ),
    "problems": (
        "Accuracy against training problems",
        "Each step to the right doubles the problems; what lies to the left of another curve does with fewer.",
        "training problems",
        "maj1@1, %",
    ),
    "k": (
        "Accuracy against samples drawn",
        "After training on what selection keeps of k samples a question.",
        "samples a question, k",
        "maj1@1, %",
    ),
    "gain": (
        "Gain against distinct paths",
        "What training on selected paths adds to SFT.",
        "distinct paths a question",
        "points over SFT",
    ),
}


def figure(identity: str, title: str, caption: str, key: str, svg: str, numbers: str) -> str:
    """A drawing with its caption, its key and its numbers, folded. ``caption``, ``key``, ``svg``, ``numbers``: HTML."""
    return (
        f'<figure id="{identity}"><figcaption><h3>{escape(title)}</h3><p>{caption}</p></figcaption>{key}{svg}'
        f"<details><summary>Numbers</summary>{numbers}</details></figure>"
    )


def curve(name: str, series: Sequence[Series]) -> str:
    """One of a study's curves, see ``StudyData.curves``; nothing without points."""
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    title, caption, x_label, y_label = _CURVES[name]
    log = name in LOGARITHMIC
    xs = sorted({point.x for point in points})
    fits = [_fit_ends(each, log) for each in series]
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + [y for fit in fits for _, y in fit]
    y = linear(y_label, heights, zero=min(heights) < 0.15 * max(heights), scale=100, most=1.0)
    if name == "fraction":
        x: Axis = logarithmic(x_label, [(value, _fraction(value)) for value in xs])
    elif log:
        x = logarithmic(x_label, [(value, f"{value:g}") for value in xs])
    else:
        x = linear(x_label, xs, zero=False)
    drawn = [
        Line(each.name, each.points, i, joined=log and not fit, fit=fit)
        for i, (each, fit) in enumerate(zip(series, fits, strict=True))
    ]
    told = [
        f"{escape(each.name)}: {escape(each.fit.text)}" for each in series if each.fit is not None and each.fit.text
    ]
    told += [f"{escape(each.name)}: {escape(each.note)}" for each in series if each.note]
    rows = [
        [
            escape(f"{each.name} {p.label}".strip()),
            _fraction(p.x) if name == "fraction" else f"{p.x:.4g}",
            percent(p.y),
            _span(p),
        ]
        for each in series
        for p in each.points
    ]
    heads = [("series", ""), (escape(x_label), "num"), (escape(y_label), "num"), ("95 %", "num")]
    svg = lines(
        f"fig-{name}",
        title,
        f"{y_label} by {x_label}: " + "; ".join(_told(each) for each in series),
        drawn,
        x,
        y,
        "{name}: {x}, {y:.1%}",
    )
    key = legend([Legend(each.name, i) for i, each in enumerate(series)])
    caption = caption + (f" <span class='fits'>{'; '.join(told)}.</span>" if told else "")
    return figure(f"figure-{name}", title, caption, key, svg, table(heads, rows, title))


def distinct_paths(views: Sequence[RunView]) -> str:
    """Distinct equation lists a question by the number of samples drawn (the paper's Table 2)."""
    drawn, keys, rows = [], [], []
    for i, view in enumerate(views):
        by_k = _by_k(view)
        lead = f"{view.name}: " if len(views) > 1 else ""
        for column, words, dashed in (
            ("distinct_with_gold", "with the gold solution's", False),
            ("distinct_sampled", "sampled", True),
        ):
            points = tuple(Point(row["k"], row[column]) for row in by_k)
            drawn.append(Line(lead + words, points, i, dashed=dashed))
            keys.append(Legend(lead + words, i, dashed=dashed))
        rows += [
            [escape(view.name), str(row["k"]), rounded(row["distinct_sampled"]), rounded(row["distinct_with_gold"])]
            for row in by_k
        ]
    title = "Distinct paths against samples drawn"
    y = linear("equation lists a question", [p.y for line in drawn for p in line.points])
    svg = lines(
        "fig-distinct",
        title,
        _by_k_told(rows, "distinct lists a question"),
        drawn,
        _k_axis(views),
        y,
        "{name}, k = {x}: {y:.2f}",
    )
    heads = [("run", ""), ("k", "num"), ("sampled", "num"), ("with gold", "num")]
    return figure(
        "figure-distinct",
        title,
        "Among the first k samples of each question.",
        legend(keys),
        svg,
        table(heads, rows, title),
    )


def right_answers(views: Sequence[RunView]) -> str:
    """pass@k and maj@k by the number of samples."""
    drawn, keys, rows = [], [], []
    for i, view in enumerate(views):
        lead = f"{view.name}: " if len(views) > 1 else ""
        for column, words, dashed in (("pass", "pass@k", False), ("maj", "maj@k", True)):
            points = tuple(Point(row["k"], row[column]) for row in _by_k(view))
            drawn.append(Line(lead + words, points, i, dashed=dashed))
            keys.append(Legend(lead + words, i, dashed=dashed))
        rows += [
            [escape(view.name), str(row["k"]), percent(row["pass"]), percent(row["pass_verified"]), percent(row["maj"])]
            for row in _by_k(view)
        ]
    title = "Right answers against samples drawn"
    y = linear("questions, %", [p.y for line in drawn for p in line.points], scale=100, most=1.0)
    svg = lines(
        "fig-right", title, _by_k_told(rows, "pass@k in percent"), drawn, _k_axis(views), y, "{name}, k = {x}: {y:.1%}"
    )
    heads = [("run", ""), ("k", "num"), ("pass@k, %", "num"), ("with right equations, %", "num"), ("maj@k, %", "num")]
    caption = "pass@k: at least one of k is right. maj@k: the answer given most often is."
    return figure("figure-right", title, caption, legend(keys), svg, table(heads, rows, title))


def equation_lists(views: Sequence[RunView]) -> str:
    """The paper's Figure 7: questions by how many different calculations reached the right answer."""
    names = [str(i) for i in range(_MOST_LISTS + 1)] + [f">{_MOST_LISTS}"]
    series = []
    for view in views:
        counts = {int(k): n for k, n in view.statistics["equation_lists_by_answer_histogram"].items()}
        values = [counts.get(i, 0) for i in range(_MOST_LISTS + 1)]
        series.append((view.name, [*values, sum(n for k, n in counts.items() if k > _MOST_LISTS)]))
    caption = "Different equation lists that reach the right answer, as the paper's Figure 7 counts them."
    return _histogram("lists", "Distinct correct calculations a question", caption, names, series, "lists")


def solved(views: Sequence[RunView]) -> str:
    """How many of a question's samples have the right answer."""
    counts = [{int(k): n for k, n in view.statistics["solved_histogram"].items()} for view in views]
    top = max((k for each in counts for k in each), default=0)
    width = next((w for w in (1, 2, 5, 10, 20, 50, 100, 200, 500) if top <= 10 * w), top)
    bins = [(0, 0)] + [(low, low + width - 1) for low in range(1, top + 1, width)]
    names = [str(a) if a == b else f"{a}–{b}" for a, b in bins]
    series = [
        (view.name, [sum(n for k, n in each.items() if a <= k <= b) for a, b in bins])
        for view, each in zip(views, counts, strict=True)
    ]
    caption = "Samples with the right answer, of all that were drawn for a question."
    return _histogram("solved", "How often a question is solved", caption, names, series, "right samples")


def exclusive_shares(overlap: Mapping[str, Any]) -> str:
    """The paper's Figure 6: of all distinct lists of the pool, those that one run alone found."""
    models = overlap["models"]
    drawn = [(name, each["share"], f"{100 * each['share']:.1f} %") for name, each in models.items()]
    title = "What one run alone found"
    caption = (
        f"All runs together found {overlap['distinct_sampled']:.2f} distinct lists a question "
        f"({overlap['distinct_with_gold']:.2f} with the gold solution's); lists that every run found: "
        f"{overlap['found_by_all']:,}. The paper's Figure 6."
    )
    description = "Share of the distinct lists only one run found: " + "; ".join(
        f"{name} {text}" for name, _, text in drawn
    )
    svg = bars("fig-exclusive", title, description, drawn, "percent of all distinct equation lists of the pool")
    rows = [
        [escape(name), f"{each['lists']:,}", f"{each['exclusive']:,}", percent(each["share"])]
        for name, each in models.items()
    ]
    heads = [("run", ""), ("lists found", "num"), ("by it alone", "num"), ("share, %", "num")]
    return figure("figure-exclusive", title, caption, "", svg, table(heads, rows, title))


def _histogram(
    name: str, title: str, caption: str, names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str
) -> str:
    told = "; ".join(
        f"{who}: " + ", ".join(f"{n} at {x}" for x, n in zip(names, values, strict=True)) for who, values in series
    )
    svg = columns(f"fig-{name}", title, f"Questions by {unit}. {told}", names, series, unit, "questions")
    key = legend([Legend(who, i, "block") for i, (who, _) in enumerate(series)])
    heads = [(unit, ""), *((escape(who), "num") for who, _ in series)]
    rows = [[escape(x), *(f"{values[i]:,}" for _, values in series)] for i, x in enumerate(names)]
    return figure(f"figure-{name}", title, caption, key, svg, table(heads, rows, title))


def _by_k(view: RunView) -> list[Mapping[str, Any]]:
    """The k that every question has samples for: with adaptive k, larger ones would speak of the harder questions alone."""
    return [row for row in view.statistics["by_k"] if row["questions"] == view.statistics["questions"]]


def _k_axis(views: Sequence[RunView]) -> Axis:
    ks = sorted({row["k"] for view in views for row in _by_k(view)}) or [1]
    return logarithmic("samples a question, k", [(k, str(k)) for k in ks])


def _fit_ends(series: Series, log: bool) -> tuple[tuple[float, float], ...]:
    if series.fit is None or not series.points:
        return ()
    xs = [point.x for point in series.points]
    ends = min(xs), max(xs)
    return tuple((x, series.fit.intercept + series.fit.slope * (log2(x) if log else x)) for x in ends)


def _span(point: Point) -> str:
    return "" if point.low is None or point.high is None else f"{percent(point.low)}–{percent(point.high)}"


def _fraction(value: float) -> str:
    return f"1/{round(1 / value)}" if 0 < value < 1 and abs(round(1 / value) * value - 1) < 1e-6 else f"{value:g}"


def _told(series: Series) -> str:
    return f"{series.name}: " + ", ".join(f"{point.y:.1%} at {point.x:g}" for point in series.points)


def _by_k_told(rows: Sequence[Sequence[str]], what: str) -> str:
    return f"{what}, by k: " + "; ".join(f"k = {row[1]}: {row[2]}" for row in rows)

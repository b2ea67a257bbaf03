"""The figures of ``rftfast stats`` as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rftfast.data.jsonl import whole_file
from rftfast.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw what ``rftfast.select.statistics.statistics`` returned into ``path``, at 120 dots an inch.

    Raises:
        UserError: matplotlib is not installed, or the disk refuses.
    """
    figure = figure_of(report)
    with whole_file(path) as temporary:
        try:
            figure.savefig(temporary, dpi=120, format="png")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror or error}); choose another place") from error


def figure_of(report: dict[str, Any]) -> Figure:
    """Four panels: distinct paths a question against samples drawn, pass@k and maj@k, how often questions are solved,
    distinct equation lists a question; of several models a fifth with the exclusive shares.

    The paper's Figure 7 (arXiv 2308.01825) is the outlined bars of the fourth, its Figure 6 the fifth.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing a PNG needs matplotlib; run: pip install 'rftfast[plots]'") from error

    models: dict[str, dict[str, Any]] = report["models"]
    pooled = report.get("pooled")
    figure = Figure(figsize=(11, 11.5 if pooled else 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3 if pooled else 2, 2)
    distinct, chances, solved, lists = (figure.add_subplot(grid[i // 2, i % 2]) for i in range(4))
    marks: set[int] = set()
    for i, (name, figures) in enumerate(models.items()):
        colour = f"C{i}"
        ks = [row["k"] for row in figures["by_k"]]
        marks.update(ks)
        lead = f"{name}: " if len(models) > 1 else ""
        _line(distinct, figures, "distinct_with_gold", f"{lead}gold and sampled (U)", colour, "-")
        _line(distinct, figures, "distinct_sampled", f"{lead}sampled only (S)", colour, "--")
        _line(chances, figures, "pass", f"{lead}pass@k", colour, "-")
        _line(chances, figures, "maj", f"{lead}maj@k", colour, ":")
        _bars(solved, figures["solved_histogram"], i, len(models), name, colour)
        by_answer = figures["equation_lists_by_answer_histogram"]
        _bars(lists, by_answer, i, len(models), f"{lead}right answer", colour, fill=False)
        _bars(lists, figures["equation_lists_histogram"], i, len(models), f"{lead}right equations, too", colour)
    for axes, title, y in (
        (distinct, "Distinct paths a question", "equation lists"),
        (chances, "Right answers", "share of questions"),
    ):
        axes.set(title=title, xlabel="samples a question, k", ylabel=y, xscale="log")
        axes.set_xticks(sorted(marks), [str(k) for k in sorted(marks)])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    chances.set_ylim(0, 1)
    solved.set(title="How often a question is solved", xlabel="samples with the right answer", ylabel="questions")
    lists.set(title="Distinct correct equation lists", xlabel="lists of a question", ylabel="questions")
    lists.legend(fontsize="small")
    if len(models) > 1:
        solved.legend(fontsize="small")
    if pooled:
        _shares(figure.add_subplot(grid[2, :]), pooled)
    return figure


def _line(axes: Any, figures: dict[str, Any], column: str, label: str, colour: str, style: str) -> None:
    rows = figures["by_k"]
    axes.plot([r["k"] for r in rows], [r[column] for r in rows], style, marker="o", ms=4, color=colour, label=label)


def _bars(
    axes: Any, histogram: dict[str, int], number: int, of: int, label: str, colour: str, *, fill: bool = True
) -> None:
    width = 0.9 / of
    places = [int(x) + (number - (of - 1) / 2) * width for x in histogram]
    axes.bar(places, list(histogram.values()), width, color=colour if fill else "none", edgecolor=colour, label=label)
    axes.locator_params(axis="both", integer=True)


def _shares(axes: Any, pooled: dict[str, Any]) -> None:
    names = list(pooled["models"])
    shares = [100 * pooled["models"][name]["share"] for name in names]
    bars = axes.barh(names, shares, color=[f"C{i}" for i in range(len(names))])
    axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3)
    axes.set(title="Equation lists that one model alone found", xlabel="percent of all distinct lists of the pool")
    axes.set_xlim(0, max([*shares, 1]) * 1.15)
    axes.invert_yaxis()
